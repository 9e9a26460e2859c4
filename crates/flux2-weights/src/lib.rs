//! Checkpoints: from a path somebody typed, or bytes in the program, to tensors under names models know.
//!
//! ```text
//! ModelPaths ─▶ ModelFiles::open ─▶ Component { config, plan } ─▶ map() ─▶ WeightSource::tensor("double.0.img.qkv")
//! ```
//!
//! | file | holds |
//! |---|---|
//! | `location` | where files are: on disk, or in a table of bytes in the program |
//! | `tensor_file` | one file of tensors: which container it is, its header checked, its bytes mapped |
//! | `safetensors`, `gguf` | the two containers |
//! | `layout` | the two naming schemes as tables of rules, and how to tell them apart |
//! | `config` | sizes, from `config.json` or tensor shapes; the tensors they imply |
//! | `component` | one network: its shards, checked against its configuration |
//! | `json` | JSON files, hostile as the others |
//! | `inspect` | what a file or folder is, for people who wonder |
//! | `mismatch` | what a file lacks or has too much, with the nearest names |
//! | `model_files` | the whole model, its parts checked against each other |
//! | `lora` | corrections that are added to the transformer's matrices when it is loaded |
//! | `quantize` | which weights are rounded when they are loaded or converted |
//! | `convert` | a model in another number format, as files |
//! | `variant`, `sizes` | the members of the family; the sizes they are published in |
//! | `synthetic` | a model in no file: the sizes of a member of the family, random values |
//!
//! Files are hostile until [`ModelFiles::open`] has returned; after that nobody checks again.

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
mod quantize;
mod safetensors;
mod sizes;
pub mod synthetic;
mod tensor_file;
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
pub use lora::{Lora, LoraPath, LoraProblem, WithLoras};
pub use mismatch::{Mismatch, WrongShape};
pub use model_files::{ModelFiles, ModelPaths};
pub use quantize::Precision;
pub use tensor_file::FileProblem;
pub use variant::Variant;

/// Longest JSON file that is read: an index of shards is about 100 kB.
const MAX_INDEX_BYTES: u64 = 16 << 20;

/// Where a model gets its weights, by canonical name.
///
/// Transformer: `img_in`, `txt_in`, `time_in.{0|1}`, `modulation.{img|txt|single}`,
/// `double.{i}.{img|txt}.{qkv|q_norm|k_norm|proj|mlp_in|mlp_out}`, `single.{i}.{qkv_mlp|q_norm|k_norm|out}`,
/// `final.{modulation|proj}`. Text encoder: `embed`,
/// `layer.{i}.{attn_norm|q|k|v|q_norm|k_norm|o|mlp_norm|gate|up|down}`. VAE: the names in
/// [`VaeConfig::expected_tensors`], with `.weight` and `.bias`.
pub trait WeightSource {
    /// The tensor `name`, in canonical form and as it is stored: its values are decoded where they are used.
    ///
    /// # Errors
    /// [`Error::UnknownWeight`] if there is none of that name.
    fn tensor(&self, name: &str) -> Result<HostTensor>;

    /// What becomes of the matrix `name` when it is loaded.
    fn format(&self, _name: &str) -> Format {
        Format::AsStored
    }

    /// Where matrices are to be between their uses.
    fn placement(&self) -> Placement {
        Placement::Device
    }
}
