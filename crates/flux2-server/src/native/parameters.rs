//! The parameters that this or another program stored in an image file.

use axum::Json;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use flux2::image::metadata::{self, OtherParameters, Parameters, Stored};
use serde::Serialize;
use utoipa::ToSchema;

use super::source::SourceView;
use super::wire::LoraRequest;
use crate::app::App;
use crate::body::{check_image_bytes, receive};
use crate::error::{ApiError, ErrorBody, Result};

/// The parameters of an image, as far as they are known.
#[derive(Debug, Default, Serialize, ToSchema)]
pub struct ParametersOf {
    /// The program that made the image, or the format that many programs write.
    pub program: String,
    /// Whether it was this program: then the parameters are complete.
    pub is_ours: bool,
    /// The prompt.
    pub prompt: Option<String>,
    /// What the image should not show.
    pub negative_prompt: Option<String>,
    /// Name of the model.
    pub model: Option<String>,
    /// Seed, whose noise other programs make in other ways.
    pub seed: Option<u64>,
    /// Kind of noise.
    pub noise: Option<String>,
    /// Denoising steps.
    pub steps: Option<u32>,
    /// Guidance scale.
    pub guidance: Option<f32>,
    /// Width in pixels.
    pub width: Option<u32>,
    /// Height in pixels.
    pub height: Option<u32>,
    /// LoRAs.
    pub loras: Vec<LoraRequest>,
    /// SHA-256 of the reference images.
    pub references: Vec<String>,
    /// The picture that was painted into.
    pub source: Option<SourceView>,
    /// Number format.
    pub precision: Option<String>,
    /// How many times as wide and high the image was made once it was drawn.
    pub upscale: Option<f32>,
    /// Name of the upscaler.
    pub upscaler: Option<String>,
}

impl From<Parameters> for ParametersOf {
    fn from(known: Parameters) -> Self {
        let lora = |lora: metadata::LoraParameters| LoraRequest { name: lora.name, scale: lora.scale };
        ParametersOf {
            program: format!("{} {}", known.software, known.version),
            is_ours: true,
            prompt: Some(known.prompt),
            negative_prompt: None,
            model: Some(known.model),
            seed: Some(known.seed),
            noise: Some(known.noise),
            steps: Some(known.steps),
            guidance: known.guidance,
            width: Some(known.width),
            height: Some(known.height),
            loras: known.loras.into_iter().map(lora).collect(),
            references: known.references,
            source: known.source.map(Into::into),
            precision: Some(known.dtype),
            upscale: known.upscale.as_ref().and_then(|upscale| upscale.by),
            upscaler: known.upscale.map(|upscale| upscale.upscaler),
        }
    }
}

impl From<OtherParameters> for ParametersOf {
    fn from(known: OtherParameters) -> Self {
        ParametersOf {
            program: known.program,
            prompt: known.prompt,
            negative_prompt: known.negative_prompt,
            model: known.model,
            seed: known.seed,
            steps: known.steps,
            guidance: known.guidance,
            width: known.width,
            height: known.height,
            ..ParametersOf::default()
        }
    }
}

/// Reads the parameters in an image: a PNG, JPEG or WebP as the whole body, of this program or another one.
#[utoipa::path(post, path = "/api/v1/parameters", tag = "about",
    request_body(content((Vec<u8> = "image/png"), (Vec<u8> = "image/jpeg"), (Vec<u8> = "image/webp"),
                         (Vec<u8> = "application/octet-stream"))),
    responses((status = 200, description = "The parameters.", body = ParametersOf),
              (status = 404, description = "There are none that are understood.", body = ErrorBody),
              (status = "default", description = "An error.", body = ErrorBody)))]
pub async fn read(State(app): State<App>, request: Request) -> Result<Json<ParametersOf>> {
    let received = receive(&app, request).await?;
    check_image_bytes(received.bytes.len(), app.options.limits.image_bytes, "image")?;
    match app.blocking(move |_| metadata::read_any(&received.bytes)).await?? {
        Some(Stored::Ours(known)) => Ok(Json((*known).into())),
        Some(Stored::Other(known)) => Ok(Json((*known).into())),
        None => {
            let message = "no parameters are stored in the file, or none that are understood";
            Err(ApiError::new(StatusCode::NOT_FOUND, "no_parameters", message).of("image"))
        }
    }
}
