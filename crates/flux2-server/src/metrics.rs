//! `/metrics` in the text format of Prometheus. Names are stable; no label holds a prompt or an owner.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};

use axum::http::StatusCode;
use flux2_jobs::{Histogram, Stats};

/// Media type of the text format.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Requests by route and status.
#[derive(Debug, Default)]
pub struct RequestCounts(Mutex<BTreeMap<(String, u16), u64>>);

impl RequestCounts {
    /// Count a request. `route` is a pattern such as `/api/v1/jobs/{id}`, so that there are few of them.
    pub fn count(&self, route: &str, status: StatusCode) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry((route.to_owned(), status.as_u16())).or_default() += 1;
    }

    fn all(&self) -> Vec<((String, u16), u64)> {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.iter().map(|(key, count)| (key.clone(), *count)).collect()
    }
}

/// All metrics as text.
pub fn render(requests: &RequestCounts, stats: &Stats) -> String {
    let mut text = Text::default();
    text.family("flux_build_info", "gauge", "Version of the program.");
    text.sample("flux_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1.0);
    text.family("flux_requests_total", "counter", "HTTP requests by route and status.");
    for ((route, status), count) in requests.all() {
        text.sample("flux_requests_total", &[("route", &route), ("code", &status.to_string())], count as f64);
    }
    text.family("flux_queue_depth", "gauge", "Jobs that wait, by model and priority.");
    for depth in &stats.queued {
        let labels = [("model", depth.model.as_str()), ("prio", depth.priority.name())];
        text.sample("flux_queue_depth", &labels, depth.jobs as f64);
    }
    text.single(
        "flux_queue_estimate_seconds",
        "gauge",
        "Estimated time until the last job starts.",
        stats.wait_seconds,
    );
    text.single("flux_inflight", "gauge", "Jobs that are running.", stats.running as f64);
    text.single("flux_accepted_total", "counter", "Jobs that were accepted.", stats.accepted as f64);
    text.single("flux_done_total", "counter", "Jobs that are done.", stats.done as f64);
    text.single("flux_images_total", "counter", "Images that were saved.", stats.images as f64);
    text.single("flux_cancelled_total", "counter", "Jobs that were cancelled.", stats.cancelled as f64);
    let failed: Vec<_> = stats.failed.iter().map(|(class, count)| (class.name(), *count)).collect();
    text.counts("flux_failed_total", "Jobs that failed, by class.", "class", &failed);
    text.counts("flux_rejected_total", "Jobs that were not accepted, by reason.", "reason", &stats.rejected);
    text.counts("flux_oom_total", "Fallbacks where memory was short.", "rung", &stats.rescues);
    text.counts("flux_cache_hits_total", "Results found in a cache.", "cache", &stats.cache_hits);
    text.histogram("flux_queue_wait_seconds", "Time from acceptance to start.", &[([].as_slice(), &stats.queue_wait)]);
    let stages: Vec<_> = stats.stages.iter().map(|(name, histogram)| ([("stage", stage(name))], histogram)).collect();
    let stages: Vec<_> = stages.iter().map(|(labels, histogram)| (labels.as_slice(), *histogram)).collect();
    text.histogram("flux_stage_seconds", "Time of a stage.", &stages);
    text.histogram("flux_step_seconds", "Time of a denoising step.", &[(&[], &stats.steps)]);
    text.histogram("flux_model_load_seconds", "Time to load a model.", &[(&[], &stats.loads)]);
    text.histogram("flux_batch_images", "Images drawn together.", &[(&[], &stats.batches)]);
    text.family("flux_vram_bytes", "gauge", "Memory that models take at most, and disk space of what is kept.");
    for device in &stats.devices {
        for (model, bytes) in &device.models {
            let model = model.to_string();
            let labels = [("kind", "model"), ("device", &device.name), ("model", &model)];
            text.sample("flux_vram_bytes", &labels, *bytes as f64);
        }
    }
    text.family("flux_stored_bytes", "gauge", "Bytes of kept images and uploads.");
    text.sample("flux_stored_bytes", &[("kind", "images")], stats.picture_bytes as f64);
    text.sample("flux_stored_bytes", &[("kind", "uploads")], stats.upload_bytes as f64);
    text.0
}

/// The stable name of a stage.
fn stage(name: &str) -> &str {
    match name {
        "text" => "text_encode",
        "decode" => "vae",
        other => other,
    }
}

#[derive(Default)]
struct Text(String);

impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        let escaped = |value: &str| value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let labels: Vec<_> = labels.iter().map(|(label, value)| format!("{label}=\"{}\"", escaped(value))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let _ = writeln!(self.0, "{name}{labels} {value}");
    }

    fn single(&mut self, name: &str, kind: &str, help: &str, value: f64) {
        self.family(name, kind, help);
        self.sample(name, &[], value);
    }

    fn counts(&mut self, name: &str, help: &str, label: &str, counts: &[(&str, u64)]) {
        self.family(name, "counter", help);
        counts.iter().for_each(|(value, count)| self.sample(name, &[(label, value)], *count as f64));
    }

    fn histogram(&mut self, name: &str, help: &str, series: &[(&[(&str, &str)], &Histogram)]) {
        self.family(name, "histogram", help);
        for (labels, histogram) in series {
            let mut below = 0;
            let bounds = histogram.bounds.iter().map(f64::to_string).chain(["+Inf".into()]);
            for (bound, count) in bounds.zip(&histogram.counts) {
                below += count;
                let labels: Vec<_> = labels.iter().copied().chain([("le", bound.as_str())]).collect();
                self.sample(&format!("{name}_bucket"), &labels, below as f64);
            }
            self.sample(&format!("{name}_sum"), labels, histogram.sum);
            self.sample(&format!("{name}_count"), labels, histogram.count() as f64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_cumulative_and_labels_escaped() {
        let mut text = Text::default();
        let histogram = Histogram { bounds: &[0.5, 1.0], counts: vec![2, 0, 3], sum: 9.5 };
        text.histogram("h", "Help.", &[(&[("stage", "a\"b\\\n")], &histogram)]);
        let label = "stage=\"a\\\"b\\\\\\n\"";
        let expected = format!(
            "# HELP h Help.\n# TYPE h histogram\nh_bucket{{{label},le=\"0.5\"}} 2\nh_bucket{{{label},le=\"1\"}} 2\n\
             h_bucket{{{label},le=\"+Inf\"}} 5\nh_sum{{{label}}} 9.5\nh_count{{{label}}} 5\n"
        );
        assert_eq!(text.0, expected);
    }

    #[test]
    fn every_stable_name_is_there() {
        let text = render(&RequestCounts::default(), &Stats::default());
        for name in [
            "requests_total",
            "queue_depth",
            "queue_wait_seconds",
            "stage_seconds",
            "step_seconds",
            "images_total",
            "inflight",
            "cancelled_total",
            "oom_total",
            "vram_bytes",
            "model_load_seconds",
            "rejected_total",
            "build_info",
        ] {
            assert!(text.contains(&format!("# TYPE flux_{name} ")), "{name}");
        }
    }
}
