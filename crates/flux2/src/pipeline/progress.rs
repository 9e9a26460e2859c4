//! What is said while a stage runs, and how long it takes.

use std::time::{Duration, Instant};

use flux2_backend::Backend;

use crate::Result;
use crate::event::{CancelToken, Event, Observer, Phase};
use crate::models::Pulse;

/// Takes the time of steps on a device that may still be at work on one when the next is called: it waits for a step only when
/// the one behind it is called, so the device always has work.
pub(super) struct StepClock<'a, B: Backend> {
    be: &'a B,
    pub(super) steps: Vec<Duration>,
    /// When the last step was done.
    since: Instant,
    /// The step that was called and is not known to be done.
    running: Option<B::Mark>,
}

impl<'a, B: Backend> StepClock<'a, B> {
    /// The first step begins.
    pub(super) fn start(be: &'a B) -> Self {
        StepClock { be, steps: Vec::new(), since: Instant::now(), running: None }
    }

    /// All of a step, of `of`, was called.
    pub(super) fn step_called(&mut self, of: u32, observer: &mut dyn Observer) -> Result<()> {
        let called = self.be.mark()?;
        self.wait(of, observer)?;
        let done = self.be.is_done(&called)?;
        self.running = Some(called);
        if done { self.wait(of, observer) } else { Ok(()) }
    }

    /// Until every step is done that was called before.
    pub(super) fn wait(&mut self, of: u32, observer: &mut dyn Observer) -> Result<()> {
        if let Some(running) = self.running.take() {
            self.be.wait_for(&running)?;
            let elapsed = self.since.elapsed();
            self.since = Instant::now();
            self.steps.push(elapsed);
            observer.on_event(&Event::Step { step: self.steps.len() as u32, steps: of, elapsed });
        }
        Ok(())
    }
}

/// Run `work` and add what it took to `total`.
pub(super) fn timed<T>(total: &mut Duration, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    let result = work();
    *total += start.elapsed();
    result
}

/// Run `work` with the events of a phase around it; its pulse counts units and looks for cancellation.
pub(super) fn phase<T>(
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

/// Counts the units of a phase for the observer and looks for cancellation between them.
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
        self.cancel.check()
    }

    pub(super) fn finish(self) {
        self.observer.on_event(&Event::PhaseFinished { phase: self.phase, elapsed: self.start.elapsed() });
    }
}
