//! Types of the origin's API.

use flux2::upscale::LANCZOS;
use flux2_jobs::{Draft, JobState, JobView, ModelChoice};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::drawing::Image;
use crate::error::{ApiError, Result};
use crate::native::wire::{time_text, upscale_choice};
use crate::openai::wire::{ModelList, ModelObject};
use crate::values::{image_bytes, one_or_many};

/// Longest side that the origin draws, in pixels.
const MAX_PX: i64 = 2048;

/// A request for an image.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
pub struct GenerateRequest {
    /// Description of the image.
    #[schema(required)]
    pub prompt: Option<String>,
    /// Name of the model.
    pub model: Option<String>,
    /// Width in pixels, a multiple of 16.
    pub width: Option<i64>,
    /// Height in pixels, a multiple of 16.
    pub height: Option<i64>,
    /// Denoising steps.
    pub steps: Option<u32>,
    /// Guidance scale, for base models.
    pub guidance: Option<f32>,
    /// Seed.
    pub seed: Option<u64>,
    /// Reference images as base64: one or a list.
    #[serde(deserialize_with = "one_or_many")]
    pub input_image_base64: Vec<String>,
    /// How many times as wide and high the finished image becomes: 2 or 4; 1 or nothing leaves it as it is.
    pub upscale: Option<u32>,
    /// `lanczos`, which is the default, `realesrgan` for the server's own network, or the name of an upscaler.
    pub upscale_method: Option<String>,
}

impl GenerateRequest {
    /// The picture and its reference images.
    ///
    /// # Errors
    /// 422 without a prompt, 400 for a value that is not allowed.
    pub fn parts(self) -> Result<(Draft, Vec<Image>)> {
        let prompt = self.prompt.ok_or_else(|| {
            let status = axum::http::StatusCode::UNPROCESSABLE_ENTITY;
            ApiError::new(status, "invalid_value", "Field required").of("prompt")
        })?;
        if let Some(factor) = self.upscale.filter(|factor| ![1, 2, 4].contains(factor)) {
            return Err(ApiError::invalid("upscale", format!("{factor} times: 2 or 4 is possible")).hint("use 2 or 4"));
        }
        let upscaler = match self.upscale_method.as_deref() {
            Some("realesrgan") => None,
            Some(name) => Some(name.to_owned()),
            None => Some(LANCZOS.to_owned()),
        };
        let images =
            self.input_image_base64.iter().map(|text| image_bytes(text, "input_image_base64").map(Image::Sent));
        let draft = Draft {
            model: ModelChoice { name: self.model, ..Default::default() },
            prompt,
            width: side("width", self.width)?,
            height: side("height", self.height)?,
            steps: self.steps,
            guidance: self.guidance,
            seed: self.seed,
            upscale: upscale_choice(self.upscale.map(|factor| factor as f32), upscaler),
            ..Draft::default()
        };
        Ok((draft, images.collect::<Result<_>>()?))
    }
}

fn side(axis: &str, px: Option<i64>) -> Result<Option<u32>> {
    match px {
        Some(px) if !(1..=MAX_PX).contains(&px) => {
            Err(ApiError::invalid(axis, format!("{axis} {px} is outside 1 to {MAX_PX}")).code("invalid_size"))
        }
        px => Ok(px.map(|px| px as u32)),
    }
}

/// The name of a new job.
#[derive(Debug, Serialize, ToSchema)]
pub struct Token {
    /// 32 hexadecimal digits.
    pub token: String,
}

/// A job.
#[derive(Debug, Serialize, ToSchema)]
pub struct Status {
    /// Its name.
    pub token: String,
    /// `queued`, `running`, `completed`, `failed` or `cancelled`.
    pub status: &'static str,
    /// Description of the image.
    pub prompt: String,
    /// Name of the model.
    pub model: String,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Seed.
    pub seed: u64,
    /// When it was accepted.
    pub created_at: String,
    /// When it was started.
    pub started_at: Option<String>,
    /// When it ended.
    pub completed_at: Option<String>,
    /// Why it failed.
    pub error: Option<String>,
    /// How far it is, as a sentence.
    pub progress_message: Option<String>,
    /// Its place in the queue, from 1.
    pub queue_position: Option<usize>,
}

impl From<&JobView> for Status {
    fn from(job: &JobView) -> Self {
        Status {
            token: token(job),
            status: status(job.state),
            prompt: job.spec.prompt.clone(),
            model: job.spec.model.name.clone(),
            width: job.spec.width,
            height: job.spec.height,
            seed: job.spec.seed,
            created_at: time_text(job.times.accepted),
            started_at: job.times.started.map(time_text),
            completed_at: job.times.finished.map(time_text),
            error: job.failure.as_ref().map(|failure| failure.message.clone()),
            progress_message: progress_message(job),
            queue_position: job.position,
        }
    }
}

/// A job's id without its hyphens.
pub fn token(job: &JobView) -> String {
    job.id.to_string().replace('-', "")
}

/// A state in the origin's words.
pub fn status(state: JobState) -> &'static str {
    match state {
        JobState::Done => "completed",
        other => other.name(),
    }
}

/// How far a running job is.
pub fn progress_message(job: &JobView) -> Option<String> {
    let progress = job.progress.as_ref()?;
    Some(match (progress.stage, progress.step) {
        (Some(stage), 0) => stage.to_owned(),
        _ => format!("step {} of {}", progress.step, progress.steps),
    })
}

/// That a job was cancelled.
#[derive(Debug, Serialize, ToSchema)]
pub struct Cancelled {
    /// Always true.
    pub success: bool,
    /// `Cancelled`.
    pub message: &'static str,
}

/// The models, for the origin's clients and for clients of OpenAI's API that leave out `/v1`.
#[derive(Debug, Serialize, ToSchema)]
pub struct Models {
    /// Names of the models.
    pub supported: Vec<String>,
    /// The model that was used last, if it is loaded.
    pub loaded: Option<String>,
    /// Memory that loaded models take at most, as in `~12.3 GB`.
    pub vram_usage: String,
    /// Always `list`.
    pub object: &'static str,
    /// The models as `/v1/models` lists them.
    pub data: Vec<ModelObject>,
}

impl Models {
    /// From the list of OpenAI's API and what is loaded, the most recently used first.
    pub fn new(list: ModelList, supported: Vec<String>, loaded: &[(String, usize)]) -> Self {
        let bytes: usize = loaded.iter().map(|(_, bytes)| bytes).sum();
        Models {
            supported,
            loaded: loaded.first().map(|(name, _)| name.clone()),
            vram_usage: format!("~{:.1} GB", bytes as f64 / 1e9),
            object: list.object,
            data: list.data,
        }
    }
}
