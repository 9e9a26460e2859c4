//! What a run says while it works ([`Event`]), who listens ([`Observer`]), and how it is stopped ([`CancelToken`]).
//!
//! Plain data: how an event looks on a terminal or on a wire is decided elsewhere.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use flux2_backend::DType;
pub use flux2_base::CancelToken;
use flux2_base::{Part, Remedy};

/// A stage of a run, in the order they happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Taking over the weights of a network.
    Load(Part),
    /// Prompt to text embedding.
    Text,
    /// Reference images to tokens.
    References,
    /// Noise to latents, step by step.
    Denoise,
    /// Latents to pixels.
    Decode,
}

impl Phase {
    /// In lower case, as a person would say it.
    pub const fn name(self) -> &'static str {
        match self {
            Phase::Load(Part::TextEncoder) => "load text encoder",
            Phase::Load(Part::Transformer) => "load transformer",
            Phase::Load(Part::Vae) => "load VAE",
            Phase::Text => "text",
            Phase::References => "references",
            Phase::Denoise => "denoise",
            Phase::Decode => "decode",
        }
    }
}

/// Something happened.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// A stage begins; `units` blocks or images will be counted by [`Event::Progress`].
    PhaseStarted {
        /// Which.
        phase: Phase,
        /// Units of work in it.
        units: usize,
    },
    /// `done` units of the stage are finished.
    Progress {
        /// Which.
        phase: Phase,
        /// Units finished so far.
        done: usize,
    },
    /// A denoising step is finished.
    Step {
        /// 1 for the first.
        step: u32,
        /// Steps in all.
        steps: u32,
        /// Time this step took.
        elapsed: Duration,
    },
    /// A stage is over.
    PhaseFinished {
        /// Which.
        phase: Phase,
        /// Time it took.
        elapsed: Duration,
    },
    /// Something the caller should know; the run goes on.
    Warning(Warning),
    /// What became of a text embedding on disk, for those who look inside: it changes no picture.
    TextCache(TextCacheEvent),
}

/// What a [`TextCache`](crate::TextCache) did for a prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TextCacheEvent {
    /// The embedding was read from this file; the text encoder was not asked.
    Found {
        /// Which.
        path: PathBuf,
    },
    /// The embedding was computed and could not be kept.
    NotKept {
        /// Where it would be.
        path: PathBuf,
        /// Why.
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

/// Something that can be given up, the least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rung {
    /// What is only kept to be faster: recorded passes, text embeddings, unused memory.
    FreeCaches,
    /// The decoder's largest maps: they are computed where they are read, several times.
    StreamDecoder,
    /// The text encoder's place on the GPU: its weights stay on the host and come for every use.
    OffloadEncoder,
    /// The same of the flow transformer.
    StreamBlocks,
}

impl Rung {
    /// All of them, in the order they are tried.
    pub const ALL: [Rung; 4] = [Rung::FreeCaches, Rung::StreamDecoder, Rung::OffloadEncoder, Rung::StreamBlocks];

    /// In one word, for records.
    pub const fn name(self) -> &'static str {
        match self {
            Rung::FreeCaches => "free-caches",
            Rung::StreamDecoder => "stream-decoder",
            Rung::OffloadEncoder => "offload-encoder",
            Rung::StreamBlocks => "stream-blocks",
        }
    }
}

/// For people.
impl fmt::Display for Rung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Rung::FreeCaches => "what is kept to be faster is let go",
            Rung::StreamDecoder => "the decoder computes its largest maps piece by piece",
            Rung::OffloadEncoder => "the text encoder stays on the host",
            Rung::StreamBlocks => "the transformer's weights stay on the host",
        })
    }
}

/// Something asked for that was not, or not wholly, done.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Warning {
    /// Matrices that should be rounded to blocks and have rows that are none.
    NotQuantized {
        /// Of which network.
        part: Part,
        /// How many stay as they are.
        left: usize,
        /// How many should be rounded.
        all: usize,
        /// To what.
        dtype: DType,
    },
    /// Memory did not suffice for a stage, which begins again with less.
    MemoryShort {
        /// The stage.
        stage: Phase,
        /// What was given up for it.
        rung: Rung,
    },
    /// The prompt's token sequence is longer than the text encoder reads.
    PromptCut {
        /// Tokens of the whole prompt with its template, or of its beginning.
        tokens: usize,
        /// Whether the prompt is longer than what was looked at.
        more: bool,
        /// Tokens that are kept.
        kept: usize,
        /// The part of the prompt that is not read.
        lost: String,
    },
    /// A distilled model has no use for guidance.
    GuidanceIgnored {
        /// The guidance asked for.
        guidance: f32,
        /// The model.
        variant: &'static str,
    },
    /// A step-distilled model was asked for many steps; perhaps the seed was meant.
    ManySteps {
        /// Steps asked for.
        steps: u32,
        /// Steps it was made for.
        default: u32,
    },
    /// A size far from those the model was trained on.
    UntrainedSize {
        /// Width of the picture in pixels.
        width: u32,
        /// Its height.
        height: u32,
        /// The model.
        variant: &'static str,
        /// Shortest side it was trained on.
        smallest: u32,
        /// Longest side it was trained on.
        largest: u32,
    },
}

impl Warning {
    /// What the caller can do about it, as data: each front end has its own words for it.
    pub fn remedy(&self) -> Option<Remedy> {
        match self {
            Warning::ManySteps { steps, .. } => Some(Remedy::UseAsSeed(*steps)),
            _ => None,
        }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Warning::NotQuantized { part, left, all, dtype } => write!(
                f,
                "{left} of {all} matrices of the {part} stay as they are stored: their rows are not whole blocks of {dtype}, \
                 {} values",
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
            Warning::ManySteps { steps, default } => {
                write!(f, "{steps} steps on a model made for {default}")
            }
            Warning::UntrainedSize { width, height, variant, smallest, largest } => write!(
                f,
                "{variant} was trained on sides from {smallest} to {largest} pixels: its pictures of {width}x{height} are \
                 poor"
            ),
        }
    }
}

/// Listens to a run. Called on the thread that runs it, so it should return quickly.
pub trait Observer {
    /// Something happened.
    fn on_event(&mut self, event: &Event);
}

impl<F: FnMut(&Event)> Observer for F {
    fn on_event(&mut self, event: &Event) {
        self(event);
    }
}
