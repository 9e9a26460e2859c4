//! Cancellation, deadlines and the drain.

use std::sync::Arc;
use std::time::{Duration, Instant};

use flux2::Event;
use flux2::pipeline::GeneratedImage;
use flux2_jobs::fake::{FakeHost, FakeOptions};
use flux2_jobs::{
    CancelOutcome, Drained, FailureClass, JobFailure, JobId, JobSpec, JobState, Jobs, Next, Options, PictureOf,
    Readiness, Refused, Sink, Submission,
};

use crate::common::{PATIENCE, ended, endless, picture, start, wait_until};

#[test]
fn a_queued_and_a_running_job_can_be_cancelled() {
    let jobs = start(Options::default(), endless());
    let running = jobs.submit(picture("1")).unwrap().id;
    let queued = jobs.submit(picture("2")).unwrap();
    wait_until("it runs", || jobs.get(running).unwrap().state == JobState::Running);
    assert_eq!(jobs.cancel(queued.id), Some(CancelOutcome::Cancelled));
    assert_eq!(jobs.get(queued.id).unwrap().state, JobState::Cancelled);
    assert_eq!(jobs.cancel(running), Some(CancelOutcome::Requested));
    assert_eq!(ended(&jobs, running).state, JobState::Cancelled);
    assert_eq!(jobs.cancel(running), Some(CancelOutcome::AlreadyOver));
    assert_eq!(jobs.stats().cancelled, 2);
    assert_eq!((jobs.stats().running, jobs.stats().queued.len()), (0, 0));
    let unknown = start(Options::default(), FakeOptions::default()).submit(picture("")).unwrap().id;
    assert_eq!(jobs.cancel(unknown), None);
}

#[test]
fn jobs_cancelled_at_any_moment_end_once() {
    let step = Duration::from_millis(1);
    let jobs =
        start(Options { max_batch: 3, ..Options::default() }, FakeOptions { step, devices: 2, ..Default::default() });
    let ids: Vec<_> = (0..200).map(|i| jobs.submit(picture(&i.to_string())).unwrap().id).collect();
    std::thread::scope(|scope| {
        for (ids, pause) in ids.chunks(50).zip([0, 200, 700, 1500]) {
            let jobs = &jobs;
            scope.spawn(move || {
                for id in ids.iter().step_by(2) {
                    std::thread::sleep(Duration::from_micros(pause));
                    jobs.cancel(*id).unwrap();
                }
            });
        }
    });
    let states: Vec<_> = ids.iter().map(|id| ended(&jobs, *id)).collect();
    for (job, index) in states.iter().zip(0..) {
        let is_complete = job.images.len() == 1;
        match job.state {
            JobState::Done => assert!(is_complete),
            JobState::Cancelled => assert_eq!(index % 2, 0, "nobody has cancelled it"),
            state => panic!("{state:?}: {:?}", job.failure),
        }
    }
    let stats = jobs.stats();
    assert_eq!(stats.done + stats.cancelled, 200);
    assert_eq!(stats.running, 0);
}

#[test]
fn a_job_fails_when_its_deadline_passes_queued_or_running() {
    let jobs = start(Options::default(), endless());
    let late = |deadline| Submission { deadline: Some(Duration::from_millis(deadline)), ..picture("") };
    let running = jobs.submit(late(300)).unwrap().id;
    let queued = jobs.submit(late(1)).unwrap().id;
    for id in [queued, running] {
        let job = ended(&jobs, id);
        assert_eq!((job.state, job.failure.unwrap().class), (JobState::Failed, FailureClass::DeadlineExceeded));
    }
    assert_eq!(jobs.get(queued).unwrap().attempts, 0);
}

#[test]
fn a_drain_finishes_what_runs_and_refuses_the_rest() {
    let step = Duration::from_millis(20);
    let jobs = start(Options::default(), FakeOptions { step, ..FakeOptions::default() });
    let ids: Vec<_> = (0..3).map(|_| jobs.submit(picture("")).unwrap().id).collect();
    // Without a journal, queued jobs are drawn too.
    assert_eq!(jobs.drain(PATIENCE), Drained { left: 0, lost: 0 });
    assert!(ids.iter().all(|id| jobs.get(*id).unwrap().state == JobState::Done));
    assert!(matches!(jobs.submit(picture("")), Err(Refused::Draining)));
    assert_eq!(jobs.readiness(), Readiness::Draining);
}

/// Takes its time to hear that a job is over.
struct SlowSink;

impl Sink for SlowSink {
    fn started(&self, _: PictureOf) {}

    fn event(&self, _: PictureOf, _: &Event) {}

    fn save(&self, _: PictureOf, _: &GeneratedImage, _: Vec<u8>, _: Duration) -> Result<(), JobFailure> {
        Ok(())
    }

    fn ended(&self, _: JobId, _: &JobSpec, _: Option<&JobFailure>) {
        std::thread::sleep(Duration::from_millis(300));
    }
}

#[test]
fn after_a_drain_all_readers_know_the_end() {
    let host = Arc::new(FakeHost::new(FakeOptions::default()));
    let jobs = Jobs::start_with_sink(Options::default(), host, Arc::new(SlowSink)).unwrap();
    let id = jobs.submit(picture("")).unwrap().id;
    jobs.drain(PATIENCE);
    let mut events = jobs.events(id, 0).unwrap();
    let known = std::iter::from_fn(|| match events.next(Duration::ZERO) {
        Next::Event(event) => Some(event.kind.is_final()),
        _ => None,
    });
    assert_eq!(known.last(), Some(true));
}

#[test]
fn a_drain_that_takes_too_long_gives_up() {
    let jobs = start(Options::default(), endless());
    let ids: Vec<_> = (0..3).map(|_| jobs.submit(picture("")).unwrap().id).collect();
    wait_until("it runs", || jobs.get(ids[0]).unwrap().state == JobState::Running);
    assert_eq!(jobs.drain(Duration::from_millis(50)), Drained { left: 0, lost: 3 });
}

#[test]
fn a_second_drain_shortens_the_first() {
    let jobs = start(Options::default(), endless());
    let id = jobs.submit(picture("")).unwrap().id;
    wait_until("it runs", || jobs.get(id).unwrap().state == JobState::Running);
    let start = Instant::now();
    std::thread::scope(|scope| {
        let first = scope.spawn(|| jobs.drain(Duration::from_secs(3600)));
        wait_until("it drains", || jobs.readiness() == Readiness::Draining);
        assert_eq!(jobs.drain(Duration::ZERO).lost, 1);
        assert_eq!(first.join().unwrap().lost, 1);
    });
    assert!(start.elapsed() < PATIENCE);
}

#[test]
fn readers_that_do_not_read_hold_nobody_up() {
    let jobs = start(Options::default(), FakeOptions::default());
    let ids: Vec<_> = (0..50).map(|i| jobs.submit(picture(&i.to_string())).unwrap().id).collect();
    let mut stalled: Vec<_> =
        ids.iter().flat_map(|id| (0..6).map(|_| jobs.events(*id, 0).unwrap()).collect::<Vec<_>>()).collect();
    for id in &ids {
        assert_eq!(ended(&jobs, *id).state, JobState::Done);
    }
    // When they read at last, they find every change of state.
    for reader in &mut stalled {
        let mut names = Vec::new();
        while let Next::Event(event) = reader.next(Duration::ZERO) {
            names.push(event.kind.name());
        }
        assert!(["queued", "started", "image_ready", "done"].iter().all(|name| names.contains(name)), "{names:?}");
    }
}

#[test]
fn the_end_of_the_last_handle_ends_the_threads() {
    let jobs = start(Options::default(), endless());
    let other = jobs.clone();
    let id = jobs.submit(picture("")).unwrap().id;
    let mut events = jobs.events(id, 0).unwrap();
    wait_until("it runs", || jobs.get(id).unwrap().state == JobState::Running);
    drop(jobs);
    assert!(other.get(id).is_some());
    drop(other);
    while let Next::Event(_) = events.next(Duration::ZERO) {}
}
