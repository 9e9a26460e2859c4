//! Events of a run ([`Event`]), their receiver ([`Observer`]), and cancellation ([`CancelToken`]).
//!
//! Events are plain data. Front ends decide how they look on a terminal or on a wire.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use flux2_backend::DType;
pub use flux2_base::CancelToken;
use flux2_base::{Part, Remedy};

use crate::image::RgbImage;
use crate::upscale::UpscaleReport;
use crate::vocabulary::{PictureSizes, UnknownWords};

/// A stage of a run. Variants are in the order of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Loading the weights of a network.
    Load(Part),
    /// Prompt to text embedding.
    Text,
    /// Reference images to tokens.
    References,
    /// Noise to latents, step by step.
    Denoise,
    /// Latents to pixels.
    Decode,
    /// Pixels to more pixels.
    Upscale,
}

impl Phase {
    /// Name in lower case, for people.
    pub const fn name(self) -> &'static str {
        match self {
            Phase::Load(Part::TextEncoder) => "load text encoder",
            Phase::Load(Part::Transformer) => "load transformer",
            Phase::Load(Part::Vae) => "load VAE",
            Phase::Text => "text",
            Phase::References => "references",
            Phase::Denoise => "denoise",
            Phase::Decode => "decode",
            Phase::Upscale => "upscale",
        }
    }
}

/// Something that happened in a run.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// A stage begins; `units` blocks or images will be counted by [`Event::Progress`].
    PhaseStarted {
        /// The stage that begins.
        phase: Phase,
        /// Number of units; 0 if it is not known.
        units: usize,
    },
    /// `done` units of the stage are finished.
    Progress {
        /// The stage in progress.
        phase: Phase,
        /// Number of units finished so far.
        done: usize,
    },
    /// A denoising step is finished.
    Step {
        /// Number of the step, from 1.
        step: u32,
        /// Number of all steps.
        steps: u32,
        /// Time of this step.
        elapsed: Duration,
    },
    /// What a picture looks like after a step. Only for an [`Observer`] that wants it.
    Preview(Preview),
    /// A stage is finished.
    PhaseFinished {
        /// The stage that is finished.
        phase: Phase,
        /// Time of the stage.
        elapsed: Duration,
    },
    /// Something the caller should know; the run goes on.
    Warning(Warning),
    /// A picture was enlarged; for verbose output.
    Upscaled(UpscaleReport),
    /// A text embedding was read from disk or could not be written. Changes no picture; for verbose output.
    TextCache(TextCacheEvent),
}

/// What a picture looks like so far: the estimate of a denoising step of the finished picture.
#[derive(Clone, Debug, PartialEq)]
pub struct Preview {
    /// Number of the step, from 1.
    pub step: u32,
    /// Number of all steps.
    pub steps: u32,
    /// An eighth of the picture's size in both directions; of its whole size if a decoder made it.
    pub image: Arc<RgbImage>,
}

/// Result of a [`TextCache`](crate::TextCache) for a prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TextCacheEvent {
    /// The embedding was read from disk; the text encoder did not run.
    Found {
        /// Path of the file.
        path: PathBuf,
    },
    /// The embedding was computed and could not be written.
    NotKept {
        /// The file that would hold it.
        path: PathBuf,
        /// What the system says.
        reason: String,
    },
}

impl fmt::Display for TextCacheEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TextCacheEvent::Found { path } => write!(f, "text embedding found: {}", path.display()),
            TextCacheEvent::NotKept { path, reason } => {
                write!(f, "text embedding not kept: {}: {reason}", path.display())
            }
        }
    }
}

/// A fallback when memory is short. Variants are in the order they are tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rung {
    /// Denoise half as many pictures in one pass.
    HalveBatch,
    /// Free caches: CUDA graphs, text embeddings, unused memory of the pool.
    FreeCaches,
    /// Recompute the decoder's largest feature maps where they are read, several times, in place of storing them.
    StreamDecoder,
    /// Offload the text encoder: its weights stay on the host and are copied to the GPU for every use.
    OffloadEncoder,
    /// Offload the flow transformer in the same way.
    StreamBlocks,
}

impl Rung {
    /// All of them, in the order they are tried.
    pub const ALL: [Rung; 5] =
        [Rung::HalveBatch, Rung::FreeCaches, Rung::StreamDecoder, Rung::OffloadEncoder, Rung::StreamBlocks];

    /// Name in one word, for records.
    pub const fn name(self) -> &'static str {
        match self {
            Rung::HalveBatch => "halve-batch",
            Rung::FreeCaches => "free-caches",
            Rung::StreamDecoder => "stream-decoder",
            Rung::OffloadEncoder => "offload-encoder",
            Rung::StreamBlocks => "stream-blocks",
        }
    }
}

/// What is done, for people.
impl fmt::Display for Rung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Rung::HalveBatch => "fewer pictures are made at the same time",
            Rung::FreeCaches => "what is kept to be faster is let go",
            Rung::StreamDecoder => "the decoder computes its largest maps piece by piece",
            Rung::OffloadEncoder => "the text encoder stays on the host",
            Rung::StreamBlocks => "the transformer's weights stay on the host",
        })
    }
}

/// A request that was not carried out, or not completely. The run goes on.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Warning {
    /// The kernels were compiled without optimization. Sent once in a process.
    Unoptimized,
    /// Matrices that cannot be quantized, as their rows are not whole blocks.
    NotQuantized {
        /// The network that they belong to.
        part: Part,
        /// Number of matrices that keep their format.
        left: usize,
        /// Number of matrices that should be quantized.
        all: usize,
        /// The requested format.
        dtype: DType,
    },
    /// A stage ran out of memory and starts again with a fallback.
    MemoryShort {
        /// The stage that ran out of memory.
        stage: Phase,
        /// The fallback that is used.
        rung: Rung,
    },
    /// The prompt has more tokens than the text encoder reads.
    PromptCut {
        /// Tokens of the prompt with its template, as far as they were counted.
        tokens: usize,
        /// Whether there are more tokens than were counted.
        more: bool,
        /// Tokens that are kept.
        kept: usize,
        /// Text of the tokens that are cut.
        lost: String,
    },
    /// A distilled model ignores guidance.
    GuidanceIgnored {
        /// The scale that was asked for.
        guidance: f32,
        /// Name of the variant.
        variant: &'static str,
    },
    /// A negative prompt has no effect without guidance.
    NegativePromptIgnored {
        /// The scale that was asked for.
        guidance: f32,
    },
    /// Many steps on a step-distilled model; perhaps the seed was meant.
    ManySteps {
        /// Steps that were asked for.
        steps: u32,
        /// Default steps of the model.
        default: u32,
    },
    /// A picture size outside those the model was trained on.
    UntrainedSize {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// Name of the variant.
        variant: &'static str,
        /// Sizes that it was trained on.
        trained: PictureSizes,
    },
    /// A reference image whose file holds several frames or pages.
    FirstFrame {
        /// Number of the reference, from 1.
        reference: usize,
    },
    /// A picture that the request reads carries a mark that the result will not.
    MarkNotKept {
        /// Which picture.
        input: Input,
        /// What it carries.
        mark: InputMark,
    },
    /// Previews are wanted and cannot be made. The pictures are.
    NoPreviews {
        /// What is in the way.
        reason: String,
    },
    /// A mask that keeps nothing of its source.
    FullMask,
    /// A region of a source that is drawn smaller than it is.
    RegionReduced {
        /// Width and height of the region in pixels.
        region: [u32; 2],
        /// Width and height in pixels while it is drawn.
        drawn: [u32; 2],
    },
    /// A prompt that names no subject the model knows, or of which it knows few words.
    UnknownWords {
        /// Name of the variant.
        variant: &'static str,
        /// What is unknown, and what is near.
        unknown: UnknownWords,
    },
}

/// A picture that a request reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// The one that is painted into.
    Source,
    /// A reference image, by its number from 1.
    Reference(usize),
}

impl fmt::Display for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Input::Source => f.write_str("the source"),
            Input::Reference(number) => write!(f, "reference image {number}"),
        }
    }
}

/// A mark of a picture by which machines tell where it comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputMark {
    /// A word in its metadata that says that a model drew it or a part of it.
    SourceType,
    /// An invisible watermark.
    Watermark,
    /// Content Credentials of the C2PA.
    Credentials,
}

impl fmt::Display for InputMark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            InputMark::SourceType => "a mark in its metadata that a model drew it",
            InputMark::Watermark => "an invisible watermark",
            InputMark::Credentials => "Content Credentials (C2PA)",
        })
    }
}

impl Warning {
    /// What the caller can do about it, as data that front ends word.
    pub fn remedy(&self) -> Option<Remedy> {
        match self {
            Warning::ManySteps { steps, .. } => Some(Remedy::UseAsSeed(*steps)),
            Warning::UnknownWords { .. } => Some(Remedy::ListVocabulary),
            Warning::MarkNotKept { mark, .. } => Some(match mark {
                InputMark::SourceType => Remedy::KeepParameters,
                InputMark::Watermark => Remedy::AddWatermark,
                InputMark::Credentials => Remedy::SignPicture,
            }),
            Warning::Unoptimized => {
                Some(Remedy::advice("build it in release mode, or optimize the dependencies of the debug profile"))
            }
            _ => None,
        }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Warning::Unoptimized => {
                f.write_str("this program was built without optimization, which makes pictures a hundred times slower")
            }
            Warning::NotQuantized { part, left, all, dtype } => write!(
                f,
                "{left} of {all} matrices of the {part} stay as they are stored: their rows are not whole blocks of \
                 {dtype}, {} values",
                dtype.block_len()
            ),
            Warning::MemoryShort { stage, rung } => write!(f, "memory is short ({}): {rung}", stage.name()),
            Warning::PromptCut { tokens, more, kept, lost } => write!(
                f,
                "the prompt is {}{tokens} tokens long with its template and the text encoder reads {kept}: {} are cut, \
                 from \"{}\" on",
                if *more { "over " } else { "" },
                tokens - kept,
                lost.chars().take(40).collect::<String>().trim()
            ),
            Warning::GuidanceIgnored { guidance, variant } => {
                write!(f, "guidance {guidance} has no effect: {variant} is distilled and runs without guidance")
            }
            Warning::NegativePromptIgnored { guidance } => {
                write!(
                    f,
                    "the negative prompt has no effect: guidance {guidance} is none, above 1 it leads away from it"
                )
            }
            Warning::ManySteps { steps, default } => {
                write!(f, "{steps} steps on a model made for {default}")
            }
            Warning::UntrainedSize { width, height, variant, trained } => {
                write!(f, "{variant} was trained on {trained}: a picture of {width}x{height} will be poor")
            }
            Warning::FirstFrame { reference } => {
                write!(f, "reference image {reference} has several frames or pages: the first one is taken")
            }
            // What a mask keeps, keeps its pixels.
            Warning::MarkNotKept { input: Input::Source, mark: InputMark::Watermark } => {
                write!(f, "{} carries {}, which is lost where it is repainted", Input::Source, InputMark::Watermark)
            }
            Warning::MarkNotKept { input, mark } => write!(f, "{input} carries {mark}, and the picture will not"),
            Warning::NoPreviews { reason } => write!(f, "there are no previews: {reason}"),
            Warning::FullMask => f.write_str("the mask repaints all of the source"),
            Warning::RegionReduced { region: [w, h], drawn: [dw, dh] } => write!(
                f,
                "{w}x{h} pixels are more than the model draws at once, so they are drawn at {dw}x{dh} and enlarged"
            ),
            Warning::UnknownWords { variant, unknown: UnknownWords { names_subject, words, nearest } } => {
                match names_subject {
                    true => write!(f, "{variant} does not know most words of the prompt")?,
                    false => write!(f, "{variant} knows no subject of the prompt")?,
                }
                if !words.is_empty() {
                    let shown: Vec<&str> = words.iter().take(5).map(String::as_str).collect();
                    let more = if words.len() > 5 { ", …" } else { "" };
                    write!(f, " (unknown: {}{more})", shown.join(", "))?;
                }
                match nearest.is_empty() {
                    true => Ok(()),
                    false => write!(f, ", near is: {}", nearest.join(", ")),
                }
            }
        }
    }
}

/// Receives the events of a run, on the thread of the run, so it should return quickly.
pub trait Observer {
    /// Handles one event.
    fn on_event(&mut self, event: &Event);

    /// Whether [`Event::Preview`]s are wanted. Asked at every step, so the answer may change.
    fn wants_previews(&self) -> bool {
        false
    }

    /// Handles an event of one picture of those that are drawn together, by its place among them. An observer of one
    /// picture need not tell them apart.
    fn on_event_of(&mut self, _picture: usize, event: &Event) {
        self.on_event(event);
    }

    /// [`wants_previews`](Self::wants_previews) of one picture of those that are drawn together.
    fn wants_preview_of(&self, _picture: usize) -> bool {
        self.wants_previews()
    }
}

/// An observer that wants previews.
///
/// ```no_run
/// use flux2::event::{Event, Observer, WithPreviews};
///
/// let mut observer = WithPreviews(|event: &Event| {
///     if let Event::Preview(preview) = event {
///         println!("step {}: {:?}", preview.step, preview.image);
///     }
/// });
/// # let _: &mut dyn Observer = &mut observer;
/// ```
pub struct WithPreviews<F: FnMut(&Event)>(pub F);

impl<F: FnMut(&Event)> Observer for WithPreviews<F> {
    fn on_event(&mut self, event: &Event) {
        self.0(event);
    }

    fn wants_previews(&self) -> bool {
        true
    }
}

impl<F: FnMut(&Event)> Observer for F {
    fn on_event(&mut self, event: &Event) {
        self(event);
    }
}
