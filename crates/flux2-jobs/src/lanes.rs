//! Which queue a worker of a fleet looks into next, where jobs wait in one queue for each model and priority.
//!
//! In:  what the worker knows of each model. Out: queues, in the order to look into them. Neither threads, a clock nor a
//! connection.
//!
//! A worker goes on with a model that it has loaded. Jobs of another model are left to workers that have it, and to
//! those that load it sooner, as long as these keep up: until the jobs wait for as long as it takes to load the model
//! here. [`Patience`] says when a worker leaves a model that still has jobs. Of every nine jobs one may be of a lower
//! priority, so that those do not starve.

use std::time::Duration;

use crate::scheduler::MAX_PASSED;
use crate::submission::Priority;

/// How long jobs of a model that is not loaded wait for a worker that goes on with another. The first limit that is
/// reached counts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Patience {
    /// Jobs of the loaded model, where no worker has the other one.
    pub jobs: usize,
    /// Time in which none of the others was taken by anybody; also how much longer their backlog may be.
    pub time: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Patience { jobs: 8, time: Duration::from_secs(30) }
    }
}

/// A model as a worker sees it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModelState {
    /// Whether this worker has it loaded.
    pub is_warm: bool,
    /// Whether jobs of it wait.
    pub has_jobs: bool,
    /// Time in which jobs of it waited and nobody took one.
    pub stalled: Duration,
    /// Estimated time until the workers that have it loaded are done with what waits.
    pub backlog: Duration,
    /// Jobs of others that this worker took meanwhile.
    pub passed: usize,
    /// Other workers that have it loaded.
    pub warm_elsewhere: usize,
    /// Whether another worker without work would load it sooner.
    pub sooner_elsewhere: bool,
    /// Time in which this worker would load it.
    pub load: Duration,
}

/// A queue to look into: a model, by its number, and a priority.
pub type Choice = (usize, Priority);

/// What a worker remembers for its choices.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    patience: Patience,
    /// Jobs of higher priorities since one of each priority.
    passed: [usize; Priority::ALL.len()],
}

impl Policy {
    /// A policy with so much patience.
    pub fn new(patience: Patience) -> Self {
        Policy { patience, ..Policy::default() }
    }

    /// The queues to look into, in this order; jobs of those that are left out are left to other workers.
    pub fn order(&self, models: &[ModelState]) -> Vec<Choice> {
        let Patience { jobs, time } = self.patience;
        let own = models.iter().filter(|model| model.is_warm).map(|model| model.backlog).max().unwrap_or_default();
        let starves = |model: &ModelState| {
            model.stalled >= time
                || (model.warm_elsewhere == 0 && model.passed >= jobs)
                || model.backlog > own + time + model.load
        };
        let has_none = models.iter().all(|model| !model.is_warm);
        let is_ours = |model: &ModelState| {
            let is_left = model.warm_elsewhere == 0 && !model.sooner_elsewhere;
            is_left || has_none || model.stalled >= model.load || model.backlog >= model.load
        };
        let cold = || (0..models.len()).filter(|index| !models[*index].is_warm && models[*index].has_jobs);
        let mut starving: Vec<usize> = cold().filter(|index| starves(&models[*index])).collect();
        starving.sort_by_key(|index| std::cmp::Reverse((models[*index].stalled, models[*index].backlog)));
        let by_backlog = |index: &usize| std::cmp::Reverse(models[*index].backlog);
        let mut others: Vec<usize> =
            cold().filter(|index| !starves(&models[*index]) && is_ours(&models[*index])).collect();
        others.sort_by_key(by_backlog);
        let mut warm: Vec<usize> = (0..models.len()).filter(|index| models[*index].is_warm).collect();
        warm.sort_by_key(by_backlog);
        let overdue = self.overdue();
        let rest = Priority::ALL.into_iter().filter(|priority| Some(*priority) != overdue);
        let priorities: Vec<Priority> = overdue.into_iter().chain(rest).collect();
        let all = |models: &[usize]| -> Vec<Choice> {
            priorities.iter().flat_map(|priority| models.iter().map(|model| (*model, *priority))).collect()
        };
        [all(&starving), all(&warm), all(&others)].concat()
    }

    /// Note which job was taken.
    pub fn took(&mut self, (_, priority): Choice) {
        // One that was looked for first and not found was not passed.
        if let Some(overdue) = self.overdue() {
            self.passed[overdue as usize] = 0;
        }
        self.passed[priority as usize] = 0;
        self.passed[priority as usize + 1..].iter_mut().for_each(|passed| *passed += 1);
    }

    /// The lowest priority that was passed too often.
    fn overdue(&self) -> Option<Priority> {
        Priority::ALL.into_iter().rev().find(|priority| self.passed[*priority as usize] >= MAX_PASSED)
    }
}

#[cfg(test)]
mod tests;
