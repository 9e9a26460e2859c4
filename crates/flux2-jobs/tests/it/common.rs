//! What the tests share.

use std::sync::Arc;
use std::time::{Duration, Instant};

use flux2_jobs::fake::{FakeHost, FakeOptions};
use flux2_jobs::{Draft, EventKind, JobId, JobView, Jobs, Next, Options, Submission};

/// Longest wait for something that should happen. Never reached unless it does not.
pub const PATIENCE: Duration = Duration::from_secs(120);

pub fn start(options: Options, fake: FakeOptions) -> Jobs {
    Jobs::start(options, Arc::new(FakeHost::new(fake))).unwrap()
}

/// A submission of one picture of 64x64.
pub fn picture(prompt: &str) -> Submission {
    let draft = Draft { prompt: prompt.into(), width: Some(64), height: Some(64), seed: Some(7), ..Draft::default() };
    Submission { draft, owner: "a".into(), ..Submission::default() }
}

/// The job when it is over.
pub fn ended(jobs: &Jobs, id: JobId) -> JobView {
    let mut events = jobs.events(id, 0).expect("the job is known");
    loop {
        match events.next(PATIENCE) {
            Next::Event(event) if event.kind.is_final() => return jobs.get(id).expect("the job is kept"),
            Next::Event(_) => {}
            other => panic!("{id} did not end: {other:?}"),
        }
    }
}

/// The events of a job up to its end.
pub fn events(jobs: &Jobs, id: JobId) -> Vec<(u64, EventKind)> {
    let mut events = jobs.events(id, 0).expect("the job is known");
    let mut found = Vec::new();
    loop {
        match events.next(PATIENCE) {
            Next::Event(event) => found.push((event.seq, event.kind.clone())),
            Next::End => return found,
            Next::Timeout => panic!("{id} did not end: {found:?}"),
        }
    }
}

pub fn wait_until(what: &str, done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "{what}: it never happened");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Four steps that last until the job is cancelled: 400 seconds.
pub fn endless() -> FakeOptions {
    FakeOptions { step: Duration::from_secs(100), ..FakeOptions::default() }
}
