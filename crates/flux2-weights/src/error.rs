//! What can go wrong between a path and a checked model.

use std::io;
use std::path::PathBuf;

use flux2_base::{Cancelled, ErrorKind, Part, Remedy};

use crate::convert::ConvertProblem;
use crate::json::ConfigProblem;
use crate::lora::LoraProblem;
use crate::mismatch::Mismatch;
use crate::preview_decoder::PreviewDecoderProblem;
use crate::tensor_file::FileProblem;
use crate::upscaler::UpscalerProblem;

/// Result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why files are not a model that can be loaded, or could not be converted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    // ---- what is there ----
    /// The path of the model leads nowhere.
    #[error("no model at {}", path.display())]
    ModelMissing {
        /// The path that was named.
        path: PathBuf,
    },
    /// A file or folder that the model is made of does not exist.
    #[error("no {what} at {}", path.display())]
    PartMissing {
        /// What the file or folder would be.
        what: &'static str,
        /// Where it should be.
        path: PathBuf,
    },
    /// The model is a single file without another network, which is not named either.
    #[error("{} holds no {part}, and none is named", path.display())]
    PartNotGiven {
        /// Path of the file.
        path: PathBuf,
        /// The network that is not named.
        part: Part,
    },
    /// A folder that is not laid out as a model.
    #[error("{} is a folder without model_index.json", path.display())]
    NoModelIndex {
        /// Path of the folder.
        path: PathBuf,
    },
    /// A folder that should hold weights and does not.
    #[error("{} holds no .safetensors or .gguf file", path.display())]
    NoWeights {
        /// Path of the folder.
        path: PathBuf,
    },
    /// A checkpoint of something else than was asked for.
    #[error("{} is {found}, not the {wanted}", path.display())]
    WrongPart {
        /// File or folder.
        path: PathBuf,
        /// What it is, with its article.
        found: String,
        /// The network that was asked for.
        wanted: Part,
    },
    /// A separate transformer beside a model that is itself one file with a transformer.
    #[error("{} is a transformer, and so is {}", model.display(), given.display())]
    TwoTransformers {
        /// Path of the model.
        model: PathBuf,
        /// Path of the separate transformer.
        given: PathBuf,
    },

    // ---- what is in it ----
    /// The file is not a complete file of tensors.
    #[error("{}: {problem}", path.display())]
    Checkpoint {
        /// Path of the file.
        path: PathBuf,
        /// What is wrong with it.
        problem: FileProblem,
    },
    /// A configuration is damaged, or asks for what this engine does not do.
    #[error("{}: {problem}", path.display())]
    Config {
        /// Path of the file.
        path: PathBuf,
        /// What is wrong with it.
        problem: ConfigProblem,
    },
    /// Tensors are missing, left over, or of the wrong shape or dtype.
    #[error("{}: {mismatch}", path.display())]
    Tensors {
        /// File or folder.
        path: PathBuf,
        /// All tensors that are wrong.
        mismatch: Box<Mismatch>,
    },
    /// A LoRA cannot be added to the transformer.
    #[error("{}: {problem}", path.display())]
    Lora {
        /// Path of the file.
        path: PathBuf,
        /// What is wrong with it.
        problem: LoraProblem,
    },
    /// A file of tensors that is no upscaler, or none that is supported.
    #[error("{}: {problem}", path.display())]
    Upscaler {
        /// Path of the file.
        path: PathBuf,
        /// What is wrong with it.
        problem: UpscalerProblem,
    },
    /// A file of tensors that is no decoder for previews.
    #[error("{}: {problem}", path.display())]
    PreviewDecoder {
        /// Path of the file.
        path: PathBuf,
        /// What is wrong with it.
        problem: PreviewDecoderProblem,
    },
    /// The scale of a LoRA is infinite or not a number.
    #[error("a LoRA cannot be scaled by {scale}")]
    LoraScale {
        /// The scale that was given.
        scale: f32,
    },
    /// Two shards hold the same tensor.
    #[error("`{name}` is in {} and in {}", first.display(), path.display())]
    TensorTwice {
        /// Name of the tensor.
        name: String,
        /// Path of one shard.
        first: PathBuf,
        /// Path of the other shard.
        path: PathBuf,
    },
    /// The index lists a tensor that its shard does not hold.
    #[error("{} does not hold `{name}`, which its index says it does", path.display())]
    ShardLacks {
        /// Path of the shard.
        path: PathBuf,
        /// Name of the tensor.
        name: String,
    },
    /// The parts belong to different models.
    #[error("the transformer reads {reads} features from the {part}, which makes {makes}")]
    PartsDisagree {
        /// The part that does not fit the transformer.
        part: Part,
        /// Features that the transformer reads.
        reads: usize,
        /// Features that the part makes.
        makes: usize,
    },
    /// The file is no longer the one that was checked.
    #[error("{} has changed since it was opened", path.display())]
    FileChanged {
        /// Path of the file.
        path: PathBuf,
    },
    /// A network asks for a tensor that its configuration does not list.
    #[error("there is no weight named `{name}`")]
    UnknownWeight {
        /// Canonical name.
        name: String,
    },
    /// No member of the family has this name.
    #[error("unknown variant `{name}`")]
    UnknownVariant {
        /// The name that was given.
        name: String,
        /// The most similar name of a member, if one is similar.
        nearest: Option<&'static str>,
    },
    /// The transformer does not have the sizes of the variant that was named.
    #[error("the transformer has {found}; {variant} has {expected}")]
    VariantSize {
        /// Name of the variant.
        variant: &'static str,
        /// Sizes of the file.
        found: String,
        /// Sizes of the variant.
        expected: String,
    },

    // ---- the work ----
    /// A conversion that cannot be made.
    #[error("{0}")]
    Convert(ConvertProblem),
    /// Stopped by the [`CancelToken`](flux2_base::CancelToken).
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
    /// A tensor could not be built or encoded.
    #[error(transparent)]
    Backend(#[from] flux2_backend::Error),
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

impl Error {
    /// The kind of the error, for exit codes and statuses.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::ModelMissing { .. }
            | Error::PartMissing { .. }
            | Error::PartNotGiven { .. }
            | Error::NoModelIndex { .. }
            | Error::NoWeights { .. } => ErrorKind::ModelMissing,
            Error::LoraScale { .. }
            | Error::UnknownVariant { .. }
            | Error::VariantSize { .. }
            | Error::TwoTransformers { .. } => ErrorKind::Usage,
            Error::Convert(ConvertProblem::DiskFull { .. } | ConvertProblem::Busy { .. }) => ErrorKind::Failure,
            Error::Convert(_) => ErrorKind::Usage,
            Error::Cancelled(_) => ErrorKind::Cancelled,
            Error::Backend(flux2_backend::Error::OutOfMemory { .. } | flux2_backend::Error::NoThreads { .. }) => {
                ErrorKind::OutOfMemory
            }
            _ => ErrorKind::Failure,
        }
    }

    /// What the caller can do about it.
    pub fn remedy(&self) -> Option<Remedy> {
        Some(match self {
            Error::ModelMissing { .. } => Remedy::NameModel,
            Error::PartMissing { .. } | Error::NoWeights { .. } | Error::ShardLacks { .. } => {
                Remedy::advice("download the model again, or correct the path")
            }
            Error::PartNotGiven { part, .. } => Remedy::GivePart(*part),
            Error::NoModelIndex { .. } => {
                Remedy::advice("pass the folder that holds model_index.json, or one .safetensors or .gguf file")
            }
            Error::WrongPart { wanted, .. } => Remedy::ReplacePart(*wanted),
            Error::TwoTransformers { .. } => Remedy::NameModelFolder,
            Error::Checkpoint { problem, .. } => problem.remedy(),
            Error::Config { problem, .. } => problem.remedy(),
            Error::Tensors { .. } => Remedy::advice(
                "pass a file that belongs to the model, \
                 in a dtype of f32, f16, bf16, f8_e4m3, i8 or GGML's q4_0 to q6_k",
            ),
            Error::Lora { problem, .. } => problem.remedy(),
            Error::Upscaler { problem, .. } => problem.remedy(),
            Error::PreviewDecoder { problem, .. } => problem.remedy(),
            Error::LoraScale { .. } => Remedy::ScaleLoraFinitely,
            Error::TensorTwice { .. } => Remedy::advice("keep one of the two files in the folder"),
            Error::PartsDisagree { part, .. } => {
                Remedy::advice(format!("pass the {part} this transformer was trained with"))
            }
            Error::FileChanged { .. } => Remedy::advice("run it again once the file is complete"),
            Error::UnknownVariant { nearest, .. } => Remedy::UseVariant { nearest: *nearest },
            Error::VariantSize { .. } => Remedy::CorrectVariant,
            Error::Convert(problem) => problem.remedy(),
            Error::Backend(flux2_backend::Error::OutOfMemory { .. }) => Remedy::ReduceMemory,
            Error::Backend(flux2_backend::Error::NoThreads { .. }) => Remedy::too_few_threads(),
            Error::Io { source, .. } => return Remedy::for_io(source.kind()),
            Error::UnknownWeight { .. } | Error::Cancelled(_) | Error::Backend(_) => return None,
        })
    }
}
