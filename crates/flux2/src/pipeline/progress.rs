//! Events, cancellation and timing while a stage runs.

use std::time::{Duration, Instant};

use flux2_backend::Backend;

use crate::Result;
use crate::event::{CancelToken, Event, Observer, Phase};
use crate::models::Pulse;

/// Times steps on an asynchronous device without letting it run dry: waits for a step only once the next one is queued.
pub(super) struct StepClock<'a, B: Backend> {
    be: &'a B,
    of: u32,
    steps: Vec<Duration>,
    /// When the last step was finished.
    since: Instant,
    /// Before and after the work of each step.
    marks: Vec<[B::Mark; 2]>,
}

impl<'a, B: Backend> StepClock<'a, B> {
    /// Start the clock for `of` steps.
    pub(super) fn start(be: &'a B, of: u32) -> Self {
        StepClock { be, of, steps: Vec::new(), since: Instant::now(), marks: Vec::new() }
    }

    /// All work of a step is queued, from `begun` on. Reports the steps that are finished.
    pub(super) fn step_queued(&mut self, begun: B::Mark, observer: &mut dyn Observer) -> Result<()> {
        self.marks.push([begun, self.be.mark()?]);
        let queued = self.marks.len();
        self.wait(queued - 1, observer)?;
        let [_, end] = &self.marks[queued - 1];
        if self.be.is_done(end)? { self.wait(queued, observer) } else { Ok(()) }
    }

    /// Number of steps that are finished and reported.
    pub(super) fn reported(&self) -> usize {
        self.steps.len()
    }

    /// Wait until all steps that are queued are finished, and report them.
    pub(super) fn wait_for_all(&mut self, observer: &mut dyn Observer) -> Result<()> {
        self.wait(self.marks.len(), observer)
    }

    /// Wait until the first `count` steps are finished, and report each.
    fn wait(&mut self, count: usize, observer: &mut dyn Observer) -> Result<()> {
        for [_, end] in &self.marks[self.steps.len()..count] {
            self.be.wait_for(end)?;
            let elapsed = self.since.elapsed();
            self.since = Instant::now();
            self.steps.push(elapsed);
            observer.on_event(&Event::Step { step: self.steps.len() as u32, steps: self.of, elapsed });
        }
        Ok(())
    }

    /// Wait for all steps. Returns the time of each, and the time the device had no work between them.
    pub(super) fn finish(mut self, observer: &mut dyn Observer) -> Result<(Vec<Duration>, Duration)> {
        self.wait(self.marks.len(), observer)?;
        let gaps = self.marks.windows(2).map(|steps| self.be.between(&steps[0][1], &steps[1][0]));
        let idle = gaps.sum::<Result<Duration, _>>()?;
        Ok((self.steps, idle))
    }
}

/// Run `work` and add what it took to `total`.
pub(super) fn timed<T>(total: &mut Duration, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    let result = work();
    *total += start.elapsed();
    result
}

/// Run `work` between the events of a phase. Each call of its pulse reports a finished unit and checks for
/// cancellation.
pub(crate) fn phase<T>(
    observer: &mut dyn Observer,
    cancel: &CancelToken,
    phase: Phase,
    units: usize,
    work: impl FnOnce(&mut Pulse) -> Result<T>,
) -> Result<T> {
    let mut meter = Meter::start(observer, cancel, phase, units)?;
    let result = work(&mut || meter.tick())?;
    meter.finish();
    Ok(result)
}

/// Reports the finished units of a phase and checks for cancellation between them.
pub(super) struct Meter<'a> {
    pub(super) observer: &'a mut dyn Observer,
    cancel: &'a CancelToken,
    phase: Phase,
    done: usize,
    start: Instant,
}

impl<'a> Meter<'a> {
    pub(super) fn start(
        observer: &'a mut dyn Observer,
        cancel: &'a CancelToken,
        phase: Phase,
        units: usize,
    ) -> Result<Self> {
        cancel.check()?;
        observer.on_event(&Event::PhaseStarted { phase, units });
        Ok(Meter { observer, cancel, phase, done: 0, start: Instant::now() })
    }

    pub(super) fn tick(&mut self) -> Result<()> {
        self.done += 1;
        self.observer.on_event(&Event::Progress { phase: self.phase, done: self.done });
        Ok(self.cancel.check()?)
    }

    pub(super) fn finish(self) {
        self.observer.on_event(&Event::PhaseFinished { phase: self.phase, elapsed: self.start.elapsed() });
    }
}
