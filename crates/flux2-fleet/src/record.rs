//! A job as it is stored in the bucket of all jobs: [`Record`]. Every change of one is a compare-and-set.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use flux2_jobs::{
    DrawingRecord, EventKind, ImageInfo, JobFailure, JobId, JobSpec, JobState, JobView, Priority, Progress, Times,
};
use serde::{Deserialize, Serialize};

use crate::error::{FleetError, Result};

/// Version of the layout.
const VERSION: u32 = 1;
/// Bits of an event's number below the part that counts changes of state.
const PROGRESS_BITS: u32 = 16;

/// Where a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// It is stored, and not known to be in the queue.
    Accepted,
    /// It is in the queue.
    Queued,
    /// A worker draws it.
    Running,
    /// All pictures are stored.
    Done,
    /// It ended without all of its pictures.
    Failed,
    /// Somebody did not want it any more.
    Cancelled,
    /// The queue had no room for it.
    Rejected,
}

impl Stage {
    /// Whether nothing changes any more, unless somebody hands it in again.
    pub const fn is_final(self) -> bool {
        matches!(self, Stage::Done | Stage::Failed | Stage::Cancelled | Stage::Rejected)
    }

    /// The state that front ends know.
    pub const fn state(self) -> JobState {
        match self {
            Stage::Accepted | Stage::Queued => JobState::Queued,
            Stage::Running => JobState::Running,
            Stage::Done => JobState::Done,
            Stage::Failed | Stage::Rejected => JobState::Failed,
            Stage::Cancelled => JobState::Cancelled,
        }
    }
}

/// What draws: jobs that are drawn by equal kinds have equal bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Drawer {
    /// Name of the worker.
    pub worker: String,
    /// Which run of the worker: a new one for each process.
    pub epoch: String,
    /// Kind of its device.
    pub kind: String,
    /// Version of the program.
    pub version: String,
}

impl std::fmt::Display for Drawer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}, version {}", self.worker, self.kind, self.version)
    }
}

/// A change of state. Its place in the history numbers it, equally for all front ends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// It waits.
    Queued,
    /// A part of the request is not carried out.
    Warning(String),
    /// A worker, as it prints, begins to draw it.
    Started(String),
    /// A picture is stored.
    Picture(ImageInfo),
    /// All pictures are stored.
    Done,
    /// It ended without all of its pictures.
    Failed,
    /// Somebody did not want it any more.
    Cancelled,
}

/// How far a running job is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// The picture being drawn, from 0.
    pub picture: u32,
    /// Denoising steps of this picture that are finished.
    pub step: u32,
    /// Denoising steps of this picture.
    pub steps: u32,
}

/// A job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Version of this layout.
    pub v: u32,
    /// Whose job it is.
    pub owner: String,
    /// Its priority.
    pub priority: Priority,
    /// What is drawn.
    pub spec: JobSpec,
    /// The only kind of device that may draw it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub only: Option<String>,
    /// Whether previews are wanted from the first step on.
    #[serde(default)]
    pub previews: bool,
    /// When it was accepted, in milliseconds since 1970.
    pub accepted_ms: u64,
    /// When it is no longer wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
    /// When this record was changed last.
    pub updated_ms: u64,
    /// Where it is.
    pub state: Stage,
    /// Number of its message in the queue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    /// How often it was put into the queue on purpose.
    #[serde(default)]
    pub publishes: u32,
    /// Whether its end is asked for.
    #[serde(default)]
    pub cancel: bool,
    /// How often a worker began to draw it.
    #[serde(default)]
    pub attempts: u32,
    /// What draws or drew it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<Drawer>,
    /// When it was started last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_ms: Option<u64>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_ms: Option<u64>,
    /// How far it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Step>,
    /// Pictures that are stored.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<ImageInfo>,
    /// How they were drawn.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub drawn: Vec<DrawingRecord>,
    /// Why it failed, or why the last attempt did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<JobFailure>,
    /// All changes of state.
    pub history: Vec<Change>,
}

impl Record {
    /// A job that is accepted now.
    pub fn new(owner: String, priority: Priority, spec: JobSpec, warnings: Vec<String>) -> Self {
        let now = now_ms();
        let history = std::iter::once(Change::Queued).chain(warnings.into_iter().map(Change::Warning)).collect();
        Record {
            v: VERSION,
            owner,
            priority,
            spec,
            only: None,
            previews: false,
            accepted_ms: now,
            deadline_ms: None,
            updated_ms: now,
            state: Stage::Accepted,
            seq: None,
            publishes: 0,
            cancel: false,
            attempts: 0,
            worker: None,
            started_ms: None,
            finished_ms: None,
            progress: None,
            images: Vec::new(),
            drawn: Vec::new(),
            failure: None,
            history,
        }
    }

    /// Read a stored job.
    ///
    /// # Errors
    /// [`FleetError::Malformed`].
    pub fn read(id: JobId, bytes: &[u8]) -> Result<Record> {
        let malformed = |reason: String| FleetError::Malformed { what: format!("job {id}"), reason };
        let record: Record = serde_json::from_slice(bytes).map_err(|error| malformed(error.to_string()))?;
        match record.v {
            VERSION => Ok(record),
            other => Err(malformed(format!("its layout has version {other}, this program reads {VERSION}"))),
        }
    }

    /// The bytes to store.
    pub fn bytes(&self) -> bytes::Bytes {
        serde_json::to_vec(self).expect("a record is JSON").into()
    }

    /// The same, changed now.
    pub fn touched(mut self) -> Self {
        self.updated_ms = now_ms();
        self
    }

    /// Ended in this way.
    pub fn ended(mut self, state: Stage, failure: Option<JobFailure>) -> Self {
        (self.state, self.failure, self.progress) = (state, failure, None);
        self.finished_ms = Some(now_ms());
        self.history.push(match state {
            Stage::Done => Change::Done,
            Stage::Cancelled => Change::Cancelled,
            _ => Change::Failed,
        });
        self
    }

    /// Whether nobody waits for it any more.
    pub fn is_late(&self) -> bool {
        self.deadline_ms.is_some_and(|deadline| deadline <= now_ms())
    }

    /// Identity of its message in the queue: the server stores one message of each.
    pub fn message_id(&self, id: JobId) -> String {
        match self.publishes {
            0 => id.to_string(),
            again => format!("{id}.{again}"),
        }
    }

    /// Its changes of state as numbered events.
    pub fn events(&self) -> impl Iterator<Item = (u64, EventKind)> + '_ {
        self.history.iter().enumerate().map(|(index, change)| {
            let kind = match change {
                Change::Queued => EventKind::Queued { position: 1 },
                Change::Warning(text) => EventKind::Warning { text: text.clone() },
                Change::Started(device) => EventKind::Started { device: device.clone() },
                Change::Picture(image) => EventKind::ImageReady { image: image.clone() },
                Change::Done => EventKind::Done,
                Change::Failed => EventKind::Failed { failure: self.failure.clone().unwrap_or_else(no_reason) },
                Change::Cancelled => EventKind::Cancelled,
            };
            (number(index + 1, 0), kind)
        })
    }

    /// The job as front ends show it, without its place in the queue.
    pub fn view(&self, id: JobId) -> JobView {
        let warnings = self.history.iter().filter_map(|change| match change {
            Change::Warning(text) => Some(text.clone()),
            _ => None,
        });
        let state = self.state.state();
        let is_over = self.state.is_final();
        JobView {
            id,
            owner: self.owner.clone(),
            priority: self.priority,
            state,
            position: None,
            wait: None,
            spec: self.spec.clone().into(),
            times: Times {
                accepted: time(self.accepted_ms),
                started: self.started_ms.map(time),
                finished: self.finished_ms.map(time),
                deadline: self.deadline_ms.map(time),
            },
            attempts: self.attempts,
            device: self.worker.as_ref().map(Drawer::to_string),
            progress: self.progress.filter(|_| state == JobState::Running).map(|step| Progress {
                picture: step.picture,
                stage: Some("denoise"),
                step: step.step,
                steps: step.steps,
            }),
            warnings: warnings.collect(),
            images: self.images.clone(),
            failure: self.failure.clone().filter(|_| is_over && state == JobState::Failed),
            drawn: self.drawn.clone(),
            last_event: number(self.history.len(), 0),
        }
    }
}

/// Number of an event: `changes` changes of state, and then `progress` events that may be dropped.
pub fn number(changes: usize, progress: u32) -> u64 {
    (changes as u64) << PROGRESS_BITS | u64::from(progress.min((1 << PROGRESS_BITS) - 1))
}

/// Changes of state that had happened before an event of this number.
pub fn changes_before(number: u64) -> usize {
    usize::try_from(number >> PROGRESS_BITS).unwrap_or(usize::MAX)
}

fn no_reason() -> JobFailure {
    JobFailure::new(flux2_jobs::FailureClass::Internal, "no reason is stored")
}

/// Milliseconds since 1970.
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn time(ms: u64) -> SystemTime {
    UNIX_EPOCH.checked_add(Duration::from_millis(ms)).unwrap_or(UNIX_EPOCH)
}
