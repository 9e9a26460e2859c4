//! Why a file cannot be added to a model, and what would help.

use flux2_base::Remedy;

use crate::mismatch::Mismatch;
use crate::tensor_file::Printable;

/// Why a file cannot be added to a model.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum LoraProblem {
    /// The file holds no tensors.
    #[error("holds no tensors")]
    Empty,
    /// A folder without a file of tensors.
    #[error("is a folder without a .safetensors file")]
    EmptyFolder,
    /// A folder of several files, none of which has the name that PEFT gives an adapter.
    #[error("is a folder of {count} .safetensors files, none of them adapter_model.safetensors")]
    SeveralFiles {
        /// Number of files.
        count: usize,
    },
    /// A factor holds an infinity or a NaN, which would spread over the whole picture.
    #[error("the LoRA is damaged: `{}` holds values that are infinite or not a number", Printable(name))]
    NotFinite {
        /// Name of the tensor.
        name: String,
    },
    /// LoRAs are read from safetensors files only.
    #[error("is a GGUF file, and LoRAs are read from safetensors files")]
    Gguf,
    /// Tensors of another kind of adapter, or for another network.
    #[error("`{}` belongs to {what}, which is not supported", Printable(name))]
    Unsupported {
        /// Name of such a tensor.
        name: String,
        /// What the tensor belongs to, with its article.
        what: &'static str,
    },
    /// A LoRA for a model of another architecture.
    #[error("looks like a LoRA for {family}: {mismatch}")]
    OtherFamily {
        /// Name of the architecture.
        family: &'static str,
        /// Tensors without a target.
        mismatch: Box<Mismatch>,
    },
    /// A LoRA for a model of another size.
    #[error("is a LoRA for {made_for}, of width {width}; this transformer has width {expected}")]
    OtherSize {
        /// A model that it fits.
        made_for: &'static str,
        /// Width of that model.
        width: usize,
        /// Width of the transformer it should be added to.
        expected: usize,
    },
    /// Tensors without a target, single factors, wrong shapes and element types; all of them.
    #[error("{0}")]
    Tensors(Box<Mismatch>),
    /// One factor occurs under two names.
    #[error("`{}` and `{}` are the same", Printable(first), Printable(second))]
    Twice {
        /// Its first name.
        first: String,
        /// Its second name.
        second: String,
    },
    /// The scale times alpha divided by the rank is not finite.
    #[error("`{}` would be multiplied by {factor}", Printable(module))]
    Factor {
        /// Name of the module.
        module: String,
        /// `scale · alpha / rank`.
        factor: f32,
    },
    /// The adapter's configuration in the metadata is not valid.
    #[error("its {what} cannot be read: {}", Printable(message))]
    Metadata {
        /// Which text: metadata of the file, or `adapter_config.json`.
        what: &'static str,
        /// What is wrong with it.
        message: String,
    },
    /// The configuration declares another rank than the tensors have.
    #[error("its configuration gives `{}` rank {declared}, its tensors have rank {found}", Printable(module))]
    Rank {
        /// Name of the module.
        module: String,
        /// Rank in the configuration.
        declared: u64,
        /// Rank of the tensors.
        found: usize,
    },
}

impl LoraProblem {
    pub(crate) fn remedy(&self) -> Remedy {
        Remedy::advice(match self {
            LoraProblem::Unsupported { .. } => "pass a LoRA, LoHa or LoKr of the transformer",
            LoraProblem::Gguf => "pass the LoRA as a .safetensors file",
            LoraProblem::Tensors(_) => "pass a LoRA made for this model, in f32, f16, bf16 or f8_e4m3",
            LoraProblem::OtherFamily { .. } | LoraProblem::OtherSize { .. } => return Remedy::MatchLora,
            LoraProblem::Factor { .. } => "use a smaller scale, or download the file again",
            LoraProblem::EmptyFolder | LoraProblem::SeveralFiles { .. } => "pass the .safetensors file of the LoRA",
            LoraProblem::Empty
            | LoraProblem::NotFinite { .. }
            | LoraProblem::Twice { .. }
            | LoraProblem::Metadata { .. }
            | LoraProblem::Rank { .. } => "download the file again from a source you trust: it is damaged",
        })
    }
}
