//! What goes wrong between this program and the NATS server.

use flux2_jobs::{FailureClass, JobFailure};

/// What the server or the place of the pictures refused, or did not answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FleetError {
    /// There is no connection.
    #[error("cannot connect to {server}: {reason}")]
    Connect {
        /// The address, without a password.
        server: String,
        /// Why.
        reason: String,
    },
    /// A file of credentials or a certificate cannot be read.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The server has no JetStream, or these credentials may not do this.
    #[error("the NATS server refuses {what}: {reason}")]
    Refused {
        /// What was asked of it.
        what: String,
        /// What it says.
        reason: String,
    },
    /// What is stored cannot be read: another program wrote it, or a newer version of this one.
    #[error("{what} cannot be read: {reason}")]
    Malformed {
        /// What.
        what: String,
        /// Why.
        reason: String,
    },
    /// Somebody else changed it at the same moment.
    #[error("somebody else changed {what}")]
    Conflict {
        /// What.
        what: String,
    },
    /// No room for another job.
    #[error("the queue of the fleet is full")]
    Full,
    /// The place of the pictures.
    #[error("{place}: {reason}")]
    Objects {
        /// Which place.
        place: String,
        /// What it says.
        reason: String,
    },
    /// The system refuses threads.
    #[error("no thread: {0}")]
    Thread(std::io::Error),
}

/// A result of this crate.
pub type Result<T, E = FleetError> = std::result::Result<T, E>;

impl FleetError {
    /// The server refuses `what`.
    pub(crate) fn refused(what: impl Into<String>, reason: impl std::fmt::Display) -> Self {
        FleetError::Refused { what: what.into(), reason: reason.to_string() }
    }
}

impl From<FleetError> for JobFailure {
    fn from(error: FleetError) -> Self {
        JobFailure::new(FailureClass::Storage, error.to_string())
    }
}
