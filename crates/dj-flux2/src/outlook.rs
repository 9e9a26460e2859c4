//! How long the pictures of a run will take, before the first step: from the speed of earlier pictures, which the
//! user's cache keeps for each device and model; for long ones on a processor that has drawn none, from a measurement.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use flux2::bench::{self, Cost};
use flux2::image::codec::save_for_now;
use flux2::{Device, EngineOptions};

/// Name of the file in the cache folder.
const FILE: &str = "speeds.json";
/// Weight of the newest picture in a moving average.
const NEWEST: f64 = 0.3;
/// Change that is worth writing the file.
const WORTH_WRITING: f64 = 0.1;
/// Most speeds that are kept.
const MAX_KEPT: usize = 200;
/// Operations of a run from which a speed is kept: a second's of a processor. Shorter ones need no prediction.
const KEPT_FROM: f64 = 1e11;
/// Operations of a picture for which a measurement of a few seconds does not matter: a minute's of a slow processor.
const MEASURED_FROM: f64 = 6e12;

/// What is expected of a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Expected {
    /// Time of all pictures, once the model is loaded.
    pub whole: Duration,
    /// Time of a step of the first picture.
    pub step: Duration,
    /// Whether this machine was measured for it, as no earlier picture says how fast it is.
    pub is_measured: bool,
}

/// Speeds of a device and a model.
#[derive(Debug)]
pub struct Outlook {
    /// The file that keeps them.
    file: Option<PathBuf>,
    key: String,
    /// Operations a second, if there was a picture.
    speed: Option<f64>,
    /// The one in the file.
    written: Option<f64>,
    /// Operations of the pictures that were learned from.
    learned: f64,
}

impl Outlook {
    /// What earlier pictures say about a device, with its number format, and a model. `folder` is that of the cache.
    pub fn open(folder: Option<&Path>, device: &str, model: &str) -> Self {
        let (file, key) = (folder.map(|folder| folder.join(FILE)), format!("{device}; {model}"));
        let speed = file.as_deref().and_then(|file| read(file).remove(&key)).filter(|speed| is_speed(*speed));
        Outlook { file, key, speed, written: speed, learned: 0.0 }
    }

    /// What is expected of pictures of these costs, drawn one after the other by each of `workers`; `None` if nothing
    /// is known, and a measurement is not worth it.
    pub fn expect(&self, costs: &[Cost], place: Device, workers: usize, options: &EngineOptions) -> Option<Expected> {
        let first = costs.first()?;
        let (whole, step, is_measured) = match self.speed {
            Some(speed) => {
                let of = |cost: &Cost| cost.total().total() / speed;
                (costs.iter().map(of).sum::<f64>(), first.step.total() / speed, false)
            }
            None if place == Device::Cpu && first.total().total() > MEASURED_FROM => {
                let rates = bench::rates(options).ok()?;
                (costs.iter().map(|cost| rates.seconds(cost.total())).sum(), rates.seconds(first.step), true)
            }
            None => return None,
        };
        let time = |seconds: f64| Duration::try_from_secs_f64(seconds).ok();
        Some(Expected { whole: time(whole / workers as f64)?, step: time(step)?, is_measured })
    }

    /// Learns from the steps of pictures that were drawn together. The first step may have loaded the network.
    pub fn learn(&mut self, together: &Cost, steps: &[Duration]) {
        let steps = if steps.len() > 1 { &steps[1..] } else { steps };
        let seconds = steps.iter().sum::<Duration>().as_secs_f64() / steps.len().max(1) as f64;
        let newest = together.step.total() / seconds;
        if is_speed(newest) {
            self.learned += together.total().total();
            let speed = self.speed.get_or_insert(newest);
            *speed += NEWEST * (newest - *speed);
        }
    }

    /// Keeps what was learned for the next run. That it cannot be kept matters to nobody.
    pub fn keep(&self) {
        let (Some(file), Some(speed)) = (&self.file, self.speed) else { return };
        if self.learned < KEPT_FROM || self.written.is_some_and(|written| (speed / written - 1.0).abs() < WORTH_WRITING)
        {
            return;
        }
        let mut speeds = read(file);
        if speeds.len() >= MAX_KEPT {
            speeds.clear();
        }
        speeds.insert(self.key.clone(), speed);
        if let (Some(folder), Ok(text)) = (file.parent(), serde_json::to_string_pretty(&speeds)) {
            let _ = fs::create_dir_all(folder);
            let _ = save_for_now(file, text.as_bytes());
        }
    }
}

/// Whether a number can be a speed: files may hold anything.
fn is_speed(speed: f64) -> bool {
    speed.is_finite() && speed > 1.0
}

/// The speeds in a file; none if it cannot be read.
fn read(file: &Path) -> BTreeMap<String, f64> {
    fs::read(file).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use flux2::bench::Flops;

    use super::*;

    fn cost(step: f64, steps: usize) -> Cost {
        Cost { step: Flops { blocks: step, ..Flops::default() }, steps, ..Cost::default() }
    }

    fn expect(outlook: &Outlook, costs: &[Cost]) -> Option<Expected> {
        outlook.expect(costs, Device::Cpu, 1, &EngineOptions::default())
    }

    #[test]
    fn what_was_drawn_says_how_long_the_next_one_takes() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("not yet there");
        let open = |device: &str| Outlook::open(Some(&folder), device, "klein");
        let mut first = open("cpu");
        assert_eq!(expect(&first, &[cost(1e12, 1)]), None);
        // The first step loaded the network.
        first.learn(&cost(1e12, 3), &[9000, 500, 500].map(Duration::from_millis));
        first.keep();
        let expected = expect(&open("cpu"), &[cost(1e12, 4), cost(2e12, 4)]).unwrap();
        assert_eq!((expected.whole.as_millis(), expected.step.as_millis()), (6000, 500));
        assert!(!expected.is_measured);
        assert_eq!(expect(&open("cuda"), &[cost(1e12, 4)]), None);
    }

    #[test]
    fn a_file_that_holds_something_else_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(FILE);
        for wrong in ["", "[]", "{\"cpu; klein\": -3}", "{\"cpu; klein\": \"fast\"}", "{\"cpu; klein\": 1e1299}"] {
            fs::write(&file, wrong).unwrap();
            let mut outlook = Outlook::open(Some(folder.path()), "cpu", "klein");
            assert_eq!(expect(&outlook, &[cost(1e12, 4)]), None, "{wrong}");
            outlook.learn(&cost(1e12, 1), &[Duration::from_secs(1)]);
            outlook.keep();
            assert_eq!(read(&file)["cpu; klein"], 1e12);
        }
        // Steps without time or work have no speed.
        let mut outlook = Outlook::open(None, "cpu", "klein");
        outlook.learn(&cost(1e12, 1), &[]);
        outlook.learn(&cost(0.0, 1), &[Duration::from_secs(1)]);
        outlook.learn(&cost(1e12, 1), &[Duration::ZERO]);
        outlook.keep();
        assert_eq!(expect(&outlook, &[cost(1e12, 4)]), None);
    }
}
