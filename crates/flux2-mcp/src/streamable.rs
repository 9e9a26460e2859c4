//! The protocol over streamable HTTP, as a service that a server calls with requests that it has let in.

use std::sync::Arc;

use http::Request;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};

use crate::desk::Desk;
use crate::handler::Handler;

/// Longest message of a client, in bytes.
const MAX_MESSAGE: usize = 16 << 20;
/// Sessions at one time, of clients whose version of the protocol has them. Those without a request for five minutes
/// end.
const MAX_SESSIONS: usize = 1000;
/// Header with the session of a request.
const SESSION: &str = "mcp-session-id";

/// What answers requests.
type Inner = StreamableHttpService<Handler, LocalSessionManager>;

/// The protocol over streamable HTTP.
pub struct HttpService {
    inner: Inner,
    sessions: Arc<LocalSessionManager>,
}

impl Default for HttpService {
    fn default() -> Self {
        Self::new()
    }
}

impl HttpService {
    /// A service without sessions yet. `Host` and `Origin` are not checked: its server does that.
    pub fn new() -> Self {
        let (handler, sessions) = (Handler::of_many(), Arc::<LocalSessionManager>::default());
        let config = StreamableHttpServerConfig::default()
            .disable_allowed_hosts()
            .disable_allowed_origins()
            .with_max_request_body_bytes(MAX_MESSAGE);
        let inner = StreamableHttpService::new(move || Ok(handler.clone()), Arc::clone(&sessions), config);
        HttpService { inner, sessions }
    }

    /// What answers a request of the caller that `desk` serves.
    ///
    /// # Errors
    /// If it would begin one session too many.
    pub async fn admit<B>(&self, request: &mut Request<B>, desk: Arc<dyn Desk>) -> Result<&Inner, TooManySessions> {
        let may_begin = !request.headers().contains_key(SESSION);
        if may_begin && self.sessions.sessions.read().await.len() >= MAX_SESSIONS {
            return Err(TooManySessions);
        }
        request.extensions_mut().insert(desk);
        Ok(&self.inner)
    }

    /// End all sessions and streams.
    pub fn close(&self) {
        self.inner.config.cancellation_token.cancel();
    }
}

/// There are as many sessions as are allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{MAX_SESSIONS} sessions are open, as many as there may be")]
pub struct TooManySessions;
