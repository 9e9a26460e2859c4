//! A fleet in simulated time, ordered by the code of real ones: [`crate::lanes`] of many machines, or
//! [`crate::scheduler`] of one.
//!
//! In:  a [`Fleet`], its load and a seed. Out: a [`Report`]. The same seed gives the same report.
//!
//! Simulated are arrivals, loads of models, drawing, failures, crashes, leases, retries, refusals and what workers know
//! of each other. Not simulated are the network and the disk: they take milliseconds of jobs that take seconds.

mod orders;
mod report;
mod tests;

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use fastrand::Rng;

use crate::lanes::Patience;
use crate::submission::Priority;
use orders::{Order, Peers};
use report::Report;

/// Pause of an idle worker between two looks at its queues, give or take a quarter.
const POLL: f64 = 0.25;
/// Seconds until the others know what a worker has loaded.
const ANNOUNCE: f64 = 2.0;
/// Seconds until a supervisor has restarted a worker that crashed.
const RESTART: f64 = 5.0;
/// Seconds after which a job comes back whose worker is silent.
/// Seconds before each further delivery of a job that failed.
const PAUSES: [f64; 3] = [5.0, 30.0, 120.0];
const LEASE: f64 = 30.0;
/// Seconds between two signs of life of a worker that draws.
const HEARTBEAT: f64 = 10.0;

/// Workers, their models, and the jobs that they get.
#[derive(Clone, Debug)]
struct Fleet {
    seed: u64,
    workers: usize,
    models: Vec<Model>,
    /// Models that a worker holds at one time.
    slots: usize,
    patience: Patience,
    /// Whether one scheduler of an engine orders all jobs, in place of queues that workers poll.
    has_one_scheduler: bool,
    phases: Vec<Phase>,
    /// Jobs that are accepted earlier do not count for the report: the models are loaded then.
    warm_up: f64,
    /// Shares of the priorities, the most urgent first.
    priorities: [f64; 3],
    owners: usize,
    /// Share of the first owner in all jobs; the others have equal parts of the rest.
    share_of_first: f64,
    /// Most jobs that wait; more are refused.
    max_waiting: usize,
    /// Most jobs of an owner that wait or run; more are refused.
    max_of_owner: usize,
    /// Share of deliveries that fail; half of the failures are crashes of the worker.
    failures: f64,
    /// Share of jobs that always fail.
    poison: f64,
}

#[derive(Clone, Copy, Debug)]
struct Model {
    /// Mean seconds of a job. Single ones take half to one and a half times as long.
    draw: f64,
    /// Seconds of a load on an average worker; others take a quarter less or more.
    load: f64,
}

/// The load until a time.
#[derive(Clone, Copy, Debug)]
struct Phase {
    until: f64,
    jobs_per_hour: f64,
    /// Shares of the models.
    models: [f64; 3],
    /// Whether all jobs of the first model are urgent and all others are not.
    is_split: bool,
}

/// A job that was accepted.
#[derive(Clone, Copy, Debug)]
struct Job {
    model: usize,
    priority: Priority,
    owner: usize,
    accepted: f64,
    is_poison: bool,
    deliveries: u32,
}

struct Worker {
    /// Models that it has loaded, the last used one last.
    loaded: Vec<usize>,
    /// Its loads take so many times the usual time.
    slowness: f64,
    is_idle: bool,
}

/// What happens at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrive,
    /// A worker looks for a job.
    Look(usize),
    /// Others learn which models are loaded.
    Announce,
    Restart(usize),
    Done(usize),
    /// A job comes back to its queue.
    Return(usize),
    /// A job has failed for good.
    Dead(usize),
}

struct World<'a> {
    fleet: &'a Fleet,
    rng: Rng,
    now: f64,
    /// By time in microseconds; of one time, in the order in which they were planned.
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    planned: u64,
    jobs: Vec<Job>,
    workers: Vec<Worker>,
    /// How many workers have each model loaded, and how many others know of.
    loaded: Vec<usize>,
    announced: Vec<usize>,
    /// How fast the fastest idle worker loads a model, as others know.
    fastest_idle: f64,
    /// Jobs of each owner that wait or run.
    of_owner: Vec<usize>,
    unfinished: usize,
    order: Order,
    report: Report,
}

impl Fleet {
    /// Run until all jobs are over.
    fn run(&self) -> Report {
        let mut rng = Rng::with_seed(self.seed);
        let worker = |_| Worker { loaded: Vec::new(), slowness: 0.75 + 0.5 * rng.f64(), is_idle: false };
        let workers = (0..self.workers).map(worker).collect();
        let mut world = World {
            fleet: self,
            rng,
            now: 0.0,
            events: BinaryHeap::new(),
            planned: 0,
            jobs: Vec::new(),
            workers,
            loaded: vec![0; self.models.len()],
            announced: vec![0; self.models.len()],
            fastest_idle: f64::INFINITY,
            of_owner: vec![0; self.owners],
            unfinished: 0,
            order: Order::new(self),
            report: Report::new(self),
        };
        world.plan(0.0, Event::Arrive);
        world.plan(0.0, Event::Announce);
        for worker in 0..self.workers {
            let after = world.rng.f64() * POLL;
            world.plan(after, Event::Look(worker));
        }
        while let Some(Reverse((at, _, event))) = world.events.pop() {
            world.now = at as f64 / 1e6;
            if world.unfinished == 0 && world.phase().is_none() {
                break;
            }
            world.step(event);
        }
        assert_eq!(world.unfinished, 0, "a job is in no queue and with no worker");
        world.report.finish();
        world.report
    }
}

impl World<'_> {
    fn plan(&mut self, after: f64, event: Event) {
        self.planned += 1;
        self.events.push(Reverse((((self.now + after) * 1e6) as u64, self.planned, event)));
    }

    fn phase(&self) -> Option<Phase> {
        self.fleet.phases.iter().find(|phase| self.now < phase.until).copied()
    }

    /// A number near `mean`, which differs from it by at most `spread` of it.
    fn near(&mut self, mean: f64, spread: f64) -> f64 {
        mean * (1.0 + spread * (2.0 * self.rng.f64() - 1.0))
    }

    /// An index with these probabilities.
    fn pick(&mut self, shares: &[f64]) -> usize {
        let mut left = self.rng.f64() * shares.iter().sum::<f64>();
        let found = shares.iter().position(|share| {
            left -= share;
            left < 0.0
        });
        found.unwrap_or(shares.len() - 1)
    }

    fn step(&mut self, event: Event) {
        match event {
            Event::Arrive => self.arrive(),
            Event::Announce => {
                self.announced.clone_from(&self.loaded);
                let idle = self.workers.iter().filter(|worker| worker.is_idle);
                self.fastest_idle = idle.map(|worker| worker.slowness).fold(f64::INFINITY, f64::min);
                self.plan(ANNOUNCE, Event::Announce);
            }
            Event::Look(worker) => self.look(worker),
            Event::Restart(worker) => {
                self.order.restart(worker, self.fleet);
                self.look(worker);
            }
            Event::Done(job) => self.end(job, true),
            Event::Dead(job) => self.end(job, false),
            Event::Return(job) => self.order.push(job, &self.jobs[job], true),
        }
    }

    fn arrive(&mut self) {
        let Some(phase) = self.phase() else { return };
        let until_next = -(1.0 - self.rng.f64()).ln() * 3600.0 / phase.jobs_per_hour;
        self.plan(until_next, Event::Arrive);
        let fleet = self.fleet;
        let model = self.pick(&phase.models);
        let priority = match phase.is_split {
            true if model == 0 => Priority::High,
            true => Priority::Low,
            false => Priority::ALL[self.pick(&fleet.priorities)],
        };
        let owner = match self.rng.f64() < fleet.share_of_first {
            true => 0,
            false => self.rng.usize(1..fleet.owners),
        };
        let is_poison = self.rng.f64() < fleet.poison;
        let is_refused = self.order.len() >= fleet.max_waiting || self.of_owner[owner] >= fleet.max_of_owner;
        self.report.arrived(self.now, owner, is_refused);
        if is_refused {
            return;
        }
        self.jobs.push(Job { model, priority, owner, accepted: self.now, is_poison, deliveries: 0 });
        self.of_owner[owner] += 1;
        self.unfinished += 1;
        let job = self.jobs.len() - 1;
        self.order.push(job, &self.jobs[job], false);
    }

    /// A worker without a job takes one, or looks again later.
    fn look(&mut self, worker: usize) {
        let Worker { loaded, slowness, .. } = &self.workers[worker];
        let peers = |(model, of): (usize, &Model)| {
            let is_loaded = loaded.contains(&model);
            Peers {
                is_loaded,
                warm_elsewhere: self.announced[model].saturating_sub(usize::from(is_loaded)),
                sooner_elsewhere: self.fastest_idle < *slowness,
                load: of.load * slowness,
                draw: of.draw,
            }
        };
        let peers: Vec<Peers> = self.fleet.models.iter().enumerate().map(peers).collect();
        let job = self.order.take(worker, &peers, &self.jobs, self.now);
        self.workers[worker].is_idle = job.is_none();
        match job {
            Some(job) => self.draw(worker, job),
            None => {
                let after = self.near(POLL, 0.25);
                self.plan(after, Event::Look(worker));
            }
        }
    }

    fn draw(&mut self, worker: usize, number: usize) {
        let model = self.jobs[number].model;
        let load = self.load(worker, model);
        self.jobs[number].deliveries += 1;
        let job = self.jobs[number];
        if job.deliveries == 1 {
            self.report.began(&job, self.now + load);
        }
        let draw = self.near(self.fleet.models[model].draw, 0.5);
        if !(job.is_poison || self.rng.f64() < self.fleet.failures) {
            self.report.busy(self.now, load, draw);
            self.plan(load + draw, Event::Done(number));
            return self.plan(load + draw, Event::Look(worker));
        }
        let draw = draw * self.rng.f64();
        self.report.busy(self.now, load, draw);
        let is_crash = self.rng.bool();
        let until_known = match is_crash {
            true => LEASE - self.rng.f64() * HEARTBEAT.min(load + draw),
            false => 0.0,
        };
        let end = load + draw;
        match PAUSES.get(job.deliveries as usize - 1) {
            // A lease that ran out has waited enough.
            Some(_) if is_crash => self.plan(end + until_known, Event::Return(number)),
            Some(pause) => self.plan(end + *pause, Event::Return(number)),
            None => self.plan(end + until_known, Event::Dead(number)),
        }
        if is_crash {
            for model in std::mem::take(&mut self.workers[worker].loaded) {
                self.loaded[model] -= 1;
            }
            return self.plan(end + RESTART, Event::Restart(worker));
        }
        self.plan(end, Event::Look(worker));
    }

    /// Make a model the last used one of a worker; the seconds of its load.
    fn load(&mut self, worker: usize, model: usize) -> f64 {
        let loaded = &mut self.workers[worker].loaded;
        if let Some(at) = loaded.iter().position(|found| *found == model) {
            loaded.remove(at);
            loaded.push(model);
            return 0.0;
        }
        if loaded.len() == self.fleet.slots {
            self.loaded[loaded.remove(0)] -= 1;
        }
        loaded.push(model);
        self.loaded[model] += 1;
        self.report.loaded(self.now);
        self.fleet.models[model].load * self.workers[worker].slowness
    }

    fn end(&mut self, number: usize, is_done: bool) {
        let job = self.jobs[number];
        assert!(is_done != job.is_poison || !is_done && job.deliveries as usize == PAUSES.len() + 1);
        self.of_owner[job.owner] -= 1;
        self.unfinished -= 1;
        self.report.ended(&job, is_done);
    }
}
