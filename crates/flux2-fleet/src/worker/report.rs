//! What a worker tells of itself.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flux2_jobs::{JobId, Readiness};

use super::Shared;
use crate::record::now_ms;
use crate::roster::{Activity, Announcement, Held};

/// Time between two announcements when nothing has changed.
const EVERY: Duration = Duration::from_secs(5);
/// Shortest time between two.
const SHORTEST: Duration = Duration::from_secs(1);
/// Weight of the latest value in a moving average.
const LATEST: f64 = 0.2;

/// Numbers of a worker since its start.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    pub jobs: Vec<JobId>,
    pub done: u64,
    pub failed: u64,
    /// Seconds of a job by model.
    job_seconds: BTreeMap<String, f64>,
    /// Seconds from the begin of a job to its first step, where its model was not loaded.
    load_seconds: BTreeMap<String, f64>,
    /// Longest step.
    pub longest_step: Duration,
}

impl Numbers {
    pub fn add_job(&mut self, model: &str, elapsed: Duration) {
        average(&mut self.job_seconds, model, elapsed);
    }

    pub fn add_load(&mut self, model: &str, elapsed: Duration) {
        average(&mut self.load_seconds, model, elapsed);
    }
}

fn average(of: &mut BTreeMap<String, f64>, model: &str, elapsed: Duration) {
    let seconds = elapsed.as_secs_f64();
    of.entry(model.to_owned()).and_modify(|known| *known += LATEST * (seconds - *known)).or_insert(seconds);
}

impl Shared {
    /// The models of this worker.
    pub(super) fn held(&self) -> Vec<Held> {
        let devices = self.jobs.stats().devices;
        let numbers = self.numbers();
        let held = |info: flux2_jobs::ModelInfo| Held {
            is_warm: devices.iter().any(|device| device.models.iter().any(|(key, _)| key.name == info.name)),
            load_seconds: numbers.load_seconds.get(&info.name).copied().unwrap_or_default(),
            job_seconds: numbers.job_seconds.get(&info.name).copied().unwrap_or(1.0),
            name: info.name,
        };
        self.host.models().into_iter().map(held).collect()
    }

    fn announcement(&self, started_ms: u64) -> Announcement {
        let models = self.held();
        let numbers = self.numbers();
        let activity = match () {
            () if self.is_stopping() => Activity::Draining,
            () if self.jobs.readiness() != Readiness::Ready => Activity::Starting,
            () if numbers.jobs.is_empty() => Activity::Idle,
            () => Activity::Busy,
        };
        let (jobs, done, failed) = (numbers.jobs.clone(), numbers.done, numbers.failed);
        Announcement { v: 1, drawer: self.me.clone(), activity, models, jobs, done, failed, started_ms }
    }

    /// Announce this worker for as long as it lives.
    pub(super) async fn report(self: Arc<Self>) {
        let started_ms = now_ms();
        let mut last: Option<(Announcement, Instant)> = None;
        loop {
            let now = self.announcement(started_ms);
            let is_due = last.as_ref().is_none_or(|(told, when)| *told != now || when.elapsed() >= EVERY);
            if is_due {
                match self.bus.announce(&now).await {
                    Ok(()) => last = Some((now, Instant::now())),
                    Err(error) => tracing::debug!(%error, "not announced"),
                }
            }
            tokio::time::sleep(SHORTEST).await;
        }
    }
}
