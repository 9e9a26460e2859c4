//! Progress of a job over a WebSocket, in the origin's frames.

use std::future::poll_fn;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::extract::ws::{CloseFrame, Message, WebSocket};
use axum::response::Response;
use flux2_jobs::{EventKind, JobState, JobView, Next};
use serde::Deserialize;
use serde_json::{Value, json};

use super::wire::{progress_message, status};
use crate::access::Caller;
use crate::app::App;
use crate::drawing::job_of;
use crate::error::ApiError;
use crate::extract::{Path, Query, Upgrade};
use crate::values::to_base64;

/// Close code for a token that names no job.
const UNKNOWN_TOKEN: u16 = 4004;
/// Longest frame accepted, in bytes. Clients send control frames only.
const MAX_FRAME: usize = 4096;
/// Shortest time between frames of progress.
const PACE: Duration = Duration::from_millis(100);

/// What the frames hold.
#[derive(Deserialize)]
pub struct SocketQuery {
    /// Whether they have the latest preview, as base64; the Python program's have none.
    previews: Option<bool>,
}

/// Sends a frame for each change of a job, and a last one when it is over.
pub async fn connect(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(token): Path<String>,
    Query(query): Query<SocketQuery>,
    Upgrade(upgrade): Upgrade,
) -> Response {
    let upgrade = upgrade.max_message_size(MAX_FRAME).max_frame_size(MAX_FRAME);
    upgrade.on_upgrade(async move |mut socket| {
        let job = token.parse().map_err(|_| ApiError::no_job()).and_then(|id| job_of(&app, &caller, id));
        // A client that is gone is no error.
        let _ = match job {
            Ok(job) => watch(&app, job, query.previews.unwrap_or(false), &mut socket).await,
            Err(error) => refuse(&error, &mut socket).await,
        };
    })
}

async fn refuse(error: &ApiError, socket: &mut WebSocket) -> Result<(), axum::Error> {
    send(socket, json!({ "type": "error", "status": "not_found", "seed": null, "error": error.message })).await?;
    socket.send(Message::Close(Some(CloseFrame { code: UNKNOWN_TOKEN, reason: "unknown token".into() }))).await
}

async fn send(socket: &mut WebSocket, frame: Value) -> Result<(), axum::Error> {
    socket.send(Message::Text(frame.to_string().into())).await
}

async fn watch(app: &App, job: JobView, previews: bool, socket: &mut WebSocket) -> Result<(), axum::Error> {
    let id = job.id;
    let Some(mut events) = app.jobs.events(id, job.last_event) else { return Ok(()) };
    if previews {
        app.jobs.want_previews(id);
    }
    let mut preview = None;
    let (mut job, mut last) = (Some(job), Value::Null);
    while let Some(now) = job {
        if now.state.is_final() {
            send(socket, last_frame(&now)).await?;
            return socket.send(Message::Close(None)).await;
        }
        let mut frame = json!({
            "type": "progress", "status": status(now.state), "queue_position": now.position,
            "progress": progress_message(&now),
        });
        if previews {
            frame["preview"] = preview.clone().into();
        }
        if frame != last {
            send(socket, frame.clone()).await?;
            last = frame;
        }
        tokio::select! {
            first = poll_fn(|context| events.poll_next(context)) => {
                tokio::time::sleep(PACE).await;
                let mut event = first;
                while let Some(found) = event {
                    if let EventKind::Preview { bytes, .. } = &found.kind {
                        preview = Some(to_base64(bytes));
                    }
                    event = match events.next(Duration::ZERO) {
                        Next::Event(event) => Some(event),
                        Next::Timeout | Next::End => None,
                    };
                }
            }
            () = app.drained() => return socket.send(Message::Close(None)).await,
            received = socket.recv() => if !matches!(received, Some(Ok(_))) { return Ok(()) },
        }
        job = app.jobs.get(id);
    }
    Ok(())
}

fn last_frame(job: &JobView) -> Value {
    let kind = if job.state == JobState::Done { "complete" } else { "error" };
    let error = match (&job.failure, job.state) {
        (Some(failure), _) => Some(failure.message.as_str()),
        (None, JobState::Cancelled) => Some("cancelled"),
        _ => None,
    };
    json!({ "type": kind, "status": status(job.state), "seed": job.spec.seed, "error": error })
}
