//! A host that draws no model: deterministic pictures from the request, for tests of front ends, of a page, and of
//! load.
//!
//! Nothing leads here but [`FakeHost::new`]: no file, no model name, no environment variable.

use std::time::Duration;

use crate::failure::FailureClass;

/// How a [`FakeHost`] behaves.
#[derive(Clone, Debug)]
pub struct FakeOptions {
    /// Names of the models, the default first; those of published variants have their defaults and limits, others
    /// those of klein-4b.
    pub models: Vec<String>,
    /// Names of the LoRAs.
    pub loras: Vec<String>,
    /// Number of devices.
    pub devices: usize,
    /// Time to load a model.
    pub load: Duration,
    /// Time of a denoising step; a batch takes as long as a picture.
    pub step: Duration,
    /// Failures on demand: a job whose prompt contains the text fails in this way. None by default, so that no user's
    /// prompt can.
    pub failures: Vec<(String, FailureClass)>,
    /// Bytes that models may take on a device together; each takes 1.
    pub memory: Option<usize>,
}

impl Default for FakeOptions {
    fn default() -> Self {
        FakeOptions {
            models: vec!["klein-4b".into()],
            loras: Vec::new(),
            devices: 1,
            load: Duration::ZERO,
            step: Duration::ZERO,
            failures: Vec::new(),
            memory: None,
        }
    }
}

/// A host of fake models.
#[derive(Clone, Debug)]
pub struct FakeHost {
    options: FakeOptions,
}

impl FakeHost {
    /// A host that behaves so.
    pub fn new(options: FakeOptions) -> Self {
        FakeHost { options }
    }
}
