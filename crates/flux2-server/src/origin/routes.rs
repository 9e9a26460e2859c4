//! The origin's routes.

use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use flux2_jobs::{CancelOutcome, Filter, JobState, JobView};

use super::wire::{Cancelled, GenerateRequest, Models, Status, Token, token};
use crate::access::Caller;
use crate::app::App;
use crate::body;
use crate::drawing::{self, Order, job_of};
use crate::error::{ApiError, DetailBody, Result};
use crate::extract::Path;
use crate::openai;
use crate::values::media_type;

/// Jobs that `/queue` lists at most.
const MAX_LISTED: usize = 1000;

/// Makes a job for one image.
#[utoipa::path(post, path = "/generate", tag = "dj-flux2", request_body = GenerateRequest,
    responses((status = 201, description = "The job is accepted.", body = Token),
              (status = "default", description = "An error.", body = DetailBody)))]
pub async fn generate(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<(StatusCode, Json<Token>)> {
    let fields = body::json(&app, request).await?;
    let (wire, _) = body::typed::<GenerateRequest>(fields.json, StatusCode::UNPROCESSABLE_ENTITY)?;
    let (draft, images) = wire.parts()?;
    let accepted = drawing::submit(&app, &caller, Order { draft, images, ..Order::default() }).await;
    // The origin answers 400 where the model is not known.
    let accepted = accepted.map_err(|mut error| {
        if error.code == "model_not_found" {
            error.status = StatusCode::BAD_REQUEST;
        }
        error
    })?;
    let token = accepted.id.to_string().replace('-', "");
    Ok((StatusCode::CREATED, Json(Token { token })))
}

fn find(app: &App, caller: &Caller, token: &str) -> Result<JobView> {
    let id = token.parse().map_err(|_| ApiError::no_job())?;
    job_of(app, caller, id)
}

/// A job as it is now.
#[utoipa::path(get, path = "/status/{token}", tag = "dj-flux2",
    params(("token" = String, Path, description = "From `/generate`.")),
    responses((status = 200, description = "The job.", body = Status),
              (status = "default", description = "An error.", body = DetailBody)))]
pub async fn status(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(token): Path<String>,
) -> Result<Json<Status>> {
    Ok(Json(Status::from(&find(&app, &caller, &token)?)))
}

/// The image of a job.
#[utoipa::path(get, path = "/result/{token}", tag = "dj-flux2",
    params(("token" = String, Path, description = "From `/generate`.")),
    responses((status = 200, description = "The file.", body = Vec<u8>, content_type = "image/png"),
              (status = "default", description = "An error.", body = DetailBody)))]
pub async fn result(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(token): Path<String>,
) -> Result<Response> {
    let job = find(&app, &caller, &token)?;
    if job.state != JobState::Done {
        let message = format!("the job is not completed: it is {}", super::wire::status(job.state));
        return Err(ApiError::new(StatusCode::CONFLICT, "job_not_finished", message));
    }
    let picture = drawing::picture(&app, job.id, 0).await?;
    let headers = [
        (header::CONTENT_TYPE, media_type(picture.info.format).to_owned()),
        (header::CONTENT_DISPOSITION, format!("attachment; filename=\"{}\"", file_name(&job))),
    ];
    Ok((headers, picture.bytes.to_vec()).into_response())
}

/// `YYYYMMDD_HHMMSS_` and the first digits of the token.
fn file_name(job: &JobView) -> String {
    let time = humantime::format_rfc3339_seconds(job.times.accepted).to_string();
    let digits = |text: &str| text.bytes().filter(u8::is_ascii_digit).map(char::from).collect::<String>();
    let (date, time) = time.split_once('T').unwrap_or((&time, ""));
    let mut token = token(job);
    // The first digits of all ids of a minute are the same.
    let last = token.split_off(token.len() - 8);
    let extension = media_type(job.spec.format).trim_start_matches("image/");
    format!("{}_{}_{last}.{extension}", digits(date), digits(time))
}

/// The caller's jobs that wait or run.
#[utoipa::path(get, path = "/queue", tag = "dj-flux2",
    responses((status = 200, description = "The jobs.", body = Vec<Status>),
              (status = "default", description = "An error.", body = DetailBody)))]
pub async fn queue(State(app): State<App>, Extension(caller): Extension<Caller>) -> Json<Vec<Status>> {
    let states = vec![JobState::Queued, JobState::Running];
    let filter = Filter { owner: Some(caller.owner), states, ..Filter::default() };
    let page = app.jobs.list(&filter, None, MAX_LISTED);
    // The oldest first.
    Json(page.jobs.iter().rev().map(Status::from).collect())
}

/// Cancels a job that waits or runs.
#[utoipa::path(post, path = "/cancel/{token}", tag = "dj-flux2",
    params(("token" = String, Path, description = "From `/generate`.")),
    responses((status = 200, description = "It is cancelled.", body = Cancelled),
              (status = "default", description = "An error.", body = DetailBody)))]
pub async fn cancel(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(token): Path<String>,
) -> Result<Json<Cancelled>> {
    let id = find(&app, &caller, &token)?.id;
    let outcome = app.blocking(move |app| app.jobs.cancel(id)).await?;
    match outcome {
        Some(CancelOutcome::Cancelled | CancelOutcome::Requested) => {
            Ok(Json(Cancelled { success: true, message: "Cancelled" }))
        }
        Some(CancelOutcome::AlreadyOver) => {
            Err(ApiError::new(StatusCode::CONFLICT, "job_is_over", "the job is over, so it cannot be cancelled"))
        }
        None => Err(ApiError::no_job()),
    }
}

/// The models and what is loaded.
#[utoipa::path(get, path = "/models", tag = "dj-flux2",
    responses((status = 200, description = "The models.", body = Models),
              (status = "default", description = "An error.", body = DetailBody)))]
pub async fn models(State(app): State<App>) -> Json<Models> {
    let loaded: Vec<_> = app
        .jobs
        .stats()
        .devices
        .into_iter()
        .flat_map(|device| device.models)
        .map(|(key, bytes)| (key.to_string(), bytes))
        .collect();
    let supported = app.jobs.models().into_iter().map(|model| model.name).collect();
    Json(Models::new(openai::list_models(&app), supported, &loaded))
}
