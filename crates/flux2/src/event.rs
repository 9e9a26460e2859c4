//! What a run says while it works ([`Event`]), who listens ([`Observer`]), and how it is stopped ([`CancelToken`]).
//!
//! Plain data: how an event looks on a terminal or on a wire is decided elsewhere.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use flux2_backend::DType;
use flux2_base::Remedy;

use crate::pipeline::ladder::Rung;
use crate::weights::Part;
use crate::{Error, Result};

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
    /// Files of a model come, are looked at, or are made of others.
    Files(FilesEvent),
}

/// How far the files of a model are.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FilesEvent {
    /// It begins.
    Started {
        /// Files that are brought, looked at or made.
        files: usize,
        /// Bytes of them that are here from an earlier time.
        done: u64,
        /// Bytes of all of them.
        total: u64,
    },
    /// So many bytes are here, fewer than before where some were wrong.
    Progress {
        /// Of all files.
        done: u64,
    },
    /// A file is here, whole; one that was brought has the right hash.
    FileFinished {
        /// Its path in the repository, or in the folder that is made.
        path: String,
        /// Its length in bytes.
        size: u64,
        /// Time it took.
        elapsed: Duration,
    },
    /// Another process is bringing a file; it is waited for.
    Waiting {
        /// Its path in the repository.
        path: String,
    },
    /// Something went wrong and is tried again.
    Again {
        /// What.
        reason: String,
        /// After which pause.
        pause: Duration,
    },
    /// It is over, for better or worse.
    Finished,
}

/// A number of bytes as people say it: `168 MB`, `7.8 GB`.
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0 as f64;
        match self.0 {
            0..1000 => write!(f, "{} bytes", self.0),
            1000..999_500 => write!(f, "{:.0} kB", bytes / 1e3),
            999_500..9_950_000 => write!(f, "{:.1} MB", bytes / 1e6),
            9_950_000..999_500_000 => write!(f, "{:.0} MB", bytes / 1e6),
            _ => write!(f, "{:.1} GB", bytes / 1e9),
        }
    }
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

/// Stops a run from another thread, within one block of a model. Clones share the state.
#[derive(Clone, Debug, Default)]
pub struct CancelToken {
    cancelled: Arc<AtomicBool>,
    parent: Option<Arc<CancelToken>>,
}

impl CancelToken {
    /// A token that is not cancelled.
    pub fn new() -> Self {
        Self::default()
    }

    /// A token that is cancelled with this one, and can be without it: for a part of a run.
    pub fn child(&self) -> Self {
        CancelToken { cancelled: Arc::default(), parent: Some(Arc::new(self.clone())) }
    }

    /// Ask the run to stop.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    /// Whether [`cancel`](Self::cancel) was called.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed) || self.parent.as_ref().is_some_and(|parent| parent.is_cancelled())
    }

    /// # Errors
    /// [`Error::Cancelled`] once [`cancel`](Self::cancel) was called.
    pub fn check(&self) -> Result<()> {
        if self.is_cancelled() { Err(Error::Cancelled) } else { Ok(()) }
    }
}
