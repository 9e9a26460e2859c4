//! Routes for those who watch the server: `/health`, `/ready`, `/metrics`.

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use flux2_jobs::Readiness;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::error::ErrorBody;
use crate::metrics;

/// These routes.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(health)).routes(routes!(ready)).routes(routes!(metrics_text))
}

/// The state of the server.
#[derive(Serialize, ToSchema)]
struct Health {
    /// `ok`, `starting`, `ready`, `failed` or `draining`.
    status: &'static str,
    /// Why no pictures are drawn.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// Whether the process runs.
#[utoipa::path(get, path = "/health", tag = "operation", security(()), responses(
    (status = 200, description = "It runs.", body = Health)))]
async fn health() -> Json<Health> {
    Json(Health { status: "ok", reason: None })
}

/// Whether pictures are drawn: devices are open, and the models to be preloaded have drawn one.
#[utoipa::path(get, path = "/ready", tag = "operation", security(()), responses(
    (status = 200, description = "Pictures are drawn.", body = Health),
    (status = 503, description = "Not yet, or not any more.", body = Health)))]
async fn ready(State(app): State<App>) -> Response {
    let (status, reason) = match app.readiness() {
        Readiness::Ready => ("ready", None),
        Readiness::Starting => ("starting", None),
        Readiness::Draining => ("draining", None),
        Readiness::Failed(failure) => ("failed", Some(failure.message)),
    };
    let code = if status == "ready" { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(Health { status, reason })).into_response()
}

/// Numbers for Prometheus.
#[utoipa::path(get, path = "/metrics", tag = "operation", responses(
    (status = 200, description = "Metrics in the text format of Prometheus.", body = String,
     content_type = "text/plain"),
    (status = "default", description = "An error.", body = ErrorBody)))]
async fn metrics_text(State(app): State<App>) -> Response {
    let text = metrics::render(&app.requests, &app.jobs.stats());
    ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response()
}
