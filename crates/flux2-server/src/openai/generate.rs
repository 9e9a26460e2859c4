//! Requests for images, and their answers.

use std::time::{Instant, UNIX_EPOCH};

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use flux2::text::Tokenizer;
use flux2_jobs::{JobSpec, JobView, Picture};

use super::stream::{Kind, stream};
use super::wire::{EditForm, ImageData, ImagesRequest, ImagesResponse, Parts, ResponseFormat, Usage, Wanted};
use crate::access::{Caller, Connection};
use crate::app::App;
use crate::body::{self, Fields, unknown_fields};
use crate::drawing::{self, Order, pictures};
use crate::error::{ApiError, ErrorBody, Result};
use crate::extract::Path;
use crate::native::answer_picture;
use crate::values::to_base64;

/// Most tokens that text encoders read.
const MAX_TOKENS: usize = 512;
/// Pixels of a token of an image.
const TOKEN_PIXELS: u64 = 16 * 16;

/// Makes images from a prompt.
#[utoipa::path(post, path = "/v1/images/generations", tag = "openai",
    params(("Idempotency-Key" = Option<String>, Header, description = "A second request with the same key returns the \
        images of the first.", min_length = 1, max_length = 255)),
    request_body = ImagesRequest,
    responses((status = 200, description = "The images, or with `stream` their events.",
               content((ImagesResponse = "application/json"), (serde_json::Value = "text/event-stream"))),
              (status = "default", description = "An error.", body = ErrorBody)))]
pub async fn generations(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response> {
    let base = base_url(&request);
    let idempotency_key = drawing::idempotency_key(request.headers())?;
    let fields = body::json(&app, request).await?;
    answer(&app, &caller, fields, idempotency_key, Kind::Generation, &base).await
}

/// Edits or combines images; with a mask, paints into the first one.
#[utoipa::path(post, path = "/v1/images/edits", tag = "openai",
    params(("Idempotency-Key" = Option<String>, Header, description = "A second request with the same key returns the \
        images of the first.", min_length = 1, max_length = 255)),
    request_body(content((EditForm = "multipart/form-data"), (ImagesRequest = "application/json"))),
    responses((status = 200, description = "The images, or with `stream` their events.",
               content((ImagesResponse = "application/json"), (serde_json::Value = "text/event-stream"))),
              (status = "default", description = "An error.", body = ErrorBody)))]
pub async fn edits(State(app): State<App>, Extension(caller): Extension<Caller>, request: Request) -> Result<Response> {
    let base = base_url(&request);
    let idempotency_key = drawing::idempotency_key(request.headers())?;
    let fields = body::json_or_form(&app, request).await?;
    answer(&app, &caller, fields, idempotency_key, Kind::Edit, &base).await
}

/// Not supported: the models know no variations.
#[utoipa::path(post, path = "/v1/images/variations", tag = "openai",
    responses((status = 501, description = "Always.", body = ErrorBody),
              (status = "default", description = "An error.", body = ErrorBody)))]
pub async fn variations() -> ApiError {
    ApiError::new(StatusCode::NOT_IMPLEMENTED, "not_supported", "variations are not supported")
        .hint("use /v1/images/edits with a prompt")
}

async fn answer(
    app: &App,
    caller: &Caller,
    fields: Fields,
    idempotency_key: Option<String>,
    kind: Kind,
    base: &str,
) -> Result<Response> {
    let (wire, unknown) = body::typed::<ImagesRequest>(fields.json, StatusCode::BAD_REQUEST)?;
    let priority = wire.priority.map_or_else(Default::default, Into::into);
    let Parts { draft, images, source, mut wanted } = wire.parts(fields.files)?;
    match kind {
        Kind::Edit if images.is_empty() && source.is_none() => {
            return Err(ApiError::invalid("image", "there is no image to edit"));
        }
        Kind::Generation if !images.is_empty() || source.is_some() => {
            let error = ApiError::invalid("image", "images are edited, not generated from");
            return Err(error.hint("send it to /v1/images/edits"));
        }
        _ => {}
    }
    wanted.warnings.extend(unknown_fields(unknown));
    let previews = wanted.stream && wanted.partial_images > 0;
    let order = Order { draft, images, source, priority, deadline: None, idempotency_key, previews };
    let waiter = drawing::submit_and_wait(app, caller, order).await?;
    if wanted.stream {
        return Ok(stream(app.clone(), waiter, kind, wanted));
    }
    let job = waiter.end().await?;
    let pictures = pictures(app, &job).await?;
    Ok(Json(response(app, &job, pictures, wanted, base).await?).into_response())
}

async fn response(
    app: &App,
    job: &JobView,
    pictures: Vec<Picture>,
    wanted: Wanted,
    base: &str,
) -> Result<ImagesResponse> {
    let usage = usage(app, job).await?;
    let timings = job.drawn.iter().cloned().map(|record| Some(record.into())).chain(std::iter::repeat_with(|| None));
    let data = pictures.into_iter().zip(timings).map(|(picture, timings)| {
        let (b64_json, url) = match wanted.response_format {
            ResponseFormat::B64Json => (Some(to_base64(&picture.bytes)), None),
            ResponseFormat::Url => {
                let name = app.links.add(job.id, picture.info.index, Instant::now());
                (None, Some(format!("{base}/v1/files/{name}")))
            }
        };
        ImageData { b64_json, url, revised_prompt: None, seed: picture.info.seed, timings }
    });
    let mut warnings = wanted.warnings;
    warnings.extend(job.warnings.iter().cloned());
    Ok(ImagesResponse {
        created: created(job),
        data: data.collect(),
        size: size(&job.spec),
        output_format: job.spec.format.into(),
        quality: wanted.quality,
        background: "opaque",
        usage,
        model: job.spec.model.name.clone(),
        id: job.id.to_string(),
        warnings,
    })
}

/// When a job was accepted, in seconds since 1970.
pub fn created(job: &JobView) -> u64 {
    job.times.accepted.duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

/// Width and height, as in `1024x768`.
pub fn size(spec: &JobSpec) -> String {
    format!("{}x{}", spec.width, spec.height)
}

/// What a job takes, in tokens.
///
/// # Errors
/// 500 for a bug of the tokenizer.
pub async fn usage(app: &App, job: &JobView) -> Result<Usage> {
    let spec = job.spec.clone();
    let text = app.blocking(move |_| Tokenizer::builtin().encode_prompt(&spec.prompt, MAX_TOKENS).valid).await?;
    let JobSpec { width, height, count, .. } = &*job.spec;
    Ok(Usage::new(text as u64, u64::from(*width) * u64::from(*height) / TOKEN_PIXELS * u64::from(*count)))
}

/// The address that the client reached this server by.
fn base_url(request: &Request) -> String {
    let text = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    let is_tls = request.extensions().get::<Connection>().is_some_and(|connection| connection.is_tls);
    let scheme = if is_tls || text("x-forwarded-proto") == Some("https") { "https" } else { "http" };
    format!("{scheme}://{}", text(header::HOST.as_str()).unwrap_or("localhost"))
}

/// A file behind a link of `response_format: url`.
#[utoipa::path(get, path = "/v1/files/{name}", tag = "openai", security(()),
    params(("name" = String, Path, description = "From the link.")),
    responses((status = 200, description = "The file.", content((Vec<u8> = "image/png"), (Vec<u8> = "image/jpeg"),
                                                                (Vec<u8> = "image/webp"))),
              (status = 304, description = "The client has it."),
              (status = "default", description = "An error.", body = ErrorBody)))]
pub async fn file(State(app): State<App>, Path(name): Path<String>, headers: HeaderMap) -> Result<Response> {
    let found = app.links.find(&name, Instant::now());
    let (job, index) = found.ok_or_else(|| {
        ApiError::new(StatusCode::NOT_FOUND, "file_not_found", "there is no file of this name, or its link expired")
    })?;
    let picture = drawing::picture(&app, job, index).await?;
    Ok(answer_picture(&picture, &headers))
}
