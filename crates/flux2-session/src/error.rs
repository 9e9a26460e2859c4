//! Why something of a session cannot be done.

use std::path::PathBuf;

/// Why something of a session cannot be done. Each says what there is instead.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No picture has this number.
    #[error("there is no picture {number}: {known}")]
    UnknownNumber {
        /// The number.
        number: u64,
        /// The numbers that there are, as a sentence.
        known: String,
    },
    /// Fewer pictures were drawn.
    #[error("there is no picture -{back}: {known}")]
    TooFarBack {
        /// How many from the end, the last being 1.
        back: u64,
        /// The numbers that there are, as a sentence.
        known: String,
    },
    /// No picture has this name.
    #[error("no picture is called {name}: {known}")]
    UnknownName {
        /// The name.
        name: String,
        /// The nearest name, or the names that there are, as a sentence.
        known: String,
    },
    /// What follows a `$` is neither a number nor a name.
    #[error("${word} is neither a number nor a name: names begin with a letter, and $$ stands for a dollar sign")]
    BadReference {
        /// What follows it.
        word: String,
    },
    /// A name that cannot be referred to.
    #[error(
        "{name:?} is no name: it has up to {} letters, digits and underscores, and begins with a letter",
        crate::names::MAX_NAME
    )]
    BadName {
        /// The name.
        name: String,
    },
    /// The file of a picture is not there, or cannot be read.
    #[error("picture {number} cannot be read: {}: {source}", path.display())]
    Unreadable {
        /// Number of the picture.
        number: u64,
        /// Its file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file of a picture holds something else now.
    #[error("picture {number} is not there any more: {} has been changed since", path.display())]
    Changed {
        /// Number of the picture.
        number: u64,
        /// Its file.
        path: PathBuf,
    },
    /// Another process keeps its history in the folder.
    #[error("another process uses the history in {}", folder.display())]
    InUse {
        /// The folder.
        folder: PathBuf,
    },
    /// The history cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}
