//! When each stage of a run began and ended, and the memory that it took.

use std::time::Instant;

use flux2_backend::{Backend, MemoryUse};
use serde::Serialize;

use crate::event::{Event, Observer, Phase};

/// A stage as it ran, or the loading of a network.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Span {
    /// Name of the stage.
    pub stage: &'static str,
    /// Whether it is the loading of a network.
    pub is_load: bool,
    /// Seconds from the start of the run to its begin.
    pub begin: f64,
    /// Seconds from begin to end.
    pub seconds: f64,
    /// Seconds of these that explaining took.
    pub explaining_seconds: f64,
    /// Bytes that the backend had allocated at the peak.
    pub allocated_bytes: usize,
    /// Mapped pages of weight files, in bytes.
    pub mapped_bytes: usize,
    /// The stage, for the account of memory.
    #[serde(skip)]
    pub(crate) phase: Phase,
}

/// Passes events on, and notes when stages begin and end.
pub(crate) struct Timeline<'a, B: Backend> {
    be: B,
    observer: &'a mut dyn Observer,
    start: Instant,
    /// Of the stage in progress, seconds from the start.
    begun: f64,
    pub(crate) spans: Vec<Span>,
    pub(crate) warnings: Vec<String>,
}

impl<'a, B: Backend> Timeline<'a, B> {
    /// A run begins now.
    pub(crate) fn start(be: B, observer: &'a mut dyn Observer) -> Self {
        be.take_memory_peak();
        Timeline { be, observer, start: Instant::now(), begun: 0.0, spans: Vec::new(), warnings: Vec::new() }
    }

    /// Seconds since the start.
    pub(crate) fn seconds(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }
}

impl<B: Backend> Observer for Timeline<'_, B> {
    fn on_event(&mut self, event: &Event) {
        match event {
            Event::PhaseStarted { .. } => {
                self.begun = self.seconds();
                self.be.take_memory_peak();
            }
            Event::PhaseFinished { phase, elapsed } => {
                let MemoryUse { allocated, mapped } = self.be.take_memory_peak();
                self.spans.push(Span {
                    stage: phase.name(),
                    is_load: matches!(phase, Phase::Load(_)),
                    begin: self.begun,
                    seconds: elapsed.as_secs_f64(),
                    explaining_seconds: 0.0,
                    allocated_bytes: allocated,
                    mapped_bytes: mapped,
                    phase: *phase,
                });
            }
            Event::Warning(warning) => self.warnings.push(warning.to_string()),
            _ => {}
        }
        self.observer.on_event(event);
    }

    fn wants_previews(&self) -> bool {
        self.observer.wants_previews()
    }
}
