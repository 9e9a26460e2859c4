//! How many threads compute: as many as were asked for, else as many as the process may use; never more than run at
//! once.
#![cfg(target_os = "linux")] // where a process can be looked into

use std::collections::BTreeMap;
use std::fs;
use std::num::NonZeroUsize;
use std::process::{Command, Stdio};

use flux2::engine::usable_threads;

use crate::cli::Cli;

const CAT: [&str; 7] = ["a cat", "-S", "7", "--size", "256x256", "-s", "8"];

/// Threads a run had at any time, and their names.
fn threads_of(mut command: Command) -> BTreeMap<String, String> {
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut seen = BTreeMap::new();
    while child.try_wait().unwrap().is_none() {
        for task in fs::read_dir(format!("/proc/{}/task", child.id())).into_iter().flatten().flatten() {
            // Threads come and go while they are listed.
            if let Ok(name) = fs::read_to_string(task.path().join("comm")) {
                // A thread gets its name after it starts: the last one read counts.
                seen.insert(task.file_name().display().to_string(), name);
            }
        }
    }
    assert!(child.wait().unwrap().success());
    seen
}

fn computing(threads: &BTreeMap<String, String>) -> usize {
    threads.values().filter(|name| name.starts_with("flux2-cpu")).count()
}

#[test]
fn there_is_one_set_of_threads_of_the_size_asked_for() {
    for asked in [1, 2, 1024] {
        let threads =
            threads_of(Cli::without_model().command(CAT.into_iter().chain(["--threads", &asked.to_string()])));
        let count = usable_threads(NonZeroUsize::new(asked)).get();
        assert_eq!(computing(&threads), count, "{threads:?}");
        // Besides, the main thread, one that waits for signals, the device's worker, one that writes the picture, and one
        // that watches the clock.
        assert!(threads.len() <= count + 5, "{threads:?}");
    }
}

#[test]
fn a_conversion_has_one_set_of_threads() {
    let convert = ["convert", "klein-mini", "small", "--to", "q8_0", "--threads", "2"];
    let threads = threads_of(Cli::without_model().command(convert));
    assert_eq!(computing(&threads), usable_threads(NonZeroUsize::new(2)).get(), "{threads:?}");
}

#[test]
fn fewer_threads_than_asked_for_are_said() {
    let cli = Cli::without_model();
    let said =
        |threads: &str| String::from_utf8(cli.output(CAT.into_iter().chain(["--threads", threads])).stderr).unwrap();
    let all = usable_threads(None).get();
    let line = format!("note: {all} threads are used, not 1024: no more run at once on this machine");
    assert_eq!(said("1024").lines().filter(|told| *told == line).count(), 1);
    assert!(!said("1").contains("threads"));
}

#[test]
#[allow(clippy::print_stderr)] // why it did not run
fn affinity_is_respected() {
    if Command::new("taskset").arg("-V").output().is_err() {
        eprintln!("skipped: no taskset on this machine");
        return;
    }
    let cli = Cli::without_model();
    let program = cli.command(CAT);
    let mut command = Command::new("taskset");
    command.args(["-c", "0"]).arg(program.get_program()).args(program.get_args());
    command.current_dir(program.get_current_dir().unwrap());
    assert_eq!(computing(&threads_of(command)), 1);
}
