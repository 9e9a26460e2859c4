//! What a session prints: results on standard output, as text or JSON lines; everything else on standard error.

use std::io::{self, IsTerminal as _};
use std::time::Duration;

use flux2::units::Time;
use flux2_session::{Entry, Heard, Made};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use crate::failure::{Failure, Result};
use crate::report::{self, Report, failed, print, shown};
use crate::settings::Detail;

/// Prints what happens in a session.
pub struct Say {
    is_json: bool,
    /// Notes and warnings.
    pub report: Report,
}

impl Say {
    pub fn new(is_json: bool) -> Self {
        Say { is_json, report: Report::new(Detail::Normal, is_json) }
    }

    /// A result as a sentence.
    pub fn text(&self, text: &str) -> Result<()> {
        match self.is_json {
            true => print(&report::json(&json!({ "text": text }))),
            false => print(text),
        }
    }

    /// Several lines for people; programs need no help.
    pub fn lines(&self, lines: &[String]) -> Result<()> {
        lines.iter().try_for_each(|line| self.text(line))
    }

    /// A new picture of the history.
    pub fn picture(&self, entry: &Entry, elapsed: Duration) -> Result<()> {
        if self.is_json {
            let mut record = record(entry);
            record["seconds"] = json!(elapsed.as_secs_f64());
            return print(&report::json(&record));
        }
        print(&format!("{} {} ({})", label(entry), path_of(entry), details(&entry.made, Some(elapsed))))
    }

    /// The pictures of a list.
    pub fn entry(&self, entry: &Entry) -> Result<()> {
        if self.is_json {
            return print(&report::json(&record(entry)));
        }
        let from = entry.parent.map_or(String::new(), |parent| format!(", from ${parent}"));
        let prompt = shown(&entry.made.prompt);
        let details = details(&entry.made, None);
        print(format!("{} {} ({details}{from}) {prompt}", label(entry), path_of(entry)).trim_end())
    }

    /// A file that is no picture of the history.
    pub fn file(&self, what: &str, path: &str) -> Result<()> {
        match self.is_json {
            true => print(&report::json(&json!({ what: path }))),
            false => print(&format!("{what} {path}")),
        }
    }

    /// Print an error. The session goes on after it. In a script, `line` is the number of the line that failed.
    pub fn failure(&self, failure: &Failure, line: Option<usize>) {
        let message = match line {
            Some(line) => format!("line {line}: {}", failure.message),
            None => failure.message.clone(),
        };
        // If standard output is closed, there is nowhere to say it.
        let _ = line.map(|line| self.error_record(failure, line));
        failed(&Failure { message, ..failure.clone() });
    }

    /// An error of a line as a JSON line, where results are.
    pub fn error_record(&self, failure: &Failure, line: usize) -> Result<()> {
        if !self.is_json {
            return Ok(());
        }
        let Failure { code, message, hint } = failure;
        print(&report::json(&json!({"line": line, "error": {"code": code, "message": message, "hint": hint}})))
    }

    /// Progress of a picture, on a terminal.
    pub fn progress(&self) -> Progress {
        let bar = match io::stderr().is_terminal() {
            true => ProgressBar::new_spinner(),
            false => ProgressBar::hidden(),
        };
        let style = ProgressStyle::with_template("{spinner} {msg} ({elapsed}), Ctrl-C cancels");
        if let Ok(style) = style {
            bar.set_style(style);
        }
        bar.set_message("preparing");
        bar.enable_steady_tick(Duration::from_millis(100));
        Progress { bar }
    }
}

/// The line about the picture that is drawn.
pub struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// Shows what is heard of picture `number` of `all`, from 1; a warning is returned.
    pub fn hear(&self, heard: &Heard, number: u64, all: u64) -> Option<String> {
        let of = if all > 1 { format!("picture {number}/{all}, ") } else { String::new() };
        match heard {
            Heard::Queued { position } if *position > 1 => {
                self.bar.set_message(format!("{of}place {position} in the queue"));
            }
            Heard::Queued { .. } => {}
            Heard::Started => self.bar.set_message(format!("{of}reading the prompt")),
            Heard::Step { step, steps, .. } => self.bar.set_message(format!("{of}step {step}/{steps}")),
            Heard::Warning { text } => return Some(text.clone()),
        }
        None
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// How a picture is referred to.
fn label(entry: &Entry) -> String {
    match &entry.name {
        Some(name) => format!("${} ${name}", entry.number),
        None => format!("${}", entry.number),
    }
}

fn path_of(entry: &Entry) -> String {
    entry.path().map_or_else(|| "in memory".into(), |path| shown(&super::shortened(path)))
}

fn details(made: &Made, elapsed: Option<Duration>) -> String {
    let mut parts = vec![format!("{}x{}", made.width, made.height)];
    if !made.model.is_empty() {
        parts.push(format!("seed {}", made.seed));
    }
    parts.extend(elapsed.map(|elapsed| Time(elapsed).to_string()));
    parts.join(", ")
}

fn record(entry: &Entry) -> Value {
    json!({
        "picture": entry.number,
        "name": entry.name,
        "path": entry.path().map(|path| path.to_string_lossy()),
        "sha256": entry.sha256,
        "parent": entry.parent,
        "made": entry.made,
    })
}
