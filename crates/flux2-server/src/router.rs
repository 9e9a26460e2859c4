//! All routes with all layers.

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::from_fn_with_state;
use axum::response::{Html, IntoResponse as _, Response};
use axum::routing::get;
use tower_http::cors::{AllowHeaders, CorsLayer};
use utoipa::OpenApi as _;
use utoipa_axum::router::OpenApiRouter;

use crate::access::{authenticate, check_origin};
use crate::app::App;
use crate::document::{self, Document};
use crate::error::ApiError;
use crate::observe::{REQUEST_ID, observe};
use crate::{automatic1111, health, mcp, native, openai, origin, page};

/// Header with the session of a client of the Model Context Protocol.
const SESSION_ID: HeaderName = HeaderName::from_static("mcp-session-id");

/// What the reference page may load: its own style and nothing else.
const REFERENCE_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'";

fn documented() -> OpenApiRouter<App> {
    OpenApiRouter::with_openapi(Document::openapi())
        .merge(native::routes())
        .merge(openai::routes())
        .merge(automatic1111::routes())
        .merge(origin::routes())
        .merge(health::routes())
}

/// The OpenAPI document of all routes.
pub fn openapi() -> utoipa::openapi::OpenApi {
    documented().split_for_parts().1
}

/// The service that answers requests.
pub fn router(app: App) -> Router {
    let (routes, document) = documented().split_for_parts();
    let document = serde_json::to_value(&document).unwrap_or_default();
    let (html, json) = (document::page(&document), document.to_string());
    let reference = async move || ([(header::CONTENT_SECURITY_POLICY, REFERENCE_POLICY)], Html(html.clone()));
    let document = async move || ([(header::CONTENT_TYPE, "application/json")], json.clone());
    routes
        .merge(page::routes())
        .merge(mcp::routes())
        .route("/docs", get(reference))
        .route("/openapi.json", get(document))
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .layer(DefaultBodyLimit::max(app.options.limits.body_bytes))
        // The last layer is the first to see a request.
        .layer(from_fn_with_state(app.clone(), authenticate))
        .layer(cors(&app.options.origins))
        .layer(from_fn_with_state(app.clone(), check_origin))
        .layer(from_fn_with_state(app.clone(), observe))
        .with_state(app)
}

fn cors(origins: &[String]) -> CorsLayer {
    let origins: Vec<HeaderValue> = origins.iter().filter_map(|origin| origin.parse().ok()).collect();
    let exposed: [HeaderName; 4] = [REQUEST_ID, header::RETRY_AFTER, header::LOCATION, SESSION_ID];
    CorsLayer::new()
        .allow_origin(origins)
        .allow_methods([Method::GET, Method::POST, Method::DELETE])
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers(exposed)
}

async fn no_route() -> Response {
    ApiError::new(StatusCode::NOT_FOUND, "not_found", "there is no such path").hint("see /docs").into_response()
}

async fn no_method() -> Response {
    let error = ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "the path has no such method");
    error.hint("see /docs").into_response()
}
