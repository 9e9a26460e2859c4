//! What a run prints: progress on standard error, as bars on a terminal and as lines elsewhere; warnings, errors and
//! hints; results on standard output.
//!
//! ```text
//! lines    single lines, labels, the exit of a failed command     bars      progress of the workers
//! record   what --json prints for a picture                       transfer  downloads and conversions
//! escape   characters from files that could change how a line looks
//! pictures pictures in the terminal
//! ```

mod bars;
mod escape;
mod lines;
mod pictures;
pub mod record;
mod transfer;

use std::ffi::OsString;
use std::fmt::Display;
use std::io::{self, IsTerminal as _};
use std::num::NonZeroUsize;
use std::path::Path;
use std::time::Duration;

use flux2::engine::usable_threads;
pub use flux2::units::Bytes as Size;
use flux2::units::Time;
use flux2::{Event, Observer, Phase, Warning};
use indicatif::MultiProgress;

use crate::failure::{Failure, Result};
use crate::settings::Detail;
use crate::settings::jobs::Job;
use crate::wording;
use bars::{Lane, Series, Steps};
pub use escape::shown;
use lines::{Label, to_stderr};
pub use lines::{failed, json, not_parsed, print};
use pictures::Screen;
use record::{ErrorRecord, FailedRecord, Record, SheetRecord};
use transfer::Transfer;

/// Steps and phases of this length are told one by one.
const SLOW: Duration = Duration::from_secs(2);

/// Prints what happens in a run.
pub struct Report {
    detail: Detail,
    /// Whether progress is shown as bars.
    bars: bool,
    json: bool,
    screen: MultiProgress,
    /// One for each worker.
    lanes: Vec<Lane>,
    /// The download or conversion in progress.
    transfer: Option<Transfer>,
    /// The pictures of the run.
    series: Series,
    /// Where pictures are shown.
    pictures: Option<Screen>,
    /// Warnings already printed; a run of several pictures prints each once.
    warned: Vec<Warning>,
}

impl Report {
    pub fn new(detail: Detail, json: bool) -> Self {
        let bars = detail > Detail::Quiet && io::stderr().is_terminal() && can_move(std::env::var_os("TERM"));
        Report {
            detail,
            bars,
            json,
            screen: MultiProgress::new(),
            lanes: vec![Lane::default()],
            transfer: None,
            series: Series::default(),
            pictures: None,
            warned: Vec::new(),
        }
    }

    /// Prints a line if `-v` asks for it.
    pub fn verbose(&self, text: impl Display) {
        if self.detail == Detail::Verbose {
            self.line(text);
        }
    }

    /// Prints a decision that the user did not make.
    pub fn note(&self, text: impl Display) {
        if self.detail > Detail::Quiet {
            self.line(format_args!("{} {text}", Label::Note));
        }
    }

    /// Says so if fewer threads are used than were asked for.
    pub fn threads(&self, asked: Option<NonZeroUsize>) {
        let used = usable_threads(asked);
        if let Some(asked) = asked.filter(|asked| *asked > used) {
            self.note(format_args!("{used} threads are used, not {asked}: no more run at once on this machine"));
        }
    }

    /// Prints the random seed of the first picture with `-q`: the picture cannot be repeated without it. Otherwise the
    /// line about the finished picture names its seed.
    pub fn fresh_seed(&self, seed: u64) {
        if self.detail == Detail::Quiet {
            self.line(format_args!("seed {seed}"));
        }
    }

    /// Prints that something was not done, or not entirely, as asked.
    pub fn warning(&self, text: impl Display) {
        if self.detail > Detail::Quiet {
            self.line(format_args!("{} {text}", Label::Warning));
        }
    }

    /// Sets the names of several workers. Each has its own bar, or its name before its lines.
    pub fn workers(&mut self, names: impl Iterator<Item = String>) {
        self.clear_bars();
        self.lanes = names.map(|name| Lane { name, ..Default::default() }).collect();
    }

    /// A worker begins a picture.
    pub fn begin(&mut self, worker: usize, job: &Job, pictures: u64, steps: u32) {
        let several = self.lanes.len() > 1;
        let lane = &mut self.lanes[worker];
        lane.steps = Steps { total: steps, ..Default::default() };
        if several {
            lane.picture = format!("{}/{pictures}", job.index);
        }
        if pictures > 1 && self.detail == Detail::Verbose {
            self.line_of(worker, format_args!("picture {} of {pictures}, seed {}", job.index, job.seed));
        }
        self.begin_series(pictures);
    }

    /// A benchmark begins a picture.
    pub fn begin_run(&mut self, title: Option<&String>, steps: u32) {
        self.clear_bars();
        self.lanes[0].steps = Steps { total: steps, ..Default::default() };
        if let Some(title) = title.filter(|_| self.detail > Detail::Quiet) {
            self.line(title);
        }
    }

    /// Prints a line of results on standard output.
    pub fn result(&self, line: &str) -> Result<()> {
        self.leave_pictures();
        self.beside_bars(|| print(line))
    }

    /// Prints that a picture was written; `path` is `None` for standard output.
    pub fn saved(&mut self, worker: usize, path: Option<&Path>, record: &Record, total: Duration) -> Result<()> {
        if self.detail == Detail::Verbose {
            record.kernels.iter().for_each(|kernel| self.line_of(worker, format_args!("ran {kernel}")));
        }
        let shown = match path {
            Some(path) => path.display().to_string(),
            None => "to standard output".into(),
        };
        self.count_saved();
        if self.detail > Detail::Quiet {
            let number = match self.series.pictures {
                0 | 1 => String::new(),
                pictures => format!("{} of {pictures}, ", record.index),
            };
            let seed = record.parameters.seed;
            let together = match record.batch {
                1 => String::new(),
                batch => format!(" for {batch} together"),
            };
            self.line_of(worker, format_args!("saved {shown} ({number}seed {seed}, {}{together})", Time(total)));
        }
        match path {
            None => Ok(()),
            _ if self.json => self.result(&json(record)),
            // On one terminal the line above has already named the file.
            _ if self.detail > Detail::Quiet && io::stdout().is_terminal() && io::stderr().is_terminal() => Ok(()),
            Some(_) => self.result(&shown),
        }
    }

    /// Prints where a file is that is no picture of the run.
    pub fn written(&self, path: &Path) -> Result<()> {
        let shown = path.display().to_string();
        if self.detail > Detail::Quiet {
            self.line(format_args!("saved {shown}"));
        }
        match () {
            () if self.json => self.result(&json(&SheetRecord { sheet: &shown })),
            () if self.detail > Detail::Quiet && io::stdout().is_terminal() && io::stderr().is_terminal() => Ok(()),
            () => self.result(&shown),
        }
    }

    /// Prints that a picture of a run of several could not be made.
    pub fn not_made(&mut self, job: &Job, pictures: u64, failure: &Failure) -> Result<()> {
        let Job { index, line, prompt, seed, .. } = job;
        let Failure { code, message, hint } = failure;
        self.line(format_args!("{} picture {index} of {pictures} (seed {seed}): {message}", Label::Error));
        if let Some(hint) = hint {
            self.line(format_args!("{} {hint}", Label::Hint));
        }
        if !self.json {
            return Ok(());
        }
        let error = ErrorRecord { code: *code, message, hint: hint.as_deref() };
        self.result(&json(&FailedRecord { index: *index, line: *line, prompt, seed: *seed, error }))
    }

    /// Whether a step or a phase is told in a line of its own: with `-v`, or if people wait for it.
    fn deserves_line(&self, elapsed: Duration) -> bool {
        self.detail == Detail::Verbose || elapsed >= SLOW
    }

    /// Prints a line on standard error, above the bars.
    pub fn line(&self, text: impl Display) {
        self.leave_pictures();
        self.beside_bars(|| to_stderr(text));
    }

    /// Prints a line about one worker, with its name if there are several.
    fn line_of(&self, worker: usize, text: impl Display) {
        match self.lanes[worker].name.as_str() {
            "" => self.line(text),
            name => self.line(format_args!("{name}: {text}")),
        }
    }

    /// Hides the bars while `write` prints.
    fn beside_bars<T>(&self, write: impl FnOnce() -> T) -> T {
        if self.bars { self.screen.suspend(write) } else { write() }
    }

    /// Shows an event of a worker.
    pub fn event(&mut self, worker: usize, event: &Event) {
        if self.detail == Detail::Quiet {
            return;
        }
        let lane = &mut self.lanes[worker];
        match event {
            Event::PhaseStarted { phase, units } if self.bars => self.start_bar(worker, *phase, *units),
            Event::Progress { done, .. } => {
                if let Some(bar) = &lane.bar {
                    bar.set_position(*done as u64);
                }
                lane.show_step();
            }
            Event::Step { step, steps, elapsed } => {
                lane.steps.finished = *step;
                lane.steps.spent += *elapsed;
                lane.show_step();
                if !self.bars && self.deserves_line(*elapsed) {
                    self.line_of(worker, format_args!("step {step}/{steps} {}", Time(*elapsed)));
                }
            }
            Event::PhaseFinished { phase, elapsed } => {
                self.end_bar(worker);
                let by_steps = *phase == Phase::Denoise;
                if self.detail == Detail::Verbose || !(self.bars || by_steps) && self.deserves_line(*elapsed) {
                    self.line_of(worker, format_args!("{} {}", phase.name(), Time(*elapsed)));
                }
            }
            Event::Warning(warning) if !self.warned.contains(warning) => {
                self.warning(wording::warning(warning));
                self.warned.push(warning.clone());
            }
            Event::Upscaled(how) if self.detail == Detail::Verbose => {
                self.line_of(worker, format_args!("upscaled by {how}"));
            }
            Event::TextCache(what) if self.detail == Detail::Verbose => self.line_of(worker, what),
            _ => {}
        }
    }
}

/// Whether a terminal of the kind `TERM` can redraw a line. Those that cannot, as in an editor, call themselves dumb.
fn can_move(term: Option<OsString>) -> bool {
    term.is_none_or(|term| term != "dumb")
}

/// Observes a run with one worker.
impl Observer for Report {
    fn on_event(&mut self, event: &Event) {
        self.event(0, event);
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        self.clear_bars();
        self.end_series();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dumb_terminal_gets_lines() {
        assert!(!can_move(Some("dumb".into())));
        assert!(can_move(Some("xterm-256color".into())) && can_move(None));
    }
}
