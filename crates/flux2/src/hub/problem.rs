//! What can go wrong between a repository on the hub and a folder on this disk.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use flux2_base::units::Bytes;
use flux2_base::{ErrorKind, Remedy};

use super::RepoId;

/// Why files of the hub are not here.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HubProblem {
    /// A name that no repository has.
    RepoName {
        /// What was given.
        name: String,
    },
    /// An endpoint or a proxy that is no URL. It is not shown: it may hold a password.
    Url {
        /// Which of the two.
        what: &'static str,
    },
    /// The network is not to be used.
    Offline {
        /// What was wanted.
        repo: RepoId,
    },
    /// Nobody answers.
    Unreachable {
        /// Who was asked.
        host: String,
        /// What happened.
        reason: String,
    },
    /// The hub knows no such repository, or does not show it to who asks.
    NotFound {
        /// Which.
        repo: RepoId,
        /// Who was asked.
        host: String,
    },
    /// A repository that is there and is not given to who asks.
    Access {
        /// Which.
        repo: RepoId,
        /// Where its licence is shown and accepted.
        page: String,
        /// Its licence, if it is known.
        licence: Option<&'static str>,
        /// Whether a token was sent.
        token: bool,
    },
    /// A token that the hub does not know.
    Token {
        /// Who does not.
        host: String,
    },
    /// A repository without anything that is read here.
    NoModel {
        /// Which.
        repo: RepoId,
    },
    /// Too many requests, and a pause longer than one waits for.
    Busy {
        /// Who says so.
        host: String,
        /// The pause it asks for, if it names one.
        pause: Option<Duration>,
    },
    /// An answer that means nothing here.
    Status {
        /// Who was asked.
        host: String,
        /// Its answer.
        status: u16,
    },
    /// An answer that is not what a hub says.
    Answer {
        /// Who was asked.
        host: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A file whose length is not the one the hub names.
    Length {
        /// Its path in the repository.
        file: String,
        /// Bytes the server offers.
        found: u64,
        /// Bytes the hub names.
        expected: u64,
    },
    /// A file that came whole and is another one.
    Digest {
        /// Its path in the repository.
        file: String,
        /// The hash it has.
        found: String,
        /// The hash the hub names.
        expected: String,
    },
    /// A file that did not come to its end.
    CutShort {
        /// Its path in the repository.
        file: String,
        /// What happened last.
        reason: String,
        /// Bytes that are here.
        here: u64,
        /// Bytes it has.
        size: u64,
    },
    /// Files that do not fit on the disk.
    DiskFull {
        /// The folder they go to.
        path: PathBuf,
        /// Bytes that are still missing.
        needed: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// Another process is at work on it.
    InUse {
        /// Which.
        repo: RepoId,
    },
}

impl HubProblem {
    pub(crate) fn kind(&self) -> ErrorKind {
        match self {
            HubProblem::RepoName { .. } | HubProblem::Url { .. } => ErrorKind::Usage,
            HubProblem::Offline { .. }
            | HubProblem::Unreachable { .. }
            | HubProblem::NotFound { .. }
            | HubProblem::NoModel { .. } => ErrorKind::ModelMissing,
            HubProblem::Access { .. } | HubProblem::Token { .. } => ErrorKind::Access,
            _ => ErrorKind::Failure,
        }
    }

    pub(crate) fn remedy(&self) -> Remedy {
        Remedy::advice(match self {
            HubProblem::RepoName { .. } => "name a repository as owner/name",
            HubProblem::Url { .. } => "write it as in https://huggingface.co or http://proxy:3128",
            HubProblem::Offline { .. } => return Remedy::GoOnline,
            HubProblem::Unreachable { .. } => return Remedy::CheckNetwork,
            HubProblem::NotFound { .. } => return Remedy::CorrectRepository,
            HubProblem::Access { page, token, .. } => {
                let tokens_page = (!token).then(|| tokens_page(page));
                return Remedy::AcceptLicence { page: page.clone(), tokens_page };
            }
            HubProblem::Token { .. } => return Remedy::ReplaceToken,
            HubProblem::NoModel { .. } => "name a repository with model_index.json or with .safetensors files",
            HubProblem::Busy { .. } => "run it again later; what is here is kept",
            HubProblem::Status { .. } | HubProblem::CutShort { .. } => "run it again: it goes on where it stopped",
            HubProblem::Answer { .. } => return Remedy::CheckEndpoint,
            HubProblem::Length { .. } | HubProblem::Digest { .. } => {
                "run it again; if it stays, something between here and the hub changes files"
            }
            HubProblem::DiskFull { .. } => return Remedy::MoveCache,
            HubProblem::InUse { .. } => "wait until the other process is done",
        })
    }
}

/// The page of tokens on the host of another page.
fn tokens_page(page: &str) -> String {
    let (scheme, rest) = page.split_once("://").unwrap_or(("https", page));
    format!("{scheme}://{}/settings/tokens", rest.split('/').next().unwrap_or(rest))
}

impl fmt::Display for HubProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HubProblem::RepoName { name } => write!(f, "no repository can be called {name:?}"),
            HubProblem::Url { what } => write!(f, "the {what} is not a URL that can be used"),
            HubProblem::Offline { repo } => write!(f, "{repo} must be downloaded, but network access is turned off"),
            HubProblem::Unreachable { host, reason } => write!(f, "{host} cannot be reached: {reason}"),
            HubProblem::NotFound { repo, host } => write!(f, "{host} knows no repository {repo}"),
            HubProblem::Access { repo, licence, token, .. } => {
                let licence = licence.map(|name| format!(" ({name})")).unwrap_or_default();
                match token {
                    false => write!(
                        f,
                        "{repo} is given to those who accepted its licence{licence}, and no token says who asks"
                    ),
                    true => write!(
                        f,
                        "{repo} is not given to the account of this token: its licence{licence} is not accepted"
                    ),
                }
            }
            HubProblem::Token { host } => write!(f, "{host} does not know the token"),
            HubProblem::NoModel { repo } => write!(f, "{repo} holds no model that can be read"),
            HubProblem::Busy { host, pause: Some(pause) } => {
                write!(f, "{host} has had too many requests and asks for a pause of {} s", pause.as_secs())
            }
            HubProblem::Busy { host, pause: None } => write!(f, "{host} has had too many requests"),
            HubProblem::Status { host, status } => write!(f, "{host} answers with status {status}"),
            HubProblem::Answer { host, reason } => write!(f, "{host} does not answer as a hub does: {reason}"),
            HubProblem::Length { file, found, expected } => {
                write!(f, "{file}: the server offers {found} bytes, the hub names {expected}")
            }
            HubProblem::Digest { file, found, expected } => {
                write!(f, "{file}: its hash is {found}, the hub names {expected}")
            }
            HubProblem::CutShort { file, reason, here, size } => {
                write!(f, "{file}: {} of {} came, then: {reason}", Bytes(*here), Bytes(*size))
            }
            HubProblem::DiskFull { path, needed, free } => {
                write!(f, "{}: {} are missing, {} are free", path.display(), Bytes(*needed), Bytes(*free))
            }
            HubProblem::InUse { repo } => write!(f, "another process is downloading {repo}"),
        }
    }
}
