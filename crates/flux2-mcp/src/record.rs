//! What tools answer, as JSON that an agent reads.

use flux2_jobs::{Forecast, JobView, ModelInfo};
use flux2_session::Entry;
use serde::Serialize;

use crate::album::Kept;
use crate::desk::Desk;

/// A job.
#[derive(Debug, Serialize)]
pub struct JobRecord {
    /// For `job_status` and `cancel`.
    pub id: String,
    /// `queued`, `running`, `done`, `failed` or `cancelled`.
    pub state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<String>,
    /// What to do next.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    pub prompt: String,
    pub model: String,
    pub width: u32,
    pub height: u32,
    pub steps: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guidance: Option<f32>,
    pub seed: u64,
    pub pictures: Vec<PictureRecord>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Seconds of drawing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A picture.
#[derive(Debug, Default, Serialize)]
pub struct PictureRecord {
    /// How later calls name it.
    #[serde(rename = "ref", skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its file below the folder of the server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// The same from the root of the file system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Where it can be fetched, below the address of the server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    pub seed: u64,
    pub width: u32,
    pub height: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// What was not done as one might expect.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// What of it is in the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shown: Option<String>,
}

/// Seconds with two digits after the point.
fn rounded(seconds: f64) -> f64 {
    (seconds * 100.0).round() / 100.0
}

impl JobRecord {
    /// A job with the pictures that were taken in.
    pub fn new(job: &JobView, kept: &[Kept], desk: &dyn Desk, root: Option<&std::path::Path>) -> Self {
        let spec = &job.spec;
        let drawn = job.times.started.zip(job.times.finished);
        let pictures = job.images.iter().enumerate().map(|(at, image)| {
            let kept = kept.get(at);
            let file = kept.and_then(|kept| kept.file.clone());
            PictureRecord {
                reference: kept.map(|kept| format!("${}", kept.number)),
                name: kept.and_then(|kept| kept.name.as_ref().map(|name| format!("${name}"))),
                path: root.zip(file.as_ref()).map(|(root, file)| root.join(file).display().to_string()),
                file,
                url: desk.path_of(job.id, image.index),
                seed: image.seed,
                width: image.width,
                height: image.height,
                prompt: None,
                warnings: vec![],
                shown: None,
            }
        });
        JobRecord {
            id: job.id.to_string(),
            state: job.state.name(),
            progress: progress(job),
            next: None,
            prompt: spec.prompt.clone(),
            model: spec.model.name.clone(),
            width: spec.width,
            height: spec.height,
            steps: spec.steps,
            guidance: spec.guidance,
            seed: spec.seed,
            pictures: pictures.collect(),
            warnings: job.warnings.clone(),
            seconds: drawn.and_then(|(start, end)| end.duration_since(start).ok()).map(|s| rounded(s.as_secs_f64())),
            error: job.failure.as_ref().map(|failure| crate::ToolError::from(failure.clone()).0),
        }
    }
}

/// How far a job is, in words.
pub fn progress(job: &JobView) -> Option<String> {
    if let Some(position) = job.position {
        let wait = job.wait.map(|wait| format!(", starts in about {} s", wait.as_secs())).unwrap_or_default();
        return Some(format!("position {position} in the queue{wait}"));
    }
    let progress = job.progress.as_ref().filter(|_| !job.state.is_final())?;
    let stage = progress.stage.unwrap_or("starting");
    let of = match job.spec.count {
        1 => String::new(),
        count => format!("picture {} of {count}: ", progress.picture + 1),
    };
    Some(format!("{of}{stage}, step {} of {}", progress.step, progress.steps.max(job.spec.steps)))
}

impl PictureRecord {
    /// A picture of the history.
    pub fn of_entry(entry: &Entry, file: Option<String>) -> Self {
        PictureRecord {
            reference: Some(format!("${}", entry.number)),
            name: entry.name.as_ref().map(|name| format!("${name}")),
            file,
            seed: entry.made.seed,
            width: entry.made.width,
            height: entry.made.height,
            prompt: Some(entry.made.prompt.clone()),
            ..PictureRecord::default()
        }
    }
}

/// Answer of `list_models`.
#[derive(Debug, Serialize)]
pub struct ModelsRecord {
    /// The default first.
    pub models: Vec<ModelRecord>,
    pub loras: Vec<String>,
    /// The default first.
    pub upscalers: Vec<String>,
    /// The folder that files are below.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub folder: Option<String>,
    pub limits: LimitsRecord,
}

/// A model.
#[derive(Debug, Serialize)]
pub struct ModelRecord {
    pub name: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    pub is_default: bool,
    pub is_loaded: bool,
    /// Width and height that it was made for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_px: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_steps: Option<u32>,
    /// Whether it takes a guidance scale and a negative prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub has_guidance: Option<bool>,
    /// What it draws, where that is not everything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// What calls may ask for.
#[derive(Debug, Serialize)]
pub struct LimitsRecord {
    pub max_pixels: u64,
    pub max_count: u32,
    pub max_references: usize,
    pub max_image_bytes: usize,
    pub max_prompt_chars: usize,
}

impl ModelsRecord {
    /// What an engine offers.
    pub fn new(desk: &dyn Desk, root: Option<&std::path::Path>) -> Self {
        let (jobs, limits) = (desk.jobs(), desk.limits());
        let stats = jobs.stats();
        let loaded: Vec<&String> =
            stats.devices.iter().flat_map(|device| &device.models).map(|(key, _)| &key.name).collect();
        let model = |(at, info): (usize, ModelInfo)| ModelRecord {
            is_default: at == 0,
            is_loaded: loaded.contains(&&info.name),
            default_px: info.variant.map(|variant| variant.default_px),
            default_steps: info.variant.map(|variant| variant.default_steps),
            has_guidance: info.variant.map(|variant| variant.default_guidance.is_some()),
            note: info.variant.filter(|v| v.name == flux2::variant::KLEIN_MINI).map(|_| MINI.to_owned()),
            name: info.name,
            aliases: info.aliases,
        };
        ModelsRecord {
            models: jobs.models().into_iter().enumerate().map(model).collect(),
            loras: jobs.loras(),
            upscalers: jobs.upscalers().iter().map(|upscaler| upscaler.name().to_owned()).collect(),
            folder: root.map(|root| root.display().to_string()),
            limits: LimitsRecord {
                max_pixels: limits.pixels,
                max_count: limits.count,
                max_references: limits.references,
                max_image_bytes: limits.image_bytes,
                max_prompt_chars: limits.prompt_chars,
            },
        }
    }
}

/// What klein-mini draws.
const MINI: &str = "a small model of emoji-like pictures of 128x128: one to three animals, foods, vehicles or shapes on \
                    a background of one color, as in \"two red foxes on a blue background\"; other prompts give a smear";

/// Answer of `plan`.
#[derive(Debug, Serialize)]
pub struct PlanRecord {
    pub model: String,
    pub width: u32,
    pub height: u32,
    pub steps: u32,
    pub count: u32,
    /// Estimated seconds to draw all pictures.
    pub seconds: f64,
    /// Estimated seconds until the job would start.
    pub wait_seconds: f64,
    /// Bytes that a picture takes at most, with its model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<usize>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

impl From<Forecast> for PlanRecord {
    fn from(forecast: Forecast) -> Self {
        let spec = forecast.spec;
        PlanRecord {
            model: spec.model.name,
            width: spec.width,
            height: spec.height,
            steps: spec.steps,
            count: spec.count,
            seconds: rounded(forecast.seconds),
            wait_seconds: rounded(forecast.wait.as_secs_f64()),
            memory_bytes: forecast.memory,
            warnings: forecast.warnings.iter().map(ToString::to_string).collect(),
        }
    }
}
