//! The observers of a dry run, which note the memory of each stage.

use std::cell::RefCell;

use flux2_backend::Backend;

use super::StageMemory;
use crate::event::{Event, Observer, Phase};

/// Asks the backend for its peak whenever a stage ends.
pub(super) struct StageWatch<B: Backend> {
    be: B,
    pub(super) stages: Vec<StageMemory>,
    in_stage: bool,
    wants_previews: bool,
}

/// The watch of pictures that are drawn together, for one of them.
pub(super) struct SharedWatch<'a, B: Backend>(pub(super) &'a RefCell<StageWatch<B>>);

impl<B: Backend> Observer for SharedWatch<'_, B> {
    fn on_event(&mut self, event: &Event) {
        self.0.borrow_mut().on_event(event);
    }

    fn wants_previews(&self) -> bool {
        self.0.borrow().wants_previews
    }
}

impl<B: Backend> StageWatch<B> {
    /// Nothing seen yet.
    pub(super) fn new(be: B, wants_previews: bool) -> Self {
        StageWatch { be, stages: Vec::new(), in_stage: false, wants_previews }
    }
}

impl<B: Backend> Observer for StageWatch<B> {
    fn on_event(&mut self, event: &Event) {
        match *event {
            // A stage may begin with a load. Reset the peak then, so that earlier stages do not count.
            Event::PhaseStarted { .. } if !self.in_stage => {
                self.be.take_memory_peak();
                self.in_stage = true;
            }
            Event::PhaseFinished { phase: Phase::Load(_), .. } => {}
            Event::PhaseFinished { phase: stage, .. } => {
                self.in_stage = false;
                let memory = self.be.take_memory_peak();
                match self.stages.iter_mut().find(|known| known.stage == stage) {
                    Some(known) if known.memory.total() >= memory.total() => {}
                    Some(known) => known.memory = memory,
                    None => self.stages.push(StageMemory { stage, memory }),
                }
            }
            _ => {}
        }
    }

    fn wants_previews(&self) -> bool {
        self.wants_previews
    }
}
