//! The id of a job.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Identifies a job: a UUID of version 7, so that ids sort by the time of acceptance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct JobId(Uuid);

impl JobId {
    /// A new id, higher than all that this process has made before.
    #[expect(clippy::new_without_default, reason = "there is no usual id")]
    pub fn new() -> Self {
        JobId(Uuid::now_v7())
    }
}

/// In lower-case hexadecimal with hyphens.
impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

/// The text is not a UUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a job id is a UUID, as in 01975d8e-7c1a-7d3c-8f05-3f2b7f6e9a10")]
pub struct ParseJobIdError;

/// Reads a UUID, also without hyphens.
impl FromStr for JobId {
    type Err = ParseJobIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Uuid::try_parse(text).map(JobId).map_err(|_| ParseJobIdError)
    }
}
