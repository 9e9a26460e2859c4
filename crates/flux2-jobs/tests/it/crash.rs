//! `kill -9` at any point: no accepted job is lost, none is drawn twice, all end.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use flux2_jobs::fake::FakeOptions;
use flux2_jobs::{FailureClass, Filter, JobId, JobState, Jobs, Options, Submission};

use crate::common::{ended, endless, picture, start, wait_until};

/// Names the folder for [`child`], which does nothing without it.
const FOLDER: &str = "FLUX2_JOBS_TEST_FOLDER";
/// Number of jobs that the child submits.
const JOBS: &str = "FLUX2_JOBS_TEST_JOBS";
/// Prompt of a job during which every process of these tests ends.
const POISON: &str = "poison";

fn open(folder: &Path) -> Jobs {
    // Every kill counts as an attempt of the job that was running.
    let options = Options { folder: Some(folder.into()), max_attempts: 1000, ..Options::default() };
    start(options, FakeOptions { step: Duration::from_millis(1), ..FakeOptions::default() })
}

fn with_two_attempts(folder: &Path) -> Options {
    Options { folder: Some(folder.into()), max_attempts: 2, ..Options::default() }
}

fn submit(jobs: &Jobs, number: usize) -> JobId {
    let key = Some(number.to_string());
    jobs.submit(Submission { idempotency_key: key, ..picture(&format!("fox {number}")) }).unwrap().id
}

/// The process that is killed: submits jobs, prints the id of each that was accepted, and draws them.
#[test]
fn child() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let count: usize = std::env::var(JOBS).unwrap().parse().unwrap();
    if count == 0 {
        let jobs = start(with_two_attempts(Path::new(&folder)), endless());
        let key = Some(POISON.to_owned());
        let id = jobs.submit(Submission { idempotency_key: key, ..picture(POISON) }).unwrap().id;
        wait_until("it runs", || jobs.get(id).unwrap().state == JobState::Running);
        // What is accepted later is on disk later, so the attempt is on disk too.
        jobs.submit(picture("later")).unwrap();
        writeln!(std::io::stdout(), "accepted 0 {id}").unwrap();
        std::thread::sleep(Duration::from_secs(600));
    }
    let jobs = open(Path::new(&folder));
    for number in 0..count {
        let id = submit(&jobs, number);
        let mut stdout = std::io::stdout().lock();
        writeln!(stdout, "accepted {number} {id}").unwrap();
        stdout.flush().unwrap();
    }
    std::thread::sleep(Duration::from_secs(600));
}

/// Run the child until it is killed after so many lines and milliseconds, and note which jobs it had accepted.
fn run_and_kill(folder: &Path, count: usize, lines: usize, pause: Duration, accepted: &mut HashMap<usize, JobId>) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "crash::child", "--nocapture"]).env(FOLDER, folder).env(JOBS, count.to_string());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    let mut note = |line: &str| {
        let Some(rest) = line.split("accepted ").nth(1) else { return false };
        // A line that the kill cut short says nothing.
        let Some((number, id)) = rest.split_once(' ') else { return false };
        let (Ok(number), Ok(id)) = (number.parse(), id.parse()) else { return false };
        let known = *accepted.entry(number).or_insert(id);
        assert_eq!(known, id, "job {number} was accepted twice");
        true
    };
    let mut left = lines;
    let mut read = output.lines();
    while left > 0 {
        match read.next() {
            Some(Ok(line)) => left -= usize::from(note(&line)),
            _ => panic!("the child ended by itself"),
        }
    }
    std::thread::sleep(pause);
    child.kill().unwrap();
    child.wait().unwrap();
    for line in read.map_while(Result::ok) {
        note(&line);
    }
}

fn survive(count: usize, kills: usize) {
    let folder = tempfile::tempdir().unwrap();
    let mut accepted = HashMap::new();
    // A small generator: kills at other points each time, the same in each run.
    let mut number = 12_345u64;
    let mut below = |n: usize| {
        number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (number >> 33) as usize % n
    };
    for _ in 0..kills {
        let (lines, pause) = (below(count), Duration::from_micros(below(30_000) as u64));
        run_and_kill(folder.path(), count, lines, pause, &mut accepted);
    }
    run_and_kill(folder.path(), count, count, Duration::ZERO, &mut accepted);
    assert_eq!(accepted.len(), count);

    let jobs = open(folder.path());
    assert!(jobs.notices().is_empty(), "{:?}", jobs.notices());
    let mut digests = HashMap::new();
    for number in 0..count {
        assert_eq!(submit(&jobs, number), accepted[&number]);
        let job = ended(&jobs, accepted[&number]);
        assert_eq!((job.state, job.images.len(), job.drawn.len()), (JobState::Done, 1, 1), "{:?}", job.failure);
        let picture = jobs.image(job.id, 0).unwrap().expect("the picture of a job that is done is there");
        assert_eq!(flux2::digest::sha256(&picture.bytes), job.images[0].sha256);
        digests.insert(number, job.images[0].sha256.clone());
    }
    assert_eq!(jobs.list(&Filter::default(), None, usize::MAX).jobs.len(), count, "none was made twice");
    // The same bytes as without a crash.
    let alone = start(Options::default(), FakeOptions::default());
    for number in (0..count).step_by(7) {
        assert_eq!(ended(&alone, submit(&alone, number)).images[0].sha256, digests[&number]);
    }
}

#[test]
fn a_job_that_ends_the_process_each_time_fails() {
    let folder = tempfile::tempdir().unwrap();
    let mut accepted = HashMap::new();
    for _ in 0..2 {
        run_and_kill(folder.path(), 0, 1, Duration::ZERO, &mut accepted);
    }
    let jobs = start(with_two_attempts(folder.path()), FakeOptions::default());
    let job = jobs.get(accepted[&0]).unwrap();
    assert_eq!((job.state, job.attempts), (JobState::Failed, 2));
    assert_eq!(job.failure.unwrap().class, FailureClass::Crashed);
    assert_eq!(ended(&jobs, jobs.submit(picture("fox")).unwrap().id).state, JobState::Done);
}

#[test]
fn a_hundred_accepted_jobs_survive_twenty_kills() {
    survive(100, 20);
}
