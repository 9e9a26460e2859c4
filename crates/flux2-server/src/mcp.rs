//! The Model Context Protocol at `/mcp`: tools for agents, behind the same keys and limits as the other APIs.

use std::sync::Arc;

use axum::Extension;
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::response::Response;
use axum::routing::any;
use flux2::image::ImageFormat;
use flux2::upscale::Before;
use flux2::{CancelToken, UpscaleSize};
use flux2_jobs::{Accepted, Draft, Enlarged, Forecast, JobId, Queue};
use flux2_mcp::{Desk, Limits, ToolError};

use crate::access::Caller;
use crate::app::App;
use crate::body;
use crate::drawing::{self, Image, MAX_GROWTH, Order, SourceOrder};
use crate::error::{ApiError, Result};

/// Its route.
pub fn routes() -> Router<App> {
    Router::new().route("/mcp", any(answer))
}

async fn answer(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    mut request: Request,
) -> Result<Response> {
    let desk = Arc::new(Counter { app: app.clone(), caller });
    let service = app.mcp.admit(&mut request, desk).await.map_err(|error| {
        ApiError::new(StatusCode::TOO_MANY_REQUESTS, "too_many_sessions", error.to_string()).retry_after(SESSION)
    })?;
    if request.method() != Method::POST {
        return Ok(service.handle(request).await.map(Body::new));
    }
    // Received within the limits of all bodies. The permit is held until the message is read.
    let (head, body) = request.into_parts();
    let mut whole = Request::new(body);
    *whole.headers_mut() = head.headers.clone();
    let received = body::receive(&app, whole).await?;
    let request = Request::from_parts(head, Body::from(received.bytes.clone()));
    let response = service.handle(request).await;
    drop(received);
    Ok(response.map(Body::new))
}

/// Time after which a client should ask for a session again.
const SESSION: std::time::Duration = std::time::Duration::from_secs(30);

/// Takes the calls of one caller.
struct Counter {
    app: App,
    caller: Caller,
}

impl Desk for Counter {
    fn jobs(&self) -> &dyn Queue {
        &*self.app.jobs
    }

    fn owner(&self) -> &str {
        &self.caller.owner
    }

    fn limits(&self) -> Limits {
        let limits = &self.app.options.limits;
        Limits {
            image_bytes: limits.image_bytes,
            pixels: limits.pixels,
            prompt_chars: limits.prompt_chars,
            references: limits.references,
            count: limits.count,
        }
    }

    fn submit(&self, draft: Draft) -> Result<Accepted, ToolError> {
        drawing::submit_now(&self.app, &self.caller, order(draft)).map_err(sentence)
    }

    fn forecast(&self, draft: Draft) -> Result<Forecast, ToolError> {
        drawing::forecast(&self.app, order(draft)).map_err(sentence)
    }

    fn enlarge(
        &self,
        before: &Before,
        upscaler: Option<&str>,
        by: f32,
        format: ImageFormat,
        cancel: &CancelToken,
    ) -> Result<Enlarged, ToolError> {
        drawing::count(&self.app, &self.caller).map_err(sentence)?;
        let size = UpscaleSize::By(by);
        let [width, height] = size.of([before.image().width(), before.image().height()])?;
        let most = self.app.options.limits.pixels.saturating_mul(MAX_GROWTH);
        if u64::from(width) * u64::from(height) > most {
            return Err(ToolError(format!("{width}x{height} is more than {most} pixels, the most of this server")));
        }
        Ok(self.app.jobs.enlarge(before, upscaler, size, format, cancel)?)
    }

    fn path_of(&self, id: JobId, index: u32) -> Option<String> {
        Some(format!("/api/v1/jobs/{id}/images/{index}"))
    }
}

/// The order of a draft whose images are uploads.
fn order(mut draft: Draft) -> Order {
    let images = std::mem::take(&mut draft.references).into_iter().map(Image::Upload).collect();
    let source = draft.source.take().map(|spec| SourceOrder {
        source: Image::Upload(spec.source),
        mask: spec.mask.map(Image::Upload),
        painting: spec.painting,
    });
    Order { draft, images, source, ..Order::default() }
}

fn sentence(error: ApiError) -> ToolError {
    ToolError(error.sentence())
}
