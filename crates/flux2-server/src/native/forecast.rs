//! What a job would take, before it is made.

use axum::Json;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use super::jobs::is_digest;
use super::wire::JobRequest;
use crate::app::App;
use crate::body;
use crate::drawing::{Image, source_spec};
use crate::error::{ApiError, ErrorBody, Result};

/// What a job would take.
#[derive(Debug, Serialize, ToSchema)]
pub struct ForecastOf {
    /// Name of the model.
    pub model: String,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Denoising steps.
    pub steps: u32,
    /// Guidance scale; none for distilled models.
    pub guidance: Option<f32>,
    /// Estimated seconds to draw all images, from what images like these took; after a start, from their operations.
    pub seconds: f64,
    /// Estimated seconds until the job would start.
    pub wait_seconds: f64,
    /// Most bytes of memory while an image is drawn, with the model; null if it is not known.
    pub memory_bytes: Option<usize>,
    /// The reference images as the model takes them.
    pub references: Vec<SizeOf>,
    /// Parts of the request that would be ignored or are probably not meant.
    pub warnings: Vec<String>,
}

/// The size of an image.
#[derive(Debug, Serialize, ToSchema)]
pub struct SizeOf {
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
}

/// Says what a job would take: size, time, memory. Nothing is drawn; images are digests of uploads.
#[utoipa::path(post, path = "/api/v1/forecast", tag = "jobs", request_body = JobRequest,
    responses((status = 200, description = "What it would take.", body = ForecastOf),
              (status = "default", description = "An error, as for a job.", body = ErrorBody)))]
pub async fn create(State(app): State<App>, request: Request) -> Result<Json<ForecastOf>> {
    let fields = body::json(&app, request).await?;
    let (wire, _) = body::typed::<JobRequest>(fields.json, StatusCode::BAD_REQUEST)?;
    let references = wire.references.clone();
    if references.len() > app.options.limits.references || !references.iter().all(|text| is_digest(text)) {
        let most = app.options.limits.references;
        return Err(ApiError::invalid("references", format!("at most {most} digests of uploads are allowed here")));
    }
    let source = wire.source_order(None, None)?;
    let is_sent = |image: &Image| matches!(image, Image::Sent(_));
    if source.as_ref().is_some_and(|of| is_sent(&of.source) || of.mask.as_ref().is_some_and(is_sent)) {
        return Err(ApiError::invalid("source", "digests of uploads are allowed here").hint("upload the images first"));
    }
    let (mut draft, _) = wire.draft()?;
    draft.references = references;
    draft.model.name = draft.model.name.map(|name| app.resolve_alias(&name));
    let forecast = app.blocking(move |app| {
        draft.source = source.map(|source| source_spec(app, source)).transpose()?;
        Ok::<_, ApiError>(app.jobs.forecast(draft)?)
    });
    let forecast = forecast.await??;
    let spec = forecast.spec;
    Ok(Json(ForecastOf {
        model: spec.model.name,
        width: spec.width,
        height: spec.height,
        steps: spec.steps,
        guidance: spec.guidance,
        seconds: forecast.seconds,
        wait_seconds: forecast.wait.as_secs_f64(),
        memory_bytes: forecast.memory,
        references: forecast.references.into_iter().map(|[width, height]| SizeOf { width, height }).collect(),
        warnings: forecast.warnings.iter().map(ToString::to_string).collect(),
    }))
}
