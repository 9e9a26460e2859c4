//! The host of real models: [`flux2::Engine`]s on the processor or on GPUs.

use std::collections::BTreeMap;

use flux2::weights::Location;
use flux2::{EngineOptions, ModelPaths};

/// The models that an [`EngineHost`] offers, and how they are run.
#[derive(Clone, Debug, Default)]
pub struct EngineHostOptions {
    /// Models by name, the default first. Their LoRAs are added to each job's.
    pub models: Vec<OfferedModel>,
    /// LoRAs by name.
    pub loras: BTreeMap<String, Location>,
    /// How models are run: device, threads, GPU libraries, residency, text cache. The precision is the default of a
    /// job.
    pub engine: EngineOptions,
    /// Most devices to use; `None` is all GPUs that there are.
    pub max_devices: Option<std::num::NonZeroUsize>,
}

/// A model that is offered under a name.
#[derive(Clone, Debug)]
pub struct OfferedModel {
    /// Its name.
    pub name: String,
    /// Other names that lead to it.
    pub aliases: Vec<String>,
    /// Its files.
    pub paths: ModelPaths,
}

/// A host of real models.
#[derive(Debug)]
pub struct EngineHost {
    options: EngineHostOptions,
}

impl EngineHost {
    /// A host of these models. Nothing is opened yet.
    ///
    /// # Panics
    /// If there is no model.
    pub fn new(options: EngineHostOptions) -> Self {
        assert!(!options.models.is_empty(), "a host offers a model");
        EngineHost { options }
    }
}
