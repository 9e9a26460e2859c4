//! Numbers about an engine, for metrics. None of them names an owner or a prompt.

use crate::failure::FailureClass;
use crate::spec::ModelKey;
use crate::submission::Priority;
use crate::view::DrawingRecord;

/// Numbers about an engine since its start.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// Jobs in the queue by model and priority; combinations without jobs are left out.
    pub queued: Vec<QueueDepth>,
    /// Estimated time until the last queued job starts, in seconds.
    pub wait_seconds: f64,
    /// Jobs that are running.
    pub running: usize,
    /// Jobs that were accepted.
    pub accepted: u64,
    /// Jobs that are done.
    pub done: u64,
    /// Jobs that failed, by class; classes without any are left out.
    pub failed: Vec<(FailureClass, u64)>,
    /// Jobs that were cancelled.
    pub cancelled: u64,
    /// Submissions that were refused, by [`Refused::reason`](crate::Refused::reason).
    pub rejected: Vec<(&'static str, u64)>,
    /// Pictures that were saved.
    pub images: u64,
    /// Seconds from acceptance to start.
    pub queue_wait: Histogram,
    /// Seconds of each stage by name: `text`, `references`, `denoise`, `decode`, `save`.
    pub stages: Vec<(&'static str, Histogram)>,
    /// Seconds of a denoising step.
    pub steps: Histogram,
    /// Seconds to open a model, and to load each of its networks.
    pub loads: Histogram,
    /// Pictures drawn together.
    pub batches: Histogram,
    /// Fallbacks taken where memory was short, by [`Rung::name`](flux2::event::Rung::name).
    pub rescues: Vec<(&'static str, u64)>,
    /// Results found in a cache, by name: `text`, `references`, `picture`.
    pub cache_hits: Vec<(&'static str, u64)>,
    /// The devices, and what is loaded on them.
    pub devices: Vec<DeviceStats>,
    /// Bytes of kept pictures.
    pub picture_bytes: u64,
    /// Bytes of kept uploads.
    pub upload_bytes: u64,
}

/// Jobs of one model and priority in the queue.
#[derive(Clone, Debug, PartialEq)]
pub struct QueueDepth {
    /// Name of the model.
    pub model: String,
    /// Their priority.
    pub priority: Priority,
    /// Number of jobs.
    pub jobs: usize,
}

/// A device and what is loaded on it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DeviceStats {
    /// Its name, as in `cuda:1`.
    pub name: String,
    /// Models that are loaded, the most recently used first, and the bytes each takes at most.
    pub models: Vec<(ModelKey, usize)>,
    /// Whether it draws or loads a model at this moment.
    pub is_busy: bool,
}

/// Counts of values by size, as Prometheus takes them.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    /// Upper bounds of the buckets, rising.
    pub bounds: &'static [f64],
    /// Values in each bucket and in none of those before it; the last is for values over all bounds.
    pub counts: Vec<u64>,
    /// Sum of all values.
    pub sum: f64,
}

/// Bounds in seconds: from a step of a small model to the load of a large one.
const SECONDS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0,
    1000.0,
];

impl Default for Histogram {
    fn default() -> Self {
        Histogram { bounds: SECONDS, counts: vec![0; SECONDS.len() + 1], sum: 0.0 }
    }
}

impl Histogram {
    /// Count one value.
    pub fn add(&mut self, value: f64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        self.counts[bucket] += 1;
        self.sum += value;
    }

    /// Number of values.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

/// Add one to the counter called `name`.
pub(crate) fn count<K: PartialEq>(counters: &mut Vec<(K, u64)>, name: K) {
    match counters.iter_mut().find(|(known, _)| *known == name) {
        Some((_, number)) => *number += 1,
        None => counters.push((name, 1)),
    }
}

/// Count the stages of a picture. A stage whose result was found in a cache is left out.
pub(crate) fn add_stages(stats: &mut Stats, record: &DrawingRecord) {
    let DrawingRecord { text, references, steps, decode, save, cache, .. } = record;
    let ran_references = *references > 0.0 && !cache.references;
    let stages = [
        ("text", Some(*text).filter(|_| !cache.text)),
        ("references", Some(*references).filter(|_| ran_references)),
        ("denoise", Some(steps.iter().sum())),
        ("decode", Some(*decode)),
        ("save", Some(*save)),
    ];
    for (name, seconds) in stages.into_iter().filter_map(|(name, seconds)| Some((name, seconds?))) {
        match stats.stages.iter_mut().find(|(known, _)| *known == name) {
            Some((_, histogram)) => histogram.add(seconds),
            None => {
                let mut histogram = Histogram::default();
                histogram.add(seconds);
                stats.stages.push((name, histogram));
            }
        }
    }
    steps.iter().for_each(|seconds| stats.steps.add(*seconds));
    for (name, is_hit) in [("text", cache.text), ("references", cache.references)] {
        if is_hit {
            count(&mut stats.cache_hits, name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_in_the_bucket_of_its_bound() {
        let mut seconds = Histogram::default();
        [0.0, 0.001, 0.0011, 1.0, 9999.0].into_iter().for_each(|value| seconds.add(value));
        let at = |bound: f64| seconds.bounds.iter().position(|b| *b == bound).unwrap();
        assert_eq!((seconds.counts[0], seconds.counts[1], seconds.counts[at(1.0)]), (2, 1, 1));
        assert_eq!((seconds.counts[SECONDS.len()], seconds.count()), (1, 5));
    }
}
