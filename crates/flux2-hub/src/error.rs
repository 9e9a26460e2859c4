//! What can go wrong between a repository on the hub and a folder on this disk.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use flux2_base::units::Bytes;
use flux2_base::{Cancelled, ErrorKind, Remedy};

use crate::RepoId;

/// Result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why files of the hub are not on this disk.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The text is not the name of a repository.
    #[error("{name:?} is not the name of a repository")]
    RepoName {
        /// The text that was given.
        name: String,
    },
    /// The endpoint or a proxy is not a URL. Its value is not shown: it may hold a password.
    #[error("the {what} is not a URL that can be used")]
    Url {
        /// Names the setting, not its value.
        what: &'static str,
    },
    /// A download is needed and the network must not be used.
    #[error("{repo} must be downloaded, but network access is turned off")]
    Offline {
        /// The repository that would be downloaded.
        repo: RepoId,
    },
    /// The host does not answer.
    #[error("{host} cannot be reached: {reason}")]
    Unreachable {
        /// Host, and port if it is not the default one.
        host: String,
        /// What the connection failed with.
        reason: String,
    },
    /// The system starts no thread, under its limits on processes or on memory.
    #[error("no thread could be started: {source}")]
    NoThreads {
        /// What the system says.
        source: io::Error,
    },
    /// The hub knows no such repository, or hides it from this account.
    #[error("{host} knows no repository {repo}")]
    NotFound {
        /// The repository that was asked for.
        repo: RepoId,
        /// Host, and port if it is not the default one.
        host: String,
    },
    /// The repository exists, but this account has no access to it.
    #[error("{}", no_access(repo, *license, *token))]
    Access {
        /// The repository that was asked for.
        repo: RepoId,
        /// URL of the page where its license is shown and accepted.
        page: String,
        /// Name of the license, if it is known.
        license: Option<&'static str>,
        /// Whether a token was sent.
        token: bool,
    },
    /// The hub does not know the token.
    #[error("{host} does not know the token")]
    Token {
        /// Host, and port if it is not the default one.
        host: String,
    },
    /// The repository holds no files that a model is made of.
    #[error("{repo} holds no model that can be read")]
    NoModel {
        /// The repository that was asked for.
        repo: RepoId,
    },
    /// Too many requests; the pause that the host asks for is longer than this client waits.
    #[error("{host} has had too many requests{}", match pause {
        Some(pause) => format!(" and asks for a pause of {} s", pause.as_secs()),
        None => String::new(),
    })]
    Busy {
        /// Host, and port if it is not the default one.
        host: String,
        /// The pause that the host asks for, if it names one.
        pause: Option<Duration>,
    },
    /// An HTTP status that means nothing here.
    #[error("{host} answers with status {status}")]
    Status {
        /// Host, and port if it is not the default one.
        host: String,
        /// The HTTP status.
        status: u16,
    },
    /// An answer that no hub gives.
    #[error("{host} does not answer as a hub does: {reason}")]
    Answer {
        /// Host, and port if it is not the default one.
        host: String,
        /// What is wrong with the answer.
        reason: String,
    },
    /// The server offers a file of another length than the hub lists.
    #[error("{file}: the server offers {found} bytes, the hub names {expected}")]
    Length {
        /// Path in the repository.
        file: String,
        /// Bytes that the server offers.
        found: u64,
        /// Bytes that the hub lists.
        expected: u64,
    },
    /// A file arrived completely, with another hash than the hub lists.
    #[error("{file}: its hash is {found}, the hub names {expected}")]
    Digest {
        /// Path in the repository.
        file: String,
        /// Hash of the bytes that arrived, in hexadecimal.
        found: String,
        /// Hash that the hub lists, in hexadecimal.
        expected: String,
    },
    /// Every attempt to receive the rest of a file failed.
    #[error("{file}: the transfer stopped after {} of {}: {reason}", Bytes(*here), Bytes(*size))]
    CutShort {
        /// Path in the repository.
        file: String,
        /// Why the last attempt failed.
        reason: String,
        /// Bytes received so far.
        here: u64,
        /// Bytes of the whole file.
        size: u64,
    },
    /// The disk has no room for the files.
    #[error("{}: {} are missing, {} are free", path.display(), Bytes(*needed), Bytes(*free))]
    DiskFull {
        /// The cache folder.
        path: PathBuf,
        /// Bytes that are still to be received.
        needed: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// Another process holds a lock of the repository.
    #[error("another process is downloading {repo}")]
    InUse {
        /// The locked repository.
        repo: RepoId,
    },
    /// Stopped by the [`CancelToken`](flux2_base::CancelToken).
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
    /// A file or folder of the cache could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

impl Error {
    pub(crate) fn io(path: &Path, source: io::Error) -> Self {
        Error::Io { path: path.into(), source }
    }

    /// The kind of the error, for exit codes and statuses.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::RepoName { .. } | Error::Url { .. } => ErrorKind::Usage,
            Error::Offline { .. } | Error::Unreachable { .. } | Error::NotFound { .. } | Error::NoModel { .. } => {
                ErrorKind::ModelMissing
            }
            Error::Access { .. } | Error::Token { .. } => ErrorKind::Access,
            Error::Cancelled(_) => ErrorKind::Cancelled,
            Error::NoThreads { .. } => ErrorKind::OutOfMemory,
            _ => ErrorKind::Failure,
        }
    }

    /// What the caller can do about it.
    pub fn remedy(&self) -> Option<Remedy> {
        Some(match self {
            Error::RepoName { .. } => Remedy::advice("name a repository as owner/name"),
            Error::Url { .. } => Remedy::advice("write it as in https://huggingface.co or http://proxy:3128"),
            Error::Offline { .. } => Remedy::GoOnline,
            Error::Unreachable { .. } => Remedy::CheckNetwork,
            Error::NotFound { .. } => Remedy::CorrectRepository,
            Error::Access { page, token, .. } => {
                let tokens_page = (!token).then(|| tokens_page(page));
                Remedy::AcceptLicense { page: page.clone(), tokens_page }
            }
            Error::Token { .. } => Remedy::ReplaceToken,
            Error::NoThreads { .. } => Remedy::too_few_threads(),
            Error::NoModel { .. } => {
                Remedy::advice("name a repository with model_index.json or with .safetensors files")
            }
            Error::Busy { .. } => Remedy::advice("run it again later; what is here is kept"),
            Error::Status { .. } | Error::CutShort { .. } => {
                Remedy::advice("run it again: it resumes where it stopped")
            }
            Error::Answer { .. } => Remedy::CheckEndpoint,
            Error::Length { .. } | Error::Digest { .. } => {
                Remedy::advice("run it again; if it stays, something between here and the hub changes files")
            }
            Error::DiskFull { .. } => Remedy::MoveCache,
            Error::InUse { .. } => Remedy::advice("wait until the other process is done"),
            Error::Cancelled(_) => return None,
            Error::Io { source, .. } => return Remedy::for_io(source.kind()),
        })
    }
}

fn no_access(repo: &RepoId, license: Option<&str>, token: bool) -> String {
    let license = license.map(|name| format!(" ({name})")).unwrap_or_default();
    match token {
        false => format!("{repo} is given to those who accepted its license{license}, and no token says who asks"),
        true => format!("{repo} is not given to the account of this token: its license{license} is not accepted"),
    }
}

/// URL of the page of tokens on the host of another page.
fn tokens_page(page: &str) -> String {
    let (scheme, rest) = page.split_once("://").unwrap_or(("https", page));
    format!("{scheme}://{}/settings/tokens", rest.split('/').next().unwrap_or(rest))
}
