//! `txt2img` and `img2img`.

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use flux2_jobs::JobState;
use serde_json::Value;

use super::wire::{DrawRequest, DrawResponse, info};
use crate::access::Caller;
use crate::app::App;
use crate::body;
use crate::drawing::{self, Order, pictures, saved_pictures};
use crate::error::{ApiError, DetailBody, Result};
use crate::values::to_base64;

/// Fields of the answer's `parameters` that are left out for their size.
const LARGE: [&str; 2] = ["init_images", "mask"];

/// Makes images from a prompt.
#[utoipa::path(post, path = "/sdapi/v1/txt2img", tag = "automatic1111", request_body = DrawRequest,
    responses((status = 200, description = "The images.", body = DrawResponse),
              (status = "default", description = "An error.", body = DetailBody)))]
pub async fn txt2img(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Json<DrawResponse>> {
    draw(&app, &caller, request, false).await
}

/// Edits or combines images. The prompt says what is to change; with a mask or a strength below 1 the first image is
/// painted into.
#[utoipa::path(post, path = "/sdapi/v1/img2img", tag = "automatic1111", request_body = DrawRequest,
    responses((status = 200, description = "The images.", body = DrawResponse),
              (status = "default", description = "An error.", body = DetailBody)))]
pub async fn img2img(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Json<DrawResponse>> {
    draw(&app, &caller, request, true).await
}

async fn draw(app: &App, caller: &Caller, request: Request, edits: bool) -> Result<Json<DrawResponse>> {
    let mut parameters = body::json(app, request).await?.json;
    let (wire, _) = body::typed::<DrawRequest>(parameters.clone(), StatusCode::UNPROCESSABLE_ENTITY)?;
    let (mut draft, images, source) = wire.parts()?;
    if edits == (images.is_empty() && source.is_none()) {
        let message = if edits { "there is no image to edit" } else { "txt2img takes no images" };
        return Err(ApiError::invalid("init_images", message).hint("img2img edits the images in init_images"));
    }
    if draft.model.name.is_none() {
        draft.model.name = app.chosen_models().get(&caller.owner).cloned();
    }
    let waiter = drawing::submit_and_wait(app, caller, Order { draft, images, source, ..Order::default() }).await?;
    let job = waiter.end().await?;
    // An interrupted job gives what it has.
    let pictures = match job.state {
        JobState::Cancelled => saved_pictures(app, &job).await?,
        _ => pictures(app, &job).await?,
    };
    let images = match wire.send_images.unwrap_or(true) {
        true => pictures.iter().map(|picture| to_base64(&picture.bytes)).collect(),
        false => Vec::new(),
    };
    for field in LARGE {
        if let Some(value) = parameters.get_mut(field) {
            *value = Value::Null;
        }
    }
    let info = info(&job, &ignored(&wire));
    Ok(Json(DrawResponse { images, parameters, info }))
}

fn ignored(wire: &DrawRequest) -> Vec<String> {
    let has_negative = wire.negative_prompt.as_ref().is_some_and(|prompt| !prompt.is_empty());
    let ignored = [
        (has_negative, "negative_prompt is not supported and was ignored"),
        (wire.enable_hr == Some(true), "enable_hr enlarges the finished images; they are not denoised a second time"),
    ];
    ignored.into_iter().filter(|(is_set, _)| *is_set).map(|(_, text)| text.to_owned()).collect()
}
