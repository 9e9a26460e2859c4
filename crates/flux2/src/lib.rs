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
//! With [`weights::Location::builtin`] in the place of the folder, klein-mini draws: a small model of 128x128 pictures that
//! comes with the library (feature `mini`, on by default).
//!
//! | room | holds |
//! |---|---|
//! | [`pipeline`] | the recipe, in numbered steps; what is resident when |
//! | [`engine`] | the same behind an object, with the device chosen |
//! | [`fleet`] | several engines at work on one queue |
//! | [`plan`] | what a run takes of memory, known before |
//! | [`request`] | what is asked for, and the same with defaults filled in and limits checked |
//! | [`models`] | text encoder, flow transformer, autoencoder |
//! | [`sampler`], [`latents`] | noise levels and noise; tokens, their places, and what is told to the transformer |
//! | [`find`] | a model by its name: a path, the built-in one, one in the cache |
//! | [`weights`], [`variant`] | checkpoints of any kind, LoRAs, conversion; the members of the family |
//! | `hub` | models from the Hugging Face hub, and its cache on this disk (feature `hub`, on by default) |
//! | [`text`] | prompt to token ids |
//! | [`text_cache`] | text embeddings on disk, from run to run |
//! | [`image`] | pictures in and out, references prepared, parameters stored |
//! | [`bench`] | ops and whole pictures timed, beside what the device could do at most |
//! | [`digest`] | hashes as names |
//! | [`event`], [`error`] | what a run says; what can go wrong |
//!
//! Nothing here prints, reads the environment or starts an async runtime.

pub mod bench;
pub mod digest;
pub mod engine;
pub mod error;
pub mod event;
pub mod find;
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
