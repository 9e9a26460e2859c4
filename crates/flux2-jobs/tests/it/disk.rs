//! A folder that takes no more bytes, here by a limit on the size of files: what was accepted ends, the rest is refused
//! with a sentence, and the journal is whole afterwards.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use flux2_jobs::fake::FakeOptions;
use flux2_jobs::{Draft, FailureClass, Filter, JobState, Options, Refused, Submission};

use crate::common::{ended, picture, start, wait_until};

/// Names the folder for [`child`], which does nothing without it.
const FOLDER: &str = "FLUX2_JOBS_TEST_FULL_FOLDER";
/// Limit on the size of files in the child, in KiB.
const LIMIT_KIB: usize = 96;

fn open(folder: &Path) -> flux2_jobs::Jobs {
    start(Options { folder: Some(folder.into()), ..Options::default() }, FakeOptions::default())
}

/// The process with the limit: draws until the journal is full.
#[test]
fn child() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let jobs = open(Path::new(&folder));
    let big = Draft { width: Some(2048), height: Some(2048), ..picture("big").draft };
    let big = jobs.submit(Submission { draft: big, ..picture("") }).unwrap().id;
    let failure = ended(&jobs, big).failure.expect("its file is larger than the limit");
    assert_eq!(failure.class, FailureClass::Storage);
    assert!(failure.message.starts_with("the picture could not be saved: "), "{failure}");
    assert!(failure.remedy.is_some(), "{failure}");
    // The log of the journal reaches the limit after a few jobs and begins anew; the database takes longer.
    let mut drawn = 0;
    let refused = loop {
        match jobs.submit(picture(&format!("{drawn}{}", "x".repeat(800)))) {
            Ok(accepted) => {
                let start = Instant::now();
                let is_over = || jobs.get(accepted.id).unwrap().state.is_final();
                while !is_over() && start.elapsed() < Duration::from_secs(3) {
                    std::thread::sleep(Duration::from_millis(1));
                }
                drawn += usize::from(is_over());
            }
            Err(refused) => break refused,
        }
        assert!(drawn < 10_000, "the limit is never reached");
    };
    assert!(drawn >= 10, "{drawn} jobs, then {refused}");
    let Refused::Storage(failure) = refused else { panic!("{refused}") };
    assert!(failure.message.starts_with("the journal cannot be written: "), "{failure}");
    assert_eq!((jobs.stats().devices.len(), jobs.is_ready()), (1, true));
    // What the journal cannot be told waits for the next start, and does not keep this one from ending.
    let start = Instant::now();
    jobs.drain(Duration::from_millis(100));
    drop(jobs);
    assert!(start.elapsed() < Duration::from_secs(30));
}

#[test]
fn a_full_disk_ends_no_engine_and_damages_no_journal() {
    let folder = tempfile::tempdir().unwrap();
    let program = std::env::current_exe().unwrap();
    // Without a handler, the signal of the limit would end the process before the error.
    let script = format!("trap '' XFSZ; ulimit -f {LIMIT_KIB} && exec \"$0\" --exact disk::child");
    let mut command = Command::new("bash");
    command.args(["-c", &script]).arg(&program).env(FOLDER, folder.path());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));

    let jobs = open(folder.path());
    assert!(jobs.notices().is_empty(), "{:?}", jobs.notices());
    wait_until("all end", || {
        let all = jobs.list(&Filter::default(), None, usize::MAX).jobs;
        all.iter().all(|job| job.state.is_final())
    });
    let mut all = jobs.list(&Filter::default(), None, usize::MAX).jobs;
    let big = all.pop().unwrap();
    assert_eq!((big.state, big.images.len()), (JobState::Failed, 0));
    assert!(all.len() >= 10 && all.iter().all(|job| job.state == JobState::Done && job.images.len() == 1));
    assert!(all.iter().all(|job| jobs.image(job.id, 0).unwrap().is_some()));
}
