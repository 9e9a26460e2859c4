//! Progress of work on files: downloads, checks and conversions.

use std::time::Duration;

/// Progress of a transfer: files are downloaded, checked or converted.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TransferEvent {
    /// The transfer begins.
    Started {
        /// Number of files.
        files: usize,
        /// Bytes that an earlier transfer left.
        done: u64,
        /// Bytes of all files.
        total: u64,
    },
    /// Bytes are done. Fewer than before if some turned out to be wrong.
    Progress {
        /// Bytes done of all files.
        done: u64,
    },
    /// A file is complete; the hash of a downloaded one is verified.
    FileFinished {
        /// Path in the repository, or in the folder that is written.
        path: String,
        /// Length in bytes.
        size: u64,
        /// Time the file took.
        elapsed: Duration,
    },
    /// Another process downloads this file; the transfer waits for it.
    Waiting {
        /// Path in the repository.
        path: String,
    },
    /// An attempt failed and will be repeated.
    Retry {
        /// Why the attempt failed.
        reason: String,
        /// Pause before the next attempt.
        pause: Duration,
    },
    /// The transfer is over, successful or not.
    Finished,
}

/// Receives the progress of a transfer on the thread that started it, so it should return quickly.
pub trait TransferObserver {
    /// Handles one event.
    fn on_transfer(&mut self, event: &TransferEvent);
}

impl<F: FnMut(&TransferEvent)> TransferObserver for F {
    fn on_transfer(&mut self, event: &TransferEvent) {
        self(event);
    }
}
