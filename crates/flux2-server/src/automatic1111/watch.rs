//! Progress of the caller's work, and its interruption.

use std::time::{Duration, SystemTime};

use axum::extract::State as AppState;
use axum::{Extension, Json};
use flux2_jobs::{EventKind, Filter, JobState, JobView, Next};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::IntoParams;

use super::wire::{ProgressResponse, State};
use crate::access::Caller;
use crate::app::App;
use crate::error::{DetailBody, Result};
use crate::extract::Query;
use crate::native::wire::time_text;
use crate::values::to_base64;

/// Jobs that are looked at.
const MAX_JOBS: usize = 1000;

/// The caller's jobs in `state`, the newest first.
fn jobs_in(app: &App, caller: &Caller, state: JobState) -> Vec<JobView> {
    let filter = Filter { owner: Some(caller.owner.clone()), states: vec![state], ..Filter::default() };
    app.jobs.list(&filter, None, MAX_JOBS).jobs
}

/// What of the progress is wanted.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ProgressQuery {
    /// Whether `current_image` is left out.
    skip_current_image: Option<bool>,
}

/// How far the caller's running job is.
#[utoipa::path(get, path = "/sdapi/v1/progress", tag = "automatic1111",
    params(ProgressQuery),
    responses((status = 200, description = "The progress; all zero if nothing runs.", body = ProgressResponse),
              (status = "default", description = "An error.", body = DetailBody)))]
pub async fn progress(
    AppState(app): AppState<App>,
    Extension(caller): Extension<Caller>,
    Query(query): Query<ProgressQuery>,
) -> Json<ProgressResponse> {
    let Some(job) = jobs_in(&app, &caller, JobState::Running).pop() else { return Json(ProgressResponse::default()) };
    let is_shown = !query.skip_current_image.unwrap_or(false);
    if is_shown {
        app.jobs.want_previews(job.id);
    }
    let (done, text) = match &job.progress {
        Some(p) => {
            let steps = f64::from(p.steps.max(1));
            let done = (f64::from(p.picture) + f64::from(p.step) / steps) / f64::from(job.spec.count);
            (done.clamp(0.0, 1.0), p.stage.map(str::to_owned))
        }
        None => (0.0, None),
    };
    let elapsed = job.times.started.and_then(|start| SystemTime::now().duration_since(start).ok());
    let elapsed = elapsed.unwrap_or_default().as_secs_f64();
    Json(ProgressResponse {
        progress: done,
        eta_relative: if done > 0.0 { elapsed / done - elapsed } else { 0.0 },
        state: State {
            job: job.id.to_string(),
            job_count: job.spec.count,
            job_timestamp: job.times.started.map(time_text).unwrap_or_default(),
            job_no: job.progress.as_ref().map_or(0, |p| p.picture),
            sampling_step: job.progress.as_ref().map_or(0, |p| p.step),
            sampling_steps: job.spec.steps,
            ..State::default()
        },
        current_image: if is_shown { preview(&app, &job) } else { None },
        textinfo: text,
    })
}

/// The latest preview of a job that is kept.
fn preview(app: &App, job: &JobView) -> Option<String> {
    let mut events = app.jobs.events(job.id, 0)?;
    let mut latest = None;
    while let Next::Event(event) = events.next(Duration::ZERO) {
        if let EventKind::Preview { bytes, .. } = &event.kind {
            latest = Some(to_base64(bytes));
        }
    }
    latest
}

/// Cancels the caller's running jobs. The requests that wait for them are answered with the images there are.
#[utoipa::path(post, path = "/sdapi/v1/interrupt", tag = "automatic1111",
    responses((status = 200, description = "They are cancelled.", body = Object),
              (status = "default", description = "An error.", body = DetailBody)))]
pub async fn interrupt(AppState(app): AppState<App>, Extension(caller): Extension<Caller>) -> Result<Json<Value>> {
    let running = jobs_in(&app, &caller, JobState::Running);
    let cancelled = app.blocking(move |app| {
        for job in running {
            app.jobs.cancel(job.id);
        }
    });
    cancelled.await?;
    Ok(Json(json!({})))
}
