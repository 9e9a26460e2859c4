//! Workers and servers that end abruptly, jobs that kill, queues that are full.

use std::time::{Duration, Instant};

use flux2_fleet::{Ended, QueueOptions, Stage};
use flux2_jobs::{Draft, FailureClass, JobState, Priority, Queue as _, Refused, Submission};

use crate::site::{LEASE, Site, end, failing, in_state, order, steps_of, submit, until};

#[test]
fn the_job_of_a_killed_worker_is_drawn_by_another() {
    let site = Site::new();
    let first = site.worker("a", steps_of(500));
    let front = site.front();
    let id = submit(&front, "fox").id;
    in_state(&front, id, JobState::Running);
    first.kill();
    let _second = site.worker("b", steps_of(0));
    let job = end(&front, id);
    assert_eq!((job.state, job.attempts, job.images.len()), (JobState::Done, 2, 1));
    assert!(job.device.unwrap().starts_with("b: "));
}

#[test]
fn a_worker_without_sign_of_life_loses_its_job_and_its_result() {
    let mut site = Site::new();
    let slow = site.worker("slow", steps_of(1000));
    let front = site.front();
    let id = submit(&front, "fox").id;
    in_state(&front, id, JobState::Running);
    let bus = site.bus();
    // As if its network was cut: somebody else claims the job meanwhile, and finishes first.
    let other = |record: &flux2_fleet::Record| {
        let worker = Some(flux2_fleet::Drawer { worker: "other".into(), ..Default::default() });
        Some(flux2_fleet::Record { worker, ..record.clone() })
    };
    site.runtime
        .block_on(bus.change(id, {
            let mut is_done = false;
            move |record| (!std::mem::replace(&mut is_done, true)).then(|| other(record)).flatten()
        }))
        .unwrap();
    slow.drain();
    assert_eq!(slow.wait().unwrap(), Ended::Drained);
    let record = site.record(&bus, id);
    assert_eq!((record.state, record.images.len()), (Stage::Running, 0), "the result of the first does not count");
    // Its message was not acknowledged either: another draws the job.
    let _fast = site.worker("fast", steps_of(0));
    assert_eq!(end(&front, id).state, JobState::Done);
    site.kill_server();
}

#[test]
fn jobs_survive_the_end_of_the_server() {
    let mut site = Site::new();
    let _workers = ["a", "b"].map(|name| site.worker(name, steps_of(50)));
    let front = site.front();
    let ids: Vec<_> = (0..10).map(|n| submit(&front, &format!("fox {n}")).id).collect();
    in_state(&front, ids[1], JobState::Running);
    site.kill_server();
    std::thread::sleep(Duration::from_millis(300));
    site.start_server();
    for id in ids {
        let job = end(&front, id);
        assert_eq!((job.state, job.images.len()), (JobState::Done, 1), "{:?}", job.failure);
    }
}

#[test]
fn a_job_that_fails_everywhere_becomes_a_dead_letter_and_can_be_drawn_again() {
    let site = Site::with(QueueOptions { lease: Duration::from_millis(300), ..QueueOptions::default() });
    let worker = site.worker("a", failing("poison", FailureClass::Internal));
    let front = site.front();
    let (poison, fine) = (submit(&front, "poison").id, submit(&front, "fox").id);
    assert_eq!(end(&front, fine).state, JobState::Done);
    // The device counts as lost after two failures, as a supervisor would see.
    assert_eq!(worker.wait().unwrap(), Ended::DeviceLost);
    let again = site.worker("a", failing("poison", FailureClass::Internal));
    let job = end(&front, poison);
    assert_eq!((job.state, job.attempts), (JobState::Failed, 4));
    assert_eq!(job.failure.unwrap().class, FailureClass::Internal);
    again.drain();
    assert_eq!(again.wait().unwrap(), Ended::Drained);
    let bus = site.bus();
    let letters = site.dead_letters(&bus);
    assert_eq!(letters.iter().map(|letter| letter.id).collect::<Vec<_>>(), [Some(poison)]);
    let _healthy = site.worker("b", steps_of(0));
    assert!(site.runtime.block_on(bus.requeue(&letters[0])).unwrap());
    until("it is done", || front.get(poison).filter(|job| job.state == JobState::Done));
    assert!(site.dead_letters(&bus).is_empty());
}

#[test]
fn what_can_never_be_drawn_fails_at_once() {
    let site = Site::new();
    let _worker = site.worker("a", failing("huge", FailureClass::OutOfMemory));
    let front = site.front();
    let job = end(&front, submit(&front, "huge").id);
    assert_eq!((job.state, job.attempts), (JobState::Failed, 1));
    assert_eq!(job.failure.unwrap().class, FailureClass::OutOfMemory);
    assert!(site.dead_letters(&site.bus()).is_empty());
    let late = Submission { deadline: Some(Duration::ZERO), ..order("late") };
    let job = end(&front, front.submit(late).unwrap().id);
    assert_eq!(job.failure.unwrap().class, FailureClass::DeadlineExceeded);
}

#[test]
fn a_full_queue_refuses_and_says_when_to_come_back() {
    let site = Site::with(QueueOptions { lease: LEASE, max_jobs: 3, ..QueueOptions::default() });
    let worker = site.worker("a", steps_of(100));
    let front = site.front();
    worker.drain();
    worker.wait().unwrap();
    let ids: Vec<_> = (0..3).map(|n| submit(&front, &format!("fox {n}")).id).collect();
    let keyed = Submission { idempotency_key: Some("k".into()), ..order("one more") };
    // The server itself refuses here; the front end would allow a thousand.
    let refused = front.submit(keyed.clone()).unwrap_err();
    let Refused::Full { retry_after, .. } = refused else { panic!("{refused}") };
    assert!(retry_after >= Duration::from_secs(1), "{retry_after:?}");
    let small = site.front_with(|options| options.jobs.max_queued = 2);
    until("the front end has heard of the jobs", || {
        matches!(small.submit(order("x")), Err(Refused::Full { .. })).then_some(())
    });
    let _worker = site.worker("b", steps_of(0));
    for id in ids {
        assert_eq!(end(&front, id).state, JobState::Done);
    }
    // The same key may try again.
    let accepted = until("there is room", || front.submit(keyed.clone()).ok());
    assert!(!accepted.is_repeat);
    assert_eq!(end(&front, accepted.id).state, JobState::Done);
}

#[test]
fn a_message_that_names_no_job_is_set_aside() {
    let site = Site::new();
    let _worker = site.worker("a", steps_of(0));
    let front = site.front();
    let bus = site.bus();
    site.runtime.block_on(async {
        bus.jetstream.publish("flux.job.klein-4b.high", "no json".into()).await.unwrap().await.unwrap();
    });
    assert_eq!(end(&front, submit(&front, "fox").id).state, JobState::Done);
    let letter = until("a dead letter", || site.dead_letters(&bus).pop());
    assert_eq!(letter.id, None);
    assert!(letter.reason.contains("no json"), "{}", letter.reason);
    let info = site.runtime.block_on(bus.jobs.get_info()).unwrap();
    assert_eq!(info.state.messages, 0);
}

#[test]
fn a_worker_checks_what_it_is_told_to_draw() {
    let site = Site::new();
    let _worker = site.worker("a", steps_of(0));
    let front = site.front();
    let bus = site.bus();
    let spec = end(&front, submit(&front, "fox").id).spec;
    let id = flux2_jobs::JobId::new();
    let spec = flux2_jobs::JobSpec { width: 1 << 30, ..(*spec).clone() };
    let record = flux2_fleet::Record::new("me".into(), Priority::Normal, spec, vec![]);
    site.runtime.block_on(async {
        bus.create(id, &record).await.unwrap();
        bus.enqueue_accepted(id, &record).await.unwrap();
    });
    let failure = end(&front, id).failure.unwrap();
    assert_eq!(failure.class, FailureClass::Invalid);
    assert!(failure.message.contains("1073741824"), "{}", failure.message);
}

#[test]
fn a_worker_that_is_told_to_end_finishes_its_job() {
    let site = Site::new();
    let worker = site.worker("a", steps_of(200));
    let front = site.front();
    let (running, waiting) = (submit(&front, "runs").id, submit(&front, "waits").id);
    in_state(&front, running, JobState::Running);
    let start = Instant::now();
    worker.drain();
    assert_eq!(worker.wait().unwrap(), Ended::Drained);
    assert!(start.elapsed() < Duration::from_secs(20));
    assert_eq!(front.get(running).unwrap().state, JobState::Done);
    assert_eq!(front.get(waiting).unwrap().state, JobState::Queued);
    assert_eq!(front.get(waiting).unwrap().position, Some(1));
    let draft = Draft {
        model: flux2_jobs::ModelChoice { name: Some("other".into()), ..Default::default() },
        ..Draft::default()
    };
    let refused = front.submit(Submission { draft, ..Submission::default() });
    assert!(matches!(refused, Err(Refused::UnknownModel { .. })), "{refused:?}");
}
