//! Names on the NATS server: streams, subjects, buckets.
//!
//! A model's name in a subject is its [`slug`]. Subjects of consumers are literal and disjoint, as a work queue wants.

use flux2::digest::sha256;
use flux2_jobs::{JobId, Priority};

/// Jobs that wait or are drawn: a work queue.
pub const JOBS: &str = "FLUX_JOBS";
/// What the server says of jobs that it gave up.
pub const ADVISORIES: &str = "FLUX_ADV";
/// Jobs that failed on several workers.
pub const DEAD: &str = "FLUX_DEAD";
/// Bucket of all jobs.
pub const STATUS: &str = "flux_status";
/// Bucket of idempotency keys.
pub const KEYS: &str = "flux_keys";
/// Bucket of the models that were ever offered.
pub const MODELS: &str = "flux_models";
/// Bucket of the workers that are there.
pub const WORKERS: &str = "flux_workers";
/// Bucket of reference images and pictures, where no other place is chosen for them.
pub const OBJECTS: &str = "flux_objects";
/// The consumer of advisories that all janitors share.
pub const JANITOR: &str = "janitor";

/// The queue of a model for one kind of device, or for all.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lane {
    slug: String,
}

impl Lane {
    /// The queue of a model: for workers whose kind is `only`, or for all.
    pub fn new(model: &str, only: Option<&str>) -> Self {
        let slug = slug(model);
        Lane { slug: only.map_or(slug.clone(), |kind| format!("{slug}-on-{}", &sha256(kind.as_bytes())[..8])) }
    }

    /// The subject of its jobs.
    pub fn subject(&self, priority: Priority) -> String {
        format!("flux.job.{}.{}", self.slug, priority.name())
    }

    /// The consumer of its jobs.
    pub fn consumer(&self, priority: Priority) -> String {
        format!("{}_{}", self.slug, priority.name())
    }

    /// Where workers without work hear that there is some.
    pub fn wake(&self) -> String {
        format!("flux.wake.{}", self.slug)
    }
}

/// The name of a model as a part of a subject: letters, digits, hyphens and underscores. A name that has others gets a
/// digest, so that no two names have the same.
pub fn slug(name: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if !name.is_empty() && name.len() <= 64 && name.chars().all(is_plain) {
        return name.to_owned();
    }
    let plain: String = name.chars().take(48).map(|c| if is_plain(c) { c } else { '_' }).collect();
    format!("{plain}-{}", &sha256(name.as_bytes())[..8])
}

/// Where a worker tells how far a job is.
pub fn progress(id: JobId) -> String {
    format!("flux.progress.{id}")
}

/// Where front ends ask something of the worker that draws a job.
pub fn ask(id: JobId) -> String {
    format!("flux.ask.{id}")
}

/// Where a worker is told to drain.
pub fn control(worker: &str) -> String {
    format!("flux.control.{}", slug(worker))
}

/// The subject of a dead letter.
pub fn dead(model: &str) -> String {
    format!("flux.dead.{}", slug(model))
}

/// The key of an owner's idempotency key.
pub fn key(owner: &str, key: &str) -> String {
    sha256(format!("{owner}\0{key}").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slugs_have_no_dots_and_differ() {
        assert_eq!(slug("klein-4b"), "klein-4b");
        let (dot, underscore) = (slug("a.b"), slug("a_b"));
        assert!(!dot.contains('.') && dot != underscore, "{dot} {underscore}");
        assert!(slug("*").starts_with("_-") && slug("").len() == 9);
        assert_ne!(Lane::new("m", Some("a")), Lane::new("m", Some("b")));
        assert_eq!(Lane::new("m", None).subject(Priority::High), "flux.job.m.high");
    }
}
