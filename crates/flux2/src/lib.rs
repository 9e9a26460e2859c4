//! FLUX.2 \[klein\]: text-to-image and image editing, from checkpoint files to pixels.
//!
//! ```no_run
//! use flux2::{CancelToken, EngineOptions, Event, GenerateRequest, ModelPaths};
//!
//! # fn main() -> flux2::Result<()> {
//! let paths = ModelPaths { model: "FLUX.2-klein-4B".into(), ..Default::default() };
//! let mut engine = flux2::engine::load(&paths, &EngineOptions::default())?;
//! let request = GenerateRequest { prompt: "a red fox".into(), seed: 7, ..Default::default() };
//! let mut steps = 0;
//! let mut observer = |event: &Event| steps += usize::from(matches!(event, Event::Step { .. }));
//! let picture = engine.generate(&request, &mut observer, &CancelToken::new())?;
//! assert_eq!((picture.image.width(), steps), (512, 4));
//! # Ok(())
//! # }
//! ```
//!
//! [`weights::Location::builtin`] instead of the folder is klein-mini, a small model of 128x128 pictures that is part
//! of the library (feature `mini`, on by default).
//!
//! | room | holds |
//! |---|---|
//! | [`pipeline`] | the recipe, in numbered steps; which network is resident when |
//! | [`engine`] | a pipeline on a chosen device, behind an object |
//! | [`fleet`] | several engines working on one queue |
//! | [`plan`] | the memory a run takes, by a dry run |
//! | [`request`] | requests, and the same with defaults filled in and limits checked |
//! | [`models`] | text encoder, flow transformer, autoencoder |
//! | [`sampler`], [`latents`] | noise levels and noise; tokens, position ids, time embedding |
//! | [`weights`], [`variant`] | checkpoints of any kind, LoRAs, conversion; the members of the family |
//! | `hub` | models from the Hugging Face hub, and its cache on this disk (feature `hub`, on by default) |
//! | [`text`] | prompt to token ids |
//! | [`text_cache`] | text embeddings on disk, shared by runs |
//! | [`image`] | image files, preparation of references, stored parameters |
//! | [`mod@bench`] | ops and whole pictures timed, beside the peaks of the device |
//! | [`digest`] | hashes as names |
//! | [`event`], [`error`] | what a run says; what can go wrong |
//!
//! Nothing here prints, reads the environment or starts an async runtime.

pub mod bench;
pub mod digest;
pub mod engine;
pub mod error;
pub mod event;
pub mod fleet;
#[cfg(feature = "hub")]
pub mod hub;
pub mod image;
pub mod latents;
pub mod models;
mod parallel;
pub mod pipeline;
pub mod plan;
pub mod request;
pub mod sampler;
pub mod text;
pub mod text_cache;
pub mod variant;
pub mod weights;

pub use engine::{Device, Engine, EngineOptions, GpuOptions, NoGpu};
pub use error::{Error, ErrorKind, Result};
pub use event::{CancelToken, Event, Observer, Phase, Warning};
pub use pipeline::{GeneratedImage, Pipeline, Residency, Timings};
pub use plan::MemoryPlan;
pub use request::{GenerateRequest, Reference, ResolvedRequest};
pub use sampler::NoiseKind;
pub use text_cache::TextCache;
pub use variant::Variant;
pub use weights::{ModelPaths, Precision};

// Unit tests of the models read the same golden files as the integration tests.
#[cfg(test)]
extern crate self as flux2;
#[cfg(test)]
#[path = "../tests/it/golden.rs"]
mod golden;
