//! Images as server-sent events: previews, then each image when it is saved.

use std::convert::Infallible;

use axum::http::header;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use flux2_jobs::{EventKind, ImageInfo, JobId, JobView};
use futures_util::stream;
use serde_json::{Value, json};

use super::generate::{created, size, usage};
use super::wire::Wanted;
use crate::app::App;
use crate::drawing::{Waiter, picture};
use crate::error::{ApiError, Result};
use crate::values::{Format, to_base64};

/// The route a stream belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Generation,
    Edit,
}

impl Kind {
    /// The first part of the names of its events.
    fn prefix(self) -> &'static str {
        match self {
            Kind::Generation => "image_generation",
            Kind::Edit => "image_edit",
        }
    }
}

struct Streaming {
    app: App,
    /// None when the stream is over.
    waiter: Option<Waiter>,
    id: JobId,
    kind: Kind,
    wanted: Wanted,
    previews: u32,
}

/// The events of a job until it is over. A failure is the last event.
pub fn stream(app: App, waiter: Waiter, kind: Kind, wanted: Wanted) -> Response {
    let keep_alive = KeepAlive::new().interval(app.options.times.keep_alive).text("keep-alive");
    let state = Streaming { app, id: waiter.id(), waiter: Some(waiter), kind, wanted, previews: 0 };
    let events = stream::unfold(state, async |mut state| {
        let event = state.next().await.transpose()?;
        let event = event.unwrap_or_else(|error| {
            state.waiter = None;
            let data = serde_json::to_value(error.body()).unwrap_or_default();
            ("error".to_owned(), data)
        });
        let (name, data) = event;
        Some((Ok::<_, Infallible>(Event::default().event(name).data(data.to_string())), state))
    });
    ([(header::CACHE_CONTROL, "no-store")], Sse::new(events).keep_alive(keep_alive)).into_response()
}

impl Streaming {
    /// Name and data of the next event; `None` at the end.
    async fn next(&mut self) -> Result<Option<(String, Value)>> {
        loop {
            let Some(waiter) = &mut self.waiter else { return Ok(None) };
            let Some(event) = waiter.next().await? else { return Ok(None) };
            match &event.kind {
                EventKind::Preview { bytes, .. } if self.previews < self.wanted.partial_images => {
                    let index = self.previews;
                    self.previews += 1;
                    let more = json!({ "b64_json": to_base64(bytes), "partial_image_index": index });
                    return Ok(Some(self.event("partial_image", more)?));
                }
                EventKind::ImageReady { image } => return self.completed(image).await.map(Some),
                EventKind::Failed { failure } => return Err(failure.clone().into()),
                EventKind::Cancelled => return Err(ApiError::cancelled()),
                _ => {}
            }
        }
    }

    async fn completed(&self, image: &ImageInfo) -> Result<(String, Value)> {
        let job = self.job()?;
        let picture = picture(&self.app, self.id, image.index).await?;
        let usage = usage(&self.app, &job).await?;
        let warnings: Vec<_> = self.wanted.warnings.iter().chain(&job.warnings).collect();
        let more = json!({
            "b64_json": to_base64(&picture.bytes), "usage": usage, "seed": image.seed, "model": job.spec.model.name,
            "id": self.id.to_string(), "warnings": warnings,
        });
        self.event("completed", more)
    }

    /// An event with the fields that all have, and `more`.
    fn event(&self, name: &str, mut more: Value) -> Result<(String, Value)> {
        let job = self.job()?;
        let name = format!("{}.{name}", self.kind.prefix());
        let format = Format::from(job.spec.format).name();
        more["type"] = name.as_str().into();
        more["created_at"] = created(&job).into();
        more["size"] = size(&job.spec).into();
        more["quality"] = self.wanted.quality.as_str().into();
        more["background"] = "opaque".into();
        more["output_format"] = format.into();
        Ok((name, more))
    }

    fn job(&self) -> Result<JobView> {
        self.app.jobs.get(self.id).ok_or_else(ApiError::no_job)
    }
}
