//! Types of AUTOMATIC1111's API.

use flux2::image::Parameters;
use flux2_jobs::{Draft, JobView, ModelChoice, Painting, UpscaleChoice};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::drawing::{Image, SourceOrder};
use crate::error::{ApiError, Result};
use crate::native::wire::upscale_choice;
use crate::values::{image_bytes, lenient, one_or_many, seed};

/// A request for images. Other fields are accepted and ignored.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
pub struct DrawRequest {
    /// Description of the images.
    pub prompt: Option<String>,
    /// Not supported: ignored, and `info` says so.
    pub negative_prompt: Option<String>,
    /// Width in pixels, a multiple of 16.
    #[serde(deserialize_with = "lenient")]
    pub width: Option<u32>,
    /// Height in pixels, a multiple of 16.
    #[serde(deserialize_with = "lenient")]
    pub height: Option<u32>,
    /// Denoising steps.
    #[serde(deserialize_with = "lenient")]
    pub steps: Option<u32>,
    /// Guidance scale, for base models.
    #[serde(deserialize_with = "lenient")]
    pub cfg_scale: Option<f32>,
    /// Seed; -1 or nothing is random.
    #[serde(deserialize_with = "seed")]
    #[schema(value_type = Option<i128>, minimum = -1)]
    pub seed: Option<u64>,
    /// Images of a batch.
    #[serde(deserialize_with = "lenient")]
    #[schema(minimum = 1)]
    pub batch_size: Option<u32>,
    /// Batches.
    #[serde(deserialize_with = "lenient")]
    #[schema(minimum = 1)]
    pub n_iter: Option<u32>,
    /// Images of `img2img`, as base64 or data URLs. With a mask or a strength below 1 the first one is painted into, and
    /// gives the size; all others are reference images.
    #[serde(deserialize_with = "one_or_many")]
    pub init_images: Vec<String>,
    /// What of the first image is repainted, as an image: white.
    pub mask: Option<String>,
    /// Whether black is repainted instead of white: 0 or 1.
    #[serde(deserialize_with = "lenient")]
    pub inpainting_mask_invert: Option<f64>,
    /// Width in pixels of the transition inside the mask.
    #[serde(deserialize_with = "lenient")]
    pub mask_blur: Option<f64>,
    /// How far the first image is replaced; 1, the default, starts from noise.
    #[serde(deserialize_with = "lenient")]
    #[schema(exclusive_minimum = 0, maximum = 1)]
    pub denoising_strength: Option<f64>,
    /// Whether the finished images are enlarged. They are not denoised a second time.
    #[serde(deserialize_with = "lenient")]
    pub enable_hr: Option<bool>,
    /// How many times as wide and high they become; 2 by default.
    #[serde(deserialize_with = "lenient")]
    #[schema(minimum = 1, maximum = 16)]
    pub hr_scale: Option<f32>,
    /// Name of the upscaler; those of latents stand for the default one.
    pub hr_upscaler: Option<String>,
    /// Whether the images are in the answer; they are by default.
    #[serde(deserialize_with = "lenient")]
    pub send_images: Option<bool>,
    /// Settings of this request.
    pub override_settings: Option<OverrideSettings>,
}

/// Settings of a request.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct OverrideSettings {
    /// Title or name of the model.
    pub sd_model_checkpoint: Option<String>,
}

impl DrawRequest {
    /// The pictures, their reference images, and the picture to paint into.
    ///
    /// # Errors
    /// 400 for a value that is not allowed.
    pub fn parts(&self) -> Result<(Draft, Vec<Image>, Option<SourceOrder>)> {
        let count = self.batch_size.unwrap_or(1).checked_mul(self.n_iter.unwrap_or(1));
        let count = count.ok_or_else(|| ApiError::invalid("batch_size", "too many images"))?;
        let images = self.init_images.iter().map(|text| image_bytes(text, "init_images").map(Image::Sent));
        let mut images = images.collect::<Result<Vec<_>>>()?;
        let source = self.source(&mut images)?;
        let name = self.override_settings.as_ref().and_then(|settings| settings.sd_model_checkpoint.clone());
        let draft = Draft {
            model: ModelChoice { name, ..Default::default() },
            prompt: self.prompt.clone().unwrap_or_default(),
            // Clients send a size with every request; a source has its own.
            width: self.width.filter(|_| source.is_none()),
            height: self.height.filter(|_| source.is_none()),
            steps: self.steps,
            guidance: self.cfg_scale,
            seed: self.seed,
            count: Some(count),
            upscale: self.upscale(),
            ..Draft::default()
        };
        Ok((draft, images, source))
    }

    /// The picture to paint into: the first image, if there is a mask or a strength below 1. It is taken out of `images`.
    fn source(&self, images: &mut Vec<Image>) -> Result<Option<SourceOrder>> {
        let mask = self.mask.as_deref().filter(|mask| !mask.is_empty()).map(|mask| image_bytes(mask, "mask"));
        let mask = mask.transpose()?.map(Image::Sent);
        let strength = self.denoising_strength.unwrap_or(1.0);
        if images.is_empty() || (mask.is_none() && strength == 1.0) {
            return Ok(None);
        }
        let feather = self.mask_blur.map(|blur| match blur >= 0.0 {
            true => Ok(blur.round() as u32),
            false => Err(ApiError::invalid("mask_blur", format!("{blur} is less than 0"))),
        });
        let painting = Painting {
            mask_invert: mask.is_some() && self.inpainting_mask_invert.is_some_and(|invert| invert != 0.0),
            feather: feather.transpose()?.filter(|_| mask.is_some()),
            strength,
            ..Painting::default()
        };
        Ok(Some(SourceOrder { source: images.remove(0), mask, painting }))
    }

    fn upscale(&self) -> Option<UpscaleChoice> {
        let by = self.enable_hr.unwrap_or(false).then(|| self.hr_scale.unwrap_or(2.0));
        // The web UI's default, which works on latents, is no choice of a network.
        let named = self.hr_upscaler.clone().filter(|name| !name.starts_with("Latent") && name != "None");
        upscale_choice(by, named)
    }
}

/// The images of a request.
#[derive(Debug, Serialize, ToSchema)]
pub struct DrawResponse {
    /// The files as base64.
    pub images: Vec<String>,
    /// The request, without its images.
    #[schema(value_type = Object)]
    pub parameters: Value,
    /// How they were drawn, as JSON in a text.
    pub info: String,
}

/// How the images of a job were drawn, as JSON in a text.
pub fn info(job: &JobView, ignored: &[String]) -> String {
    let spec = &job.spec;
    let seeds: Vec<u64> = job.images.iter().map(|image| image.seed).collect();
    let guidance = spec.guidance.unwrap_or(1.0);
    let texts: Vec<String> = seeds.iter().map(|seed| line(job, *seed)).collect();
    let info = json!({
        "prompt": spec.prompt, "all_prompts": vec![&spec.prompt; seeds.len()],
        "negative_prompt": "", "all_negative_prompts": vec![""; seeds.len()],
        "seed": spec.seed, "all_seeds": seeds, "subseed": 0, "all_subseeds": vec![0; texts.len()],
        "width": spec.width, "height": spec.height, "steps": spec.steps, "cfg_scale": guidance,
        "sampler_name": "Euler", "batch_size": spec.count,
        "denoising_strength": spec.source.as_ref().map(|source| source.painting.strength),
        "sd_model_name": spec.model.name, "sd_model_hash": null, "infotexts": texts,
        "index_of_first_image": 0, "job_id": job.id.to_string(),
        "warnings": job.warnings.iter().chain(ignored).collect::<Vec<_>>(),
    });
    info.to_string()
}

/// The line that AUTOMATIC1111 writes into images.
fn line(job: &JobView, seed: u64) -> String {
    let spec = &job.spec;
    let parameters = Parameters {
        prompt: spec.prompt.clone(),
        negative_prompt: spec.negative_prompt.clone(),
        template: spec.template.clone(),
        seed,
        noise: spec.noise.to_string(),
        model: spec.model.name.clone(),
        variant: None,
        dtype: spec.model.precision.to_string(),
        steps: spec.steps,
        guidance: spec.guidance,
        width: spec.width,
        height: spec.height,
        references: spec.references.clone(),
        source: None,
        loras: Vec::new(),
        background: None,
        compat: None,
        upscale: None,
        software: flux2::image::metadata::SOFTWARE.into(),
        version: env!("CARGO_PKG_VERSION").into(),
    };
    parameters.line()
}

/// How far the caller's work is.
#[derive(Debug, Default, Serialize, ToSchema)]
pub struct ProgressResponse {
    /// 0 to 1.
    pub progress: f64,
    /// Estimated seconds that are left.
    pub eta_relative: f64,
    /// Details.
    pub state: State,
    /// What the image looks like so far, as base64.
    pub current_image: Option<String>,
    /// A sentence.
    pub textinfo: Option<String>,
}

/// Details of the progress.
#[derive(Debug, Default, Serialize, ToSchema)]
pub struct State {
    /// Always false.
    pub skipped: bool,
    /// Whether it was interrupted.
    pub interrupted: bool,
    /// Id of the job.
    pub job: String,
    /// Images of the job.
    pub job_count: u32,
    /// When it was started.
    pub job_timestamp: String,
    /// The image that is drawn, from 0.
    pub job_no: u32,
    /// Steps that are done.
    pub sampling_step: u32,
    /// Steps of an image.
    pub sampling_steps: u32,
}

/// An image whose parameters are asked for.
#[derive(Debug, Deserialize, ToSchema)]
pub struct PngInfoRequest {
    /// The file as base64 or a data URL.
    pub image: String,
}

/// The parameters of an image.
#[derive(Debug, Serialize, ToSchema)]
pub struct PngInfoResponse {
    /// The line that AUTOMATIC1111 writes into images; empty if there are none.
    pub info: String,
    /// The parameters, if this program made the image.
    #[schema(value_type = Object)]
    pub items: Value,
    /// The same.
    #[schema(value_type = Object)]
    pub parameters: Value,
}

/// Options that can be set.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
pub struct SetOptions {
    /// Title or name of the model for requests of this caller that name none.
    pub sd_model_checkpoint: Option<String>,
}
