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
    /// The picture that was shown last, from 0, and how many of its previews.
    shown: (u32, u32),
}

/// The events of a job until it is over. A failure is the last event.
pub fn stream(app: App, waiter: Waiter, kind: Kind, wanted: Wanted) -> Response {
    let keep_alive = KeepAlive::new().interval(app.options.times.keep_alive).text("keep-alive");
    let state = Streaming { app, id: waiter.id(), waiter: Some(waiter), kind, wanted, shown: (0, 0) };
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
                EventKind::Preview { picture, step, bytes } => {
                    let Some(index) = self.index_of_preview(*picture, *step)? else { continue };
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

    /// The index of a preview of a picture among those that are sent; `None` if it is not sent. They are spread evenly
    /// over the steps.
    fn index_of_preview(&mut self, picture: u32, step: u32) -> Result<Option<u32>> {
        let (steps, most) = (self.job()?.spec.steps, self.wanted.partial_images);
        let sent = if self.shown.0 == picture { self.shown.1 } else { 0 };
        if !is_due(step, steps, sent, most) {
            return Ok(None);
        }
        self.shown = (picture, sent + 1);
        Ok(Some(sent))
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

/// Whether the preview of a step is sent, if `sent` of at most `most` were: the next one is due at as large a share of
/// the steps, and one is sent for a step.
fn is_due(step: u32, steps: u32, sent: u32, most: u32) -> bool {
    let due = u64::from(step) * (u64::from(most) + 1) / u64::from(steps.max(1));
    u64::from(sent) < due.min(u64::from(most))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn previews_are_spread_over_the_steps() {
        let sent = |steps, most| {
            let mut sent = Vec::new();
            (1..=steps).for_each(|step| sent.extend(is_due(step, steps, sent.len() as u32, most).then_some(step)));
            sent
        };
        assert_eq!(sent(4, 3), [1, 2, 3]);
        assert_eq!(sent(4, 1), [2]);
        assert_eq!(sent(50, 3), [13, 25, 38]);
        assert_eq!(sent(2, 3), [1, 2]);
        assert_eq!(sent(1, 3), [1]);
        assert!(sent(9, 0).is_empty());
    }
}
