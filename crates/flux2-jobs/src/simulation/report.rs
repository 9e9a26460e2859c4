//! What a simulation has measured.

use super::{Fleet, Job};

/// The measures of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    warm_up: f64,
    workers: usize,
    /// Seconds that are measured.
    measured: f64,
    /// Seconds from the acceptance of a job to the begin of its drawing, by priority; in order once the run is over.
    waits: [Vec<f32>; 3],
    pub loads: usize,
    load_seconds: f64,
    draw_seconds: f64,
    pub arrived: usize,
    pub done: usize,
    pub dead: usize,
    pub refused: usize,
    pub retried: usize,
    owners: Vec<Owner>,
}

/// What became of the jobs of an owner.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Owner {
    wanted: usize,
    done: usize,
    wait: f64,
}

impl Report {
    pub fn new(fleet: &Fleet) -> Self {
        let end = fleet.phases.last().map_or(0.0, |phase| phase.until);
        Report {
            warm_up: fleet.warm_up,
            workers: fleet.workers,
            measured: end - fleet.warm_up,
            waits: Default::default(),
            loads: 0,
            load_seconds: 0.0,
            draw_seconds: 0.0,
            arrived: 0,
            done: 0,
            dead: 0,
            refused: 0,
            retried: 0,
            owners: vec![Owner::default(); fleet.owners],
        }
    }

    pub fn arrived(&mut self, now: f64, owner: usize, is_refused: bool) {
        if now >= self.warm_up {
            self.arrived += 1;
            self.refused += usize::from(is_refused);
            self.owners[owner].wanted += 1;
        }
    }

    pub fn began(&mut self, job: &Job, at: f64) {
        if job.accepted >= self.warm_up {
            self.waits[job.priority as usize].push((at - job.accepted) as f32);
            self.owners[job.owner].wait += at - job.accepted;
        }
    }

    pub fn loaded(&mut self, now: f64) {
        self.loads += usize::from(now >= self.warm_up);
    }

    pub fn busy(&mut self, now: f64, load: f64, draw: f64) {
        if now >= self.warm_up && now < self.warm_up + self.measured {
            self.load_seconds += load;
            self.draw_seconds += draw;
        }
    }

    pub fn ended(&mut self, job: &Job, is_done: bool) {
        if job.accepted >= self.warm_up {
            self.done += usize::from(is_done);
            self.dead += usize::from(!is_done);
            self.retried += usize::from(job.deliveries > 1);
            self.owners[job.owner].done += usize::from(is_done);
        }
    }

    pub fn finish(&mut self) {
        self.waits.iter_mut().for_each(|waits| waits.sort_unstable_by(f32::total_cmp));
    }

    /// The wait that this share of the jobs of a priority does not exceed; of all priorities without one.
    pub fn wait(&self, priority: Option<usize>, share: f64) -> f64 {
        let mut all: Vec<f32> = match priority {
            Some(priority) => self.waits[priority].clone(),
            None => self.waits.concat(),
        };
        all.sort_unstable_by(f32::total_cmp);
        let at = (all.len() as f64 * share).ceil() as usize;
        all.get(at.saturating_sub(1)).copied().map_or(0.0, f64::from)
    }

    pub fn loads_per_hour(&self) -> f64 {
        self.loads as f64 * 3600.0 / self.measured
    }

    /// Share of the workers' time that is spent on loads.
    pub fn loading(&self) -> f64 {
        self.load_seconds / (self.measured * self.workers as f64)
    }

    /// Share of the workers' time that is spent on drawing.
    pub fn drawing(&self) -> f64 {
        self.draw_seconds / (self.measured * self.workers as f64)
    }

    /// For each owner, the jobs that were done as a part of those it would have got by fair shares: the same for all,
    /// but nobody more than was wanted.
    fn parts(&self) -> Vec<f64> {
        let mut order: Vec<usize> = (0..self.owners.len()).collect();
        order.sort_unstable_by_key(|owner| self.owners[*owner].wanted);
        let mut left = self.done as f64;
        let mut parts = Vec::new();
        for (place, owner) in order.into_iter().enumerate() {
            let Owner { wanted, done, .. } = self.owners[owner];
            let fair = (left / (self.owners.len() - place) as f64).min(wanted as f64);
            left -= fair;
            parts.push(done as f64 / fair);
        }
        parts
    }

    /// Jain's index of [`parts`](Self::parts): 1 where all owners have got the same part of their fair shares.
    pub fn fairness(&self) -> f64 {
        let parts = self.parts();
        let (sum, squares) = parts.iter().fold((0.0, 0.0), |(sum, squares), x| (sum + x, squares + x * x));
        sum * sum / (parts.len() as f64 * squares)
    }

    /// The least part of its fair share that an owner has got.
    pub fn least_part(&self) -> f64 {
        self.parts().into_iter().fold(f64::INFINITY, f64::min)
    }

    /// The row of a table.
    pub fn row(&self, name: &str) -> String {
        let refused = 100.0 * self.refused as f64 / self.arrived as f64;
        format!(
            "| {name} | {:.2} s | {:.1} s | {:.1} s | {:.0} s | {:.0} | {:.1} % | {:.0} % | {:.0} % | {:.2} |\n",
            self.wait(None, 0.5),
            self.wait(None, 0.99),
            self.wait(Some(0), 0.99),
            self.wait(None, 1.0),
            self.loads_per_hour(),
            100.0 * self.loading(),
            100.0 * self.drawing(),
            refused,
            self.least_part(),
        )
    }
}
