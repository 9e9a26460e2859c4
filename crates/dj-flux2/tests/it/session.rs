//! `session`: scripts on standard input, here and on a server; a person at a terminal.

#[cfg(feature = "serve")]
mod fuzz;
mod scripts;
#[cfg(feature = "serve")]
mod server;
#[cfg(feature = "mini")]
mod terminal;

use std::process::Output;

use crate::cli::{Cli, shown};

/// Settings of a picture that takes a moment.
const QUICK: [&str; 6] = ["--set", "size=64x64", "--set", "steps=1", "--set", "seed=7"];

/// Runs a script with quick pictures and returns what it prints.
fn script(cli: &Cli, flags: &[&str], lines: &str) -> Output {
    let args: Vec<&str> = ["session"].iter().chain(&QUICK).chain(flags).copied().collect();
    cli.output_with_input(&args, lines)
}

/// The lines of a script that succeeds.
fn lines(cli: &Cli, flags: &[&str], text: &str) -> Vec<String> {
    let output = script(cli, flags, text);
    assert!(output.status.success(), "{}", shown(&output));
    String::from_utf8(output.stdout).unwrap().lines().map(without_times).collect()
}

/// A line without the time that something took.
fn without_times(line: &str) -> String {
    match line.rsplit_once(", ").filter(|(_, time)| time.ends_with(" s)") || time.ends_with(" ms)")) {
        Some((rest, _)) => format!("{rest})"),
        None => line.to_owned(),
    }
}
