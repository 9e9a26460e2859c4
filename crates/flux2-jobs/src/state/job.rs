//! A job in memory.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use flux2::CancelToken;

use crate::event::{EventKind, EventLog};
use crate::failure::{FailureClass, JobFailure};
use crate::id::JobId;
use crate::journal::{Outcome, Row};
use crate::scheduler::Waiting;
use crate::spec::JobSpec;
use crate::store::Store;
use crate::submission::Priority;
use crate::view::{JobState, JobView, Progress, Times};

/// A job and its state.
pub(crate) struct Job {
    pub id: JobId,
    pub owner: Arc<str>,
    pub idempotency_key: Option<String>,
    pub priority: Priority,
    pub state: JobState,
    pub spec: Arc<JobSpec>,
    pub times: Times,
    pub attempts: u32,
    /// Floating-point operations of one picture.
    pub work: f64,
    pub device: Option<String>,
    pub outcome: Outcome,
    /// When it was started last.
    pub started: Option<Instant>,
    pub progress: Option<Progress>,
    pub log: Arc<EventLog>,
    /// Stops it while it is drawn.
    pub cancel: CancelToken,
    /// Whether somebody wants it to be cancelled.
    pub cancel_requested: bool,
    /// Whether it is to wait again once it has stopped.
    pub put_back: bool,
    /// Whether its end is being written to the journal.
    pub is_ending: bool,
    /// Whether the journal has it; until then nobody sees it.
    pub is_committed: bool,
    /// The place in the queue that its readers were told last.
    pub told_position: usize,
}

impl Job {
    /// Remove its pictures, unless others hold them.
    pub fn give_pictures_back(&mut self, pictures: &Store) {
        self.outcome.images.drain(..).for_each(|image| pictures.give_back(&image.sha256));
    }

    pub fn new(row: Row, log: Arc<EventLog>) -> Self {
        let Row { id, owner, idempotency_key, priority, state, spec, times, attempts, work, device, outcome } = row;
        Job {
            id,
            owner: owner.into(),
            idempotency_key,
            priority,
            state,
            spec: Arc::new(spec),
            times,
            attempts,
            work,
            device,
            outcome,
            started: None,
            progress: None,
            log,
            cancel: CancelToken::new(),
            cancel_requested: false,
            put_back: false,
            is_ending: false,
            is_committed: false,
            told_position: 0,
        }
    }

    /// A job of an earlier process. One that was running waits again; pictures it had saved are drawn again.
    pub fn restored(row: Row, log: Arc<EventLog>) -> Self {
        let mut job = Job { is_committed: true, ..Job::new(row, log) };
        if !job.state.is_final() {
            job.state = JobState::Queued;
            job.times.started = None;
            job.outcome = Outcome { warnings: job.outcome.warnings, ..Outcome::default() };
        }
        job
    }

    pub fn row(&self) -> Row {
        Row {
            id: self.id,
            owner: self.owner.to_string(),
            idempotency_key: self.idempotency_key.clone(),
            priority: self.priority,
            state: self.state,
            spec: JobSpec::clone(&self.spec),
            times: self.times,
            attempts: self.attempts,
            work: self.work,
            device: self.device.clone(),
            outcome: self.outcome.clone(),
        }
    }

    pub fn waiting(&self, seconds: f64) -> Waiting {
        Waiting {
            id: self.id,
            owner: Arc::clone(&self.owner),
            priority: self.priority,
            spec: Arc::clone(&self.spec),
            seconds,
            prepared_by: None,
        }
    }

    /// Whether one of its pictures is a favorite.
    pub fn has_favorite(&self) -> bool {
        self.outcome.images.iter().any(|image| image.is_favorite)
    }

    /// The event of its final state.
    pub fn final_event(&self) -> EventKind {
        match (self.state, &self.outcome.failure) {
            (JobState::Done, _) => EventKind::Done,
            (JobState::Failed, Some(failure)) => EventKind::Failed { failure: failure.clone() },
            (JobState::Failed, None) => {
                EventKind::Failed { failure: JobFailure::new(FailureClass::Internal, "the reason was not recorded") }
            }
            _ => EventKind::Cancelled,
        }
    }

    /// Whether its deadline has passed.
    pub fn is_late(&self, now: SystemTime) -> bool {
        self.times.deadline.is_some_and(|deadline| deadline <= now)
    }

    /// The job as others see it, without its place in the queue.
    pub fn view(&self) -> JobView {
        JobView {
            id: self.id,
            owner: self.owner.to_string(),
            priority: self.priority,
            state: self.state,
            position: None,
            wait: None,
            spec: Arc::clone(&self.spec),
            times: self.times,
            attempts: self.attempts,
            device: self.device.clone(),
            progress: self.progress.clone(),
            warnings: self.outcome.warnings.clone(),
            images: self.outcome.images.clone(),
            failure: self.outcome.failure.clone(),
            drawn: self.outcome.drawn.clone(),
            last_event: self.log.last_seq(),
        }
    }
}

/// The failure of a job whose deadline has passed.
pub(crate) fn too_late() -> JobFailure {
    JobFailure::new(FailureClass::DeadlineExceeded, "the deadline passed before the job was done")
}

/// Parts of the request that identify a single picture, for those that are drawn again.
pub(crate) fn picture_key(spec: &JobSpec, index: u32) -> String {
    let of_picture = JobSpec { seed: spec.seed.wrapping_add(u64::from(index)), count: 1, ..spec.clone() };
    serde_json::to_string(&of_picture).expect("strings and numbers serialize")
}
