//! Ctrl-C: quick, and nothing half-done is left.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::cli::Cli;

/// Start a run, send `signal` once a line on standard error starts with `at`, and return exit code and what was said
/// from there on.
fn interrupted(cli: &Cli, args: &[&str], at: &str, signal: &str) -> (Option<i32>, String) {
    let mut child = cli.command(args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    lines.find(|line| line.starts_with(at)).unwrap_or_else(|| panic!("it never said {at}"));
    let sent = Instant::now();
    assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
    let said: Vec<String> = lines.collect();
    let status = child.wait().unwrap();
    assert!(sent.elapsed() < Duration::from_secs(5), "it took {:?} to stop", sent.elapsed());
    (status.code(), said.last().cloned().unwrap_or_default())
}

#[test]
fn ctrl_c_stops_a_run_and_leaves_nothing() {
    for signal in ["-INT", "-TERM"] {
        let cli = Cli::with_tiny_model();
        let (code, said) = interrupted(&cli, &["a red fox", "-s", "1000", "-v"], "step 1/", signal);
        assert_eq!((code, said.as_str()), (Some(130), "error: cancelled"));
        assert_eq!(cli.files(), [""; 0]);
    }
}

#[test]
fn ctrl_c_keeps_the_pictures_that_are_finished() {
    let cli = Cli::with_tiny_model();
    let args = ["a red fox", "-n", "1000", "-W", "64", "-H", "64", "-v"];
    let (code, _) = interrupted(&cli, &args, "saved output-", "-INT");
    assert_eq!(code, Some(130));
    let files = cli.files();
    assert!(!files.is_empty() && files.len() < 1000, "{files:?}");
    for name in files {
        flux2::image::open(&cli.path(&name)).unwrap();
    }
}
