//! What is handed in, and the answer.

use std::time::Duration;

use flux2::image::{ImageFormat, Quality};
use flux2::{Compat, Error, NoiseKind, Precision, Warning};
use serde::{Deserialize, Serialize};

use crate::canvas::SourceSpec;
use crate::failure::JobFailure;
use crate::id::JobId;
use crate::spec::{JobSpec, LoraKey, ModelKey, UpscaleSpec};

/// The pictures asked for. `None` leaves a choice to the model or to the [`ModelHost`](crate::ModelHost).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Draft {
    /// The model, by default the host's first.
    pub model: ModelChoice,
    /// Description of the pictures; may be empty.
    pub prompt: String,
    /// What guidance leads away from, for base models.
    pub negative_prompt: Option<String>,
    /// The template that the prompt was made from, to be stored in the pictures.
    pub template: Option<String>,
    /// Digests of reference images, as [`Jobs::put_blob`](crate::Jobs::put_blob) returned them.
    pub references: Vec<String>,
    /// The picture to paint into, its files by their digests as well. It gives the size.
    pub source: Option<SourceSpec>,
    /// Width in pixels.
    pub width: Option<u32>,
    /// Height in pixels.
    pub height: Option<u32>,
    /// Denoising steps.
    pub steps: Option<u32>,
    /// Guidance scale, for base models.
    pub guidance: Option<f32>,
    /// Kind of noise.
    pub noise: Option<NoiseKind>,
    /// The program whose noise levels and rounding are followed; its noise is not chosen by it.
    pub compat: Option<Compat>,
    /// Seed of the first picture; random by default, with 53 bits, so that JSON readers keep it exact.
    pub seed: Option<u64>,
    /// Number of pictures; 1 by default.
    pub count: Option<u32>,
    /// Format of the files; PNG by default.
    pub format: Option<ImageFormat>,
    /// Quality of lossy formats; JPEG at 95 and WebP without loss by default.
    pub quality: Quality,
    /// Whether the parameters are stored in the files; they are by default.
    pub metadata: Option<bool>,
    /// Whether the pictures get an invisible watermark; by default only where [`Options::watermark`](crate::Options)
    /// says so, which cannot be turned off.
    pub watermark: Option<bool>,
    /// How the pictures are enlarged once they are drawn; they are not by default.
    pub upscale: Option<UpscaleChoice>,
}

/// Asks for the pictures of a job again. Sides are left to a source, which gives them.
impl From<JobSpec> for Draft {
    fn from(spec: JobSpec) -> Self {
        let own = |side: u32| spec.source.is_none().then_some(side);
        let (width, height) = (own(spec.width), own(spec.height));
        let ModelKey { name, loras, precision } = spec.model;
        Draft {
            model: ModelChoice { name: Some(name), loras, precision: Some(precision) },
            prompt: spec.prompt,
            negative_prompt: spec.negative_prompt,
            template: spec.template,
            references: spec.references,
            source: spec.source,
            width,
            height,
            steps: Some(spec.steps),
            guidance: spec.guidance,
            noise: Some(spec.noise),
            compat: spec.compat,
            seed: Some(spec.seed),
            count: Some(spec.count),
            format: Some(spec.format),
            quality: spec.quality,
            metadata: Some(spec.metadata),
            watermark: Some(spec.watermark),
            upscale: spec.upscale.map(|UpscaleSpec { by, upscaler }| UpscaleChoice { by, upscaler: Some(upscaler) }),
        }
    }
}

/// Enlarging as it is asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct UpscaleChoice {
    /// How many times as wide and high.
    pub by: f32,
    /// Name of the upscaler; by default the host's first.
    pub upscaler: Option<String>,
}

/// A model as it is asked for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModelChoice {
    /// Its name; by default the host's first model.
    pub name: Option<String>,
    /// LoRAs to add, in order.
    pub loras: Vec<LoraKey>,
    /// Number format; by default the host's.
    pub precision: Option<Precision>,
}

/// A job to be accepted.
#[derive(Clone, Debug, Default)]
pub struct Submission {
    /// The pictures.
    pub draft: Draft,
    /// Whose job it is: the name of an API key, say. Owners take turns.
    pub owner: String,
    /// Jobs of a higher priority go first.
    pub priority: Priority,
    /// Time from now after which the job is no longer wanted: it fails with
    /// [`DeadlineExceeded`](crate::FailureClass::DeadlineExceeded).
    pub deadline: Option<Duration>,
    /// A second submission of the same owner with the same key returns the job of the first.
    pub idempotency_key: Option<String>,
    /// Whether previews are wanted from the first step on; see [`Jobs::want_previews`](crate::Jobs::want_previews).
    pub previews: bool,
}

/// The order of jobs of different urgency.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// Somebody waits at a screen.
    High,
    /// The usual one.
    #[default]
    Normal,
    /// Work in the background.
    Low,
}

impl Priority {
    /// All priorities, the most urgent first.
    pub const ALL: [Priority; 3] = [Priority::High, Priority::Normal, Priority::Low];

    /// Its name in lower case.
    pub const fn name(self) -> &'static str {
        match self {
            Priority::High => "high",
            Priority::Normal => "normal",
            Priority::Low => "low",
        }
    }
}

/// A job that was accepted. With a journal, it is on disk.
#[derive(Clone, Debug, PartialEq)]
pub struct Accepted {
    /// The job.
    pub id: JobId,
    /// Whether an earlier submission with the same idempotency key made it.
    pub is_repeat: bool,
    /// Its place in the queue, from 1; `None` if it is not queued any more.
    pub position: Option<usize>,
    /// Estimated time until it starts.
    pub wait: Duration,
    /// Parts of the request that are ignored or probably not meant.
    pub warnings: Vec<Warning>,
}

/// Why a job was not accepted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// The queue is full.
    #[error("the queue is full: {jobs} jobs, about {} s of work", wait.as_secs())]
    Full {
        /// Jobs in the queue.
        jobs: usize,
        /// Estimated time until they have started.
        wait: Duration,
        /// Estimated time until there is room for this one.
        retry_after: Duration,
    },
    /// No new jobs are taken, because the engine is about to stop.
    #[error("no new jobs are taken: the program is about to end")]
    Draining,
    /// No model can do what was asked for, or a reference image cannot be used.
    #[error(transparent)]
    Invalid(#[from] Error),
    /// More pictures in a job than are allowed, or none.
    #[error("{count} pictures in a job: 1 to {max} are allowed")]
    Count {
        /// Pictures asked for.
        count: u32,
        /// Most pictures allowed.
        max: u32,
    },
    /// The seeds of all pictures do not fit in 64 bits.
    #[error("seed {seed} has no {} seeds after it", count - 1)]
    SeedRange {
        /// Seed of the first picture.
        seed: u64,
        /// Number of pictures.
        count: u32,
    },
    /// No model of this name is served.
    #[error("there is no model {name:?}")]
    UnknownModel {
        /// The name.
        name: String,
        /// The most similar name that is served, if one is similar.
        nearest: Option<String>,
    },
    /// No LoRA of this name is served.
    #[error("there is no LoRA {name:?}")]
    UnknownLora {
        /// The name.
        name: String,
        /// The most similar name that is served, if one is similar.
        nearest: Option<String>,
    },
    /// No upscaler of this name is served.
    #[error("there is no upscaler {name:?}")]
    UnknownUpscaler {
        /// The name.
        name: String,
        /// The most similar name that is served, if one is similar.
        nearest: Option<String>,
    },
    /// No upload has this digest.
    #[error("there is no upload {digest:?}")]
    UnknownBlob {
        /// The digest.
        digest: String,
    },
    /// No device can be used.
    #[error("{0}")]
    Unavailable(JobFailure),
    /// The job could not be written to the journal, or an upload to its folder.
    #[error("{0}")]
    Storage(JobFailure),
}

impl Refused {
    /// A name in one word for metrics.
    pub const fn reason(&self) -> &'static str {
        match self {
            Refused::Full { .. } => "full",
            Refused::Draining => "draining",
            Refused::Invalid(_) | Refused::Count { .. } | Refused::SeedRange { .. } => "invalid",
            Refused::UnknownModel { .. } | Refused::UnknownLora { .. } => "unknown_model",
            Refused::UnknownUpscaler { .. } => "unknown_upscaler",
            Refused::UnknownBlob { .. } => "unknown_upload",
            Refused::Unavailable(_) => "unavailable",
            Refused::Storage(_) => "storage",
        }
    }
}
