//! Estimates of the time a job takes, from what jobs like it took.

use std::collections::HashMap;
use std::time::Duration;

use crate::spec::{JobSpec, ModelKey};

/// Weight of the newest measurement in a moving average.
const NEWEST: f64 = 0.3;
/// Floating-point operations per second that are assumed of a device that says nothing: a small processor's.
pub(crate) const FIRST_SPEED: f64 = 1e11;
/// Sizes that are remembered. Requests choose sizes, so their number must be bounded.
const MAX_SHAPES: usize = 512;

/// What the time of a picture depends on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Shape {
    model: ModelKey,
    size: [u32; 2],
    steps: u32,
    is_guided: bool,
    references: usize,
    /// Bits of the factor of enlarging, and with what.
    upscale: Option<(u32, String)>,
    /// The source and what is done with it, which decide how much of it is drawn.
    source: Option<String>,
}

impl Shape {
    fn of(spec: &JobSpec) -> Self {
        Shape {
            model: spec.model.clone(),
            size: [spec.width, spec.height],
            steps: spec.steps,
            is_guided: spec.guidance.is_some_and(|guidance| guidance > 1.0),
            references: spec.references.len(),
            upscale: spec.upscale.as_ref().map(|upscale| (upscale.by.to_bits(), upscale.upscaler.clone())),
            source: spec.source.as_ref().map(|source| format!("{source:?}")),
        }
    }
}

/// Moving averages of measured times.
#[derive(Debug, Default)]
pub(crate) struct Estimates {
    /// Seconds of a picture.
    by_shape: HashMap<Shape, f64>,
    /// Floating-point operations per second.
    by_model: HashMap<ModelKey, f64>,
    /// The same of all models.
    speed: Option<f64>,
    /// The same of the device, until a picture was drawn.
    assumed: Option<f64>,
}

impl Estimates {
    /// Seconds to draw all pictures of a job, each of so many floating-point operations: as the last ones of this size
    /// took, else at the speed of the model, else at that of any model.
    pub fn seconds(&self, spec: &JobSpec, work: f64) -> f64 {
        let speed = || self.by_model.get(&spec.model).copied().or(self.speed).or(self.assumed).unwrap_or(FIRST_SPEED);
        let picture = self.by_shape.get(&Shape::of(spec)).copied().unwrap_or_else(|| work / speed());
        // A model that takes no time for no work has no speed.
        let picture = if picture.is_finite() { picture } else { 0.0 };
        picture * f64::from(spec.count)
    }

    /// Assume so many floating-point operations per second until a picture was drawn.
    pub fn assume(&mut self, speed: f64) {
        self.assumed = Some(speed);
    }

    /// Learn from a picture of so many floating-point operations that took so long.
    pub fn learn(&mut self, spec: &JobSpec, work: f64, took: Duration) {
        let seconds = took.as_secs_f64().max(1e-6);
        let shape = Shape::of(spec);
        if self.by_shape.len() >= MAX_SHAPES && !self.by_shape.contains_key(&shape) {
            self.by_shape.clear();
        }
        if self.by_model.len() >= MAX_SHAPES && !self.by_model.contains_key(&spec.model) {
            self.by_model.clear();
        }
        average(self.by_shape.entry(shape).or_insert(seconds), seconds);
        let speed = work / seconds;
        average(self.by_model.entry(spec.model.clone()).or_insert(speed), speed);
        average(self.speed.get_or_insert(speed), speed);
    }
}

fn average(average: &mut f64, newest: f64) {
    *average += NEWEST * (newest - *average);
}

#[cfg(test)]
mod tests {
    use flux2::image::{ImageFormat, Quality};
    use flux2::{NoiseKind, Precision};

    use super::*;

    fn spec(name: &str, width: u32) -> JobSpec {
        JobSpec {
            model: ModelKey { name: name.into(), loras: vec![], precision: Precision::BF16 },
            prompt: String::new(),
            negative_prompt: None,
            template: None,
            references: vec![],
            source: None,
            width,
            height: 64,
            steps: 4,
            guidance: None,
            noise: NoiseKind::Philox,
            compat: None,
            seed: 0,
            count: 1,
            format: ImageFormat::Png,
            quality: Quality::default(),
            metadata: true,
            watermark: false,
            upscale: None,
        }
    }

    #[test]
    fn the_speed_of_a_device_is_assumed_until_a_picture_was_drawn() {
        let mut estimates = Estimates::default();
        estimates.assume(2e13);
        assert_eq!(estimates.seconds(&spec("a", 64), 4e13), 2.0);
        estimates.learn(&spec("a", 64), 4e13, Duration::from_secs(1));
        assert_eq!(estimates.seconds(&spec("b", 64), 4e13), 1.0);
    }

    #[test]
    fn the_nearest_experience_counts() {
        let mut estimates = Estimates::default();
        assert_eq!(estimates.seconds(&spec("a", 64), FIRST_SPEED), 1.0);
        estimates.learn(&spec("a", 64), 100.0, Duration::from_secs(10));
        assert_eq!(estimates.seconds(&spec("a", 64), 999.0), 10.0);
        assert_eq!(estimates.seconds(&spec("a", 128), 200.0), 20.0);
        assert_eq!(estimates.seconds(&spec("b", 64), 200.0), 20.0);
        assert_eq!(estimates.seconds(&JobSpec { count: 3, ..spec("a", 64) }, 100.0), 30.0);
        estimates.learn(&spec("b", 64), 100.0, Duration::from_secs(1));
        assert_eq!(estimates.seconds(&spec("b", 128), 100.0), 1.0);
        assert_eq!(estimates.seconds(&spec("a", 128), 100.0), 10.0);
    }

    #[test]
    fn work_of_nothing_takes_no_time() {
        let mut estimates = Estimates::default();
        estimates.learn(&spec("a", 64), 0.0, Duration::from_millis(1));
        assert_eq!(estimates.seconds(&spec("a", 128), 0.0), 0.0);
        assert_eq!(estimates.seconds(&spec("b", 128), 0.0), 0.0);
    }

    #[test]
    fn the_average_follows_what_changes() {
        let mut estimates = Estimates::default();
        (0..30).for_each(|_| estimates.learn(&spec("a", 64), 1.0, Duration::from_secs(10)));
        (0..30).for_each(|_| estimates.learn(&spec("a", 64), 1.0, Duration::from_secs(2)));
        assert!((estimates.seconds(&spec("a", 64), 1.0) - 2.0).abs() < 0.01);
    }

    #[test]
    fn the_number_of_sizes_is_bounded() {
        let mut estimates = Estimates::default();
        for width in 0..5000 {
            estimates.learn(&spec(&format!("m{width}"), width), 1.0, Duration::from_secs(1));
        }
        assert!(estimates.by_shape.len() <= MAX_SHAPES && estimates.by_model.len() <= MAX_SHAPES);
    }
}
