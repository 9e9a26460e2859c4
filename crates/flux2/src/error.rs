//! Everything that can go wrong, as values. The message says what happened; [`Error::remedy`] what to do about it.

use std::path::PathBuf;

use flux2_base::units::Memory;
use flux2_base::{Cancelled, ErrorKind, Remedy};

use crate::device::Device;
use crate::event::Phase;
use crate::weights::convert::ConvertProblem;
use crate::weights::{ConfigProblem, FileProblem, LoraProblem, Mismatch, Part};

/// Result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a run did not come to a picture.
///
/// The message says what happened and names the value. What to do about it is data, [`remedy`](Error::remedy): a terminal
/// words it with flags, a server with fields.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    // ---- the request ----
    /// A width or height off the grid.
    #[error("{axis} {px} is not a multiple of {multiple}")]
    SizeGrid {
        /// `width` or `height`.
        axis: &'static str,
        /// What was asked for.
        px: u32,
        /// What it must divide by.
        multiple: u32,
    },
    /// A width or height too small or too large.
    #[error("{axis} {px} is outside {min} to {max}")]
    SizeRange {
        /// `width` or `height`.
        axis: &'static str,
        /// What was asked for.
        px: u32,
        /// Smallest allowed.
        min: u32,
        /// Largest allowed.
        max: u32,
    },
    /// A number of steps that makes no schedule.
    #[error("{steps} steps: the schedule needs 1 to {max}")]
    Steps {
        /// What was asked for.
        steps: u32,
        /// Largest allowed.
        max: u32,
    },
    /// A guidance scale that is not a number from 0 to 100.
    #[error("guidance {guidance} is outside 0 to 100")]
    Guidance {
        /// What was asked for.
        guidance: f32,
    },
    /// More reference images than the model is given.
    #[error("{count} reference images, at most {max} are allowed")]
    ReferenceCount {
        /// How many there were.
        count: usize,
        /// How many may be.
        max: usize,
    },
    /// The scale of a LoRA that is no number.
    #[error("a LoRA cannot be scaled by {scale}")]
    LoraScale {
        /// What was asked for.
        scale: f32,
    },

    // ---- weights ----
    /// There is nothing at the model's path.
    #[error("no model at {}", path.display())]
    ModelMissing {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// A file or folder the model is made of is not there.
    #[error("no {what} at {}", path.display())]
    PartMissing {
        /// What it would have been.
        what: &'static str,
        /// Where it was looked for.
        path: PathBuf,
    },
    /// A single file holds one network and the others were not named.
    #[error("{} holds only the transformer, the {part} is not named", path.display())]
    PartNotGiven {
        /// The file.
        path: PathBuf,
        /// What is not named.
        part: Part,
    },
    /// A folder that is not laid out as a model.
    #[error("{} is a folder without model_index.json", path.display())]
    NoModelIndex {
        /// The folder.
        path: PathBuf,
    },
    /// A folder that should hold weights and does not.
    #[error("{} holds no .safetensors or .gguf file", path.display())]
    NoWeights {
        /// The folder.
        path: PathBuf,
    },
    /// A checkpoint of something else than was asked for.
    #[error("{} is {found}, not the {wanted}", path.display())]
    WrongPart {
        /// File or folder.
        path: PathBuf,
        /// What it is.
        found: String,
        /// What was asked for.
        wanted: Part,
    },
    /// A conversion that cannot be made.
    #[error("{0}")]
    Convert(ConvertProblem),
    /// A transformer beside a model that is one.
    #[error("{} is a transformer, and so is {}", model.display(), given.display())]
    TwoTransformers {
        /// The model.
        model: PathBuf,
        /// The other.
        given: PathBuf,
    },
    /// Not a whole file of tensors.
    #[error("{}: {problem}", path.display())]
    Checkpoint {
        /// File.
        path: PathBuf,
        /// What is wrong with it.
        problem: FileProblem,
    },
    /// A configuration that is damaged, or asks for what this engine does not do.
    #[error("{}: {problem}", path.display())]
    Config {
        /// File.
        path: PathBuf,
        /// What is wrong with it.
        problem: ConfigProblem,
    },
    /// Tensors missing, left over, or of the wrong shape.
    #[error("{}: {mismatch}", path.display())]
    Tensors {
        /// File or folder.
        path: PathBuf,
        /// Which.
        mismatch: Box<Mismatch>,
    },
    /// A LoRA that cannot be added to the transformer.
    #[error("{}: {problem}", path.display())]
    Lora {
        /// File.
        path: PathBuf,
        /// What is wrong with it.
        problem: LoraProblem,
    },
    /// Two shards with the same tensor.
    #[error("`{name}` is in {} and in {}", first.display(), path.display())]
    TensorTwice {
        /// Tensor.
        name: String,
        /// Shard.
        first: PathBuf,
        /// The other shard.
        path: PathBuf,
    },
    /// The index promises a tensor its shard does not have.
    #[error("{} does not hold `{name}`, which its index says it does", path.display())]
    ShardLacks {
        /// Shard.
        path: PathBuf,
        /// Tensor.
        name: String,
    },
    /// A stage met the end of memory, and nothing is left to be given up for it.
    #[error("memory does not suffice ({}): there is no room for a buffer of {}, and nothing is left to be given up", .stage.name(), Memory(*.bytes))]
    NoMemory {
        /// The stage.
        stage: Phase,
        /// Bytes of the buffer that there was no room for.
        bytes: usize,
    },
    /// However few weights are kept, the run needs more memory than it may take.
    #[error(
        "this run needs at least {} of memory ({}), and may take {}",
        Memory(*.least), .stage.name(), Memory(*.limit)
    )]
    MemoryLimit {
        /// Bytes it may take.
        limit: usize,
        /// Bytes it needs.
        least: usize,
        /// The stage that needs them.
        stage: Phase,
    },
    /// Parts of different models.
    #[error("the transformer reads {reads} features from the {part}, which makes {makes}")]
    PartsDisagree {
        /// The part that does not fit.
        part: Part,
        /// Features the transformer reads.
        reads: usize,
        /// Features the part makes.
        makes: usize,
    },
    /// A file is not the one that was checked.
    #[error("{} has changed since it was opened", path.display())]
    FileChanged {
        /// File.
        path: PathBuf,
    },
    /// A model asks for a tensor its configuration does not list.
    #[error("there is no weight named `{name}`")]
    UnknownWeight {
        /// Canonical name.
        name: String,
    },
    /// A name that is no member of the family.
    #[error("unknown variant `{name}`")]
    UnknownVariant {
        /// What was asked for.
        name: String,
        /// The most similar name there is.
        nearest: Option<&'static str>,
    },
    /// The transformer is not the size of the variant that was named.
    #[error("the transformer has {found}; {variant} has {expected}")]
    VariantSize {
        /// Variant that was named.
        variant: &'static str,
        /// Sizes of the file.
        found: String,
        /// Sizes of the variant.
        expected: String,
    },

    // ---- the hub ----
    /// Files could not be downloaded from the hub.
    #[cfg(feature = "hub")]
    #[error(transparent)]
    Hub(flux2_hub::Error),

    // ---- images ----
    /// The bytes are not of a picture format that is read.
    #[error("{what} is {found}, not a PNG, JPEG or WebP picture")]
    ImageFormat {
        /// Which input: a file name or its place in a request.
        what: String,
        /// What the first bytes look like, with its article.
        found: &'static str,
    },
    /// A picture that is cut short, broken or of an unsupported kind.
    #[error("{what}: cannot decode the {format}: {reason}")]
    ImageDecode {
        /// Which input.
        what: String,
        /// `PNG`, `JPEG` or `WebP`.
        format: &'static str,
        /// What the decoder says.
        reason: String,
    },
    /// A picture that moves.
    #[error("{what} is an animated {format}")]
    ImageAnimated {
        /// Which input.
        what: String,
        /// `PNG` or `WebP`.
        format: &'static str,
    },
    /// A picture with more pixels than are decoded.
    #[error("{what} is {width}x{height} pixels; at most {max_side} a side and {max_pixels} in all are read")]
    ImageTooLarge {
        /// Which input.
        what: String,
        /// Its width.
        width: u32,
        /// Its height.
        height: u32,
        /// Longest side allowed.
        max_side: u32,
        /// Most pixels allowed.
        max_pixels: u64,
    },
    /// An image file with more bytes than are read.
    #[error("{}: {bytes} bytes; image files of at most {max} bytes are read", path.display())]
    ImageFileTooLarge {
        /// Which.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// Largest allowed.
        max: u64,
    },
    /// A reference image with too short a side.
    #[error("a reference image is {width}x{height} pixels; both sides must be at least {min}")]
    ImageTooSmall {
        /// Its width.
        width: u32,
        /// Its height.
        height: u32,
        /// Shortest side allowed.
        min: u32,
    },
    /// A reference image that is too long for its width, or the reverse.
    #[error("a reference image is {width}x{height} pixels; one side may be at most {max} times the other")]
    ImageAspect {
        /// Its width.
        width: u32,
        /// Its height.
        height: u32,
        /// Largest ratio allowed.
        max: u32,
    },
    /// Pixels that do not fill the size they are said to have.
    #[error("{len} values for {width}x{height} RGB pixels")]
    ImageBuffer {
        /// The width.
        width: u32,
        /// The height.
        height: u32,
        /// How many values there were.
        len: usize,
    },
    /// The parameters stored in a picture of ours do not read.
    #[error("the parameters stored in the picture cannot be read: {reason}")]
    ImageParameters {
        /// Why.
        reason: String,
    },
    /// A picture that could not be written in the format asked for.
    #[error("cannot encode the {format}: {reason}")]
    ImageEncode {
        /// `PNG`, `JPEG` or `WebP`.
        format: &'static str,
        /// What the encoder says.
        reason: String,
    },
    /// More parameters than the format has room for.
    #[error("the prompt and parameters take {bytes} bytes; a JPEG holds {max}")]
    ImageParametersTooLong {
        /// What they take.
        bytes: usize,
        /// What there is room for.
        max: usize,
    },
    /// An output name that does not say which format is meant.
    #[error("{}: {}", path.display(), match path.extension() {
        Some(extension) => format!("no picture format is called `{}`", extension.display()),
        None => "the name has no extension".into(),
    })]
    UnknownExtension {
        /// The name.
        path: PathBuf,
    },
    /// A file that must not be replaced.
    #[error("{} exists", path.display())]
    OutputExists {
        /// Which.
        path: PathBuf,
    },

    // ---- text ----
    /// A tokenizer with more ids than the text encoder has embeddings.
    #[error("the tokenizer gives ids up to {highest}, the text encoder has embeddings for {rows}")]
    TokenizerVocabulary {
        /// Largest id.
        highest: usize,
        /// Rows of the embedding table.
        rows: usize,
    },
    /// A tokenizer.json too large to be one.
    #[error("{}: larger than {max_bytes} bytes", path.display())]
    TokenizerTooLarge {
        /// Which.
        path: PathBuf,
        /// Largest allowed.
        max_bytes: u64,
    },
    /// A file that is not a tokenizer.json with a BPE model.
    #[error("{}: not a tokenizer.json: {source}", path.display())]
    TokenizerJson {
        /// Which.
        path: PathBuf,
        /// Where it stops being one.
        source: serde_json::Error,
    },
    /// A tokenizer.json that splits text unlike the tokenizer of Qwen3.
    #[error("{}: not the tokenizer of Qwen3: {part}: expected {expected}", path.display())]
    TokenizerRule {
        /// Which.
        path: PathBuf,
        /// The part of the file that differs.
        part: &'static str,
        /// What that part is in Qwen3.
        expected: &'static str,
    },
    /// A tokenizer.json without a token that it needs, or with another number for it.
    #[error("{}: token {token:?} is missing or misnumbered", path.display())]
    TokenizerToken {
        /// Which.
        path: PathBuf,
        /// The token.
        token: String,
    },

    // ---- the run ----
    /// The device asked for is not there.
    #[error("no device `{device}`: {reason}")]
    Device {
        /// What was asked for.
        device: Device,
        /// Why it cannot be had.
        reason: String,
        /// What would help, if it is known.
        remedy: Option<Remedy>,
    },
    /// The run was stopped by its [`CancelToken`](crate::CancelToken).
    #[error("cancelled")]
    Cancelled,
    /// The picture came out as infinities or no numbers at all.
    #[error("the picture has values that are not numbers: the weights or the number format overflow")]
    NotFinite,
    /// An op refused: memory is short, or a model was put together wrongly.
    #[error(transparent)]
    Backend(#[from] flux2_backend::Error),
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl From<Cancelled> for Error {
    fn from(_: Cancelled) -> Self {
        Error::Cancelled
    }
}

/// What every crate can meet becomes the same error here.
#[cfg(feature = "hub")]
impl From<flux2_hub::Error> for Error {
    fn from(error: flux2_hub::Error) -> Self {
        match error {
            flux2_hub::Error::Cancelled(cancelled) => cancelled.into(),
            flux2_hub::Error::Io { path, source } => Error::Io { path, source },
            error => Error::Hub(error),
        }
    }
}

impl Error {
    /// Which kind of trouble this is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::SizeGrid { .. }
            | Error::SizeRange { .. }
            | Error::Steps { .. }
            | Error::Guidance { .. }
            | Error::ReferenceCount { .. }
            | Error::LoraScale { .. } => ErrorKind::Usage,
            Error::UnknownVariant { .. } | Error::VariantSize { .. } | Error::TwoTransformers { .. } => {
                ErrorKind::Usage
            }
            Error::ModelMissing { .. } | Error::PartMissing { .. } | Error::PartNotGiven { .. } => {
                ErrorKind::ModelMissing
            }
            Error::NoModelIndex { .. } | Error::NoWeights { .. } => ErrorKind::ModelMissing,
            Error::UnknownExtension { .. } | Error::OutputExists { .. } | Error::ImageParametersTooLong { .. } => {
                ErrorKind::Usage
            }
            Error::ImageFormat { .. }
            | Error::ImageDecode { .. }
            | Error::ImageAnimated { .. }
            | Error::ImageTooLarge { .. }
            | Error::ImageFileTooLarge { .. }
            | Error::ImageTooSmall { .. }
            | Error::ImageAspect { .. }
            | Error::ImageParameters { .. } => ErrorKind::BadImage,
            #[cfg(feature = "hub")]
            Error::Hub(error) => error.kind(),
            Error::Convert(ConvertProblem::DiskFull { .. } | ConvertProblem::Busy { .. }) => ErrorKind::Failure,
            Error::Convert(_) => ErrorKind::Usage,
            Error::Cancelled => ErrorKind::Cancelled,
            Error::Backend(flux2_backend::Error::OutOfMemory { .. })
            | Error::NoMemory { .. }
            | Error::MemoryLimit { .. } => ErrorKind::OutOfMemory,
            _ => ErrorKind::Failure,
        }
    }

    /// What the caller can do about it, as data: each front end has its own words for it.
    pub fn remedy(&self) -> Option<Remedy> {
        Some(match self {
            Error::SizeGrid { axis, px, multiple } => {
                let low = px / multiple * multiple;
                Remedy::ChooseSize { axis, low, high: low + multiple }
            }
            Error::SizeRange { axis, px, min, max } => {
                let nearest = *if px < min { min } else { max };
                Remedy::ChooseSize { axis, low: nearest, high: nearest }
            }
            Error::NotFinite => Remedy::ComputeInF32,
            Error::Device { remedy, .. } => remedy.clone().unwrap_or(Remedy::ChooseDevice),
            Error::Steps { .. } => Remedy::UseDefaultSteps,
            Error::Guidance { .. } => Remedy::UseDefaultGuidance,
            Error::ReferenceCount { max, .. } => Remedy::advice(format!("pass at most {max} images")),
            Error::LoraScale { .. } => Remedy::ScaleLoraFinitely,
            Error::Lora { problem, .. } => problem.remedy(),
            Error::ModelMissing { .. } => Remedy::NameModel,
            Error::PartMissing { .. } | Error::NoWeights { .. } | Error::ShardLacks { .. } => {
                Remedy::advice("download the model again, or correct the path")
            }
            Error::PartNotGiven { part, .. } => Remedy::GivePart(*part),
            Error::NoModelIndex { .. } => {
                Remedy::advice("pass the folder that holds model_index.json, or one .safetensors or .gguf file")
            }
            Error::WrongPart { wanted, .. } => Remedy::ReplacePart(*wanted),
            Error::Convert(problem) => problem.remedy(),
            Error::TwoTransformers { .. } => Remedy::NameModelFolder,
            Error::Checkpoint { problem, .. } => problem.remedy(),
            Error::Config { problem, .. } => problem.remedy(),
            Error::Tensors { .. } => Remedy::advice(
                "pass a file that belongs to the model, in a dtype of f32, f16, bf16, f8_e4m3, i8 or GGML's q4_0 to q6_k",
            ),
            Error::TensorTwice { .. } => Remedy::advice("keep one of the two files in the folder"),
            Error::PartsDisagree { part, .. } => {
                Remedy::advice(format!("pass the {part} this transformer was trained with"))
            }
            Error::FileChanged { .. } => Remedy::advice("run it again once the file is complete"),
            Error::UnknownVariant { nearest, .. } => Remedy::UseVariant { nearest: *nearest },
            Error::VariantSize { .. } => Remedy::CorrectVariant,
            #[cfg(feature = "hub")]
            Error::Hub(error) => return error.remedy(),
            Error::ImageFormat { .. } => Remedy::advice("convert it to PNG, JPEG or WebP"),
            Error::ImageDecode { .. } => Remedy::advice("open it in an image editor and save it again, as PNG"),
            Error::ImageAnimated { .. } => Remedy::advice("save one frame of it as a still picture"),
            Error::ImageTooLarge { .. } => {
                Remedy::advice("shrink it: the model sees about a million pixels of a reference image")
            }
            Error::ImageFileTooLarge { .. } => Remedy::advice("save it smaller, or as JPEG"),
            Error::ImageTooSmall { min, .. } => Remedy::advice(format!("enlarge it to at least {min} pixels a side")),
            Error::ImageAspect { .. } => Remedy::advice("crop it"),
            Error::ImageParameters { .. } => Remedy::advice("pass a picture as it was written, not edited since"),
            Error::ImageParametersTooLong { .. } => Remedy::OmitParameters,
            Error::UnknownExtension { .. } => Remedy::advice("end the name in .png, .jpg, .jpeg or .webp"),
            Error::OutputExists { .. } => Remedy::OverwritePicture,
            Error::TokenizerVocabulary { .. } => {
                Remedy::advice("put the tokenizer/ folder that belongs to the text encoder beside the model")
            }
            Error::TokenizerTooLarge { .. }
            | Error::TokenizerJson { .. }
            | Error::TokenizerRule { .. }
            | Error::TokenizerToken { .. } => Remedy::advice("use the tokenizer.json that Qwen3 was published with"),
            Error::Backend(flux2_backend::Error::OutOfMemory { .. }) => Remedy::ReduceMemory,
            Error::NoMemory { .. } => Remedy::advice(
                "ask for a smaller picture or fewer reference images, or end other programs that use the memory",
            ),
            Error::MemoryLimit { .. } => Remedy::AllowMemory,
            Error::Io { source, .. } => return Remedy::for_io(source.kind()),
            _ => return None,
        })
    }
}
