//! What a run says: progress on standard error, as bars on a terminal and as lines elsewhere; warnings, errors and
//! hints; results on standard output.

use std::fmt::{self, Display};
use std::io::{self, ErrorKind, IsTerminal as _, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;
use std::{collections::VecDeque, time::Instant};

use clap::error::ErrorKind as ClapErrorKind;
use flux2::image::Parameters;
use flux2::pipeline::KernelRun;
use flux2::pipeline::ladder::Rescue;
pub use flux2::units::Bytes as Size;
use flux2::units::Time;
use flux2::{Event, Observer, Phase, Timings, TransferEvent, TransferObserver, Warning};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::failure::{Failure, Result, code};
use crate::settings::{Detail, Job};
use crate::wording;

/// Speaks for a run.
pub struct Report {
    detail: Detail,
    bars: bool,
    json: bool,
    /// All bars there are.
    screen: MultiProgress,
    /// One for each worker.
    lanes: Vec<Lane>,
    coming: Transfer,
    /// Warnings that were given; a run of several pictures gives each once.
    warned: Vec<Warning>,
}

/// What is said of one worker.
#[derive(Default)]
struct Lane {
    /// In front of all it says; empty where it is the only one.
    name: String,
    /// The picture it is at, as in `3/8`; empty where it is the only worker.
    picture: String,
    bar: Option<ProgressBar>,
    phase: Option<Phase>,
    steps: Steps,
}

/// How far the denoising of a picture is.
#[derive(Default)]
struct Steps {
    finished: u32,
    total: u32,
    spent: Duration,
}

/// A finished picture, as `--json` prints it.
#[derive(Serialize)]
pub struct Record<'a> {
    /// Where it was written.
    pub path: &'a str,
    /// 1 for the first of the run.
    pub index: u64,
    /// What made it, as in its file.
    #[serde(flatten)]
    pub parameters: &'a Parameters,
    /// What it ran on.
    pub device: &'a str,
    /// Seconds.
    pub timings: Seconds,
    /// What really ran.
    pub kernels: Vec<Kernel>,
    pub rescues: Vec<RescueRecord>,
}

/// Products of one kind.
#[derive(Serialize)]
pub struct Kernel {
    op: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    weights: Option<String>,
    kernel: String,
    products: u64,
}

impl Kernel {
    pub fn new(run: &KernelRun) -> Self {
        let KernelRun { op, weights, kernel, products } = run;
        Kernel { op, weights: weights.map(|dtype| dtype.to_string()), kernel: kernel.clone(), products: *products }
    }
}

impl Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Kernel { op, weights, kernel, products } = self;
        match weights {
            Some(weights) => write!(f, "{products} {op} of {weights} weights in {kernel}"),
            None => write!(f, "{products} {op} in {kernel}"),
        }
    }
}

/// Something that was given up where memory was short.
#[derive(Serialize)]
pub struct RescueRecord {
    stage: &'static str,
    rung: &'static str,
}

impl RescueRecord {
    pub fn new(rescue: &Rescue) -> Self {
        RescueRecord { stage: rescue.stage.name(), rung: rescue.rung.name() }
    }
}

/// Seconds a picture took; a stage whose result was still known took none.
#[derive(Serialize)]
pub struct Seconds {
    text: f64,
    references: f64,
    steps: Vec<f64>,
    decode: f64,
    total: f64,
}

impl Seconds {
    /// Of the stages, and of the whole from prompt to file.
    pub fn new(timings: &Timings, total: Duration) -> Self {
        let s = |d: Duration| d.as_micros() as f64 / 1e6;
        Seconds {
            text: s(timings.text),
            references: s(timings.references),
            steps: timings.steps.iter().copied().map(s).collect(),
            decode: s(timings.decode),
            total: s(total),
        }
    }
}

impl Report {
    pub fn new(detail: Detail, json: bool) -> Self {
        let bars = detail > Detail::Quiet && io::stderr().is_terminal();
        Report {
            detail,
            bars,
            json,
            screen: MultiProgress::new(),
            lanes: vec![Lane::default()],
            coming: Transfer::default(),
            warned: Vec::new(),
        }
    }

    /// Something only `-v` asks for.
    pub fn verbose(&self, text: impl Display) {
        if self.detail == Detail::Verbose {
            self.line(text);
        }
    }

    /// Something was decided that nobody asked for.
    pub fn note(&self, text: impl Display) {
        if self.detail > Detail::Quiet {
            self.line(format_args!("{} {text}", Label::Note));
        }
    }

    /// The seed of the first picture, if nobody chose it: said always, since it cannot be known otherwise.
    pub fn fresh_seed(&self, seed: u64) {
        self.line(format_args!("seed {seed}"));
    }

    /// Something was not, or not wholly, done as asked.
    pub fn warning(&self, text: impl Display) {
        if self.detail > Detail::Quiet {
            self.line(format_args!("{} {text}", Label::Warning));
        }
    }

    /// Several workers begin, with these names: each has its own bar, or its name in front of its lines.
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
        // The bars of several workers say it.
        if pictures > 1 && self.detail > Detail::Quiet && !(several && self.bars) {
            self.line_of(worker, format_args!("picture {} of {pictures}, seed {}", job.index, job.seed));
        }
    }

    /// A picture is begun only to time it.
    pub fn begin_run(&mut self, title: Option<&String>, steps: u32) {
        self.clear_bars();
        self.lanes[0].steps = Steps { total: steps, ..Default::default() };
        if let Some(title) = title.filter(|_| self.detail > Detail::Quiet) {
            self.line(title);
        }
    }

    /// The next of `of` pieces of work is begun. Shown on a terminal only: elsewhere each result is a line.
    pub fn counted(&mut self, what: &str, done: usize, of: usize) {
        if !self.bars {
            return;
        }
        let bar = self.lanes[0].bar.get_or_insert_with(|| {
            let bar = self.screen.add(ProgressBar::new(of as u64));
            bar.set_style(style("{prefix:<21} {bar:32}"));
            bar
        });
        bar.set_prefix(what.to_owned());
        bar.set_length(of as u64);
        bar.set_position(done as u64);
    }

    /// A line of results.
    pub fn result(&self, line: &str) -> Result<()> {
        self.beside_bars(|| print(line))
    }

    /// A picture is where it should be.
    pub fn saved(&self, worker: usize, path: Option<&Path>, record: &Record, total: Duration) -> Result<()> {
        if self.detail == Detail::Verbose {
            record.kernels.iter().for_each(|kernel| self.line_of(worker, format_args!("ran {kernel}")));
        }
        let shown = match path {
            Some(path) => path.display().to_string(),
            None => "to standard output".into(),
        };
        if self.detail > Detail::Quiet {
            self.line_of(worker, format_args!("saved {shown} (seed {}, {})", record.parameters.seed, Time(total)));
        }
        match path {
            None => Ok(()),
            _ if self.json => self.result(&serde_json::to_string(record).expect("strings and numbers serialise")),
            // Who reads the line above on the same screen need not read the name again.
            _ if self.detail > Detail::Quiet && io::stdout().is_terminal() && io::stderr().is_terminal() => Ok(()),
            Some(_) => self.result(&shown),
        }
    }

    /// A line on standard error, above the bars.
    pub fn line(&self, text: impl Display) {
        self.beside_bars(|| to_stderr(text));
    }

    /// The same of one worker.
    fn line_of(&self, worker: usize, text: impl Display) {
        match self.lanes[worker].name.as_str() {
            "" => self.line(text),
            name => self.line(format_args!("{name}: {text}")),
        }
    }

    /// Write to a terminal that may show bars.
    fn beside_bars<T>(&self, write: impl FnOnce() -> T) -> T {
        if self.bars { self.screen.suspend(write) } else { write() }
    }

    fn start_bar(&mut self, worker: usize, phase: Phase, units: usize) {
        let lane = &mut self.lanes[worker];
        lane.phase = Some(phase);
        let several = !lane.name.is_empty();
        let title = if several { lane.title(phase) } else { phase.name().to_owned() };
        let new = || {
            let bar = self.screen.add(ProgressBar::new_spinner());
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        };
        let bar = lane.bar.get_or_insert_with(new);
        bar.set_style(style(match (several, units) {
            (false, 0) => "{prefix:<11} {spinner} {elapsed}",
            (false, _) => "{prefix:<11} {bar:32} {msg}",
            (true, 0) => "{prefix:<28} {spinner} {elapsed}",
            (true, _) => "{prefix:<28} {bar:20} {wide_msg}",
        }));
        bar.reset();
        bar.set_length(units as u64);
        bar.set_message("");
        bar.set_prefix(title);
        lane.show_step();
    }

    /// A phase of a worker is over. Bars of several workers stay until the next begins, so that they keep their places.
    fn end_bar(&mut self, worker: usize) {
        if self.lanes.len() == 1 {
            self.clear_bars();
        } else if let Some(bar) = &self.lanes[worker].bar {
            bar.set_position(bar.length().unwrap_or_default());
        }
    }

    fn clear_bars(&mut self) {
        for bar in self.lanes.iter_mut().filter_map(|lane| lane.bar.take()) {
            bar.finish_and_clear();
            self.screen.remove(&bar);
        }
    }
}

impl Lane {
    /// What several workers' bars are told apart by.
    fn title(&self, phase: Phase) -> String {
        let parts = [self.name.as_str(), self.picture.as_str(), phase.name()];
        parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
    }

    /// Where the denoising is, beside its bar.
    fn show_step(&self) {
        let (Some(bar), Some(Phase::Denoise), Steps { finished, total, spent }) = (&self.bar, self.phase, &self.steps)
        else {
            return;
        };
        let mut text = format!("step {}/{total}", (finished + 1).min(*total));
        if *finished > 0 {
            let each = *spent / *finished;
            let share = 1.0 - bar.position() as f64 / bar.length().unwrap_or(1).max(1) as f64;
            let left = each.mul_f64(f64::from(*total) * share.max(0.0));
            text = format!("{text}, {} a step, {} left", Time(each), Time(left));
        }
        bar.set_message(text);
    }
}

/// A bar that looks like this.
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the template is well-formed")
}

/// How far a download or a conversion is, and how fast it was in the last seconds.
#[derive(Default)]
struct Transfer {
    done: u64,
    total: u64,
    /// When how much was here, the oldest first.
    samples: VecDeque<(Instant, u64)>,
    /// When a line was last printed where there is no bar.
    said: Option<Instant>,
}

impl Transfer {
    /// Of the time that the speed is told of.
    const WINDOW: Duration = Duration::from_secs(10);
    /// Between lines where there is no bar.
    const BETWEEN_LINES: Duration = Duration::from_secs(30);

    fn here(&mut self, done: u64, now: Instant) {
        self.done = done;
        // Bytes that were wrong are gone again; what was before does not count then.
        if self.samples.back().is_some_and(|(_, before)| *before > done) {
            self.samples.clear();
        }
        while self.samples.front().is_some_and(|(then, _)| now - *then > Self::WINDOW) && self.samples.len() > 2 {
            self.samples.pop_front();
        }
        let is_new = |(then, _): &(Instant, u64)| now - *then >= Duration::from_millis(100);
        if self.samples.back().is_none_or(is_new) {
            self.samples.push_back((now, done));
        }
    }

    /// Bytes a second.
    fn speed(&self) -> Option<f64> {
        let ((first, before), (last, after)) = (self.samples.front()?, self.samples.back()?);
        let seconds = (*last - *first).as_secs_f64();
        (seconds > 0.0 && after > before).then(|| (after - before) as f64 / seconds)
    }

    fn text(&self) -> String {
        let text = format!("{} of {}", Size(self.done), Size(self.total));
        match self.speed() {
            Some(speed) => {
                let left = Duration::from_secs_f64((self.total - self.done.min(self.total)) as f64 / speed);
                format!("{text}, {}/s, {} left", Size(speed as u64), Time(left))
            }
            None => text,
        }
    }
}

impl TransferObserver for Report {
    fn on_transfer(&mut self, event: &TransferEvent) {
        if self.detail == Detail::Quiet {
            return;
        }
        match event {
            TransferEvent::Started { files, done, total } => {
                self.coming = Transfer { done: *done, total: *total, said: Some(Instant::now()), ..Default::default() };
                self.coming.here(*done, Instant::now());
                let here = if *done > 0 { format!(", {} are here", Size(*done)) } else { String::new() };
                let files = if *files == 1 { "1 file".into() } else { format!("{files} files") };
                match self.bars {
                    true => {
                        self.clear_bars();
                        let bar = self.screen.add(ProgressBar::new(*total));
                        bar.set_style(style("{bar:32} {msg}"));
                        bar.set_position(*done);
                        bar.enable_steady_tick(Duration::from_millis(120));
                        self.lanes[0].bar = Some(bar);
                    }
                    false => self.line(format_args!("{files}, {}{here}", Size(*total))),
                }
            }
            TransferEvent::Progress { done } => {
                self.coming.here(*done, Instant::now());
                let text = self.coming.text();
                if let Some(bar) = &self.lanes[0].bar {
                    bar.set_position(*done);
                    bar.set_message(text);
                } else if self.coming.said.is_none_or(|said| said.elapsed() >= Transfer::BETWEEN_LINES) {
                    self.coming.said = Some(Instant::now());
                    self.line(text);
                }
            }
            TransferEvent::FileFinished { path, size, elapsed } => {
                self.line(format_args!("{path} {} {}", Size(*size), Time(*elapsed)));
            }
            TransferEvent::Waiting { path } => self.note(format_args!("{path}: another process is bringing it")),
            TransferEvent::Retry { reason, pause } => {
                self.warning(format_args!("{reason}; again in {}", Time(*pause)));
            }
            TransferEvent::Finished => self.clear_bars(),
            _ => {}
        }
    }
}

impl Report {
    /// Something happened at a worker.
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
                if !self.bars {
                    self.line_of(worker, format_args!("step {step}/{steps} {}", Time(*elapsed)));
                }
            }
            Event::PhaseFinished { phase, elapsed } => {
                self.end_bar(worker);
                let by_steps = *phase == Phase::Denoise;
                if self.detail == Detail::Verbose || !(self.bars || by_steps) {
                    self.line_of(worker, format_args!("{} {}", phase.name(), Time(*elapsed)));
                }
            }
            Event::Warning(warning) if !self.warned.contains(warning) => {
                self.warning(wording::warning(warning));
                self.warned.push(warning.clone());
            }
            Event::TextCache(what) if self.detail == Detail::Verbose => self.line_of(worker, what),
            _ => {}
        }
    }
}

/// Of a run with one worker.
impl Observer for Report {
    fn on_event(&mut self, event: &Event) {
        self.event(0, event);
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        self.clear_bars();
    }
}

/// An error and its hint, and the exit code for it.
pub fn failed(failure: &Failure) -> ExitCode {
    to_stderr(format_args!("{} {}", Label::Error, failure.message));
    if let Some(hint) = &failure.hint {
        to_stderr(format_args!("{} {hint}", Label::Hint));
    }
    ExitCode::from(failure.code)
}

/// A command line that clap did not take: a call for help, or a mistake.
pub fn not_parsed(error: &clap::Error) -> ExitCode {
    match error.kind() {
        ClapErrorKind::DisplayHelp | ClapErrorKind::DisplayVersion => {
            // Nobody is left to tell if standard output is closed.
            let _ = error.print();
            ExitCode::SUCCESS
        }
        ClapErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            ExitCode::from(code::USAGE)
        }
        _ => failed(&usage(&error.render().to_string())),
    }
}

/// Clap's paragraphs as an error and a hint like all others: the first says what is wrong, tips say what to do.
fn usage(rendered: &str) -> Failure {
    let text = rendered.split("\n\nUsage:").next().unwrap_or(rendered);
    let text = text.split("\n\nFor more information").next().unwrap_or(text);
    let lines = || text.lines().map(str::trim).filter(|line| !line.is_empty());
    let tips: Vec<&str> = lines().filter_map(|line| line.strip_prefix("tip: ")).collect();
    let message: Vec<&str> = lines().filter(|line| !line.starts_with("tip: ")).collect();
    let message = message.join(" ");
    let hint = if tips.is_empty() { "run it with --help to see what it takes".to_owned() } else { tips.join("; ") };
    Failure::usage(message.strip_prefix("error: ").unwrap_or(&message), hint)
}

/// A line of results. Whoever stopped reading does not want the rest, and the pictures are made all the same.
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

fn to_stderr(line: impl Display) {
    // There is nowhere to complain about a closed standard error.
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// The word before a message, in colour where that is welcome.
#[derive(Clone, Copy)]
enum Label {
    Error,
    Warning,
    Note,
    Hint,
}

impl Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (word, color) = match self {
            Label::Error => ("error:", "1;31"),
            Label::Warning => ("warning:", "1;33"),
            Label::Note => ("note:", "1;32"),
            Label::Hint => ("hint:", "1;36"),
        };
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        if refused || !io::stderr().is_terminal() {
            return f.write_str(word);
        }
        write!(f, "\x1b[{color}m{word}\x1b[0m")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_of_several_workers_say_whose_they_are() {
        let lane = |picture: &str| Lane { name: "cuda:1".into(), picture: picture.into(), ..Default::default() };
        assert_eq!(lane("").title(Phase::Text), "cuda:1 text");
        assert_eq!(lane("3/8").title(Phase::Denoise), "cuda:1 3/8 denoise");
    }

    #[test]
    fn a_download_tells_its_speed_and_the_time_left() {
        let (mut transfer, start) = (Transfer { total: 16_000_000_000, ..Default::default() }, Instant::now());
        let mut at = |seconds, done| {
            transfer.here(done, start + Duration::from_secs_f64(seconds));
            transfer.text()
        };
        assert_eq!(at(0.0, 0), "0 bytes of 16.0 GB");
        assert_eq!(at(1.0, 100_000_000), "100 MB of 16.0 GB, 100 MB/s, 2 min 39 s left");
        for second in 2..40 {
            at(f64::from(second), 100_000_000);
        }
        // What was long ago does not count.
        assert_eq!(at(40.0, 160_000_000), "160 MB of 16.0 GB, 6.0 MB/s, 44 min 00 s left");
        assert_eq!(at(41.0, 0), "0 bytes of 16.0 GB");
    }

    #[test]
    fn clap_errors_become_an_error_and_a_hint() {
        let failure = usage(
            "error: unexpected argument '--widht' found\n\n  tip: a similar argument exists: '--width'\n\n\
             Usage: dj-flux2 generate --width <PX>\n\nFor more information, try '--help'.\n",
        );
        assert_eq!(failure.message, "unexpected argument '--widht' found");
        assert_eq!(failure.hint.as_deref(), Some("a similar argument exists: '--width'"));
        let failure = usage(
            "error: invalid value 'f16' for '--dtype <DTYPE>'\n  [possible values: f32, bf16]\n\nFor more information, try '--help'.",
        );
        assert_eq!(failure.message, "invalid value 'f16' for '--dtype <DTYPE>' [possible values: f32, bf16]");
        assert_eq!(failure.hint.as_deref(), Some("run it with --help to see what it takes"));
    }
}
