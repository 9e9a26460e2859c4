//! Progress bars: one for each worker, with the phase it is in.

use std::thread;
use std::time::Duration;

use flux2::Phase;
use flux2::units::Time;
use indicatif::{ProgressBar, ProgressStyle};

use super::Report;
use crate::outlook::Expected;
use crate::settings::Detail;

/// Interval in which a bar is redrawn.
pub(super) const TICK: Duration = Duration::from_millis(120);

/// Redraws `bar` from a thread, if one can be started; `indicatif` would panic.
pub(super) fn tick(bar: &ProgressBar) {
    if thread::Builder::new().spawn(|| ()).is_ok() {
        bar.enable_steady_tick(TICK);
    }
}

/// Progress of one worker.
#[derive(Default)]
pub(super) struct Lane {
    /// Name of the worker, as in `cuda:1`; empty if it is the only one.
    pub name: String,
    /// Number of its picture, as in `3/8`; empty if it is the only worker.
    pub picture: String,
    pub bar: Option<ProgressBar>,
    pub phase: Option<Phase>,
    pub steps: Steps,
    /// Time that a step is expected to take, until one is over.
    pub expected: Option<Duration>,
}

/// Denoising steps of a picture.
#[derive(Default)]
pub(super) struct Steps {
    pub finished: u32,
    pub total: u32,
    /// Time of the finished steps.
    pub spent: Duration,
}

/// The pictures of a run of several.
#[derive(Default)]
pub(super) struct Series {
    pub pictures: u64,
    /// Pictures that are saved, and the time left.
    bar: Option<ProgressBar>,
}

impl Lane {
    /// Label of the bar, if there are several workers.
    fn title(&self, phase: Phase) -> String {
        let parts = [self.name.as_str(), self.picture.as_str(), phase.name()];
        parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
    }

    /// Shows the current step, the mean time of a step, and the time left, next to the bar.
    ///
    /// The time left comes from the mean of whole steps: the bar counts blocks, and their times differ by kind.
    pub fn show_step(&self) {
        let (Some(bar), Some(Phase::Denoise), Steps { finished, total, spent }) = (&self.bar, self.phase, &self.steps)
        else {
            return;
        };
        let mut text = format!("step {}/{total}", (finished + 1).min(*total));
        let measured = spent.checked_div(*finished);
        if let Some(each) = measured.or(self.expected) {
            let about = if measured.is_none() { "about " } else { "" };
            let share = 1.0 - bar.position() as f64 / bar.length().unwrap_or(1).max(1) as f64;
            let left = each.mul_f64(f64::from(*total) * share.max(0.0));
            text = format!("{text}, {about}{} a step, {} left", Time(each), Time(left));
        }
        bar.set_message(text);
    }
}

/// Time that the rest of `all` pictures takes, if `done` took `elapsed`; `None` before the first and after the last.
fn time_left(done: u64, all: u64, elapsed: Duration) -> Option<Duration> {
    let left = all.checked_sub(done).filter(|left| *left > 0 && done > 0)?;
    Some(elapsed.mul_f64(left as f64 / done as f64))
}

/// The style of a bar from indicatif's template language.
pub(super) fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the template is well-formed")
}

impl Report {
    /// Says how long `pictures` pictures will take, unless they are made at once. All steps take the same time if
    /// `is_even`.
    pub fn expect(&mut self, expected: &Expected, pictures: u64, is_even: bool) {
        let Expected { whole, step, is_measured } = *expected;
        if is_even {
            self.lanes.iter_mut().for_each(|lane| lane.expected = Some(step));
        }
        if self.detail > Detail::Quiet && self.deserves_line(whole) {
            let of = if pictures > 1 { format!(" for {pictures} pictures") } else { String::new() };
            let each = if is_even { format!(", {} a step", Time(step)) } else { String::new() };
            let why = if is_measured { "this machine was measured" } else { "as fast as earlier pictures" };
            self.line(format_args!("about {}{of}{each}: {why}", Time(whole)));
        }
    }

    /// Shows that `done` of `of` pieces of work are finished, on a terminal only: elsewhere each result is a line.
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

    /// A picture of a run of `pictures` begins.
    pub(super) fn begin_series(&mut self, pictures: u64) {
        self.series.pictures = pictures;
        if !self.bars || pictures < 2 || self.series.bar.is_some() {
            return;
        }
        let bar = self.screen.insert(0, ProgressBar::new(pictures));
        bar.set_style(style("{prefix:<11} {bar:32} {pos}/{len}{msg}"));
        bar.set_prefix("pictures");
        bar.tick();
        self.series.bar = Some(bar);
    }

    /// A picture is saved.
    pub(super) fn count_saved(&self) {
        if let Some(bar) = &self.series.bar {
            bar.inc(1);
            let left = time_left(bar.position(), self.series.pictures, bar.elapsed());
            bar.set_message(left.map_or_else(String::new, |left| format!(", {} left", Time(left))));
        }
    }

    pub(super) fn end_series(&mut self) {
        if let Some(bar) = self.series.bar.take() {
            bar.finish_and_clear();
            self.screen.remove(&bar);
        }
    }

    /// Shows the beginning of a phase with `units` units of work; a phase of unknown length has zero.
    pub(super) fn start_bar(&mut self, worker: usize, phase: Phase, units: usize) {
        let lane = &mut self.lanes[worker];
        lane.phase = Some(phase);
        let several = !lane.name.is_empty();
        let title = if several { lane.title(phase) } else { phase.name().to_owned() };
        let new = || {
            let bar = self.screen.add(ProgressBar::new_spinner());
            tick(&bar);
            bar
        };
        let bar = lane.bar.get_or_insert_with(new);
        bar.set_style(style(match (several, units) {
            (false, 0) => "{prefix:<11} {spinner} {elapsed}",
            (false, _) => "{prefix:<11} {bar:20} {msg}", // 80 columns with a thousand steps
            (true, 0) => "{prefix:<28} {spinner} {elapsed}",
            (true, _) => "{prefix:<28} {bar:20} {wide_msg}",
        }));
        bar.reset();
        bar.set_length(units as u64);
        bar.set_message("");
        bar.set_prefix(title);
        lane.show_step();
    }

    /// Shows the end of a phase. The bars of several workers stay, so that they keep their places.
    pub(super) fn end_bar(&mut self, worker: usize) {
        if self.lanes.len() == 1 {
            self.clear_bars();
        } else if let Some(bar) = &self.lanes[worker].bar {
            bar.set_position(bar.length().unwrap_or_default());
        }
    }

    pub(super) fn clear_bars(&mut self) {
        for bar in self.lanes.iter_mut().filter_map(|lane| lane.bar.take()) {
            bar.finish_and_clear();
            self.screen.remove(&bar);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_is_that_of_the_mean_picture() {
        let seconds = Duration::from_secs;
        assert_eq!(time_left(2, 8, seconds(10)), Some(seconds(30)));
        assert_eq!(time_left(0, 8, seconds(1)), None);
        assert_eq!(time_left(8, 8, seconds(1)), None);
    }

    #[test]
    fn bars_of_several_workers_say_whose_they_are() {
        let lane = |picture: &str| Lane { name: "cuda:1".into(), picture: picture.into(), ..Default::default() };
        assert_eq!(lane("").title(Phase::Text), "cuda:1 text");
        assert_eq!(lane("3/8").title(Phase::Denoise), "cuda:1 3/8 denoise");
    }
}
