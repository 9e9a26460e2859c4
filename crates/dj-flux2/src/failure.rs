//! Why a command stopped: what happened, what to do about it, and the exit code that scripts read.

use std::path::Path;

use flux2::{Error, ErrorKind};
use flux2_jobs::{FailureClass, JobFailure, Refused};

use crate::wording;

/// Exit codes; 0 is success.
pub mod code {
    pub const FAILURE: u8 = 1;
    pub const USAGE: u8 = 2;
    pub const MODEL_MISSING: u8 = 3;
    pub const ACCESS: u8 = 4;
    pub const OUT_OF_MEMORY: u8 = 5;
    pub const BAD_IMAGE: u8 = 6;
    pub const SOME_FAILED: u8 = 7;
    pub const CANCELLED: u8 = 130;
}

/// An error as it will be shown.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    pub code: u8,
    /// What happened, and the value.
    pub message: String,
    /// What to do, as one sentence.
    pub hint: Option<String>,
}

/// Result of a command or a part of one.
pub type Result<T, E = Failure> = std::result::Result<T, E>;

impl Failure {
    pub fn new(code: u8, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Failure { code, message: message.into(), hint: Some(hint.into()) }
    }

    pub fn usage(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(code::USAGE, message, hint)
    }

    /// An error about a picture that was passed in; one that is not there counts as a bad one.
    pub fn image(error: Error) -> Self {
        Failure { code: code::BAD_IMAGE, ..Failure::from(error) }
    }

    /// An error that does not name its file.
    pub fn of_file(self, file: &Path) -> Self {
        Failure { message: format!("{}: {}", file.display(), self.message), ..self }
    }
}

impl From<JobFailure> for Failure {
    fn from(failure: JobFailure) -> Self {
        let code = match failure.class {
            FailureClass::Invalid => code::USAGE,
            FailureClass::BadImage => code::BAD_IMAGE,
            FailureClass::ModelUnavailable => code::MODEL_MISSING,
            FailureClass::OutOfMemory => code::OUT_OF_MEMORY,
            _ => code::FAILURE,
        };
        Failure { code, message: failure.message, hint: failure.remedy.as_ref().map(wording::remedy) }
    }
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Invalid(error) => error.into(),
            Refused::Unavailable(failure) | Refused::Storage(failure) => failure.into(),
            other => Failure { code: code::FAILURE, message: other.to_string(), hint: None },
        }
    }
}

impl From<flux2::weights::Error> for Failure {
    fn from(error: flux2::weights::Error) -> Self {
        Error::from(error).into()
    }
}

#[cfg(feature = "hub")]
impl From<flux2::hub::Error> for Failure {
    fn from(error: flux2::hub::Error) -> Self {
        Error::from(error).into()
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let code = match error.kind() {
            ErrorKind::Usage => code::USAGE,
            ErrorKind::ModelMissing => code::MODEL_MISSING,
            ErrorKind::Access => code::ACCESS,
            ErrorKind::OutOfMemory => code::OUT_OF_MEMORY,
            ErrorKind::BadImage => code::BAD_IMAGE,
            ErrorKind::Cancelled => code::CANCELLED,
            _ => code::FAILURE,
        };
        Failure { code, message: error.to_string(), hint: error.remedy().as_ref().map(wording::remedy) }
    }
}

#[cfg(any(feature = "mcp", feature = "session"))]
impl From<flux2_session::Error> for Failure {
    fn from(error: flux2_session::Error) -> Self {
        use flux2_session::Error as Of;

        let (code, hint) = match &error {
            Of::UnknownNumber { .. } | Of::TooFarBack { .. } | Of::UnknownName { .. } => {
                (code::USAGE, Some("!history lists the pictures"))
            }
            Of::BadReference { .. } | Of::BadName { .. } => (code::USAGE, None),
            Of::Unreadable { .. } | Of::Changed { .. } => {
                (code::BAD_IMAGE, Some("put its file back, or refer to another picture; !history lists them"))
            }
            Of::InUse { .. } => (code::USAGE, Some("end that process, or name another folder with --history")),
            _ => (code::FAILURE, Some("name another folder with --history, or `off` for none")),
        };
        Failure { code, message: error.to_string(), hint: hint.map(str::to_owned) }
    }
}

#[cfg(feature = "session")]
impl From<flux2_session::line::LineError> for Failure {
    fn from(error: flux2_session::line::LineError) -> Self {
        use flux2_session::line::LineError as Of;

        let hint = match &error {
            Of::Unknown { nearest: Some(nearest), .. } => format!("did you mean !{nearest}? !help lists the commands"),
            Of::Unknown { nearest: None, .. } => "!help lists the commands; a prompt may begin with \\!".into(),
            Of::Arguments { command, .. } => format!("!{} {}: {}", command.name, command.usage, command.about),
        };
        Failure::usage(error.to_string(), hint)
    }
}

#[cfg(feature = "session")]
impl From<flux2_session::studio::StudioError> for Failure {
    fn from(error: flux2_session::studio::StudioError) -> Self {
        use flux2_session::studio::StudioError as Of;

        match error {
            Of::Refused(refused) => refused.into(),
            Of::Failed(failure) => failure.into(),
            Of::Remote { message, hint, kind } => {
                let code = match kind.as_str() {
                    "model_unavailable" | "model_not_found" | "lora_not_found" | "model_gated" => code::MODEL_MISSING,
                    "invalid_api_key" => code::ACCESS,
                    "out_of_memory" => code::OUT_OF_MEMORY,
                    "bad_image" | "invalid_image" => code::BAD_IMAGE,
                    kind if kind.starts_with("invalid") || kind == "upscaler_not_found" => code::USAGE,
                    _ => code::FAILURE,
                };
                Failure { code, message, hint }
            }
            other => Failure { code: code::CANCELLED, message: other.to_string(), hint: None },
        }
    }
}
