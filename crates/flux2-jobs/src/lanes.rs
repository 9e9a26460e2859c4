//! Which queue a worker of a fleet polls next, where jobs wait in one queue for each model and priority.
//!
//! In:  what the worker knows of each model, and what its last polls found. Out: queues, in the order to poll them.
//! Neither threads nor a clock: the time is passed in.
//!
//! A worker sees no waiting job before it takes one, so the rules only need what it has seen itself. Priorities go in
//! order; a lower one comes first after 8 jobs of higher ones. Within a priority, loaded models come first. A
//! model that is not loaded gets its turn
//! - once the worker was idle for as long as the load would take: so whoever loads it soonest does, and only if no worker
//!   that has it loaded was faster. Waiting as long as a purchase costs never costs more than twice the best choice;
//! - at once after the loaded models of its priority, if no worker has it loaded;
//! - before them after [`Affinity::jobs`] or [`Affinity::time`], so that its jobs do not starve, but not before the worker
//!   has worked for several times as long as the load takes, so that a fleet with too much work does not spend it on
//!   loads.

use std::cmp::Reverse;
use std::time::Duration;

use crate::options::Affinity;
use crate::scheduler::MAX_PASSED;
use crate::submission::Priority;

/// A turn of a model that is not loaded comes only after so many times the duration of its load, so that loads take at
/// most a ninth of the time of a busy worker.
const WORK_PER_LOAD: u32 = 8;

/// How often a job is handed to a worker before it counts as the cause of the failures.
pub const MAX_DELIVERIES: u32 = 4;

/// How long a job that failed waits for its next delivery, after so many deliveries; `None` if there is no next one.
pub fn retry_after(deliveries: u32) -> Option<Duration> {
    let seconds = match deliveries {
        0 | 1 => 5,
        2 => 30,
        3 => 120,
        _ => return None,
    };
    Some(Duration::from_secs(seconds))
}

/// The queue of a model and a priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Lane {
    /// Index of the model in the worker's list.
    pub model: usize,
    /// The priority of the jobs in it.
    pub priority: Priority,
}

/// What a worker knows of a model that it can hold.
#[derive(Clone, Copy, Debug)]
pub struct ModelState {
    /// Whether this worker has it loaded.
    pub is_loaded: bool,
    /// Whether another worker has it loaded.
    pub is_loaded_elsewhere: bool,
    /// How long this worker takes to load it.
    pub load: Duration,
}

/// A worker's choice of queues: what its last polls found.
#[derive(Clone, Debug)]
pub struct Picker {
    affinity: Affinity,
    /// By model and priority.
    lanes: Vec<[Polled; Priority::ALL.len()]>,
    /// Jobs of higher priorities that were taken since this priority was last polled.
    passed: [usize; Priority::ALL.len()],
    idle_since: Option<Duration>,
}

/// The last poll of a lane.
#[derive(Clone, Copy, Debug, Default)]
struct Polled {
    at: Duration,
    /// Jobs that the worker has taken from other lanes since.
    jobs_since: usize,
}

impl Picker {
    /// For a worker with so many models.
    pub fn new(affinity: Affinity, models: usize) -> Self {
        Picker { affinity, lanes: vec![Default::default(); models], passed: Default::default(), idle_since: None }
    }

    /// The lanes to poll at the time `now`, in this order, until one has a job. `models` are the worker's, always in the
    /// same order.
    pub fn order(&self, models: &[ModelState], now: Duration) -> Vec<Lane> {
        let mut classes = Priority::ALL.map(|priority| self.of_class(models, priority, now));
        let is_overdue = |class: &usize| self.passed[*class] >= MAX_PASSED && !classes[*class].is_empty();
        let first = (0..classes.len()).rev().find(is_overdue);
        let mut order = first.map(|class| std::mem::take(&mut classes[class])).unwrap_or_default();
        order.extend(classes.into_iter().flatten());
        order
    }

    /// Learn what polls found at the time `now`, which never decreases: a job in the lane `order[found]` and none in
    /// those before it, or no job in any.
    pub fn polled(&mut self, order: &[Lane], found: Option<usize>, now: Duration) {
        for lane in &order[..found.map_or(order.len(), |found| found + 1)] {
            self.passed[lane.priority as usize] = 0;
            self.lanes[lane.model][lane.priority as usize] = Polled { at: now, jobs_since: 0 };
        }
        let Some(found) = found else {
            self.idle_since.get_or_insert(now);
            return;
        };
        self.idle_since = None;
        let (before, taken) = (&order[..found], order[found].priority);
        for class in Priority::ALL.into_iter().filter(|class| *class > taken) {
            if before.iter().all(|lane| lane.priority != class) {
                self.passed[class as usize] += 1;
            }
        }
        self.lanes.iter_mut().flatten().for_each(|lane| lane.jobs_since += 1);
    }

    /// The lanes of a priority that are polled now.
    fn of_class(&self, models: &[ModelState], priority: Priority, now: Duration) -> Vec<Lane> {
        let class = priority as usize;
        let mut ranked: Vec<(u8, Reverse<Duration>, usize)> = Vec::new();
        for (model, state) in models.iter().enumerate() {
            let polled = self.lanes[model][class];
            let since = now.saturating_sub(polled.at);
            let is_idle = self.idle_since.is_some_and(|since| now.saturating_sub(since) >= state.load);
            let had_others = polled.jobs_since >= self.affinity.jobs || since >= self.affinity.time;
            let rank = match state.is_loaded {
                true => 1,
                false if had_others && since >= state.load * WORK_PER_LOAD => 0,
                false if is_idle || !state.is_loaded_elsewhere => 2,
                false => continue,
            };
            ranked.push((rank, Reverse(since), model));
        }
        ranked.sort_unstable();
        ranked.into_iter().map(|(_, _, model)| Lane { model, priority }).collect()
    }
}

#[cfg(test)]
mod tests;
