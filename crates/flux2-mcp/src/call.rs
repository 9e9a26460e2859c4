//! One call of a tool: who calls, and how it hears of progress.

use std::sync::Arc;
use std::time::Duration;

use rmcp::RoleServer;
use rmcp::model::{ProgressNotificationParam, ProgressToken};
use rmcp::service::{Peer, RequestContext};

use crate::album::Album;
use crate::desk::{Desk, Result, ToolError};

/// Longest time without a notification while a call waits: clients give up on calls that they hear nothing of.
pub const QUIET: Duration = Duration::from_secs(10);

/// One call of a tool.
#[derive(Clone)]
pub struct Call {
    /// Where it goes.
    pub desk: Arc<dyn Desk>,
    /// The pictures of its caller.
    pub album: Arc<Album>,
    /// What the protocol says of it.
    pub context: RequestContext<RoleServer>,
}

impl Call {
    /// Run `work` on a thread that may block.
    ///
    /// # Errors
    /// Those of `work`; if it panics.
    pub async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Call) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let call = self.clone();
        let done = tokio::task::spawn_blocking(move || work(&call)).await;
        done.unwrap_or_else(|error| Err(ToolError(format!("a bug: {error}"))))
    }

    /// The progress of this call.
    pub fn progress(&self) -> Progress {
        Progress { peer: self.context.peer.clone(), token: self.context.meta.get_progress_token(), last: -1.0 }
    }
}

/// Tells a client how far its call is, if it has asked for that.
pub struct Progress {
    peer: Peer<RoleServer>,
    token: Option<ProgressToken>,
    last: f64,
}

impl Progress {
    /// Tell that so much of `total` is done. Every notification has a higher number than the one before.
    pub async fn tell(&mut self, done: f64, total: f64, message: String) {
        let Some(token) = self.token.clone() else { return };
        self.last = if done > self.last { done } else { self.last + 0.001 };
        let note = ProgressNotificationParam::new(token, self.last).with_total(total).with_message(message);
        // A client that is gone ends its call by itself.
        let _ = self.peer.notify_progress(note).await;
    }
}
