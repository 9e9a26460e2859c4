//! Checkpoints of FLUX.2 \[klein\]: from a path, or bytes in the program, to tensors under canonical names.
//!
//! ```text
//! ModelPaths ─▶ ModelFiles::open ─▶ Component { config, plan } ─▶ map() ─▶ WeightSource::tensor("img_in")
//! ```
//!
//! | file | holds |
//! |---|---|
//! | `location` | where files are: on disk, or in a table of bytes in the program |
//! | `error` | what can go wrong, and what would help |
//! | `tensor_file` | one file of tensors: container recognized, header checked, bytes mapped |
//! | `safetensors`, `gguf` | the two containers |
//! | `layout` | naming schemes of checkpoints and LoRAs as tables, and how they are recognized |
//! | `config` | sizes, from `config.json` or tensor shapes; the tensors that follow from them |
//! | `component` | one network: its shards, checked against its configuration |
//! | `json` | untrusted JSON files |
//! | `inspect` | what a file or folder is, for people |
//! | `mismatch` | tensors that are missing, left over or wrong, with similar names |
//! | `model_files` | the whole model, its parts checked against each other |
//! | `lora` | LoRAs, merged into the transformer's matrices when it is loaded |
//! | `quantize` | the number formats of a run; which weights are quantized |
//! | `convert` | a model in another number format, as files |
//! | `pth` | PyTorch files, read without executing them |
//! | `any_file` | a file of tensors in one of two containers |
//! | `preview_decoder` | small decoders for previews: names and sizes |
//! | `upscaler` | networks that enlarge pictures: which kind a file holds, its sizes, its names |
//! | `variant`, `sizes` | the members of the family; the sizes they are published in |
//! | `synthetic` | models without files: published sizes, random weights |
//!
//! Files are untrusted until [`ModelFiles::open`] has returned. After that no code checks them again.

mod any_file;
mod component;
mod config;
pub mod convert;
mod error;
mod gguf;
mod inspect;
mod json;
mod layout;
mod location;
mod lora;
mod mismatch;
mod model_files;
mod preview_decoder;
mod pth;
mod quantize;
mod safetensors;
mod sizes;
pub mod synthetic;
mod tensor_file;
mod upscaler;
pub mod variant;

pub use flux2_backend::{Compute, Format};
use flux2_backend::{HostTensor, Placement};
pub use flux2_base::Part;

pub use component::{Component, MappedWeights};
pub use config::{ExpectedTensor, TextConfig, TransformerConfig, VaeConfig};
pub use error::{Error, Result};
pub use inspect::{InspectedModel, InspectedPart, Inspection, PartKind, inspect};
pub use json::ConfigProblem;
pub use layout::Layout;
pub use location::{EmbeddedFile, Location};
pub use lora::{AlphaSource, Lora, LoraPath, LoraProblem, Strength, WithLoras};
pub use mismatch::{Mismatch, WrongShape, nearest_name};
pub use model_files::{ModelFiles, ModelPaths};
pub use preview_decoder::{PreviewDecoderConfig, PreviewDecoderFile, PreviewDecoderProblem};
pub use pth::PthProblem;
pub use quantize::Precision;
pub use tensor_file::{FileProblem, check_file};
pub use upscaler::{RrdbConfig, SrvggConfig, UpscalerConfig, UpscalerFile, UpscalerProblem};
pub use variant::Variant;

/// Longest JSON file accepted, in bytes; an index of shards has about 100 kB.
const MAX_INDEX_BYTES: u64 = 16 << 20;

/// Source of a network's weights, by canonical name.
///
/// Transformer: `img_in`, `txt_in`, `time_in.{0|1}`, `modulation.{img|txt|single}`,
/// `double.{i}.{img|txt}.{qkv|q_norm|k_norm|proj|mlp_in|mlp_out}`, `single.{i}.{qkv_mlp|q_norm|k_norm|out}`,
/// `final.{modulation|proj}`. Text encoder: `embed`,
/// `layer.{i}.{attn_norm|q|k|v|q_norm|k_norm|o|mlp_norm|gate|up|down}`. VAE: the names in
/// [`VaeConfig::expected_tensors`], with `.weight` and `.bias`.
pub trait WeightSource {
    /// The tensor `name` in canonical form. Its values stay as they are stored and are decoded where they are used.
    ///
    /// # Errors
    /// [`Error::UnknownWeight`] if there is none of that name.
    fn tensor(&self, name: &str) -> Result<HostTensor>;

    /// The format that the matrix `name` is quantized to when it is loaded.
    fn format(&self, _name: &str) -> Format {
        Format::AsStored
    }

    /// Where the matrix `name` is kept between uses.
    fn placement(&self, _name: &str) -> Placement {
        Placement::Device
    }
}
