//! How an engine is run.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use flux2::image::Parameters;

use crate::spec::JobSpec;

/// How an engine is run. The default keeps everything in memory.
#[derive(Clone, Debug)]
pub struct Options {
    /// Folder of the journal, the pictures and the uploads; made if it is missing. `None` keeps all in memory, and
    /// nothing outlives the engine.
    pub folder: Option<PathBuf>,
    /// Most jobs in the queue.
    pub max_queued: usize,
    /// Longest queue as estimated time until all of its jobs are done. One job may wait whatever it takes.
    pub max_wait: Duration,
    /// Most pictures in a job.
    pub max_count: u32,
    /// Most pictures that are drawn together; 1 draws each alone.
    pub max_batch: usize,
    /// How long jobs of a loaded model may go before others whose turn it is.
    pub affinity: Affinity,
    /// Time without work after which a model is unloaded; `None` keeps it.
    pub idle_unload: Option<Duration>,
    /// Threads that encode and save pictures.
    pub savers: usize,
    /// How often a job may be started before it counts as the cause of the crashes.
    pub max_attempts: u32,
    /// What is kept of jobs that are over.
    pub retention: Retention,
    /// Time in which the deletion of a picture can be taken back.
    pub undo: Duration,
    /// Most bytes of all uploads; the least recently used ones that no waiting job needs are dropped.
    pub max_upload_bytes: u64,
    /// Whether no job is drawn before [`Jobs::resume`](crate::Jobs::resume): so that the first worker sees all jobs of
    /// a series, and encodes their prompts together.
    pub starts_paused: bool,
    /// Whether a picture that was drawn before, as far as it is kept, is returned instead of drawn again.
    pub reuse_pictures: bool,
    /// Whether every picture gets an invisible watermark.
    pub watermark: bool,
    /// Signs every picture.
    pub signer: Option<Arc<dyn Signer>>,
}

/// Signs the files of pictures: the last that is done to them.
pub trait Signer: fmt::Debug + Send + Sync {
    /// The file of a picture with its signature. `reference` gives the bytes of a reference image's file by its digest,
    /// as far as they are kept.
    ///
    /// # Errors
    /// Why it cannot be signed; the job fails.
    fn sign(
        &self,
        file: Vec<u8>,
        spec: &JobSpec,
        made: &Parameters,
        reference: &dyn Fn(&str) -> Option<Vec<u8>>,
    ) -> flux2::Result<Vec<u8>>;
}

impl Default for Options {
    fn default() -> Self {
        Options {
            folder: None,
            max_queued: 1000,
            max_wait: Duration::from_secs(3600),
            max_count: 16,
            max_batch: 1,
            affinity: Affinity::default(),
            idle_unload: None,
            savers: 2,
            max_attempts: 5,
            retention: Retention::default(),
            undo: Duration::from_secs(60),
            max_upload_bytes: 1 << 30,
            starts_paused: false,
            reuse_pictures: false,
            watermark: false,
            signer: None,
        }
    }
}

/// How long jobs of a loaded model may go before jobs of another model whose turn it is. The first limit that is
/// reached counts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Affinity {
    /// Number of jobs.
    pub jobs: usize,
    /// Time since the other job's turn came.
    pub time: Duration,
}

impl Default for Affinity {
    fn default() -> Self {
        Affinity { jobs: 8, time: Duration::from_secs(30) }
    }
}

/// What is kept of jobs that are over; the oldest go first.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Retention {
    /// Longest time since the end of a job.
    pub age: Duration,
    /// Most jobs.
    pub jobs: usize,
    /// Most bytes of their pictures.
    pub bytes: u64,
}

impl Default for Retention {
    fn default() -> Self {
        Retention { age: Duration::from_secs(7 * 24 * 3600), jobs: 10_000, bytes: 2 << 30 }
    }
}
