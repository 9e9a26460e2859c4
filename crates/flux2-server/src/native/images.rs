//! Finished images and small versions of them.

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use flux2::image::{self, ImageFormat, RgbImage, resize};
use flux2_jobs::Picture;
use serde::Deserialize;
use utoipa::IntoParams;

use super::jobs::parse_id;
use crate::access::Caller;
use crate::app::App;
use crate::drawing::{job_of, picture};
use crate::error::{ApiError, ErrorBody, Result};
use crate::extract::{Path, Query};
use crate::values::{Format, media_type};

/// Longest side of a thumbnail: the smallest, the usual and the largest one, in pixels.
pub(super) const THUMBNAIL_PX: [u32; 3] = [32, 256, 1024];

/// The format of an image.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct FormatQuery {
    /// Format of the file, by default that of the job.
    format: Option<Format>,
}

/// A finished image, with its parameters.
#[utoipa::path(get, path = "/api/v1/jobs/{id}/images/{index}", tag = "jobs",
    params(("id" = String, Path, description = "Id of the job."),
           ("index" = u32, Path, description = "Number of the image, from 0."), FormatQuery),
    responses((status = 200, description = "The file.", content((Vec<u8> = "image/png"), (Vec<u8> = "image/jpeg"),
                                                                (Vec<u8> = "image/webp"))),
              (status = 304, description = "The client has it."),
              (status = "default", description = "An error.", body = ErrorBody)))]
pub async fn image(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path((id, index)): Path<(String, String)>,
    Query(query): Query<FormatQuery>,
    headers: HeaderMap,
) -> Result<Response> {
    let picture = find(&app, &caller, &id, &index).await?;
    let Some(format) = query.format.map(ImageFormat::from).filter(|format| *format != picture.info.format) else {
        return Ok(answer_picture(&picture, &headers));
    };
    let tag = format!("\"{}-{}\"", picture.info.sha256, format.name());
    if is_known(&headers, &tag) {
        return Ok(not_modified(&tag));
    }
    let _permit = app.thumbnails.acquire().await;
    let bytes = app.blocking(move |_| convert(&picture.bytes, format)).await??;
    Ok(file(bytes.into(), format, &tag))
}

/// The same image and parameters in another format.
fn convert(bytes: &[u8], format: ImageFormat) -> flux2::Result<Vec<u8>> {
    let parameters = image::metadata::read(bytes)?;
    image::encode(&image::codec::decode(bytes, "the image")?, format, parameters.as_ref())
}

/// The size of a thumbnail.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ThumbnailQuery {
    /// Longest side in pixels.
    #[param(minimum = 32, maximum = 1024)]
    px: Option<u32>,
}

/// A small version of a finished image, as JPEG.
#[utoipa::path(get, path = "/api/v1/jobs/{id}/images/{index}/thumbnail", tag = "jobs",
    params(("id" = String, Path, description = "Id of the job."),
           ("index" = u32, Path, description = "Number of the image, from 0."), ThumbnailQuery),
    responses((status = 200, description = "The file.", body = Vec<u8>, content_type = "image/jpeg"),
              (status = 304, description = "The client has it."),
              (status = "default", description = "An error.", body = ErrorBody)))]
pub async fn thumbnail(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path((id, index)): Path<(String, String)>,
    Query(query): Query<ThumbnailQuery>,
    headers: HeaderMap,
) -> Result<Response> {
    let [min, usual, max] = THUMBNAIL_PX;
    let px = query.px.unwrap_or(usual);
    if !(min..=max).contains(&px) {
        return Err(ApiError::invalid("px", format!("{px} is outside {min} to {max}")));
    }
    let picture = find(&app, &caller, &id, &index).await?;
    let tag = format!("\"{}-{px}\"", picture.info.sha256);
    if is_known(&headers, &tag) {
        return Ok(not_modified(&tag));
    }
    let _permit = app.thumbnails.acquire().await;
    let bytes = app.blocking(move |_| shrink(&picture.bytes, px)).await??;
    Ok(file(bytes.into(), ImageFormat::Jpeg, &tag))
}

async fn find(app: &App, caller: &Caller, id: &str, index: &str) -> Result<Picture> {
    let job = job_of(app, caller, parse_id(id)?)?;
    let index = index
        .parse()
        .map_err(|_| ApiError::new(StatusCode::NOT_FOUND, "image_not_found", "an image has a number, from 0"))?;
    picture(app, job.id, index).await
}

/// A JPEG of an image whose longer side is at most `px`.
fn shrink(bytes: &[u8], px: u32) -> flux2::Result<Vec<u8>> {
    shrink_image(&image::codec::decode(bytes, "the image")?, px)
}

/// As [`shrink`], of an image that is decoded.
pub(super) fn shrink_image(image: &RgbImage, px: u32) -> flux2::Result<Vec<u8>> {
    let longest = image.width().max(image.height());
    let side = |side: u32| (u64::from(side) * u64::from(px) / u64::from(longest)).max(1) as u32;
    match longest <= px {
        true => image::encode(image, ImageFormat::Jpeg, None),
        false => {
            let small = resize::resize_lanczos(image, side(image.width()), side(image.height()))?;
            image::encode(&small, ImageFormat::Jpeg, None)
        }
    }
}

/// The file of a picture, or 304 if the client has it.
pub fn answer_picture(picture: &Picture, headers: &HeaderMap) -> Response {
    let tag = format!("\"{}\"", picture.info.sha256);
    match is_known(headers, &tag) {
        true => not_modified(&tag),
        false => file(Body::from(picture.bytes.to_vec()), picture.info.format, &tag),
    }
}

pub(super) fn is_known(headers: &HeaderMap, tag: &str) -> bool {
    let known = headers.get(header::IF_NONE_MATCH).and_then(|known| known.to_str().ok());
    known.is_some_and(|known| known.split(',').any(|one| one.trim().trim_start_matches("W/") == tag))
}

/// A file never changes: its name and tag are those of its content.
const CACHE: &str = "private, max-age=31536000, immutable";

pub(super) fn not_modified(tag: &str) -> Response {
    (StatusCode::NOT_MODIFIED, [(header::ETAG, tag), (header::CACHE_CONTROL, CACHE)]).into_response()
}

pub(super) fn file(body: Body, format: ImageFormat, tag: &str) -> Response {
    let headers = [(header::CONTENT_TYPE, media_type(format)), (header::ETAG, tag), (header::CACHE_CONTROL, CACHE)];
    let mut response = (headers, body).into_response();
    response.headers_mut().insert(header::CONTENT_DISPOSITION, HeaderValue::from_static("inline"));
    response
}
