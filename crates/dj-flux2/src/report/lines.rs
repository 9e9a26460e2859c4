//! Single lines: results on standard output; errors, hints and notes on standard error.

use std::fmt::{self, Display};
use std::io::{self, ErrorKind, Write as _};
use std::process::ExitCode;

use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Style};
use clap::error::ErrorKind as ClapErrorKind;
use serde::Serialize;

use super::escape;
use crate::failure::{Failure, Result, code};
use crate::usage;

/// Prints an error and its hint, and returns the exit code.
pub fn failed(failure: &Failure) -> ExitCode {
    to_stderr(format_args!("{} {}", Label::Error, failure.message));
    if let Some(hint) = &failure.hint {
        to_stderr(format_args!("{} {hint}", Label::Hint));
    }
    ExitCode::from(failure.code)
}

/// Prints what clap says of a command line that it does not run: help, the version, or an error.
pub fn not_parsed(error: &clap::Error) -> ExitCode {
    match error.kind() {
        ClapErrorKind::DisplayHelp | ClapErrorKind::DisplayVersion => {
            // If standard output is closed, nobody reads the help.
            let _ = error.print();
            ExitCode::SUCCESS
        }
        ClapErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            ExitCode::from(code::USAGE)
        }
        _ => failed(&usage::failure(error)),
    }
}

/// Prints a line of results. A reader that has closed the pipe is no error: the pictures are made all the same.
pub fn print(line: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    match writeln!(stdout, "{line}").and_then(|()| stdout.flush()) {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => Err(Failure::new(
            code::FAILURE,
            format!("standard output: {e}"),
            "make room for the results, or discard them",
        )),
        _ => Ok(()),
    }
}

/// A record as one line of JSON, without characters that could drive a terminal.
pub fn json(record: &impl Serialize) -> String {
    escape::json(&serde_json::to_string(record).expect("strings and numbers serialize"))
}

pub(super) fn to_stderr(line: impl Display) {
    // If standard error is closed, there is nowhere to say so.
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// The word before a message, in color if standard error and the environment allow it.
#[derive(Clone, Copy)]
pub(super) enum Label {
    Error,
    Warning,
    Note,
    Hint,
}

impl Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (word, color) = match self {
            Label::Error => ("error:", AnsiColor::Red),
            Label::Warning => ("warning:", AnsiColor::Yellow),
            Label::Note => ("note:", AnsiColor::Green),
            Label::Hint => ("hint:", AnsiColor::Cyan),
        };
        let style = match AutoStream::choice(&io::stderr()) {
            ColorChoice::Never => Style::new(),
            _ => color.on_default().bold(),
        };
        write!(f, "{style}{word}{style:#}")
    }
}
