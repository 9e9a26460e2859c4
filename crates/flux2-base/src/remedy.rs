//! What would help after an error ([`Remedy`]), and which kind of error it was ([`ErrorKind`]).
//!
//! Library errors say what happened and return a remedy as data. Each front end words it in its own terms: the command
//! line names a flag, a server a field, a page a button. [`Display`](fmt::Display) is a neutral sentence for programs
//! that use the library directly.

use std::borrow::Cow;
use std::fmt;
use std::io;

use crate::part::Part;
use crate::units::Memory;

/// The kind of an error. A command line turns it into an exit code, a server into a status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// No model can do what was asked for.
    Usage,
    /// Files of the model are missing.
    ModelMissing,
    /// The hub does not give the model's files to this account.
    Access,
    /// Out of memory, on the host or on a GPU.
    OutOfMemory,
    /// A reference image cannot be used.
    BadImage,
    /// Stopped on request.
    Cancelled,
    /// Everything else: a broken checkpoint, a failing disk.
    Failure,
}

/// What the caller can do about an error or a warning.
///
/// Exhaustive on purpose: a new remedy does not compile until every front end has words for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// One imperative sentence that holds in every front end.
    Advice(Cow<'static, str>),

    // ---- the request ----
    /// Ask for a width or height that is allowed.
    ChooseSize {
        /// `width` or `height`.
        axis: &'static str,
        /// The nearest allowed size in pixels; the lower one of two.
        low: u32,
        /// The higher one of two; equal to `low` if there is only one.
        high: u32,
    },
    /// Leave the number of steps to the model.
    UseDefaultSteps,
    /// The number given as steps was probably meant as the seed.
    UseAsSeed(u32),
    /// Leave the guidance scale to the model.
    UseDefaultGuidance,
    /// Give the LoRA a finite scale.
    ScaleLoraFinitely,
    /// Allow an existing picture to be overwritten, or choose another name.
    OverwritePicture,
    /// Store no parameters in the picture, or choose a format with more room.
    OmitParameters,
    /// Store the parameters in the picture, and with them that a model drew it.
    KeepParameters,
    /// Put a watermark into the picture.
    AddWatermark,
    /// Sign the picture with a key and a certificate, so that it names what it was made from.
    SignPicture,
    /// List what the model knows.
    ListVocabulary,

    // ---- the device ----
    /// Use the processor, or let the program choose the device.
    ChooseDevice,
    /// Look up which GPUs there are and their numbers.
    ListDevices,
    /// Compute in single precision, or check the model's files.
    ComputeInF32,
    /// Quantize to int8 or compute in bf16; this GPU has no fp8 products.
    UseInt8OrBf16,
    /// Quantize to int8: fp8 products exist on GPUs only.
    UseInt8OnProcessor,
    /// Make the request smaller, or compute in bf16.
    ReduceMemory,
    /// Make the request smaller, or raise the memory limit.
    AllowMemory,
    /// Allow weights to be quantized, or what [`AllowMemory`](Self::AllowMemory) says.
    AllowQuantizing {
        /// Number formats with which the request keeps to its memory limit, and the bytes it takes then.
        formats: Vec<(String, usize)>,
    },

    // ---- the model ----
    /// Name a model: a folder, or its transformer as a file.
    NameModel,
    /// Name the folder of a whole model, or only one of two transformers.
    NameModelFolder,
    /// Name the file of a network that a single file does not hold.
    GivePart(Part),
    /// Name a file that holds this network.
    ReplacePart(Part),
    /// Pass a LoRA of this model, or the model of this LoRA.
    MatchLora,
    /// Name a variant that exists.
    UseVariant {
        /// The most similar name, if one is similar.
        nearest: Option<&'static str>,
    },
    /// Name no variant, or the one that the file is.
    CorrectVariant,
    /// Allow the output of a conversion to be replaced, or choose another place.
    ReplaceConverted,
    /// Convert the autoencoder to bf16, the only format it is converted to.
    ConvertVaeToBf16,

    // ---- the hub ----
    /// Allow the use of the network.
    GoOnline,
    /// Check network, endpoint and proxies.
    CheckNetwork,
    /// Check the endpoint, and whether a login page answers in its place.
    CheckEndpoint,
    /// Correct the name of the repository, or pass a token if it is private.
    CorrectRepository,
    /// Accept a license and pass a token.
    AcceptLicense {
        /// URL of the page where the license is accepted.
        page: String,
        /// URL of the page where tokens are made; `None` if a token was sent.
        tokens_page: Option<String>,
    },
    /// Pass a token that the hub knows, or none.
    ReplaceToken,
    /// Free disk space, or move the cache to another disk.
    MoveCache,
}

impl Remedy {
    /// After the system has started no thread.
    pub fn too_few_threads() -> Self {
        Remedy::advice("end other programs, or raise the limits on processes and on memory")
    }

    /// Advice that holds in every front end: `sentence` must name no flag, variable or field.
    pub fn advice(sentence: impl Into<Cow<'static, str>>) -> Self {
        Remedy::Advice(sentence.into())
    }

    /// What a request takes with each of the formats of [`AllowQuantizing`](Self::AllowQuantizing), as part of a
    /// sentence.
    pub fn needs_of_formats(formats: &[(String, usize)]) -> String {
        let needs: Vec<String> =
            formats.iter().map(|(name, bytes)| format!("{} as {name}", Memory(*bytes).rounded_up())).collect();
        needs.join(", ")
    }

    /// What helps where a file could not be read or written; `None` where the system's message says it all.
    pub fn for_io(kind: io::ErrorKind) -> Option<Self> {
        Some(Remedy::advice(match kind {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory => "correct the path",
            io::ErrorKind::InvalidInput => "name a file, not a device or a pipe",
            io::ErrorKind::PermissionDenied => "change its permissions, or choose another path",
            io::ErrorKind::FileTooLarge => {
                "raise the limit on the size of files, or choose a disk that allows larger ones"
            }
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "free some room on the disk",
            _ => return None,
        }))
    }
}

impl fmt::Display for Remedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Remedy::Advice(sentence) => sentence,
            Remedy::ChooseSize { axis, low, high } if low == high => return write!(f, "use a {axis} of {low}"),
            Remedy::ChooseSize { axis, low, high } => return write!(f, "use a {axis} of {low} or {high}"),
            Remedy::UseDefaultSteps => "leave the steps out for the number the model was made for",
            Remedy::UseAsSeed(seed) => return write!(f, "if you meant the seed, pass {seed} as the seed"),
            Remedy::UseDefaultGuidance => "leave the guidance out for the scale the model was made for",
            Remedy::ScaleLoraFinitely => "use a finite scale, such as 0.8",
            Remedy::OverwritePicture => "choose another name, or allow overwriting",
            Remedy::KeepParameters => "store the parameters, and with them that a model drew it",
            Remedy::AddWatermark => "put a watermark into the picture too",
            Remedy::SignPicture => "sign the picture, which then names what it was made from",
            Remedy::OmitParameters => "shorten it, write a .png, which holds more than a .jpg, or store no parameters",
            Remedy::ListVocabulary => "list what the model knows, and use words of it",
            Remedy::ChooseDevice => "use the device auto or cpu",
            Remedy::ListDevices => "list the GPUs to see their numbers",
            Remedy::ComputeInF32 => "check the files of the model, or compute in f32",
            Remedy::UseInt8OrBf16 => "use int8 or bf16",
            Remedy::UseInt8OnProcessor => "fp8 is for GPUs; on a processor int8 is as small, and fast",
            Remedy::ReduceMemory => "ask for a smaller picture or fewer reference images, or compute in bf16",
            Remedy::AllowMemory => "ask for a smaller picture or fewer reference images, or allow more memory",
            Remedy::AllowQuantizing { formats } => {
                return write!(
                    f,
                    "allow weights to be quantized: it takes {}; or {}",
                    Self::needs_of_formats(formats),
                    Remedy::AllowMemory
                );
            }
            Remedy::NameModel => "name the folder of a FLUX.2 [klein] model or its transformer as a file",
            Remedy::NameModelFolder => "name the folder of the model, or only one of the two",
            Remedy::GivePart(part) => return write!(f, "give the path of the {part}"),
            Remedy::ReplacePart(Part::Transformer) => "pass the transformer of a FLUX.2 [klein] model",
            Remedy::ReplacePart(Part::TextEncoder) => "pass the Qwen3 text encoder",
            Remedy::ReplacePart(Part::Vae) => "pass the FLUX.2 autoencoder",
            Remedy::MatchLora => "pass a LoRA made for this model, or the model it was made for",
            Remedy::UseVariant { nearest: Some(nearest) } => return write!(f, "use {nearest}"),
            Remedy::UseVariant { nearest: None } => {
                "use klein-4b, klein-base-4b, klein-9b, klein-base-9b, klein-9b-kv or klein-mini"
            }
            Remedy::CorrectVariant => "name no variant, or the one the file is",
            Remedy::ReplaceConverted => "name another place, or allow replacing it",
            Remedy::ConvertVaeToBf16 => "use bf16, or leave it as it is: it is a small part of a model",
            Remedy::GoOnline => "allow the use of the network",
            Remedy::CheckNetwork => "check the network, the endpoint and the proxies, then run it again",
            Remedy::CheckEndpoint => "check the endpoint, and whether a login page is in the way",
            Remedy::CorrectRepository => "correct the name; if the repository is private, pass a token",
            Remedy::AcceptLicense { page, tokens_page: Some(tokens) } => {
                return write!(f, "accept the license at {page}, make a token at {tokens} and pass it");
            }
            Remedy::AcceptLicense { page, tokens_page: None } => {
                return write!(
                    f,
                    "accept the license at {page} with the account of the token, and let the token read gated models"
                );
            }
            Remedy::ReplaceToken => {
                "make another on the page of your tokens and pass it, or pass none for what is open to all"
            }
            Remedy::MoveCache => "free some room, or move the cache to another disk",
        })
    }
}
