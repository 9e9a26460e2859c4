//! FLUX.2 \[klein\]: text-to-image and image editing, from checkpoint files to pixels.
//!
//! ```no_run
//! use flux2::prelude::*;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let options = EngineOptions { max_memory: Some(6 << 30), ..Default::default() };
//! let mut engine = Model::named("klein-4b")?.load(&options)?;
//! let request = GenerateRequest { seed: 7, ..GenerateRequest::new("a red fox in the snow") };
//! engine.generate(&request)?.save("fox.png")?;
//!
//! // The same with the events of the run, and a token that another thread can cancel.
//! let mut observer = |event: &Event| eprintln!("{event:?}");
//! engine.generate_with(&request, &mut observer, &CancelToken::new())?;
//! # Ok(())
//! # }
//! ```
//!
//! A small model of 128x128 pictures, klein-mini, comes with the library (feature `mini`, on by default):
//!
//! ```
//! use flux2::prelude::*;
//!
//! # fn main() -> flux2::Result<()> {
//! # let Some(_) = Model::builtin() else { return Ok(()) };
//! let model = Model::builtin().expect("the feature `mini` is on");
//! let made = model.load(&EngineOptions::default())?.generate(&GenerateRequest::new("a cat on a blue background"))?;
//! assert_eq!((made.image.width(), made.parameters.model.as_str()), (128, "klein-mini"));
//! # Ok(())
//! # }
//! ```
//!
//! | room | holds |
//! |---|---|
//! | [`model`], [`prelude`] | a model by its name, the short way to an engine; what most programs import |
//! | [`pipeline`] | the recipe in numbered steps; which network is resident when |
//! | [`upscale`] | pictures enlarged by a network or by Lanczos |
//! | [`engine`] | a pipeline as a trait object, with the device chosen |
//! | [`device`] | the choice of a device |
//! | [`plan`] | the memory of a run, computed beforehand by a dry run |
//! | [`canvas`] | a picture that is painted into: source, mask, larger canvas |
//! | [`request`] | a request, and the same with defaults filled in and limits checked |
//! | [`models`] | text encoder, flow transformer, autoencoder |
//! | [`backend`] | tensors and ops on the CPU and on GPUs (crate `flux2-backend`): for loops of one's own |
//! | [`sampler`], [`latents`] | noise levels and noise; image tokens, position ids, timestep embedding |
//! | [`find`] | a model by its name: a path, the built-in model, one in the cache |
//! | [`foreign`] | settings of other programs that mean nothing here, and why |
//! | [`weights`], [`variant`] | checkpoints, LoRAs, conversion; the members of the family (crate `flux2-weights`) |
//! | `hub` | models from the Hugging Face hub and its cache (crate `flux2-hub`, feature `hub`, on by default) |
//! | [`template`] | templates of prompts: variables, alternatives, wildcards |
//! | [`text`] | prompt to token ids |
//! | [`vocabulary`] | what klein-mini was trained on, and what of a prompt it does not know |
//! | [`text_cache`] | text embeddings on disk, reused by later runs |
//! | [`compat`] | the rules of other programs, to reproduce their pictures |
//! | [`image`] | codecs, preparation of reference images, parameters stored in pictures |
//! | [`sheet`] | pictures in equal cells with texts, comparisons of two pictures |
//! | [`preview`] | latents of a step to a small picture, without the autoencoder |
//! | [`marks`] | watermark, Content Credentials and XMP: by what machines tell that a model drew a picture |
//! | [`mod@bench`] | timing of ops and pictures, compared with the peak of the device |
//! | [`digest`], [`units`] | SHA-256 in hexadecimal; bytes, memory and time as people read them |
//! | [`environment`] | paths in variables of the environment |
//! | [`mod@explain`] | what every stage of a run took in and gave out, as data |
//! | [`event`], [`error`] | events of a run; what can go wrong, and what would help |
//!
//! Nothing here prints, reads the environment or starts an async runtime.

pub mod bench;
pub mod canvas;
pub mod compat;
pub mod device;
pub mod engine;
pub mod error;
pub mod event;
pub mod explain;
pub mod find;
pub mod foreign;
pub mod image;
pub mod latents;
pub mod marks;
pub mod model;
pub mod models;
pub mod pipeline;
pub mod plan;
pub mod prelude;
pub mod preview;
pub mod request;
pub mod sampler;
pub mod sheet;
pub mod template;
pub mod text;
pub mod text_cache;
pub mod upscale;
pub mod vocabulary;

pub use flux2_backend as backend;
pub use flux2_base::{Cancelled, ErrorKind, Part, Remedy, TransferEvent, TransferObserver, digest, environment, units};
#[cfg(feature = "hub")]
pub use flux2_hub as hub;
pub use flux2_weights as weights;
pub use flux2_weights::variant;

pub use canvas::{Source, SourceOptions};
pub use compat::Compat;
pub use device::Device;
pub use engine::{Engine, EngineOptions, GpuOptions, NoGpu};
pub use error::{Error, Result};
pub use event::{CancelToken, Event, Observer, Phase, Warning};
pub use explain::{ExplainOptions, Explanation};
pub use model::Model;
pub use pipeline::{BatchKey, BatchMember, Batching, DecodedImage, GeneratedImage, Pipeline, Residency, Timings};
pub use plan::MemoryPlan;
pub use preview::PreviewOptions;
pub use request::{GenerateRequest, Reference, ResolvedRequest};
pub use sampler::NoiseKind;
pub use text_cache::TextCache;
pub use upscale::{UpscaleEngine, UpscaleSize, Upscaler, Upscaling};
pub use variant::Variant;
pub use weights::{ModelPaths, Precision};

// Unit tests of the models read the same golden files as the integration tests.
#[cfg(test)]
extern crate self as flux2;
#[cfg(test)]
#[path = "../tests/it/golden.rs"]
mod golden;
