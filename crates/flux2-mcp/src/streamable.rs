//! The protocol over streamable HTTP, as a service that a server calls with requests that it has let in.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

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
    /// Requests that may begin a session and are not answered yet.
    beginning: AtomicUsize,
}

/// A request that was let in: what answers it. Keep it until the answer is there.
pub struct Admitted<'a> {
    service: &'a HttpService,
    may_begin: bool,
}

impl Deref for Admitted<'_> {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.service.inner
    }
}

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        if self.may_begin {
            self.service.beginning.fetch_sub(1, Ordering::Relaxed);
        }
    }
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
        HttpService { inner, sessions, beginning: AtomicUsize::new(0) }
    }

    /// What answers a request of the caller that `desk` serves.
    ///
    /// # Errors
    /// If it would begin one session too many.
    pub async fn admit<B>(
        &self,
        request: &mut Request<B>,
        desk: Arc<dyn Desk>,
    ) -> Result<Admitted<'_>, TooManySessions> {
        let may_begin = !request.headers().contains_key(SESSION);
        let admitted = Admitted { service: self, may_begin };
        if may_begin {
            // Counted before it is looked: requests at the same time must not all see the last free place.
            let beginning = self.beginning.fetch_add(1, Ordering::Relaxed) + 1;
            if self.sessions.sessions.read().await.len() + beginning > MAX_SESSIONS {
                return Err(TooManySessions);
            }
        }
        request.extensions_mut().insert(desk);
        Ok(admitted)
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
