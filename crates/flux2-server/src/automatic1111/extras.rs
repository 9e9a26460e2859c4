//! `extra-single-image`: enlarges an image that is there.

use axum::Json;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use flux2::image::ImageFormat;
use flux2::upscale::{Before, LANCZOS};
use flux2::{CancelToken, UpscaleSize};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::app::App;
use crate::body::{self, check_image_bytes};
use crate::drawing::MAX_GROWTH;
use crate::error::{ApiError, DetailBody, Result};
use crate::values::{image_bytes, lenient, to_base64};

/// An image to enlarge. Other fields are accepted and ignored.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
pub struct ExtrasRequest {
    /// The file as base64 or a data URL.
    #[schema(required)]
    pub image: Option<String>,
    /// 0 enlarges by `upscaling_resize`, 1 to `upscaling_resize_w` and `upscaling_resize_h`.
    #[serde(deserialize_with = "lenient")]
    #[schema(maximum = 1)]
    pub resize_mode: Option<u32>,
    /// How many times as wide and high; 2 by default.
    #[serde(deserialize_with = "lenient")]
    #[schema(minimum = 1, maximum = 16)]
    pub upscaling_resize: Option<f32>,
    /// Width in pixels.
    #[serde(deserialize_with = "lenient")]
    pub upscaling_resize_w: Option<u32>,
    /// Height in pixels.
    #[serde(deserialize_with = "lenient")]
    pub upscaling_resize_h: Option<u32>,
    /// Name of the upscaler; `None` is Lanczos.
    pub upscaler_1: Option<String>,
}

/// An image, larger than before.
#[derive(Debug, Serialize, ToSchema)]
pub struct ExtrasResponse {
    /// What was done, for people.
    pub html_info: String,
    /// The file as base64, a PNG.
    pub image: String,
}

impl ExtrasRequest {
    fn size(&self) -> Result<UpscaleSize> {
        match self.resize_mode.unwrap_or(0) {
            0 => Ok(UpscaleSize::By(self.upscaling_resize.unwrap_or(2.0))),
            1 => Ok(UpscaleSize::To { width: self.upscaling_resize_w, height: self.upscaling_resize_h }),
            mode => Err(ApiError::invalid("resize_mode", format!("{mode} is neither 0 nor 1"))),
        }
    }
}

/// Enlarges an image.
#[utoipa::path(post, path = "/sdapi/v1/extra-single-image", tag = "automatic1111", request_body = ExtrasRequest,
    responses((status = 200, description = "The image.", body = ExtrasResponse),
              (status = "default", description = "An error.", body = DetailBody)))]
pub async fn extra_single_image(State(app): State<App>, request: Request) -> Result<Json<ExtrasResponse>> {
    let fields = body::json(&app, request).await?;
    let (wire, _) = body::typed::<ExtrasRequest>(fields.json, StatusCode::UNPROCESSABLE_ENTITY)?;
    let text = wire.image.as_deref().ok_or_else(|| ApiError::invalid("image", "there is no image"))?;
    let (bytes, size) = (image_bytes(text, "image")?, wire.size()?);
    check_image_bytes(bytes.len(), app.options.limits.image_bytes, "image")?;
    let upscaler = wire.upscaler_1.map(|name| if name == "None" { LANCZOS.to_owned() } else { name });
    let most = app.options.limits.pixels.saturating_mul(MAX_GROWTH);
    let file = app.blocking(move |app| {
        let before = Before::read(&bytes, "image")?;
        let [width, height] = size.of([before.image().width(), before.image().height()])?;
        if u64::from(width) * u64::from(height) > most {
            let message = format!("{width}x{height} is more than {most} pixels, the most that this server makes");
            return Err(ApiError::invalid("upscaling_resize", message).code("invalid_size"));
        }
        let enlarged = app.jobs.enlarge(&before, upscaler.as_deref(), size, ImageFormat::Png, &CancelToken::new())?;
        Ok(enlarged.file)
    });
    let file = file.await??;
    Ok(Json(ExtrasResponse { html_info: "enlarged".into(), image: to_base64(&file) }))
}
