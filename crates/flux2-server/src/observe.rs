//! What is noted of every request: its id, its route and status in the log and in metrics. Never its body or query.

use std::panic::AssertUnwindSafe;
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt as _;
use tracing::Instrument as _;
use uuid::Uuid;

use crate::access::Caller;
use crate::app::App;
use crate::error::ApiError;

/// Header with the id of a request.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Header in which OpenAI's clients count their attempts.
const RETRY_COUNT: &str = "x-stainless-retry-count";
/// Longest id that is taken over from a client.
const MAX_ID: usize = 128;

/// Gives the request an id, logs and counts it. A handler that panics is an error of this request alone.
pub async fn observe(State(app): State<App>, request: Request, next: Next) -> Response {
    let start = Instant::now();
    let id = request_id(request.headers());
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().map_or("other", MatchedPath::as_str).to_owned();
    let attempt = request.headers().get(RETRY_COUNT).and_then(|value| value.to_str().ok()?.parse::<u32>().ok());
    let span = tracing::info_span!("request", id = %id.to_str().unwrap_or_default());
    let handled = AssertUnwindSafe(next.run(request)).catch_unwind().instrument(span.clone()).await;
    let mut response = handled.unwrap_or_else(|_| ApiError::internal("a bug: the handler panicked").into_response());

    let status = response.status();
    app.requests.count(&route, status);
    let headers = response.headers_mut();
    headers.insert(REQUEST_ID, id);
    headers.entry(header::X_CONTENT_TYPE_OPTIONS).or_insert(HeaderValue::from_static("nosniff"));
    headers.entry(header::REFERRER_POLICY).or_insert(HeaderValue::from_static("no-referrer"));
    let owner = response.extensions().get::<Caller>().map(|caller| caller.owner.as_str());
    let code = response.extensions().get::<ApiError>().map(|error| error.code);
    let elapsed_ms = start.elapsed().as_millis() as u64;
    span.in_scope(|| {
        tracing::info!(%method, route, status = status.as_u16(), elapsed_ms, owner, code, attempt, "answered");
    });
    response
}

/// The id that the client chose, if it can be logged, else a new one.
fn request_id(headers: &HeaderMap) -> HeaderValue {
    let is_plain = |text: &str| !text.is_empty() && text.len() <= MAX_ID && text.bytes().all(|b| b.is_ascii_graphic());
    match headers.get(REQUEST_ID) {
        Some(id) if id.to_str().is_ok_and(is_plain) => id.clone(),
        _ => HeaderValue::from_str(&format!("req_{}", Uuid::new_v4().simple())).expect("an id is plain text"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_taken_over_if_it_can_be_logged() {
        let id = |value: &str| request_id(&[(REQUEST_ID, value.parse().unwrap())].into_iter().collect());
        assert_eq!(id("abc-1"), "abc-1");
        for odd in ["", "a b", &"x".repeat(129)] {
            let new = id(odd);
            assert!(new.to_str().unwrap().starts_with("req_"), "{odd:?}");
        }
    }
}
