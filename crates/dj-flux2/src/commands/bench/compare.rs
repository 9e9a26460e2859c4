//! Reads the results of an earlier run from a file with the output of its `--json`.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use flux2::Error;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::failure::{Failure, Result, code};

/// Largest file that is read. The results of all ops take 6 kB.
const MAX_BYTES: u64 = 16 << 20;

/// A line of JSON printed by a benchmark.
pub trait Record: DeserializeOwned {
    /// The command that prints it.
    const COMMAND: &'static str;
}

/// Reads all results in `file`, at least one.
pub fn read<R: Record>(file: &Path) -> Result<Vec<R>> {
    let io = |source| Failure::from(Error::Io { path: file.to_owned(), source });
    let mut bytes = Vec::new();
    File::open(file).map_err(io)?.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(io)?;
    let name = file.display();
    let hint = || format!("pass what `dj-flux2 {} --json` printed", R::COMMAND);
    let text = String::from_utf8(bytes).ok().filter(|text| text.len() as u64 <= MAX_BYTES);
    let Some(text) = text else {
        return Err(Failure::usage(format!("{name} holds no results of `{}`", R::COMMAND), hint()));
    };
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let records = lines.map(|(i, line)| {
        serde_json::from_str::<R>(line).map_err(|_| {
            let message = match other_command(line) {
                Some(other) => format!("{name} holds results of `{other}`, not of `{}`", R::COMMAND),
                None => format!("{name}, line {}: not a result of `{}`", i + 1, R::COMMAND),
            };
            Failure::usage(message, hint())
        })
    });
    let records = records.collect::<Result<Vec<R>>>()?;
    match records.is_empty() {
        true => Err(Failure::usage(format!("{name} is empty"), hint())),
        false => Ok(records),
    }
}

/// The error of a comparison in which no result has an earlier one.
pub fn nothing_in_common(file: Option<&Path>) -> Failure {
    let name = file.map(|file| file.display().to_string()).unwrap_or_default();
    Failure::new(
        code::FAILURE,
        format!("nothing was compared: {name} has no result of what was timed"),
        "compare runs of the same ops, or of the same model, size and steps",
    )
}

/// The command that printed a line of another benchmark, if its fields tell.
fn other_command(line: &str) -> Option<&'static str> {
    let value: Value = serde_json::from_str(line).ok()?;
    let has = |key| value.get(key).is_some();
    match () {
        () if has("median_ms") => Some(super::ops::OpRecord::COMMAND),
        () if has("step_s") => Some(super::generate::GenerateRecord::COMMAND),
        () if has("timings") => Some("generate"),
        () => None,
    }
}
