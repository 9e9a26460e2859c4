//! Options, and lists of what there is.

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use flux2::image::metadata;
use serde_json::{Value, json};

use super::wire::{PngInfoRequest, PngInfoResponse, SetOptions};
use crate::access::Caller;
use crate::app::App;
use crate::body;
use crate::error::{ApiError, DetailBody, Result};
use crate::values::image_bytes;

/// The caller's options.
#[utoipa::path(get, path = "/sdapi/v1/options", tag = "automatic1111",
    responses((status = 200, description = "The options.", body = Object),
              (status = "default", description = "An error.", body = DetailBody)))]
pub async fn options(State(app): State<App>, Extension(caller): Extension<Caller>) -> Json<Value> {
    let chosen = app.chosen_models().get(&caller.owner).cloned();
    let model = chosen.or_else(|| app.jobs.models().first().map(|model| model.name.clone()));
    Json(json!({ "sd_model_checkpoint": model, "samples_format": "png", "enable_pnginfo": true }))
}

/// Sets the caller's options: the model for requests that name none. Others are accepted and ignored.
#[utoipa::path(post, path = "/sdapi/v1/options", tag = "automatic1111", request_body = SetOptions,
    responses((status = 200, description = "They are set.", body = Object),
              (status = "default", description = "An error.", body = DetailBody)))]
pub async fn set_options(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Json<Value>> {
    let fields = body::json(&app, request).await?;
    let (wire, _) = body::typed::<SetOptions>(fields.json, StatusCode::UNPROCESSABLE_ENTITY)?;
    if let Some(name) = wire.sd_model_checkpoint {
        let model = app.resolve_alias(&name);
        if !app.jobs.models().iter().any(|known| known.name == model || known.aliases.contains(&model)) {
            return Err(ApiError::no_model(&name, None));
        }
        app.chosen_models().insert(caller.owner, model);
    }
    Ok(Json(json!({})))
}

/// Lists the models.
#[utoipa::path(get, path = "/sdapi/v1/sd-models", tag = "automatic1111",
    responses((status = 200, description = "The models.", body = Vec<Object>),
              (status = "default", description = "An error.", body = DetailBody)))]
pub async fn sd_models(State(app): State<App>) -> Json<Vec<Value>> {
    let models = app.jobs.models().into_iter();
    let item = |name: String| {
        let (hash, config) = (Value::Null, Value::Null);
        json!({ "title": name, "model_name": name, "hash": hash, "sha256": hash, "filename": name, "config": config })
    };
    Json(models.map(|model| item(model.name)).collect())
}

/// Lists the one sampler.
#[utoipa::path(get, path = "/sdapi/v1/samplers", tag = "automatic1111",
    responses((status = 200, description = "The samplers.", body = Vec<Object>),
              (status = "default", description = "An error.", body = DetailBody)))]
pub async fn samplers() -> Json<Value> {
    Json(json!([{ "name": "Euler", "aliases": ["euler", "k_euler"], "options": {} }]))
}

/// Lists the one schedule.
#[utoipa::path(get, path = "/sdapi/v1/schedulers", tag = "automatic1111",
    responses((status = 200, description = "The schedules.", body = Vec<Object>),
              (status = "default", description = "An error.", body = DetailBody)))]
pub async fn schedulers() -> Json<Value> {
    let automatic = json!({
        "name": "automatic", "label": "Automatic", "aliases": null, "default_rho": -1.0, "need_inner_model": false,
    });
    Json(json!([automatic]))
}

/// Lists the upscalers, first the one that does nothing.
#[utoipa::path(get, path = "/sdapi/v1/upscalers", tag = "automatic1111",
    responses((status = 200, description = "The upscalers.", body = Vec<Object>),
              (status = "default", description = "An error.", body = DetailBody)))]
pub async fn upscalers(State(app): State<App>) -> Json<Vec<Value>> {
    let item = |name: &str, scale: usize| json!({ "name": name, "model_name": null, "model_path": null, "model_url": null, "scale": scale as f64 });
    let offered = app.jobs.upscalers();
    let offered = offered.iter().map(|upscaler| item(upscaler.name(), upscaler.scale().unwrap_or(4)));
    Json(std::iter::once(item("None", 4)).chain(offered).collect())
}

/// Lists the LoRAs.
#[utoipa::path(get, path = "/sdapi/v1/loras", tag = "automatic1111",
    responses((status = 200, description = "The LoRAs.", body = Vec<Object>),
              (status = "default", description = "An error.", body = DetailBody)))]
pub async fn loras(State(app): State<App>) -> Json<Vec<Value>> {
    let item = |name: String| json!({ "name": name, "alias": name, "path": "", "metadata": {} });
    Json(app.jobs.loras().into_iter().map(item).collect())
}

/// Memory that loaded models take at most.
#[utoipa::path(get, path = "/sdapi/v1/memory", tag = "automatic1111",
    responses((status = 200, description = "The memory, in bytes.", body = Object),
              (status = "default", description = "An error.", body = DetailBody)))]
pub async fn memory(State(app): State<App>) -> Json<Value> {
    let mut used = [0, 0];
    for device in app.jobs.stats().devices {
        let bytes: usize = device.models.iter().map(|(_, bytes)| bytes).sum();
        used[usize::from(device.name.starts_with("cuda"))] += bytes;
    }
    Json(json!({ "ram": { "used": used[0] }, "cuda": { "system": { "used": used[1] } } }))
}

/// Reads the parameters that are stored in an image.
#[utoipa::path(post, path = "/sdapi/v1/png-info", tag = "automatic1111", request_body = PngInfoRequest,
    responses((status = 200, description = "The parameters.", body = PngInfoResponse),
              (status = "default", description = "An error.", body = DetailBody)))]
pub async fn png_info(State(app): State<App>, request: Request) -> Result<Json<PngInfoResponse>> {
    let fields = body::json(&app, request).await?;
    let (wire, _) = body::typed::<PngInfoRequest>(fields.json, StatusCode::UNPROCESSABLE_ENTITY)?;
    let bytes = image_bytes(&wire.image, "image")?;
    let parameters = app.blocking(move |_| metadata::read(&bytes)).await?.map_err(ApiError::from)?;
    let info = parameters.as_ref().map(metadata::Parameters::line).unwrap_or_default();
    let parameters = parameters.map_or_else(|| json!({}), |parameters| json!(parameters));
    Ok(Json(PngInfoResponse { info, items: parameters.clone(), parameters }))
}
