//! What draws the pictures of a session, as a trait.

use flux2::CancelToken;
use flux2_jobs::{Draft, EventKind, ImageInfo, JobFailure, Refused};

use crate::made::Made;

/// What draws the pictures of a session: the engine in this process, or a server.
pub trait Studio {
    /// Names of the models, the default first.
    ///
    /// # Errors
    /// If they cannot be asked for.
    fn models(&self) -> Result<Vec<String>, StudioError>;

    /// Keeps the file of a reference image, a source or a mask, and returns the digest that names it in a draft.
    ///
    /// # Errors
    /// If it cannot be kept.
    fn keep(&self, file: &[u8]) -> Result<String, StudioError>;

    /// Draws pictures, and returns them in their order. What happens meanwhile is told to `heard`.
    ///
    /// # Errors
    /// [`StudioError::Cancelled`] after `cancel`; why it is refused, or fails.
    fn draw(
        &self,
        draft: Draft,
        heard: &mut dyn FnMut(&Heard),
        cancel: &CancelToken,
    ) -> Result<Vec<Drawn>, StudioError>;

    /// Enlarges a picture and returns its file, a PNG; without a factor, as far as the upscaler is made for.
    ///
    /// # Errors
    /// If it is no picture, the size is not possible, or there is no such upscaler; [`StudioError::Cancelled`] after
    /// `cancel`.
    fn enlarge(
        &self,
        file: &[u8],
        by: Option<f32>,
        upscaler: Option<&str>,
        cancel: &CancelToken,
    ) -> Result<Vec<u8>, StudioError>;
}

/// Something that happened while pictures were drawn.
#[derive(Clone, Debug, PartialEq)]
pub enum Heard {
    /// They wait: their place in the queue, from 1.
    Queued {
        /// The place.
        position: usize,
    },
    /// They are begun.
    Started,
    /// A part of the draft is not carried out.
    Warning {
        /// What, as a sentence.
        text: String,
    },
    /// A step is finished.
    Step {
        /// The picture, from 0.
        picture: u32,
        /// The step, from 1.
        step: u32,
        /// All steps.
        steps: u32,
    },
}

impl Heard {
    /// What an event of a job says; `None` for what is not told.
    pub fn of_event(kind: &EventKind) -> Option<Heard> {
        Some(match kind {
            EventKind::Queued { position } => Heard::Queued { position: *position },
            EventKind::Started { .. } => Heard::Started,
            EventKind::Warning { text } => Heard::Warning { text: text.clone() },
            EventKind::Step { picture, step, steps } => Heard::Step { picture: *picture, step: *step, steps: *steps },
            _ => return None,
        })
    }
}

/// A picture that was drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct Drawn {
    /// Its file.
    pub bytes: Vec<u8>,
    /// How it was made.
    pub made: Made,
    /// What is known of the file.
    pub info: ImageInfo,
}

/// Why a studio does not do what it is asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StudioError {
    /// It was asked to stop.
    #[error("cancelled")]
    Cancelled,
    /// What is asked for is refused.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The pictures could not be drawn.
    #[error(transparent)]
    Failed(#[from] JobFailure),
    /// A server does not answer, or not as expected.
    #[error("{message}")]
    Remote {
        /// What happened.
        message: String,
        /// What to do about it.
        hint: Option<String>,
        /// The kind of a failure of the job, or the code of the server's answer.
        kind: String,
    },
}
