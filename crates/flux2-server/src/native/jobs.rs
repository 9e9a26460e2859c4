//! Jobs: made, listed, watched, cancelled.

use std::convert::Infallible;
use std::future::poll_fn;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use flux2_jobs::{Filter, JobId, JobState};
use futures_util::stream;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::wire::{Job, JobPage, JobRequest, event_data};
use crate::access::Caller;
use crate::app::App;
use crate::body;
use crate::drawing::{self, Image, Order, job_of};
use crate::error::{ApiError, ErrorBody, Result};
use crate::extract::{Path, Query};

/// Jobs of a page by default, and at most.
const PAGE: [usize; 2] = [50, 200];

/// A job request as a form: the fields of [`JobRequest`], and files.
#[derive(ToSchema)]
#[expect(dead_code, reason = "for the document; forms are read as the JSON that says the same")]
pub struct JobForm {
    /// Description of the images.
    prompt: String,
    /// Reference images, in order. All other fields of the JSON request may be given as text.
    #[schema(value_type = Option<Vec<String>>, format = Binary)]
    reference: Option<Vec<Vec<u8>>>,
    /// A picture to paint into.
    #[schema(value_type = Option<String>, format = Binary)]
    source: Option<Vec<u8>>,
    /// What of it is repainted.
    #[schema(value_type = Option<String>, format = Binary)]
    mask: Option<Vec<u8>>,
}

/// Makes a job. Reference images are sent with it, or named by the digests of uploads.
#[utoipa::path(post, path = "/api/v1/jobs", tag = "jobs",
    params(("Idempotency-Key" = Option<String>, Header, description = "A second request with the same key returns the \
        job of the first.", min_length = 1, max_length = 255)),
    request_body(content((JobRequest = "application/json"), (JobForm = "multipart/form-data"))),
    responses((status = 202, description = "The job is accepted and will survive a restart.", body = Job),
              (status = "default", description = "An error.", body = ErrorBody)))]
pub async fn create(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response> {
    let idempotency_key = drawing::idempotency_key(request.headers())?;
    let fields = body::json_or_form(&app, request).await?;
    let (wire, _) = body::typed::<JobRequest>(fields.json, StatusCode::BAD_REQUEST)?;
    let mut images =
        wire.references.iter().map(|text| Image::of_text(text, "references")).collect::<Result<Vec<_>>>()?;
    let (mut source, mut mask) = (None, None);
    for file in &fields.files {
        let image = Image::Sent(file.bytes.clone());
        match file.field.as_str() {
            "reference" | "references" | "image" => images.push(image),
            "source" => source = Some(image),
            "mask" => mask = Some(image),
            other => {
                let error = ApiError::invalid(other, "no file is expected in this field");
                return Err(error.hint("use `reference`, `source` or `mask`"));
            }
        }
    }
    let source = wire.source_order(source, mask)?;
    let priority = wire.priority.map_or_else(Default::default, Into::into);
    let (draft, deadline) = wire.draft()?;
    let order = Order { draft, images, source, priority, deadline, idempotency_key, previews: false };
    let accepted = drawing::submit(&app, &caller, order).await?;
    let job = Job::from(job_of(&app, &caller, accepted.id)?);
    let location = [(header::LOCATION, job.links.this.clone())];
    Ok((StatusCode::ACCEPTED, location, Json(job)).into_response())
}

/// Whether a text is the digest of an upload.
pub fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Which jobs are listed.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ListQuery {
    /// `next` of the page before.
    cursor: Option<String>,
    /// Jobs of a page.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<usize>,
    /// States, separated by commas: `queued`, `running`, `done`, `failed`, `cancelled`.
    state: Option<String>,
    /// Words that the prompt contains, each of them, in upper or lower case.
    search: Option<String>,
    /// Name of the model.
    model: Option<String>,
    /// Only jobs with a favorite image.
    favorite: Option<bool>,
}

/// Lists the caller's jobs, the newest first.
#[utoipa::path(get, path = "/api/v1/jobs", tag = "jobs", params(ListQuery),
    responses((status = 200, description = "A page of jobs.", body = JobPage),
              (status = "default", description = "An error.", body = ErrorBody)))]
pub async fn list(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Query(query): Query<ListQuery>,
) -> Result<Json<JobPage>> {
    let limit = query.limit.unwrap_or(PAGE[0]);
    if !(1..=PAGE[1]).contains(&limit) {
        return Err(ApiError::invalid("limit", format!("{limit} is outside 1 to {}", PAGE[1])));
    }
    let cursor = query.cursor.map(|cursor| cursor.parse());
    let cursor = cursor.transpose().map_err(|error| ApiError::invalid("cursor", format!("{error}")))?;
    let states = query.state.as_deref().unwrap_or_default().split(',').filter(|name| !name.is_empty());
    let state = |name: &str| {
        let known = JobState::ALL.into_iter().find(|state| state.name() == name);
        known.ok_or_else(|| ApiError::invalid("state", format!("{name:?} is not a state")))
    };
    let states = states.map(state).collect::<Result<Vec<_>>>()?;
    let words = query.search.unwrap_or_default().split_whitespace().map(str::to_owned).collect();
    let only_favorites = query.favorite.unwrap_or_default();
    let filter = Filter { owner: Some(caller.owner), states, words, model: query.model, only_favorites };
    // A search looks at every prompt.
    let page = app.blocking(move |app| app.jobs.list(&filter, cursor, limit)).await?;
    let jobs = page.jobs.into_iter().map(Job::from).collect();
    Ok(Json(JobPage { jobs, next: page.next.map(|id| id.to_string()), revision: page.revision }))
}

/// The id in a path.
///
/// # Errors
/// 404: what is no id names no job.
pub fn parse_id(id: &str) -> Result<JobId> {
    id.parse().map_err(|_| ApiError::no_job())
}

/// A job as it is now.
#[utoipa::path(get, path = "/api/v1/jobs/{id}", tag = "jobs", params(("id" = String, Path, description = "Its id.")),
    responses((status = 200, description = "The job.", body = Job),
              (status = "default", description = "An error.", body = ErrorBody)))]
pub async fn one(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<Job>> {
    Ok(Json(job_of(&app, &caller, parse_id(&id)?)?.into()))
}

/// Cancels a job, queued or running. A job that is over stays as it is.
#[utoipa::path(delete, path = "/api/v1/jobs/{id}", tag = "jobs", params(("id" = String, Path, description = "Its id.")),
    responses((status = 200, description = "The job. A running one ends within one block of a network.", body = Job),
              (status = "default", description = "An error.", body = ErrorBody)))]
pub async fn cancel(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<Job>> {
    let id = job_of(&app, &caller, parse_id(&id)?)?.id;
    app.blocking(move |app| app.jobs.cancel(id)).await?;
    Ok(Json(job_of(&app, &caller, id)?.into()))
}

/// The number after which events are read.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct EventsQuery {
    /// As the header `Last-Event-ID`, which wins.
    #[param(minimum = 0)]
    after: Option<u64>,
    /// Whether previews are made for this reader, from now on; they are by default.
    previews: Option<bool>,
}

/// Events of a job as server-sent events, until it is over. `id` is the number to go on after, `event` is `queued`,
/// `started`, `warning`, `stage`, `step`, `preview`, `image_ready`, `done`, `failed` or `cancelled`. When there will be
/// no more events the answer is 204, so that an `EventSource` stops.
#[utoipa::path(get, path = "/api/v1/jobs/{id}/events", tag = "jobs",
    params(("id" = String, Path, description = "Its id."), EventsQuery,
           ("Last-Event-ID" = Option<u64>, Header, description = "Number of the last event that was read.")),
    responses((status = 200, description = "The events.", body = serde_json::Value, content_type = "text/event-stream"),
              (status = 204, description = "The job is over and all events were read."),
              (status = "default", description = "An error.", body = ErrorBody)))]
pub async fn events(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    Query(query): Query<EventsQuery>,
    headers: HeaderMap,
) -> Result<Response> {
    let after = match headers.get("last-event-id") {
        Some(number) => {
            let number = number.to_str().ok().and_then(|number| number.trim().parse().ok());
            number.ok_or_else(|| ApiError::invalid("Last-Event-ID", "it is not the number of an event"))?
        }
        None => query.after.unwrap_or(0),
    };
    let job = job_of(&app, &caller, parse_id(&id)?)?;
    if job.state.is_final() && after >= job.last_event {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let subscription = app.jobs.events(job.id, after).ok_or_else(ApiError::no_job)?;
    if query.previews.unwrap_or(true) {
        app.jobs.want_previews(job.id);
    }
    let path = format!("/api/v1/jobs/{}", job.id);
    let keep_alive = KeepAlive::new().interval(app.options.times.keep_alive).text("keep-alive");
    let events = stream::unfold((app, subscription, path), async |(app, mut subscription, path)| {
        let event = tokio::select! {
            event = poll_fn(|context| subscription.poll_next(context)) => event?,
            () = app.drained() => return None,
        };
        let data = event_data(&path, &event.kind).to_string();
        let event = Event::default().id(event.seq.to_string()).event(event.kind.name()).data(data);
        Some((Ok::<_, Infallible>(event), (app, subscription, path)))
    });
    Ok(([(header::CACHE_CONTROL, "no-store")], Sse::new(events).keep_alive(keep_alive)).into_response())
}
