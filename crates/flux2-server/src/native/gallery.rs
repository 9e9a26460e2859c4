//! What people do with finished images: mark favorites, delete, take that back.

use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use flux2_jobs::{JobId, NotChanged};

use super::jobs::parse_id;
use crate::access::Caller;
use crate::app::App;
use crate::drawing::job_of;
use crate::error::{ApiError, ErrorBody, Result};
use crate::extract::Path;

/// Marks an image as a favorite, which is kept when others grow old.
#[utoipa::path(put, path = "/api/v1/jobs/{id}/images/{index}/favorite", tag = "jobs",
    params(("id" = String, Path, description = "Id of the job."),
           ("index" = u32, Path, description = "Number of the image, from 0.")),
    responses((status = 204, description = "It is one."),
              (status = "default", description = "An error.", body = ErrorBody)))]
pub async fn mark(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path((id, index)): Path<(String, String)>,
) -> Result<StatusCode> {
    set(&app, &caller, &id, &index, true).await
}

/// Takes the mark of a favorite away.
#[utoipa::path(delete, path = "/api/v1/jobs/{id}/images/{index}/favorite", tag = "jobs",
    params(("id" = String, Path, description = "Id of the job."),
           ("index" = u32, Path, description = "Number of the image, from 0.")),
    responses((status = 204, description = "It is none."),
              (status = "default", description = "An error.", body = ErrorBody)))]
pub async fn unmark(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path((id, index)): Path<(String, String)>,
) -> Result<StatusCode> {
    set(&app, &caller, &id, &index, false).await
}

async fn set(app: &App, caller: &Caller, id: &str, index: &str, is_favorite: bool) -> Result<StatusCode> {
    let (id, index) = place(app, caller, id, index)?;
    app.blocking(move |app| app.jobs.set_favorite(id, index, is_favorite)).await?.map_err(not_changed)?;
    Ok(StatusCode::NO_CONTENT)
}

/// Deletes an image of a job that is over. The job stays. For a minute, `restore` brings the image back.
#[utoipa::path(delete, path = "/api/v1/jobs/{id}/images/{index}", tag = "jobs",
    params(("id" = String, Path, description = "Id of the job."),
           ("index" = u32, Path, description = "Number of the image, from 0.")),
    responses((status = 204, description = "It is deleted."),
              (status = 409, description = "The job is not over.", body = ErrorBody),
              (status = "default", description = "An error.", body = ErrorBody)))]
pub async fn delete(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path((id, index)): Path<(String, String)>,
) -> Result<StatusCode> {
    let (id, index) = place(&app, &caller, &id, &index)?;
    app.blocking(move |app| app.jobs.delete_image(id, index)).await?.map_err(not_changed)?;
    Ok(StatusCode::NO_CONTENT)
}

/// Brings an image back that was deleted less than a minute ago.
#[utoipa::path(post, path = "/api/v1/jobs/{id}/images/{index}/restore", tag = "jobs",
    params(("id" = String, Path, description = "Id of the job."),
           ("index" = u32, Path, description = "Number of the image, from 0.")),
    responses((status = 204, description = "It is there again."),
              (status = 404, description = "It was not deleted, or longer ago.", body = ErrorBody),
              (status = "default", description = "An error.", body = ErrorBody)))]
pub async fn restore(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path((id, index)): Path<(String, String)>,
) -> Result<StatusCode> {
    let (id, index) = place(&app, &caller, &id, &index)?;
    app.blocking(move |app| app.jobs.restore_image(id, index)).await?.map_err(not_changed)?;
    Ok(StatusCode::NO_CONTENT)
}

/// The job of the caller, and the number of the image.
fn place(app: &App, caller: &Caller, id: &str, index: &str) -> Result<(JobId, u32)> {
    let job = job_of(app, caller, parse_id(id)?)?;
    Ok((job.id, index.parse().map_err(|_| not_changed(NotChanged::Missing))?))
}

fn not_changed(reason: NotChanged) -> ApiError {
    let message = reason.to_string();
    match reason {
        NotChanged::Missing => ApiError::new(StatusCode::NOT_FOUND, "image_not_found", message),
        NotChanged::NotOver => {
            ApiError::new(StatusCode::CONFLICT, "job_not_over", message).hint("wait for its end, or cancel it")
        }
        NotChanged::Storage(failure) => failure.into(),
        NotChanged::Unsupported(_) => ApiError::new(StatusCode::NOT_IMPLEMENTED, "not_supported", message),
    }
}
