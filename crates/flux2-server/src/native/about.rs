//! What the server can do, and how it does.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use flux2::request::{GRID_PX, MAX_PX, MIN_PX};
use flux2::sampler::schedule::MAX_STEPS;
use flux2::vocabulary::Vocabulary;
use flux2::weights::variant::{KLEIN_MINI, Kind};
use flux2_jobs::{ModelInfo, ModelKey, Stats};
use serde::Serialize;
use utoipa::ToSchema;

use crate::app::App;
use crate::error::ErrorBody;
use crate::values::Format;

/// A model that is served.
#[derive(Debug, Serialize, ToSchema)]
pub struct Model {
    /// Its name.
    pub name: String,
    /// Other names that lead to it.
    pub aliases: Vec<String>,
    /// Member of the family; null as long as the model is not loaded and its name does not say it.
    pub variant: Option<&'static str>,
    /// Whether it runs with few steps and without guidance.
    pub is_distilled: Option<bool>,
    /// Default number of steps.
    pub default_steps: Option<u32>,
    /// Default guidance scale; null if it runs without.
    pub default_guidance: Option<f32>,
    /// Default width and height in pixels.
    pub default_px: Option<u32>,
    /// Shortest and longest side that it was trained on, if images of other sizes are poor.
    pub trained_px: Option<[u32; 2]>,
    /// Devices that it is loaded on.
    pub loaded_on: Vec<String>,
}

/// What this server can do: all that a page or an agent needs to offer it.
#[derive(Debug, Serialize, ToSchema)]
pub struct Capabilities {
    /// Version of the program.
    pub version: &'static str,
    /// Whether images come from a fake model, for tests.
    pub is_fake: bool,
    /// Models, the default first.
    pub models: Vec<Model>,
    /// Names of LoRAs.
    pub loras: Vec<String>,
    /// Upscalers, the default first.
    pub upscalers: Vec<UpscalerOf>,
    /// Number formats.
    pub formats: Vec<Format>,
    /// Kinds of noise.
    pub noise: Vec<&'static str>,
    /// What requests may ask for.
    pub limits: RequestLimits,
    /// What is built in, by name.
    pub features: BTreeMap<&'static str, bool>,
}

/// An upscaler.
#[derive(Debug, Serialize, ToSchema)]
pub struct UpscalerOf {
    /// Its name.
    pub name: String,
    /// How many times as wide and high its network makes an image; other sizes are made from that. Null for Lanczos.
    pub scale: Option<usize>,
}

impl UpscalerOf {
    fn new(upscaler: &flux2::Upscaler) -> Self {
        UpscalerOf { name: upscaler.name().to_owned(), scale: upscaler.scale() }
    }
}

/// What requests may ask for.
#[derive(Debug, Serialize, ToSchema)]
pub struct RequestLimits {
    /// Width and height are multiples of it.
    pub grid_px: u32,
    /// Shortest side in pixels.
    pub min_px: u32,
    /// Longest side in pixels.
    pub max_px: u32,
    /// Most pixels of an image.
    pub max_pixels: u64,
    /// Most denoising steps.
    pub max_steps: u32,
    /// Most images of a job.
    pub max_count: u32,
    /// Most reference images of a job.
    pub max_references: usize,
    /// Most characters of a prompt.
    pub max_prompt_chars: usize,
    /// Most bytes of a reference image.
    pub max_image_bytes: usize,
    /// Most bytes of a request.
    pub max_body_bytes: usize,
}

/// Numbers about the server.
#[derive(Debug, Serialize, ToSchema)]
pub struct StatsOf {
    /// Jobs that wait.
    pub queued: usize,
    /// Estimated seconds until the last of them starts.
    pub wait_seconds: f64,
    /// Jobs that run.
    pub running: usize,
    /// Jobs accepted since the start.
    pub accepted: u64,
    /// Jobs done since the start.
    pub done: u64,
    /// Jobs failed since the start.
    pub failed: u64,
    /// Jobs cancelled since the start.
    pub cancelled: u64,
    /// Jobs refused since the start.
    pub rejected: u64,
    /// Images saved since the start.
    pub images: u64,
    /// Devices.
    pub devices: Vec<DeviceOf>,
}

/// A device.
#[derive(Debug, Serialize, ToSchema)]
pub struct DeviceOf {
    /// Its name, as in `cuda:1`.
    pub name: String,
    /// Whether it draws or loads a model at this moment.
    pub is_busy: bool,
    /// Models that are loaded.
    pub models: Vec<String>,
}

/// Lists the models, the default first.
#[utoipa::path(get, path = "/api/v1/models", tag = "about",
    responses((status = 200, description = "The models.", body = Vec<Model>),
              (status = "default", description = "An error.", body = ErrorBody)))]
pub async fn models(State(app): State<App>) -> Json<Vec<Model>> {
    Json(all_models(&app))
}

fn all_models(app: &App) -> Vec<Model> {
    let stats = app.jobs.stats();
    app.jobs.models().into_iter().map(|info| model(app, info, &stats)).collect()
}

fn model(app: &App, info: ModelInfo, stats: &Stats) -> Model {
    let ModelInfo { name, mut aliases, variant } = info;
    aliases.extend(app.options.aliases.iter().filter(|(_, model)| **model == name).map(|(alias, _)| alias.clone()));
    let is_loaded = |models: &[(ModelKey, usize)]| models.iter().any(|(loaded, _)| loaded.name == name);
    let loaded_on = stats.devices.iter().filter(|device| is_loaded(&device.models)).map(|device| device.name.clone());
    let vocabulary = variant.filter(|variant| variant.name == KLEIN_MINI).and_then(|_| Vocabulary::builtin());
    Model {
        aliases,
        variant: variant.map(|variant| variant.name),
        is_distilled: variant.map(|variant| variant.kind != Kind::Base),
        default_steps: variant.map(|variant| variant.default_steps),
        default_guidance: variant.and_then(|variant| variant.default_guidance),
        default_px: variant.map(|variant| variant.default_px),
        trained_px: vocabulary.map(|known| [known.pictures.smallest, known.pictures.largest]),
        loaded_on: loaded_on.collect(),
        name,
    }
}

/// What this server can do: all that a page or an agent needs to offer it.
#[utoipa::path(get, path = "/api/v1/capabilities", tag = "about",
    responses((status = 200, description = "Models, sizes, limits and features.", body = Capabilities),
              (status = "default", description = "An error.", body = ErrorBody)))]
pub async fn capabilities(State(app): State<App>) -> Json<Capabilities> {
    let limits = &app.options.limits;
    let features = [
        ("references", true),
        ("loras", true),
        ("events", true),
        ("previews", true),
        ("watermark", true),
        ("masks", true),
        ("outpainting", true),
        ("strength", true),
        ("upscaling", true),
    ];
    Json(Capabilities {
        version: env!("CARGO_PKG_VERSION"),
        is_fake: app.options.is_fake,
        models: all_models(&app),
        loras: app.jobs.loras(),
        upscalers: app.jobs.upscalers().iter().map(UpscalerOf::new).collect(),
        formats: vec![Format::Png, Format::Jpeg, Format::Webp],
        noise: vec!["philox", "torch-cpu", "torch-cuda"],
        limits: RequestLimits {
            grid_px: GRID_PX,
            min_px: MIN_PX,
            max_px: MAX_PX,
            max_pixels: limits.pixels,
            max_steps: MAX_STEPS,
            max_count: limits.count,
            max_references: limits.references,
            max_prompt_chars: limits.prompt_chars,
            max_image_bytes: limits.image_bytes,
            max_body_bytes: limits.body_bytes,
        },
        features: features.into(),
    })
}

/// Numbers about the server since its start.
#[utoipa::path(get, path = "/api/v1/stats", tag = "about",
    responses((status = 200, description = "The numbers.", body = StatsOf),
              (status = "default", description = "An error.", body = ErrorBody)))]
pub async fn stats(State(app): State<App>) -> Json<StatsOf> {
    let stats = app.jobs.stats();
    Json(StatsOf {
        queued: stats.queued.iter().map(|depth| depth.jobs).sum(),
        wait_seconds: stats.wait_seconds,
        running: stats.running,
        accepted: stats.accepted,
        done: stats.done,
        failed: stats.failed.iter().map(|(_, count)| count).sum(),
        cancelled: stats.cancelled,
        rejected: stats.rejected.iter().map(|(_, count)| count).sum(),
        images: stats.images,
        devices: stats.devices.into_iter().map(device).collect(),
    })
}

fn device(device: flux2_jobs::stats::DeviceStats) -> DeviceOf {
    let models = device.models.iter().map(|(key, _)| key.to_string()).collect();
    DeviceOf { name: device.name, is_busy: device.is_busy, models }
}
