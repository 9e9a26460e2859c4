//! Of each error: its kind, and what the caller can do about it.

use flux2_base::{ErrorKind, Remedy};

use super::Error;

impl Error {
    /// The kind of the error, for exit codes and statuses.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::SizeGrid { .. }
            | Error::SizeRange { .. }
            | Error::Steps { .. }
            | Error::Guidance { .. }
            | Error::NegativePrompt { .. }
            | Error::ReferenceCount { .. }
            | Error::WatermarkTooSmall { .. }
            | Error::UpscaleFactor { .. }
            | Error::UpscaleSize { .. }
            | Error::SizeOfSource { .. }
            | Error::NoSuchBlock { .. }
            | Error::NothingToRepaint
            | Error::NoTransparency
            | Error::Strength { .. }
            | Error::MaskRange { .. }
            | Error::CanvasTooLarge { .. }
            | Error::NotInDiffusers { .. }
            | Error::UnknownExtension { .. }
            | Error::OutputExists { .. }
            | Error::SheetTooLarge { .. }
            | Error::SizesDiffer { .. }
            | Error::ImageParametersTooLong { .. } => ErrorKind::Usage,
            Error::ImageFormat { .. }
            | Error::ImageDecode { .. }
            | Error::ImageAnimated { .. }
            | Error::ImageTooLarge { .. }
            | Error::ImageFileTooLarge { .. }
            | Error::ImageTooSmall { .. }
            | Error::ImageAspect { .. }
            | Error::SourceTooSmall { .. }
            | Error::SourceProfile
            | Error::MaskSize { .. }
            | Error::ImageParameters { .. } => ErrorKind::BadImage,
            Error::Weights(error) => error.kind(),
            #[cfg(feature = "hub")]
            Error::Hub(error) => error.kind(),
            Error::Cancelled => ErrorKind::Cancelled,
            Error::Backend(flux2_backend::Error::OutOfMemory { .. } | flux2_backend::Error::NoThreads { .. })
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
            Error::Steps { .. } => Remedy::UseDefaultSteps,
            Error::Guidance { .. } => Remedy::UseDefaultGuidance,
            Error::NegativePrompt { .. } => {
                Remedy::advice("say in the prompt what the picture shows, or use a base model, as klein-base-4b")
            }
            Error::ReferenceCount { max, .. } => Remedy::advice(format!("pass at most {max} images")),
            Error::UpscaleFactor { max, .. } => Remedy::advice(format!("use a factor from 1 to {max}, such as 2 or 4")),
            Error::UpscaleSize { .. } => Remedy::advice("ask for a smaller result"),
            Error::SourceTooSmall { min, .. } => {
                Remedy::advice(format!("enlarge it to at least {min} pixels a side, or give it as a reference image"))
            }
            Error::NoSuchBlock { .. } => Remedy::advice("take blocks that it has, or all of them"),
            Error::SizeOfSource { .. } => Remedy::advice("leave the size out, or enlarge the canvas at its sides"),
            Error::MaskSize { .. } => Remedy::advice("make the mask as large as the source, or of the same shape"),
            Error::NothingToRepaint => Remedy::advice("paint what is to change white, or transparent, in the mask"),
            Error::NoTransparency => Remedy::advice("give a mask, or a source with an alpha channel"),
            Error::Strength { .. } => Remedy::advice("use 1 to start from noise, or less to keep more of the source"),
            Error::MaskRange { max, .. } => Remedy::advice(format!("use at most {max}")),
            Error::CanvasTooLarge { .. } => Remedy::advice("add fewer pixels, or shrink the source"),
            Error::SourceProfile => Remedy::advice("convert it to sRGB in an image editor"),
            Error::NotInDiffusers { .. } => Remedy::advice("leave it out, or do not ask for the rules of diffusers"),
            Error::Weights(error) => return error.remedy(),
            #[cfg(feature = "hub")]
            Error::Hub(error) => return error.remedy(),
            Error::NoMemory { .. } => Remedy::advice(
                "ask for a smaller picture or fewer reference images, or end other programs that use the memory",
            ),
            Error::MemoryLimit { formats, .. } if formats.is_empty() => Remedy::AllowMemory,
            Error::MemoryLimit { formats, .. } => Remedy::AllowQuantizing { formats: formats.clone() },
            Error::ImageFormat { how, .. } => Remedy::advice(*how),
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
            Error::WatermarkTooSmall { .. } => Remedy::advice("ask for 256x256 pixels or more, or for no watermark"),
            Error::Credentials { .. } => Remedy::advice(
                "use a key and a chain of certificates, the signer's first, that are made for Content Credentials",
            ),
            Error::UnknownExtension { .. } => Remedy::advice("end the name in .png, .jpg, .jpeg or .webp"),
            Error::OutputExists { .. } => Remedy::OverwritePicture,
            Error::SheetTooLarge { .. } => Remedy::advice("put fewer pictures on a sheet"),
            Error::SizesDiffer { .. } => Remedy::advice("scale one of them to the size of the other"),
            Error::TokenizerVocabulary { .. } => {
                Remedy::advice("put the tokenizer/ folder that belongs to the text encoder beside the model")
            }
            Error::TokenizerTooLarge { .. }
            | Error::TokenizerJson { .. }
            | Error::TokenizerRule { .. }
            | Error::TokenizerToken { .. } => Remedy::advice("use the tokenizer.json that Qwen3 was published with"),
            Error::Device { remedy, .. } => remedy.clone().unwrap_or(Remedy::ChooseDevice),
            Error::NotFinite => Remedy::ComputeInF32,
            Error::Backend(flux2_backend::Error::OutOfMemory { .. }) => Remedy::ReduceMemory,
            Error::Backend(flux2_backend::Error::NoThreads { .. }) => Remedy::too_few_threads(),
            Error::Io { source, .. } => return Remedy::for_io(source.kind()),
            Error::Cancelled | Error::Backend(_) | Error::ImageBuffer { .. } | Error::ImageEncode { .. } => {
                return None;
            }
        })
    }
}
