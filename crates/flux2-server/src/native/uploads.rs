//! Reference images, sources and masks by the digest of their bytes, so that each is sent once.

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use flux2::image::{ImageFormat, codec};
use flux2::{Error, Reference};
use serde::Deserialize;
use utoipa::IntoParams;

use super::images::{THUMBNAIL_PX, file, is_known, not_modified, shrink_image};
use super::wire::Upload;
use crate::app::App;
use crate::body::{check_image_bytes, receive};
use crate::error::{ApiError, ErrorBody, Result};
use crate::extract::{Path, Query};

/// Keeps a reference image, a source or a mask: a PNG, JPEG, WebP, GIF, BMP, TIFF or QOI as the whole body.
#[utoipa::path(post, path = "/api/v1/uploads", tag = "jobs",
    request_body(content((Vec<u8> = "image/png"), (Vec<u8> = "image/jpeg"), (Vec<u8> = "image/webp"),
                         (Vec<u8> = "image/gif"), (Vec<u8> = "image/bmp"), (Vec<u8> = "image/tiff"),
                         (Vec<u8> = "application/octet-stream"))),
    responses((status = 201, description = "The image is kept.", body = Upload),
              (status = "default", description = "An error.", body = ErrorBody)))]
pub async fn create(State(app): State<App>, request: Request) -> Result<(StatusCode, Json<Upload>)> {
    let received = receive(&app, request).await?;
    check_image_bytes(received.bytes.len(), app.options.limits.image_bytes, "image")?;
    let upload = app.blocking(move |app| {
        // What is no image is refused now, not when a job wants it.
        let [width, height] = match Reference::from_bytes(&received.bytes, "the image") {
            Ok(reference) => [reference.image().width(), reference.image().height()],
            // It may be a source or a mask, which can have any shape.
            Err(Error::ImageTooSmall { .. } | Error::ImageAspect { .. }) => {
                let image = codec::decode(&received.bytes, "the image")?;
                [image.width(), image.height()]
            }
            Err(error) => return Err(error.into()),
        };
        let sha256 = app.jobs.put_blob(&received.bytes)?;
        Ok::<_, ApiError>(Upload { sha256, bytes: received.bytes.len(), width: Some(width), height: Some(height) })
    });
    Ok((StatusCode::CREATED, Json(upload.await??)))
}

/// Whether an upload is kept, so that it need not be sent again.
#[utoipa::path(get, path = "/api/v1/uploads/{sha256}", tag = "jobs",
    params(("sha256" = String, Path, description = "SHA-256 of its bytes, in lower-case hexadecimal.")),
    responses((status = 200, description = "It is kept.", body = Upload),
              (status = "default", description = "An error.", body = ErrorBody)))]
pub async fn one(State(app): State<App>, Path(sha256): Path<String>) -> Result<Json<Upload>> {
    let digest = sha256.clone();
    let found = app.blocking(move |app| app.jobs.blob(&digest)).await??;
    match found {
        Some(bytes) => Ok(Json(Upload { sha256, bytes: bytes.len(), width: None, height: None })),
        None => Err(missing()),
    }
}

fn missing() -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "upload_not_found", "there is no upload of this digest")
}

/// The size of an upload that is sent back.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct SizeQuery {
    /// Longest side in pixels, for a small JPEG of it; the file as it was sent if it is left out.
    #[param(minimum = 32, maximum = 1024)]
    px: Option<u32>,
}

/// The file of an upload, or a small version of it.
#[utoipa::path(get, path = "/api/v1/uploads/{sha256}/image", tag = "jobs",
    params(("sha256" = String, Path, description = "SHA-256 of its bytes, in lower-case hexadecimal."), SizeQuery),
    responses((status = 200, description = "The file.", content((Vec<u8> = "image/png"), (Vec<u8> = "image/jpeg"),
                                                                (Vec<u8> = "image/webp"))),
              (status = 304, description = "The client has it."),
              (status = "default", description = "An error.", body = ErrorBody)))]
pub async fn image(
    State(app): State<App>,
    Path(sha256): Path<String>,
    Query(query): Query<SizeQuery>,
    headers: HeaderMap,
) -> Result<Response> {
    let [min, _, max] = THUMBNAIL_PX;
    if let Some(px) = query.px.filter(|px| !(min..=max).contains(px)) {
        return Err(ApiError::invalid("px", format!("{px} is outside {min} to {max}")));
    }
    let digest = sha256.clone();
    let bytes = app.blocking(move |app| app.jobs.blob(&digest)).await??.ok_or_else(missing)?;
    let tag = format!("\"{sha256}-{}\"", query.px.unwrap_or_default());
    if is_known(&headers, &tag) {
        return Ok(not_modified(&tag));
    }
    let Some(px) = query.px else {
        let format = ImageFormat::of(&bytes).ok_or_else(missing)?;
        return Ok(file(bytes.to_vec().into(), format, &tag));
    };
    let _permit = app.thumbnails.acquire().await;
    let small = app.blocking(move |_| shrink_image(Reference::from_bytes(&bytes, "the upload")?.image(), px));
    Ok(file(small.await??.into(), ImageFormat::Jpeg, &tag))
}
