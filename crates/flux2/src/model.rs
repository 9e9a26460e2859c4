//! A model by its name or path, to be loaded: the short way to an [`Engine`].
//!
//! In:  a name, and what to use with it. Out: an engine. [`find`](crate::find) and [`engine`] are the long way.

use crate::engine::{self, Engine, EngineOptions};
use crate::find::{FindError, ModelFinder};
use crate::weights::{Location, LoraPath, ModelPaths};
use crate::{Error, Result};

/// A model that was found on this disk or in this library. Its files are read by [`load`](Self::load).
///
/// ```no_run
/// use flux2::prelude::*;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut engine = Model::named("klein-4b")?.with_lora("style.safetensors", 0.8).load(&EngineOptions::default())?;
/// engine.generate(&GenerateRequest::new("a red fox"))?.save("fox.png")?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Model {
    paths: ModelPaths,
}

impl Model {
    /// The model called `name`: a file or folder, `klein-mini`, or a published model (`klein-4b`) or repository
    /// (`owner/name`) in the hub's cache. Nothing is downloaded.
    ///
    /// The cache is looked for by [`ModelFinder::usual`], which reads the environment; [`found_by`](Self::found_by)
    /// does not.
    ///
    /// # Errors
    /// [`FindError`] if there is no such model on this disk.
    pub fn named(name: impl Into<Location>) -> Result<Self, FindError> {
        Self::found_by(&ModelFinder::usual(), name)
    }

    /// As [`named`](Self::named), with the caches that `finder` knows.
    ///
    /// # Errors
    /// [`FindError`] if there is no such model on this disk.
    pub fn found_by(finder: &ModelFinder, name: impl Into<Location>) -> Result<Self, FindError> {
        Ok(ModelPaths { model: finder.model(&name.into())?, ..Default::default() }.into())
    }

    /// klein-mini, which is part of this library; `None` without the feature `mini`.
    pub fn builtin() -> Option<Self> {
        Some(ModelPaths { model: Location::builtin()?, ..Default::default() }.into())
    }

    /// The same with a LoRA added, at a strength of which 1 is as it was trained.
    pub fn with_lora(mut self, lora: impl Into<Location>, scale: f32) -> Self {
        self.paths.loras.push(LoraPath { location: lora.into(), scale });
        self
    }

    /// Check its files and open a device.
    ///
    /// # Errors
    /// As [`engine::load`].
    pub fn load(&self, options: &EngineOptions) -> Result<Box<dyn Engine>, Error> {
        engine::load(&self.paths, options)
    }
}

impl From<ModelPaths> for Model {
    fn from(paths: ModelPaths) -> Self {
        Model { paths }
    }
}
