//! Everything that can go wrong, as values: what happened and with what; [`Error::hint`] says what to do about it.

use std::path::PathBuf;

/// Result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a run did not come to a picture.
///
/// The message says what happened and names the value; [`hint`](Error::hint) is the third part, what to do, so that a
/// terminal can print it on its own line and a server can send it as a field.
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

    // ---- the run ----
    /// The run was stopped by its [`CancelToken`](crate::CancelToken).
    #[error("cancelled")]
    Cancelled,
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

/// Which kind of trouble an [`Error`] is; a command line turns it into an exit code, a server into a status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// What was asked for cannot be done by any model.
    Usage,
    /// The model's files are not there.
    ModelMissing,
    /// Memory is short.
    OutOfMemory,
    /// A reference image cannot be used.
    BadImage,
    /// Stopped on request.
    Cancelled,
    /// Everything else: a broken checkpoint, a failing disk.
    Failure,
}

impl Error {
    /// Which kind of trouble this is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::SizeGrid { .. }
            | Error::SizeRange { .. }
            | Error::Steps { .. }
            | Error::Guidance { .. }
            | Error::ReferenceCount { .. } => ErrorKind::Usage,
            Error::Cancelled => ErrorKind::Cancelled,
            Error::Backend(flux2_backend::Error::OutOfMemory { .. }) => ErrorKind::OutOfMemory,
            _ => ErrorKind::Failure,
        }
    }

    /// What the caller can do about it, as one imperative sentence.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::SizeGrid { axis, px, multiple } => {
                let low = px / multiple * multiple;
                Some(format!("use --{axis} {low} or --{axis} {}", low + multiple))
            }
            Error::SizeRange { axis, px, min, max } => {
                Some(format!("use --{axis} {}", if px < min { min } else { max }))
            }
            Error::Steps { .. } => Some("leave --steps out for the number the model was made for".into()),
            Error::ReferenceCount { max, .. } => Some(format!("pass at most {max} images")),
            Error::Backend(flux2_backend::Error::OutOfMemory { .. }) => {
                Some("ask for a smaller picture or fewer reference images, or use --dtype bf16".into())
            }
            _ => None,
        }
    }
}
