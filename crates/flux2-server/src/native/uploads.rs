//! Reference images, sources and masks by the digest of their bytes, so that each is sent once.

use axum::Json;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use flux2::image::codec;
use flux2::{Error, Reference};

use super::wire::Upload;
use crate::app::App;
use crate::body::{check_image_bytes, receive};
use crate::error::{ApiError, ErrorBody, Result};
use crate::extract::Path;

/// Keeps a reference image, a source or a mask: a PNG, JPEG or WebP as the whole body.
#[utoipa::path(post, path = "/api/v1/uploads", tag = "jobs",
    request_body(content((Vec<u8> = "image/png"), (Vec<u8> = "image/jpeg"), (Vec<u8> = "image/webp"),
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
        None => Err(ApiError::new(StatusCode::NOT_FOUND, "upload_not_found", "there is no upload of this digest")),
    }
}
