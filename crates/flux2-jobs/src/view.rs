//! The state of a job as others see it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use flux2::image::ImageFormat;
use serde::{Deserialize, Serialize};

use crate::failure::JobFailure;
use crate::id::JobId;
use crate::spec::{JobSpec, image_format};
use crate::submission::Priority;

/// Where a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// It waits for its turn.
    Queued,
    /// A worker draws it, or its pictures are being saved.
    Running,
    /// All pictures are saved.
    Done,
    /// It ended without all of its pictures.
    Failed,
    /// Somebody did not want it any more.
    Cancelled,
}

impl JobState {
    /// All states, in the order of their declaration.
    pub const ALL: [JobState; 5] =
        [JobState::Queued, JobState::Running, JobState::Done, JobState::Failed, JobState::Cancelled];

    /// Its name in lower case.
    pub const fn name(self) -> &'static str {
        match self {
            JobState::Queued => "queued",
            JobState::Running => "running",
            JobState::Done => "done",
            JobState::Failed => "failed",
            JobState::Cancelled => "cancelled",
        }
    }

    /// Whether nothing changes any more.
    pub const fn is_final(self) -> bool {
        matches!(self, JobState::Done | JobState::Failed | JobState::Cancelled)
    }
}

/// A job as it is now.
#[derive(Clone, Debug)]
pub struct JobView {
    /// Its id.
    pub id: JobId,
    /// Whose job it is.
    pub owner: String,
    /// Its priority.
    pub priority: Priority,
    /// Where it is.
    pub state: JobState,
    /// Its place in the queue, from 1, while it is queued.
    pub position: Option<usize>,
    /// Estimated time until it starts, while it is queued.
    pub wait: Option<Duration>,
    /// What is drawn.
    pub spec: Arc<JobSpec>,
    /// When it was accepted, started and finished.
    pub times: Times,
    /// How often it was started; over 1 if the process ended, or the device failed, while it was running.
    pub attempts: u32,
    /// The device that draws or drew it.
    pub device: Option<String>,
    /// How far it is, while it is running.
    pub progress: Option<Progress>,
    /// Parts of the request that were not carried out, as sentences.
    pub warnings: Vec<String>,
    /// Pictures that are saved.
    pub images: Vec<ImageInfo>,
    /// Why it ended without all of its pictures.
    pub failure: Option<JobFailure>,
    /// How its pictures were drawn, in their order.
    pub drawn: Vec<DrawingRecord>,
    /// Number of its last event.
    pub last_event: u64,
}

/// When the state of a job changed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Times {
    /// When it was accepted.
    pub accepted: SystemTime,
    /// When it was started last.
    pub started: Option<SystemTime>,
    /// When its final state was reached.
    pub finished: Option<SystemTime>,
    /// When it is no longer wanted.
    pub deadline: Option<SystemTime>,
}

/// How far a running job is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Progress {
    /// The picture being drawn, from 0.
    pub picture: u32,
    /// The stage in progress, as [`Phase::name`](flux2::Phase::name) calls it.
    pub stage: Option<&'static str>,
    /// Denoising steps of this picture that are finished.
    pub step: u32,
    /// Denoising steps of this picture.
    pub steps: u32,
}

/// A picture that is saved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ImageInfo {
    /// Its number in the job, from 0.
    pub index: u32,
    /// Seed of its noise.
    pub seed: u64,
    /// SHA-256 of its file, in lower-case hexadecimal.
    pub sha256: String,
    /// Size of its file in bytes.
    pub bytes: u64,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Format of its file.
    #[serde(with = "image_format")]
    pub format: ImageFormat,
    /// Whether somebody marked it as a favorite: it is kept when others grow old.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_favorite: bool,
}

/// How one picture was drawn.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DrawingRecord {
    /// Seconds from prompt to text embedding.
    pub text: f64,
    /// Seconds from references to tokens.
    pub references: f64,
    /// Seconds of each denoising step.
    pub steps: Vec<f64>,
    /// Seconds from latents to pixels.
    pub decode: f64,
    /// Seconds from pixels to more pixels.
    #[serde(default)]
    pub upscale: f64,
    /// Seconds from pixels to a saved file.
    pub save: f64,
    /// Pictures that were drawn together with this one, this one included.
    pub batch: u32,
    /// What did not have to be computed.
    pub cache: CacheHits,
}

/// Results that were found in a cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheHits {
    /// The text embedding was remembered or read from disk.
    pub text: bool,
    /// The tokens of all references were remembered.
    pub references: bool,
    /// The finished picture was remembered; nothing was drawn.
    pub picture: bool,
}

/// Which jobs [`Jobs::list`](crate::Jobs::list) returns.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Jobs of this owner; of all by default.
    pub owner: Option<String>,
    /// Jobs in one of these states; in any if there are none.
    pub states: Vec<JobState>,
    /// Jobs whose prompt contains each of these words, in upper or lower case.
    pub words: Vec<String>,
    /// Jobs of this model.
    pub model: Option<String>,
    /// Only jobs with a favorite picture.
    pub only_favorites: bool,
}

/// A page of jobs, the newest first.
#[derive(Clone, Debug)]
pub struct Page {
    /// The jobs.
    pub jobs: Vec<JobView>,
    /// Pass this as the cursor to get the next page; `None` on the last one.
    pub next: Option<JobId>,
    /// Another number whenever somebody has marked, deleted or restored finished pictures of the owner, and after a
    /// restart.
    pub revision: u64,
}

/// The bytes of a saved picture.
#[derive(Clone, Debug)]
pub struct Picture {
    /// What is known of it.
    pub info: ImageInfo,
    /// The file.
    pub bytes: Arc<[u8]>,
}
