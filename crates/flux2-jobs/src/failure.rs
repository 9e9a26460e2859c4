//! Why a job ended without pictures.

use std::fmt;

use flux2::{Error, ErrorKind, Remedy};
use serde::{Deserialize, Serialize};

/// The kind of a [`JobFailure`]. A server turns it into a status, a command line into an exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FailureClass {
    /// No model can do what was asked for.
    Invalid,
    /// A reference image cannot be used.
    BadImage,
    /// Files of the model are missing, or the hub does not give them to this account.
    ModelUnavailable,
    /// Out of memory after every fallback; the same job fails again.
    OutOfMemory,
    /// The picture has infinities or NaNs; the same job fails again.
    NotFinite,
    /// The deadline passed before the job was done.
    DeadlineExceeded,
    /// The process ended abruptly each time the job was running, [`max_attempts`](crate::Options::max_attempts) times.
    Crashed,
    /// The picture could not be saved: a full disk, say.
    Storage,
    /// Everything else: a failing GPU, a damaged checkpoint, a bug.
    Internal,
}

impl FailureClass {
    /// All classes, in the order of their declaration.
    pub const ALL: [FailureClass; 9] = [
        FailureClass::Invalid,
        FailureClass::BadImage,
        FailureClass::ModelUnavailable,
        FailureClass::OutOfMemory,
        FailureClass::NotFinite,
        FailureClass::DeadlineExceeded,
        FailureClass::Crashed,
        FailureClass::Storage,
        FailureClass::Internal,
    ];

    /// Its name as it is serialized.
    pub const fn name(self) -> &'static str {
        match self {
            FailureClass::Invalid => "invalid",
            FailureClass::BadImage => "bad_image",
            FailureClass::ModelUnavailable => "model_unavailable",
            FailureClass::OutOfMemory => "out_of_memory",
            FailureClass::NotFinite => "not_finite",
            FailureClass::DeadlineExceeded => "deadline_exceeded",
            FailureClass::Crashed => "crashed",
            FailureClass::Storage => "storage",
            FailureClass::Internal => "internal",
        }
    }

    /// Whether the same submission may succeed later.
    pub const fn may_retry(self) -> bool {
        matches!(
            self,
            FailureClass::DeadlineExceeded | FailureClass::Crashed | FailureClass::Storage | FailureClass::Internal
        )
    }
}

/// Why a job ended without all of its pictures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobFailure {
    /// Its kind.
    pub class: FailureClass,
    /// What happened, and the value.
    pub message: String,
    /// What would help, as data that front ends word. Not kept across restarts.
    #[serde(skip)]
    pub remedy: Option<Remedy>,
}

impl JobFailure {
    /// A failure for which nothing in particular would help.
    pub fn new(class: FailureClass, message: impl Into<String>) -> Self {
        JobFailure { class, message: message.into(), remedy: None }
    }
}

impl fmt::Display for JobFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for JobFailure {}

impl From<Error> for JobFailure {
    fn from(error: Error) -> Self {
        let class = match (&error, error.kind()) {
            (Error::NotFinite, _) => FailureClass::NotFinite,
            (_, ErrorKind::Usage) => FailureClass::Invalid,
            (_, ErrorKind::BadImage) => FailureClass::BadImage,
            (_, ErrorKind::ModelMissing | ErrorKind::Access) => FailureClass::ModelUnavailable,
            (_, ErrorKind::OutOfMemory) => FailureClass::OutOfMemory,
            _ => FailureClass::Internal,
        };
        JobFailure { class, message: error.to_string(), remedy: error.remedy() }
    }
}
