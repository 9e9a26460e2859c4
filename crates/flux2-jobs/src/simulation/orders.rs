//! What orders the jobs of a simulated fleet.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::{Fleet, Job};
use crate::id::JobId;
use crate::lanes::{ModelState, Policy};
use crate::options::Affinity;
use crate::scheduler::{Scheduler, Waiting, Wish, tests};
use crate::spec::{JobSpec, ModelKey};
use crate::submission::Priority;

/// Seconds for which a worker believes what it has seen of the queues.
const FRESH: f64 = 0.5;

/// What a worker knows of itself and the others, for a model.
#[derive(Clone, Copy)]
pub struct Peers {
    pub is_loaded: bool,
    pub warm_elsewhere: usize,
    /// Whether an idle worker loads it sooner.
    pub sooner_elsewhere: bool,
    pub load: f64,
    pub draw: f64,
}

/// Queues that workers poll, or one scheduler.
pub enum Order {
    Lanes(Lanes),
    Scheduler(Box<OneScheduler>),
}

/// A queue for each model and priority, first in, first out, and the choice of each worker.
pub struct Lanes {
    queues: Vec<[VecDeque<usize>; Priority::ALL.len()]>,
    models: Vec<Counts>,
    workers: Vec<View>,
}

/// What the server counts of a model.
#[derive(Clone, Copy, Default)]
struct Counts {
    /// Jobs that wait for their first delivery, and that wait for another one.
    fresh: usize,
    back: usize,
    /// Deliveries so far.
    taken: usize,
}

/// What a worker has seen.
#[derive(Clone)]
struct View {
    policy: Policy,
    looked: f64,
    models: Vec<Seen>,
}

/// What a worker has seen of a model.
#[derive(Clone, Copy, Default)]
struct Seen {
    counts: Counts,
    stalled: Option<f64>,
    passed: usize,
}

/// The scheduler of an engine, for all workers together.
pub struct OneScheduler {
    scheduler: Scheduler,
    models: Vec<(ModelKey, Arc<JobSpec>)>,
    owners: Vec<Arc<str>>,
    numbers: HashMap<JobId, usize>,
}

impl Order {
    pub fn new(fleet: &Fleet) -> Self {
        if !fleet.has_one_scheduler {
            let queues = fleet.models.iter().map(|_| Default::default()).collect();
            let models = vec![Counts::default(); fleet.models.len()];
            return Order::Lanes(Lanes { queues, models, workers: vec![View::new(fleet); fleet.workers] });
        }
        let model = |number: usize| {
            let spec = tests::spec(&number.to_string(), "");
            (spec.model.clone(), Arc::new(spec))
        };
        Order::Scheduler(Box::new(OneScheduler {
            scheduler: Scheduler::new(Affinity::default()),
            models: (0..fleet.models.len()).map(model).collect(),
            owners: (0..fleet.owners).map(|owner| owner.to_string().into()).collect(),
            numbers: HashMap::new(),
        }))
    }

    pub fn len(&self) -> usize {
        match self {
            Order::Lanes(lanes) => lanes.queues.iter().flatten().map(VecDeque::len).sum(),
            Order::Scheduler(one) => one.scheduler.len(),
        }
    }

    /// Queue a job; one that was delivered before comes back to the front.
    pub fn push(&mut self, number: usize, job: &Job, is_back: bool) {
        match self {
            Order::Lanes(Lanes { queues, models, .. }) => {
                let (queue, counts) = (&mut queues[job.model][job.priority as usize], &mut models[job.model]);
                match is_back {
                    true => queue.push_front(number),
                    false => queue.push_back(number),
                }
                let count = if is_back { &mut counts.back } else { &mut counts.fresh };
                *count += 1;
            }
            Order::Scheduler(one) => {
                let OneScheduler { scheduler, models, owners, numbers } = &mut **one;
                let (id, owner, spec) = (JobId::new(), owners[job.owner].clone(), models[job.model].1.clone());
                numbers.insert(id, number);
                scheduler.push(Waiting { id, owner, priority: job.priority, spec, seconds: 1.0, prepared_by: None });
            }
        }
    }

    /// The job that a worker with these models gets now.
    pub fn take(&mut self, worker: usize, peers: &[Peers], jobs: &[Job], now: f64) -> Option<usize> {
        match self {
            Order::Lanes(Lanes { queues, models, workers }) => {
                let view = &mut workers[worker];
                view.look(models, peers, now);
                let choices = view.policy.order(&view.states(peers, now));
                let job = |choice: (usize, Priority)| Some((choice, queues[choice.0][choice.1 as usize].pop_front()?));
                let (choice, job) = choices.into_iter().find_map(job)?;
                view.took(choice);
                let counts = &mut models[choice.0];
                counts.taken += 1;
                let count = if jobs[job].deliveries > 0 { &mut counts.back } else { &mut counts.fresh };
                *count -= 1;
                Some(job)
            }
            Order::Scheduler(one) => {
                let OneScheduler { scheduler, models: keys, numbers, .. } = &mut **one;
                let is_loaded = |(of, _): &(&Peers, _)| of.is_loaded;
                let loaded: Vec<ModelKey> =
                    peers.iter().zip(keys).filter(is_loaded).map(|(_, (key, _))| key.clone()).collect();
                let job = scheduler.take(worker, Wish::Any { loaded: &loaded }, Duration::from_secs_f64(now))?;
                numbers.remove(&job.id)
            }
        }
    }

    /// A worker begins anew.
    pub fn restart(&mut self, worker: usize, fleet: &Fleet) {
        if let Order::Lanes(Lanes { workers, .. }) = self {
            workers[worker] = View::new(fleet);
        }
    }
}

impl View {
    fn new(fleet: &Fleet) -> Self {
        let models = vec![Seen::default(); fleet.models.len()];
        View { policy: Policy::new(fleet.patience), looked: f64::NEG_INFINITY, models }
    }

    /// Ask the server for its counts, unless that was a moment ago.
    fn look(&mut self, models: &[Counts], peers: &[Peers], now: f64) {
        if now - self.looked <= FRESH {
            return;
        }
        self.looked = now;
        for ((seen, counts), peers) in self.models.iter_mut().zip(models).zip(peers) {
            let is_stalled = counts.pending(peers) > 0 && counts.taken == seen.counts.taken;
            seen.stalled = if is_stalled { seen.stalled.or(Some(now)) } else { None };
            seen.counts = *counts;
        }
    }

    fn states(&self, peers: &[Peers], now: f64) -> Vec<ModelState> {
        let state = |(seen, peers): (&Seen, &Peers)| {
            let pending = seen.counts.pending(peers);
            let workers = peers.warm_elsewhere + usize::from(peers.is_loaded);
            ModelState {
                is_warm: peers.is_loaded,
                has_jobs: pending > 0,
                stalled: Duration::from_secs_f64(seen.stalled.map_or(0.0, |since| now - since)),
                backlog: Duration::from_secs_f64(pending as f64 * peers.draw / workers.max(1) as f64),
                passed: seen.passed,
                warm_elsewhere: peers.warm_elsewhere,
                sooner_elsewhere: peers.sooner_elsewhere,
                load: Duration::from_secs_f64(peers.load),
            }
        };
        self.models.iter().zip(peers).map(state).collect()
    }

    fn took(&mut self, choice: (usize, Priority)) {
        self.policy.took(choice);
        for (model, seen) in self.models.iter_mut().enumerate() {
            seen.passed = if model == choice.0 || seen.counts.fresh == 0 { 0 } else { seen.passed + 1 };
        }
    }
}

impl Counts {
    /// Jobs that wait. Those that failed cannot be told from those that are drawn, unless no worker has the model.
    fn pending(&self, peers: &Peers) -> usize {
        match peers.is_loaded || peers.warm_elsewhere > 0 {
            true => self.fresh,
            false => self.fresh + self.back,
        }
    }
}
