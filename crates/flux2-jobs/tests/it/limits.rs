//! Bounds: the queue, retention, uploads, memory of models.

use std::time::Duration;

use flux2_jobs::fake::FakeOptions;
use flux2_jobs::{Affinity, Draft, JobState, ModelChoice, Options, Priority, Refused, Retention, Submission};

use crate::common::{ended, endless, picture, start, wait_until};

#[test]
fn a_full_queue_answers_with_the_seconds_to_wait() {
    let jobs = start(Options { max_queued: 2, ..Options::default() }, endless());
    let running = jobs.submit(picture("")).unwrap().id;
    wait_until("it runs", || jobs.get(running).unwrap().state == JobState::Running);
    let first = jobs.submit(picture("")).unwrap();
    let second = jobs.submit(picture("")).unwrap();
    assert_eq!((first.position, second.position), (Some(1), Some(2)));
    assert!(second.wait > first.wait && first.wait > Duration::from_secs(100));
    let Err(Refused::Full { jobs: queued, retry_after, .. }) = jobs.submit(picture("")) else { panic!("it is full") };
    assert!(queued == 2 && retry_after >= Duration::from_secs(1), "{retry_after:?}");
    assert_eq!(jobs.stats().rejected, [("full", 1)]);
    jobs.cancel(first.id).unwrap();
    assert!(jobs.submit(picture("")).is_ok());
}

#[test]
fn a_queue_is_also_bounded_by_its_seconds() {
    // Of pictures that take 400 seconds, one may always wait.
    let options = Options { max_wait: Duration::from_secs(900), ..Options::default() };
    let jobs = start(options, endless());
    let running = jobs.submit(picture("")).unwrap().id;
    wait_until("it runs", || jobs.get(running).unwrap().state == JobState::Running);
    assert!(jobs.submit(picture("")).is_ok());
    let Err(Refused::Full { jobs: 1, retry_after, .. }) = jobs.submit(picture("")) else { panic!("1200 seconds") };
    assert!(retry_after > Duration::from_secs(60) && retry_after <= Duration::from_secs(300));
}

#[test]
fn the_estimate_learns_from_what_was_drawn() {
    let step = Duration::from_millis(5);
    let jobs = start(Options::default(), FakeOptions { step, ..FakeOptions::default() });
    ended(&jobs, jobs.submit(picture("")).unwrap().id);
    let ids: Vec<_> = (0..20).map(|_| jobs.submit(picture("")).unwrap()).collect();
    let wait = ids.last().unwrap().wait;
    assert!(wait > Duration::from_millis(5), "{wait:?}");
    ids.iter().for_each(|job| drop(ended(&jobs, job.id)));
    assert_eq!(jobs.stats().queue_wait.count(), 21);
}

#[test]
fn jobs_that_are_over_are_kept_as_long_as_the_options_say() {
    let retention = Retention { jobs: 3, ..Retention::default() };
    let jobs = start(Options { retention, ..Options::default() }, FakeOptions::default());
    let ids: Vec<_> = (0..8)
        .map(|i| {
            let id = jobs.submit(picture(&i.to_string())).unwrap().id;
            ended(&jobs, id);
            id
        })
        .collect();
    wait_until("five are forgotten", || ids[..5].iter().all(|id| jobs.get(*id).is_none()));
    assert!(ids[5..].iter().all(|id| jobs.image(*id, 0).unwrap().is_some()));
    let kept: u64 = ids[5..].iter().map(|id| jobs.get(*id).unwrap().images[0].bytes).sum();
    assert_eq!(jobs.stats().picture_bytes, kept);
}

#[test]
fn pictures_are_bounded_in_bytes_and_one_file_serves_equal_ones() {
    let retention = Retention { bytes: 1, ..Retention::default() };
    let jobs = start(Options { retention, ..Options::default() }, FakeOptions::default());
    let first = jobs.submit(picture("a")).unwrap().id;
    ended(&jobs, first);
    assert!(jobs.image(first, 0).unwrap().is_some(), "the newest job stays");
    let second = jobs.submit(picture("a")).unwrap().id;
    ended(&jobs, second);
    wait_until("the first is forgotten", || jobs.get(first).is_none());
    assert!(jobs.image(second, 0).unwrap().is_some(), "its file is that of the first");
}

#[test]
fn old_jobs_are_forgotten() {
    let retention = Retention { age: Duration::ZERO, ..Retention::default() };
    let jobs = start(Options { retention, ..Options::default() }, FakeOptions::default());
    let first = jobs.submit(picture("a")).unwrap().id;
    wait_until("the first ends", || jobs.get(first).is_none_or(|job| job.state.is_final()));
    let second = jobs.submit(picture("b")).unwrap().id;
    wait_until("the first is forgotten", || jobs.get(first).is_none());
    wait_until("the second ends", || jobs.get(second).is_none_or(|job| job.state.is_final()));
}

#[test]
fn uploads_are_bounded_and_those_that_jobs_need_stay() {
    let jobs = start(Options { max_upload_bytes: 10, ..Options::default() }, FakeOptions::default());
    let first = jobs.put_blob(b"0123").unwrap();
    let second = jobs.put_blob(b"4567").unwrap();
    let third = jobs.put_blob(b"89ab").unwrap();
    assert_eq!(jobs.blob(&first).unwrap(), None);
    assert!(jobs.blob(&second).unwrap().is_some() && jobs.blob(&third).unwrap().is_some());
    assert!(jobs.put_blob(&[0; 11]).is_err());
    assert!(jobs.stats().upload_bytes <= 10);
}

/// A job of a model, for tests of which models are loaded.
fn of_model(name: &str, prompt: &str) -> Submission {
    let model = ModelChoice { name: Some(name.into()), ..ModelChoice::default() };
    Submission { draft: Draft { model, ..picture(prompt).draft }, ..picture(prompt) }
}

#[test]
fn the_least_recently_used_model_makes_room() {
    let models = ["a", "b", "c"].map(String::from).to_vec();
    let fake = FakeOptions { models, memory: Some(2), ..FakeOptions::default() };
    let jobs = start(Options::default(), fake);
    for name in ["a", "b", "a", "c"] {
        ended(&jobs, jobs.submit(of_model(name, "")).unwrap().id);
    }
    wait_until("the device is idle", || !jobs.stats().devices[0].is_busy);
    let loaded: Vec<_> = jobs.stats().devices[0].models.iter().map(|(key, _)| key.to_string()).collect();
    assert_eq!(loaded, ["c bf16", "a bf16"]);
    assert_eq!(jobs.stats().loads.count(), 3);
}

#[test]
fn idle_models_are_unloaded() {
    let options = Options { idle_unload: Some(Duration::from_millis(20)), ..Options::default() };
    let jobs = start(options, FakeOptions::default());
    ended(&jobs, jobs.submit(picture("")).unwrap().id);
    wait_until("it is unloaded", || jobs.stats().devices[0].models.is_empty());
    ended(&jobs, jobs.submit(picture("")).unwrap().id);
    assert_eq!(jobs.stats().loads.count(), 2);
}

#[test]
fn jobs_of_a_loaded_model_are_drawn_together_and_the_other_one_waits_a_bounded_time() {
    let models = ["a", "b"].map(String::from).to_vec();
    let step = Duration::from_millis(2);
    let fake = FakeOptions { models, memory: Some(1), step, ..FakeOptions::default() };
    let affinity = Affinity { jobs: 4, time: Duration::from_secs(3600) };
    let jobs = start(Options { affinity, ..Options::default() }, fake);
    // The first holds the worker while the others are submitted.
    let first = of_model("a", "first");
    let first = Submission { draft: Draft { steps: Some(50), ..first.draft }, ..first };
    let mut ids = vec![jobs.submit(first).unwrap().id];
    ids.extend((0..12).map(|i| jobs.submit(of_model(["b", "a"][i % 2], "")).unwrap().id));
    let views: Vec<_> = ids.iter().map(|id| ended(&jobs, *id)).collect();
    let mut order: Vec<_> = views.iter().map(|job| (job.times.finished, job.spec.model.name.clone())).collect();
    order.sort();
    let switches = order.windows(2).filter(|pair| pair[0].1 != pair[1].1).count();
    assert!(switches <= 4, "{order:?}");
}

#[test]
fn the_queue_is_counted_by_model_and_priority() {
    let jobs = start(Options::default(), endless());
    let running = jobs.submit(picture("")).unwrap().id;
    wait_until("it runs", || jobs.get(running).unwrap().state == JobState::Running);
    for priority in [Priority::Low, Priority::High, Priority::Low] {
        jobs.submit(Submission { priority, ..picture("") }).unwrap();
    }
    let queued: Vec<_> = jobs.stats().queued.into_iter().map(|depth| (depth.priority, depth.jobs)).collect();
    assert_eq!(queued, [(Priority::High, 1), (Priority::Low, 2)]);
}
