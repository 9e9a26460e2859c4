//! The facade: [`Jobs`].

use std::sync::Arc;
use std::time::Duration;

use flux2::Reference;

use crate::event::Subscription;
use crate::failure::JobFailure;
use crate::host::{ModelHost, ModelInfo};
use crate::id::JobId;
use crate::options::Options;
use crate::stats::Stats;
use crate::submission::{Accepted, ModelChoice, Refused, Submission};
use crate::view::{Filter, JobView, Page, Picture};

/// A running engine. Clones are handles of the same one; the threads end when the last handle is dropped.
///
/// Every method may be called from any thread. Those that touch the disk or decode images say so: a front end with an
/// executor calls them on a thread that may block.
#[derive(Clone)]
pub struct Jobs {}

/// Whether jobs are drawn.
#[derive(Clone, Debug, PartialEq)]
pub enum Readiness {
    /// Devices are opened, or a model that was asked for with [`Jobs::preload`] is loaded.
    Starting,
    /// Jobs are drawn.
    Ready,
    /// No jobs can be drawn, for this reason: no device, or the model that was to be loaded could not be.
    Failed(JobFailure),
    /// [`Jobs::drain`] was called.
    Draining,
}

/// How a [drain](Jobs::drain) ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Jobs that wait in the journal for the next start: queued ones, and running ones that were put back.
    pub left: usize,
    /// Jobs that were given up, as there is no journal to keep them.
    pub lost: usize,
}

/// What [`Jobs::cancel`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CancelOutcome {
    /// It was queued and is cancelled.
    Cancelled,
    /// It is running and will be cancelled within one block of a network.
    Requested,
    /// It was over before; nothing changed.
    AlreadyOver,
}

impl Jobs {
    /// Start an engine. Returns before devices are opened and models are loaded. With a folder, the journal is read
    /// and the jobs that were not finished are queued again (touches the disk).
    ///
    /// A journal that cannot be read is renamed, an empty one takes its place, and [`notices`](Self::notices) says so.
    ///
    /// # Errors
    /// [`Storage`](crate::FailureClass::Storage) if the folder cannot be written, or another process uses it.
    pub fn start(options: Options, host: Arc<dyn ModelHost>) -> Result<Jobs, JobFailure> {
        let _ = (options, host);
        unimplemented!("the engine follows in the next commit")
    }

    /// What an operator should know of the start, as sentences: a journal that was set aside, say.
    pub fn notices(&self) -> Vec<String> {
        unimplemented!()
    }

    /// Accept a job: every default is filled in now, so that a repetition draws the same bytes. Decodes its reference
    /// images and writes the journal (touches the disk).
    ///
    /// # Errors
    /// [`Refused`] says why, and for a full queue when to come back.
    pub fn submit(&self, submission: Submission) -> Result<Accepted, Refused> {
        let _ = submission;
        unimplemented!()
    }

    /// A job as it is now; `None` if there is none of this id, or not any more.
    pub fn get(&self, id: JobId) -> Option<JobView> {
        let _ = id;
        unimplemented!()
    }

    /// Jobs that match `filter`, the newest first: those after `cursor`, at most `limit`.
    pub fn list(&self, filter: &Filter, cursor: Option<JobId>, limit: usize) -> Page {
        let _ = (filter, cursor, limit);
        unimplemented!()
    }

    /// The events of a job after number `after`; 0 reads all that are kept. `None` if there is no such job.
    pub fn events(&self, id: JobId, after: u64) -> Option<Subscription> {
        let _ = (id, after);
        unimplemented!()
    }

    /// Cancel a job, queued or running. `None` if there is no such job.
    pub fn cancel(&self, id: JobId) -> Option<CancelOutcome> {
        let _ = id;
        unimplemented!()
    }

    /// A saved picture of a job (touches the disk). `None` if there is no such job, or the picture is not ready or not
    /// kept any more.
    ///
    /// # Errors
    /// If its file cannot be read.
    pub fn image(&self, id: JobId, index: u32) -> Result<Option<Picture>, JobFailure> {
        let _ = (id, index);
        unimplemented!()
    }

    /// Keep an upload, and return its SHA-256 in lower-case hexadecimal, which names it (touches the disk). Its bytes
    /// are not looked at.
    ///
    /// # Errors
    /// If it cannot be written, or is larger than all uploads may be.
    pub fn put_blob(&self, bytes: &[u8]) -> Result<String, JobFailure> {
        let _ = bytes;
        unimplemented!()
    }

    /// The bytes of an upload (touches the disk); `None` if there is none of this digest.
    ///
    /// # Errors
    /// If its file cannot be read.
    pub fn blob(&self, digest: &str) -> Result<Option<Arc<[u8]>>, JobFailure> {
        let _ = digest;
        unimplemented!()
    }

    /// Keep a decoded reference image for the life of the engine, under its digest, for jobs to name. It is not
    /// journaled: this is for a front end whose jobs end with it.
    pub fn put_reference(&self, reference: Reference) {
        let _ = reference;
        unimplemented!()
    }

    /// The models that are offered, the default first.
    pub fn models(&self) -> Vec<ModelInfo> {
        unimplemented!()
    }

    /// Names of the LoRAs that are offered.
    pub fn loras(&self) -> Vec<String> {
        unimplemented!()
    }

    /// Load a model on every device in the background, and draw a small picture with it that is not kept. Until then
    /// [`readiness`](Self::readiness) is not [`Ready`](Readiness::Ready).
    ///
    /// # Errors
    /// If there is no such model (may touch the disk).
    pub fn preload(&self, model: &ModelChoice) -> Result<(), Refused> {
        let _ = model;
        unimplemented!()
    }

    /// Whether jobs are drawn.
    pub fn readiness(&self) -> Readiness {
        unimplemented!()
    }

    /// Whether jobs are drawn: short for [`readiness`](Self::readiness).
    pub fn is_ready(&self) -> bool {
        self.readiness() == Readiness::Ready
    }

    /// Numbers for metrics.
    pub fn stats(&self) -> Stats {
        unimplemented!()
    }

    /// Take no new jobs and finish what is running. With a journal, queued jobs wait for the next start. Without, they
    /// are drawn too. What is running after `timeout` is stopped: put back into the journal, or given up. Blocks until
    /// then; a second call from another thread with a shorter timeout shortens the first.
    pub fn drain(&self, timeout: Duration) -> Drained {
        let _ = timeout;
        unimplemented!()
    }
}
