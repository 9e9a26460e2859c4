//! Everything that can go wrong, as values. The message says what happened; [`Error::remedy`] what to do about it.

mod remedy;

use std::path::PathBuf;

use flux2_base::units::Memory;
use flux2_base::{Cancelled, Remedy};

use crate::device::Device;
use crate::event::Phase;

/// Result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why there is no picture.
///
/// The message says what happened and names the value. What to do about it is data, [`remedy`](Error::remedy): a
/// terminal words it with flags, a server with fields.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    // ---- the request ----
    /// A width or height off the grid.
    #[error("{axis} {px} is not a multiple of {multiple}")]
    SizeGrid {
        /// `width` or `height`.
        axis: &'static str,
        /// The size that was asked for, in pixels.
        px: u32,
        /// The grid in pixels.
        multiple: u32,
    },
    /// A width or height too small or too large.
    #[error("{axis} {px} is outside {min} to {max}")]
    SizeRange {
        /// `width` or `height`.
        axis: &'static str,
        /// The size that was asked for, in pixels.
        px: u32,
        /// Smallest allowed size in pixels.
        min: u32,
        /// Largest allowed size in pixels.
        max: u32,
    },
    /// No schedule has this number of steps.
    #[error("{steps} steps: the schedule needs 1 to {max}")]
    Steps {
        /// Steps that were asked for.
        steps: u32,
        /// Most steps allowed.
        max: u32,
    },
    /// A guidance scale that is not a number from 0 to 100.
    #[error("guidance {guidance} is outside 0 to 100")]
    Guidance {
        /// The scale that was asked for.
        guidance: f32,
    },
    /// A negative prompt for a model that runs without guidance.
    #[error("{variant} takes no negative prompt: it is distilled and runs without guidance")]
    NegativePrompt {
        /// Name of the variant.
        variant: &'static str,
    },
    /// Too many reference images.
    #[error("{count} reference images, at most {max} are allowed")]
    ReferenceCount {
        /// Number of images passed.
        count: usize,
        /// Most images allowed.
        max: usize,
    },

    /// A picture cannot be enlarged so many times.
    #[error("{factor} times as large: 1 to {max} times is possible")]
    UpscaleFactor {
        /// The factor that was asked for.
        factor: f32,
        /// Largest factor.
        max: f32,
    },
    /// A picture cannot be enlarged to this size.
    #[error(
        "{width}x{height} is no size for an enlarged picture: at most {max_side} pixels a side and {max_pixels} in all"
    )]
    UpscaleSize {
        /// Width that was asked for, in pixels.
        width: u32,
        /// Height that was asked for, in pixels.
        height: u32,
        /// Longest side in pixels.
        max_side: u32,
        /// Most pixels.
        max_pixels: u64,
    },

    // ---- a source that is painted into ----
    /// A source with too short a side.
    #[error("the source is {width}x{height} pixels; both sides must be at least {min}")]
    SourceTooSmall {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// Shortest side allowed, in pixels.
        min: u32,
    },
    /// A size for a picture that has the size of its source.
    #[error("{axis} {px} is given, and the picture has the size of its source")]
    SizeOfSource {
        /// `width` or `height`.
        axis: &'static str,
        /// The size that was asked for, in pixels.
        px: u32,
    },
    /// A block that the flow transformer does not have.
    #[error("the model has no block {name}: it has {double} double and {single} single blocks, counted from 0")]
    NoSuchBlock {
        /// Name of the block.
        name: String,
        /// Number of double blocks.
        double: usize,
        /// Number of single blocks.
        single: usize,
    },
    /// A mask of another shape than its source.
    #[error("the mask is {}x{} pixels, the source {}x{}", mask[0], mask[1], expected[0], expected[1])]
    MaskSize {
        /// Width and height of the mask in pixels.
        mask: [u32; 2],
        /// Width and height of the upright source in pixels.
        expected: [u32; 2],
    },
    /// A mask that keeps every pixel, or a larger canvas that is not larger.
    #[error("there is nothing to repaint: the mask keeps every pixel")]
    NothingToRepaint,
    /// A source without the transparency that should say what is repainted.
    #[error("the source is transparent nowhere, so its transparency is no mask")]
    NoTransparency,
    /// A strength that is not over 0 and at most 1.
    #[error("strength {strength} is not over 0 and at most 1")]
    Strength {
        /// The strength that was asked for.
        strength: f64,
    },
    /// A mask that should grow, or be feathered, too far.
    #[error("a {what} of {pixels} pixels; at most {max} are allowed")]
    MaskRange {
        /// `mask growth` or `feather`.
        what: &'static str,
        /// Pixels that were asked for.
        pixels: u32,
        /// Most pixels allowed.
        max: u32,
    },
    /// A canvas with more pixels than images that are read.
    #[error("the canvas is {width}x{height} pixels; at most {max_side} a side and {max_pixels} in all are drawn")]
    CanvasTooLarge {
        /// Width in pixels.
        width: u64,
        /// Height in pixels.
        height: u64,
        /// Longest side allowed, in pixels.
        max_side: u32,
        /// Most pixels allowed.
        max_pixels: u64,
    },
    /// A source whose color profile cannot be written.
    #[error("the color profile of the source converts its colors to others, and not back")]
    SourceProfile,
    /// Something that diffusers' rules do not have.
    #[error("diffusers has no {what}")]
    NotInDiffusers {
        /// What was asked for.
        what: &'static str,
    },

    // ---- weights ----
    /// The model's files cannot be loaded.
    #[error(transparent)]
    Weights(flux2_weights::Error),

    // ---- memory ----
    /// A stage ran out of memory, and every fallback was tried.
    #[error(
        "out of memory ({}): a buffer of {} could not be allocated, and every fallback was tried",
        .stage.name(), Memory(*.bytes)
    )]
    NoMemory {
        /// The stage that ran out of memory.
        stage: Phase,
        /// Bytes of the buffer that could not be allocated.
        bytes: usize,
    },
    /// The run needs more memory than it is allowed, however few weights are kept.
    #[error(
        "this run needs at least {} of memory ({}), and may take {}",
        Memory(*.least).rounded_up(), .stage.name(), Memory(*.limit)
    )]
    MemoryLimit {
        /// Bytes the run may take.
        limit: usize,
        /// Bytes the run needs at least.
        least: usize,
        /// The stage that needs them.
        stage: Phase,
        /// Number formats with which the run would keep to the limit if it might quantize weights, and the bytes it
        /// would take then.
        formats: Vec<(String, usize)>,
    },

    // ---- the hub ----
    /// Files could not be downloaded from the hub.
    #[cfg(feature = "hub")]
    #[error(transparent)]
    Hub(flux2_hub::Error),

    // ---- images ----
    /// The bytes are not of a picture format that is read.
    #[error("{what} is {found}, not a PNG, JPEG, WebP, GIF, BMP, TIFF or QOI picture")]
    ImageFormat {
        /// The input: a file name, or its position in a request.
        what: String,
        /// What the first bytes look like, with its article.
        found: &'static str,
        /// How to make one of these pictures of it, as an imperative sentence.
        how: &'static str,
    },
    /// A picture that is cut short, broken or of an unsupported kind.
    #[error("{what}: cannot decode the {format}: {reason}")]
    ImageDecode {
        /// The input, as in [`ImageFormat`](Error::ImageFormat).
        what: String,
        /// Its usual spelling, as `PNG`.
        format: &'static str,
        /// The decoder's message.
        reason: String,
    },
    /// An animated picture.
    #[error("{what} is an animated {format}")]
    ImageAnimated {
        /// The input, as in [`ImageFormat`](Error::ImageFormat).
        what: String,
        /// `PNG` or `WebP`.
        format: &'static str,
    },
    /// A picture with more pixels than are decoded.
    #[error("{what} is {width}x{height} pixels; at most {max_side} a side and {max_pixels} in all are read")]
    ImageTooLarge {
        /// The input, as in [`ImageFormat`](Error::ImageFormat).
        what: String,
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// Longest side allowed, in pixels.
        max_side: u32,
        /// Most pixels allowed.
        max_pixels: u64,
    },
    /// An image file with more bytes than are read.
    #[error("{}: {bytes} bytes; image files of at most {max} bytes are read", path.display())]
    ImageFileTooLarge {
        /// Path of the file.
        path: PathBuf,
        /// Size in bytes.
        bytes: u64,
        /// Largest size allowed, in bytes.
        max: u64,
    },
    /// A reference image with too short a side.
    #[error("a reference image is {width}x{height} pixels; both sides must be at least {min}")]
    ImageTooSmall {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// Shortest side allowed, in pixels.
        min: u32,
    },
    /// A reference image that is too long for its width, or the reverse.
    #[error("a reference image is {width}x{height} pixels; one side may be at most {max} times the other")]
    ImageAspect {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// Largest ratio allowed.
        max: u32,
    },
    /// Pixels that do not fill the size they are said to have.
    #[error("{len} values for {width}x{height} RGB pixels")]
    ImageBuffer {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// Number of values passed.
        len: usize,
    },
    /// The parameters stored in a picture of ours do not read.
    #[error("the parameters stored in the picture cannot be read: {reason}")]
    ImageParameters {
        /// The parser's message.
        reason: String,
    },
    /// A picture that could not be written in the format asked for.
    #[error("cannot encode the {format}: {reason}")]
    ImageEncode {
        /// `PNG`, `JPEG` or `WebP`.
        format: &'static str,
        /// The encoder's message.
        reason: String,
    },
    /// More parameters than the format has room for.
    #[error("the prompt and parameters take {bytes} bytes; a {format} holds {max}")]
    ImageParametersTooLong {
        /// Bytes of the parameters.
        bytes: usize,
        /// `PNG`, `JPEG` or `WebP`.
        format: &'static str,
        /// Bytes that are written to the format and read from it.
        max: usize,
    },
    /// A picture with too few pixels for a watermark.
    #[error("a picture of {width}x{height} is too small for the watermark: it needs as many pixels as 256x256")]
    WatermarkTooSmall {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
    },
    /// Content Credentials that could not be made: an unfit key or certificate, or a file that cannot hold them.
    #[error("the Content Credentials cannot be made: {reason}")]
    Credentials {
        /// What is wrong.
        reason: String,
    },
    /// An output name that does not say which format is meant.
    #[error("{}: {}", path.display(), match path.extension() {
        Some(extension) => format!("no picture format is called `{}`", extension.display()),
        None => "the name has no extension".into(),
    })]
    UnknownExtension {
        /// The output name.
        path: PathBuf,
    },
    /// A file that must not be replaced.
    #[error("{} exists", path.display())]
    OutputExists {
        /// The existing file.
        path: PathBuf,
    },

    // ---- sheets ----
    /// So many cells that their pictures would be too small to be seen.
    #[error(
        "{cells} pictures do not fit on a sheet of at most {max_side} pixels a side and {} million in all",
        max_pixels / 1_000_000
    )]
    SheetTooLarge {
        /// Cells asked for.
        cells: usize,
        /// Longest side of a sheet, in pixels.
        max_side: u32,
        /// Most pixels of a sheet.
        max_pixels: u64,
    },
    /// Pictures of two sizes that are compared pixel by pixel.
    #[error("one picture is {}x{} pixels, the other {}x{}", first[0], first[1], second[0], second[1])]
    SizesDiffer {
        /// Width and height of the first, in pixels.
        first: [u32; 2],
        /// Width and height of the second, in pixels.
        second: [u32; 2],
    },

    // ---- text ----
    /// A tokenizer with more ids than the text encoder has embeddings.
    #[error("the tokenizer gives ids up to {highest}, the text encoder has embeddings for {rows}")]
    TokenizerVocabulary {
        /// Largest token id.
        highest: usize,
        /// Rows of the embedding table.
        rows: usize,
    },
    /// A tokenizer.json too large to be one.
    #[error("{}: larger than {max_bytes} bytes", path.display())]
    TokenizerTooLarge {
        /// Path of the file.
        path: PathBuf,
        /// Largest size allowed, in bytes.
        max_bytes: u64,
    },
    /// A file that is not a tokenizer.json with a BPE model.
    #[error("{}: not a tokenizer.json: {source}", path.display())]
    TokenizerJson {
        /// Path of the file.
        path: PathBuf,
        /// The parser's message, with line and column.
        source: serde_json::Error,
    },
    /// A tokenizer.json that splits text unlike the tokenizer of Qwen3.
    #[error("{}: not the tokenizer of Qwen3: {part}: expected {expected}", path.display())]
    TokenizerRule {
        /// Path of the file.
        path: PathBuf,
        /// The part of the file that differs.
        part: &'static str,
        /// What that part is in Qwen3.
        expected: &'static str,
    },
    /// A tokenizer.json without a token that it needs, or with another number for it.
    #[error("{}: token {token:?} is missing or misnumbered", path.display())]
    TokenizerToken {
        /// Path of the file.
        path: PathBuf,
        /// Text of the token.
        token: String,
    },

    // ---- the run ----
    /// The device that was asked for cannot be used.
    #[error("{}: {reason}", no_device(*device))]
    Device {
        /// The device that was asked for.
        device: Device,
        /// Why it cannot be used.
        reason: String,
        /// What would help, if it is known.
        remedy: Option<Remedy>,
    },
    /// The run was stopped by its [`CancelToken`](crate::CancelToken).
    #[error("cancelled")]
    Cancelled,
    /// The picture has infinities or NaNs.
    #[error("the picture has values that are not numbers: the weights or the number format overflow")]
    NotFinite,
    /// An op failed: out of memory, or operands that do not fit.
    #[error(transparent)]
    Backend(#[from] flux2_backend::Error),
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// Path of the file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
}

impl From<Cancelled> for Error {
    fn from(_: Cancelled) -> Self {
        Error::Cancelled
    }
}

/// What several crates can meet has one variant here, so that callers match it in one place.
impl From<flux2_weights::Error> for Error {
    fn from(error: flux2_weights::Error) -> Self {
        match error {
            flux2_weights::Error::Cancelled(cancelled) => cancelled.into(),
            flux2_weights::Error::Backend(error) => error.into(),
            flux2_weights::Error::Io { path, source } => Error::Io { path, source },
            error => Error::Weights(error),
        }
    }
}

/// As from [`flux2_weights::Error`].
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

/// What is missing. `auto` is no device: only a GPU can be, since the processor is always there.
fn no_device(device: Device) -> String {
    match device {
        Device::Auto => "no GPU can be used".to_owned(),
        device => format!("no device `{device}`"),
    }
}
