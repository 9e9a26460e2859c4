//! Types of the native API.

use std::time::{Duration, SystemTime};

use flux2::{NoiseKind, Precision};
use flux2_jobs::{
    Draft, EventKind, FailureClass, ImageInfo, JobFailure, JobView, LoraKey, ModelChoice, Priority, UpscaleChoice,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::source::SourceView;
use super::times::Times;
use crate::error::{ApiError, Result};
use crate::values::{Format, lenient, one_or_many, parse_size, seed};

/// A job to be made. What is left out is chosen by the model, and told in the answer.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct JobRequest {
    /// Description of the images.
    #[schema(required, max_length = 32000)]
    pub prompt: Option<String>,
    /// Name of the model, by default the first of `/api/v1/models`.
    pub model: Option<String>,
    /// LoRAs to add, in order.
    #[serde(deserialize_with = "one_or_many")]
    pub loras: Vec<LoraRequest>,
    /// Number format, as in `bf16`.
    pub precision: Option<String>,
    /// Reference images to edit or combine: digests of uploads, or images as base64 or data URLs.
    #[serde(deserialize_with = "one_or_many")]
    pub references: Vec<String>,
    /// A picture to paint into: the digest of an upload, or an image as base64 or a data URL. It gives the size.
    pub source: Option<String>,
    /// What of the source is repainted, as an image: white, or where it is transparent.
    pub mask: Option<String>,
    /// Repaint where the source is transparent, instead of a mask.
    #[serde(deserialize_with = "lenient")]
    pub mask_from_alpha: Option<bool>,
    /// Repaint what the mask keeps, and keep the rest.
    #[serde(deserialize_with = "lenient")]
    pub mask_invert: Option<bool>,
    /// Pixels by which the repainted part grows.
    #[serde(deserialize_with = "lenient")]
    #[schema(maximum = 128)]
    pub mask_grow: Option<u32>,
    /// Width in pixels of the transition inside the mask, 8 by default.
    #[serde(deserialize_with = "lenient")]
    #[schema(maximum = 256)]
    pub feather: Option<u32>,
    /// Whether the model sees the source as its first reference image; it does by default.
    #[serde(deserialize_with = "lenient")]
    pub source_reference: Option<bool>,
    /// What is added at the left, the top, the right and the bottom: pixels, or percent as in `64,0,25%,0`.
    #[schema(value_type = Option<String>)]
    pub outpaint: Option<serde_json::Value>,
    /// The color of added pixels before they are painted over: `edge`, the default, or `#RRGGBB`.
    pub outpaint_fill: Option<String>,
    /// How far the source is replaced: 1, the default, starts from noise.
    #[serde(deserialize_with = "lenient")]
    #[schema(exclusive_minimum = 0, maximum = 1)]
    pub strength: Option<f64>,
    /// Width in pixels, a multiple of 16.
    #[serde(deserialize_with = "lenient")]
    pub width: Option<u32>,
    /// Height in pixels, a multiple of 16.
    #[serde(deserialize_with = "lenient")]
    pub height: Option<u32>,
    /// Width and height, as in `1024x768`.
    pub size: Option<String>,
    /// Denoising steps.
    #[serde(deserialize_with = "lenient")]
    pub steps: Option<u32>,
    /// Guidance scale, for base models.
    #[serde(deserialize_with = "lenient")]
    pub guidance: Option<f32>,
    /// Kind of noise: `philox`, `torch-cpu` or `torch-cuda`.
    pub noise: Option<String>,
    /// Seed of the first image, each further one has the next; -1 or nothing is random.
    #[serde(deserialize_with = "seed")]
    #[schema(value_type = Option<i128>, minimum = -1)]
    pub seed: Option<u64>,
    /// Number of images.
    #[serde(deserialize_with = "lenient")]
    #[schema(minimum = 1)]
    pub count: Option<u32>,
    /// Format of the files.
    pub format: Option<Format>,
    /// Whether the parameters are stored in the files; they are by default.
    #[serde(deserialize_with = "lenient")]
    pub metadata: Option<bool>,
    /// Whether the images get an invisible watermark; where the server marks all images, they do in any case.
    #[serde(deserialize_with = "lenient")]
    pub watermark: Option<bool>,
    /// How many times as wide and high the finished images become: 1 to 16, as 2 or 4.
    #[serde(deserialize_with = "lenient")]
    #[schema(minimum = 1, maximum = 16)]
    pub upscale: Option<f32>,
    /// Name of the upscaler, by default the first of `/api/v1/capabilities`.
    pub upscaler: Option<String>,
    /// Urgency.
    pub priority: Option<Urgency>,
    /// Seconds from now after which the job is no longer wanted.
    #[serde(deserialize_with = "lenient")]
    #[schema(minimum = 0.001)]
    pub deadline_seconds: Option<f64>,
}

/// A LoRA to add.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LoraRequest {
    /// Its name.
    pub name: String,
    /// Factor by which it is added.
    #[serde(default = "one")]
    pub scale: f32,
}

fn one() -> f32 {
    1.0
}

/// What a request says about enlarging; nothing for a factor of 1.
pub fn upscale_choice(by: Option<f32>, upscaler: Option<String>) -> Option<UpscaleChoice> {
    by.filter(|by| *by != 1.0).map(|by| UpscaleChoice { by, upscaler })
}

/// Urgency of a job.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Urgency {
    /// Somebody waits at a screen.
    High,
    /// The usual one.
    Normal,
    /// Work in the background.
    Low,
}

impl From<Urgency> for Priority {
    fn from(urgency: Urgency) -> Self {
        match urgency {
            Urgency::High => Priority::High,
            Urgency::Normal => Priority::Normal,
            Urgency::Low => Priority::Low,
        }
    }
}

impl From<Priority> for Urgency {
    fn from(priority: Priority) -> Self {
        match priority {
            Priority::High => Urgency::High,
            Priority::Normal => Urgency::Normal,
            Priority::Low => Urgency::Low,
        }
    }
}

/// Longest time that a deadline may be ahead.
const MAX_DEADLINE: f64 = 30.0 * 24.0 * 3600.0;

impl JobRequest {
    /// The draft without the references and the source, and the deadline.
    ///
    /// # Errors
    /// 400 for a value that is not allowed.
    pub fn draft(self) -> Result<(Draft, Option<Duration>)> {
        let prompt = self.prompt.ok_or_else(|| ApiError::invalid("prompt", "there is no prompt"))?;
        let size = self.size.as_deref().map(parse_size).transpose()?.flatten();
        if size.is_some() && (self.width.is_some() || self.height.is_some()) {
            return Err(ApiError::invalid("size", "size and width or height are given").hint("give only one of them"));
        }
        let deadline = self.deadline_seconds.map(|seconds| match seconds > 0.0 && seconds <= MAX_DEADLINE {
            true => Ok(Duration::from_secs_f64(seconds)),
            false => Err(ApiError::invalid("deadline_seconds", format!("{seconds} is outside 0 to {MAX_DEADLINE}"))),
        });
        let loras = self.loras.into_iter().map(|LoraRequest { name, scale }| LoraKey { name, scale }).collect();
        let precision = self.precision.as_deref().map(parse_precision).transpose()?;
        let draft = Draft {
            model: ModelChoice { name: self.model, loras, precision },
            prompt,
            references: Vec::new(),
            source: None,
            width: self.width.or(size.map(|(width, _)| width)),
            height: self.height.or(size.map(|(_, height)| height)),
            steps: self.steps,
            guidance: self.guidance,
            noise: self.noise.as_deref().map(parse_noise).transpose()?,
            seed: self.seed,
            count: self.count,
            format: self.format.map(Into::into),
            metadata: self.metadata,
            watermark: self.watermark,
            upscale: upscale_choice(self.upscale, self.upscaler),
            ..Draft::default()
        };
        Ok((draft, deadline.transpose()?))
    }
}

fn parse_precision(text: &str) -> Result<Precision> {
    text.parse().map_err(|_| ApiError::invalid("precision", format!("{text:?} is not a number format")))
}

/// The kind of noise of a name.
///
/// # Errors
/// 400 with the names there are.
pub fn parse_noise(text: &str) -> Result<NoiseKind> {
    text.parse().map_err(|error| ApiError::invalid("noise", format!("{error}")))
}

/// A job.
#[derive(Debug, Serialize, ToSchema)]
pub struct Job {
    /// Its id, a UUID.
    pub id: String,
    /// `queued`, `running`, `done`, `failed` or `cancelled`.
    pub state: &'static str,
    /// Its place in the queue, from 1, while it waits.
    pub position: Option<usize>,
    /// Estimated seconds until it starts, while it waits.
    pub wait_seconds: Option<f64>,
    /// Urgency.
    pub priority: Urgency,
    /// What is drawn, with every default filled in.
    pub request: Resolved,
    /// When it was accepted, as RFC 3339.
    pub created_at: String,
    /// When it was started last.
    pub started_at: Option<String>,
    /// When it ended.
    pub finished_at: Option<String>,
    /// When it is no longer wanted.
    pub deadline: Option<String>,
    /// How often it was started.
    pub attempts: u32,
    /// The device that draws or drew it.
    pub device: Option<String>,
    /// How far it is, while it is running.
    pub progress: Option<ProgressOf>,
    /// What of the request was not carried out.
    pub warnings: Vec<String>,
    /// Images that are ready.
    pub images: Vec<Image>,
    /// Why it ended without all of its images.
    pub error: Option<Failure>,
    /// How each image was drawn.
    pub timings: Vec<Times>,
    /// Number of its last event.
    pub last_event: u64,
    /// Paths of this job.
    pub links: Links,
}

/// What is drawn.
#[derive(Debug, Serialize, ToSchema)]
pub struct Resolved {
    /// Name of the model.
    pub model: String,
    /// Number format.
    pub precision: String,
    /// LoRAs.
    pub loras: Vec<LoraRequest>,
    /// Description of the images.
    pub prompt: String,
    /// SHA-256 of the reference images.
    pub references: Vec<String>,
    /// The picture that is painted into.
    pub source: Option<SourceView>,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Denoising steps.
    pub steps: u32,
    /// Guidance scale; none for distilled models.
    pub guidance: Option<f32>,
    /// Kind of noise.
    pub noise: String,
    /// Seed of the first image.
    pub seed: u64,
    /// Number of images.
    pub count: u32,
    /// Format of the files.
    pub format: Format,
    /// Whether parameters are stored in the files.
    pub metadata: bool,
    /// Whether the images get an invisible watermark.
    pub watermark: bool,
    /// How many times as wide and high the finished images become; null if they stay as they are.
    pub upscale: Option<f32>,
    /// Name of the upscaler.
    pub upscaler: Option<String>,
}

/// How far a job is.
#[derive(Debug, Serialize, ToSchema)]
pub struct ProgressOf {
    /// The image that is drawn, from 0.
    pub image: u32,
    /// The stage.
    pub stage: Option<&'static str>,
    /// Steps that are done.
    pub step: u32,
    /// Steps of this image.
    pub steps: u32,
}

/// An image that is ready.
#[derive(Debug, Serialize, ToSchema)]
pub struct Image {
    /// Its number in the job, from 0.
    pub index: u32,
    /// Its seed.
    pub seed: u64,
    /// SHA-256 of its file.
    pub sha256: String,
    /// Bytes of its file.
    pub bytes: u64,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Format of its file.
    pub format: Format,
    /// Path of its file.
    pub url: String,
    /// Path of a small version.
    pub thumbnail: String,
    /// Whether it is a favorite, which is kept when others grow old.
    pub is_favorite: bool,
}

/// Why a job has not all of its images.
#[derive(Debug, Serialize, ToSchema)]
pub struct Failure {
    /// Its kind, as in `out_of_memory`.
    pub class: &'static str,
    /// What happened, and the value.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// Whether the same request may succeed later.
    pub may_retry: bool,
}

/// Paths of a job.
#[derive(Debug, Serialize, ToSchema)]
pub struct Links {
    /// The job; DELETE cancels it.
    #[serde(rename = "self")]
    pub this: String,
    /// Its events.
    pub events: String,
}

/// A page of jobs, the newest first.
#[derive(Debug, Serialize, ToSchema)]
pub struct JobPage {
    /// The jobs.
    pub jobs: Vec<Job>,
    /// Pass it as `cursor` for the next page; null on the last one.
    pub next: Option<String>,
    /// Another number whenever the caller's finished images were marked, deleted or restored, and after a restart of
    /// the server: then a list that was read before is out of date.
    pub revision: u64,
}

/// RFC 3339 in UTC with milliseconds.
pub fn time_text(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
}

impl From<JobView> for Job {
    fn from(view: JobView) -> Self {
        let path = format!("/api/v1/jobs/{}", view.id);
        let (spec, times) = (&view.spec, &view.times);
        Job {
            id: view.id.to_string(),
            state: view.state.name(),
            position: view.position,
            wait_seconds: view.wait.map(|wait| wait.as_secs_f64()),
            priority: view.priority.into(),
            request: Resolved {
                model: spec.model.name.clone(),
                precision: spec.model.precision.to_string(),
                loras: spec.model.loras.iter().map(|l| LoraRequest { name: l.name.clone(), scale: l.scale }).collect(),
                prompt: spec.prompt.clone(),
                references: spec.references.clone(),
                source: spec.source.as_ref().map(Into::into),
                width: spec.width,
                height: spec.height,
                steps: spec.steps,
                guidance: spec.guidance,
                noise: spec.noise.to_string(),
                seed: spec.seed,
                count: spec.count,
                format: spec.format.into(),
                metadata: spec.metadata,
                watermark: spec.watermark,
                upscale: spec.upscale.as_ref().map(|upscale| upscale.by),
                upscaler: spec.upscale.as_ref().map(|upscale| upscale.upscaler.clone()),
            },
            created_at: time_text(times.accepted),
            started_at: times.started.map(time_text),
            finished_at: times.finished.map(time_text),
            deadline: times.deadline.map(time_text),
            attempts: view.attempts,
            device: view.device,
            progress: view.progress.map(|p| ProgressOf {
                image: p.picture,
                stage: p.stage,
                step: p.step,
                steps: p.steps,
            }),
            warnings: view.warnings,
            images: view.images.iter().map(|image| Image::new(&path, image)).collect(),
            error: view.failure.map(Into::into),
            timings: view.drawn.into_iter().map(Times::from).collect(),
            last_event: view.last_event,
            links: Links { events: format!("{path}/events"), this: path },
        }
    }
}

impl Image {
    fn new(job: &str, info: &ImageInfo) -> Self {
        let url = format!("{job}/images/{}", info.index);
        Image {
            index: info.index,
            seed: info.seed,
            sha256: info.sha256.clone(),
            bytes: info.bytes,
            width: info.width,
            height: info.height,
            format: info.format.into(),
            is_favorite: info.is_favorite,
            thumbnail: format!("{url}/thumbnail"),
            url,
        }
    }
}

impl From<JobFailure> for Failure {
    fn from(failure: JobFailure) -> Self {
        let JobFailure { class, message, remedy } = failure;
        let hint = remedy.map(|remedy| remedy.to_string());
        Failure { class: FailureClass::name(class), message, hint, may_retry: class.may_retry() }
    }
}

/// The data of an event, as JSON.
pub fn event_data(job: &str, kind: &EventKind) -> serde_json::Value {
    use serde_json::json;
    match kind {
        EventKind::Queued { position } => json!({ "position": position }),
        EventKind::Started { device } => json!({ "device": device }),
        EventKind::Warning { text } => json!({ "text": text }),
        EventKind::Stage { picture, name } => json!({ "image": picture, "stage": name }),
        EventKind::Step { picture, step, steps } => json!({ "image": picture, "step": step, "steps": steps }),
        EventKind::Preview { picture, step, bytes } => {
            json!({ "image": picture, "step": step, "b64_json": crate::values::to_base64(bytes) })
        }
        EventKind::ImageReady { image } => json!(Image::new(job, image)),
        EventKind::Failed { failure } => json!(Failure::from(failure.clone())),
        _ => json!({}),
    }
}

/// A reference image that was uploaded.
#[derive(Debug, Serialize, ToSchema)]
pub struct Upload {
    /// SHA-256 of its bytes, which names it in `references`.
    pub sha256: String,
    /// Its bytes.
    pub bytes: usize,
    /// Width in pixels; null if it is not looked at again.
    pub width: Option<u32>,
    /// Height in pixels; null if it is not looked at again.
    pub height: Option<u32>,
}
