//! Which queue a worker looks into next: neither threads, a clock nor a connection.
//!
//! A worker goes on with a model that it has loaded. Jobs of another model are left to workers that have it, and to
//! those that load it sooner, as long as these keep up: until the jobs have waited as long as it takes to load the
//! model here. [`Patience`] says when a worker leaves a model that still has jobs. Of every nine jobs one may be of low
//! priority, so that those do not starve.

use std::time::Duration;

use flux2_jobs::Priority;

/// Jobs of higher priorities after which one of low priority goes first.
const LOW_AFTER: usize = 8;

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
    /// Jobs since one of low priority.
    since_low: usize,
    last: Option<usize>,
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
        let is_ours = |model: &ModelState| {
            let is_left = model.warm_elsewhere == 0 && !model.sooner_elsewhere;
            is_left || model.stalled >= model.load || model.backlog >= model.load + time
        };
        let cold = || (0..models.len()).filter(|index| !models[*index].is_warm && models[*index].has_jobs);
        let mut starving: Vec<usize> = cold().filter(|index| starves(&models[*index])).collect();
        starving.sort_by_key(|index| std::cmp::Reverse((models[*index].stalled, models[*index].backlog)));
        let mut others: Vec<usize> =
            cold().filter(|index| !starves(&models[*index]) && is_ours(&models[*index])).collect();
        others.sort_by_key(|index| models[*index].load);
        let mut warm: Vec<usize> = (0..models.len()).filter(|index| models[*index].is_warm).collect();
        // The model of the last job first: the others may be about to be unloaded.
        warm.sort_by_key(|index| Some(*index) != self.last);
        let priorities = match self.since_low >= LOW_AFTER {
            true => [Priority::Low, Priority::High, Priority::Normal],
            false => Priority::ALL,
        };
        let all = |models: &[usize]| -> Vec<Choice> {
            priorities.iter().flat_map(|priority| models.iter().map(|model| (*model, *priority))).collect()
        };
        [all(&starving), all(&warm), all(&others)].concat()
    }

    /// Note which job was taken.
    pub fn took(&mut self, (model, priority): Choice) {
        self.since_low = if priority == Priority::Low { 0 } else { self.since_low + 1 };
        self.last = Some(model);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(is_warm: bool) -> ModelState {
        ModelState { is_warm, has_jobs: true, load: Duration::from_secs(10), ..ModelState::default() }
    }

    fn models(order: &[Choice]) -> Vec<usize> {
        let mut models: Vec<usize> = order.iter().map(|(model, _)| *model).collect();
        models.dedup();
        models
    }

    #[test]
    fn one_of_nine_jobs_is_of_low_priority() {
        let (mut policy, only) = (Policy::default(), [model(true)]);
        let mut taken = Vec::new();
        for _ in 0..18 {
            // All queues are full.
            let choice = policy.order(&only)[0];
            taken.push(choice.1);
            policy.took(choice);
        }
        let low: Vec<usize> = (0..18).filter(|at| taken[*at] == Priority::Low).collect();
        assert_eq!(low, [8, 17]);
        assert!(!taken.contains(&Priority::Normal));
    }

    #[test]
    fn a_loaded_model_goes_first_but_not_for_ever() {
        let policy = Policy::default();
        let order = |cold: ModelState| models(&policy.order(&[model(true), cold]));
        let busy = ModelState { warm_elsewhere: 1, ..model(false) };
        assert_eq!(order(busy.clone()), [0]);
        assert_eq!(order(ModelState { passed: 8, ..busy.clone() }), [0]);
        assert_eq!(order(ModelState { passed: 8, ..model(false) }), [1, 0]);
        assert_eq!(order(ModelState { stalled: Duration::from_secs(30), ..busy.clone() }), [1, 0]);
        // One worker does not keep up with its jobs.
        assert_eq!(order(ModelState { backlog: Duration::from_secs(41), ..busy }), [1, 0]);
    }

    #[test]
    fn a_model_is_loaded_where_that_is_soonest() {
        let policy = Policy::default();
        let of = |cold: ModelState| models(&policy.order(&[cold]));
        assert_eq!(of(model(false)), [0]);
        assert!(of(ModelState { sooner_elsewhere: true, ..model(false) }).is_empty());
        assert!(of(ModelState { warm_elsewhere: 3, ..model(false) }).is_empty());
        // Whoever could take it has not, in the time in which it would have been loaded here.
        let waited = ModelState { warm_elsewhere: 3, stalled: Duration::from_secs(10), ..model(false) };
        assert_eq!(of(waited), [0]);
        assert!(of(ModelState { has_jobs: false, ..model(false) }).is_empty());
    }
}
