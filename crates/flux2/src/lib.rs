//! FLUX.2 [klein] text-to-image and image editing.

pub mod engine;
pub mod error;
pub mod event;
pub mod image;
pub mod latents;
pub mod models;
pub mod pipeline;
pub mod request;
pub mod sampler;
pub mod text;
pub mod variant;
pub mod weights;

pub use engine::{Device, Engine, EngineOptions};
pub use error::{Error, ErrorKind, Result};
pub use event::{CancelToken, Event, Observer, Phase, Warning};
pub use flux2_backend::Compute;
pub use pipeline::{GeneratedImage, Pipeline, Residency, Timings};
pub use request::{GenerateRequest, Reference, ResolvedRequest};
pub use sampler::NoiseKind;
pub use variant::Variant;
pub use weights::ModelPaths;

// Unit tests of the models read the same golden files as the integration tests.
#[cfg(test)]
extern crate self as flux2;
#[cfg(test)]
#[path = "../tests/it/golden.rs"]
mod golden;
