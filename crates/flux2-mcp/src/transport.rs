//! Messages over a pair of byte streams, one a line, with bounded memory for a client that does not read.

use std::sync::Arc;

use rmcp::RoleServer;
use rmcp::service::{RxJsonRpcMessage, TxJsonRpcMessage};
use rmcp::transport::Transport;
use rmcp::transport::async_rw::AsyncRwTransport;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;

/// Longest message of a client, in bytes; longer ones are dropped.
const MAX_MESSAGE: usize = 16 << 20;
/// Messages that wait to be written. Nothing is read while there are so many.
const MAX_UNSENT: usize = 64;

/// A transport that stops reading while a client does not read.
pub struct Bounded<R: AsyncRead, W: AsyncWrite> {
    inner: AsyncRwTransport<RoleServer, R, W>,
    unsent: Arc<Semaphore>,
}

impl<R, W> Bounded<R, W>
where
    R: AsyncRead + Send + Unpin,
    W: AsyncWrite + Send + Unpin + 'static,
{
    /// Messages are read from `read` and written to `write`.
    pub fn new(read: R, write: W) -> Self {
        let inner = AsyncRwTransport::new_server(read, write).with_max_line_length(MAX_MESSAGE);
        Bounded { inner, unsent: Arc::new(Semaphore::new(MAX_UNSENT)) }
    }
}

impl<R, W> Transport<RoleServer> for Bounded<R, W>
where
    R: AsyncRead + Send + Unpin,
    W: AsyncWrite + Send + Unpin + 'static,
{
    type Error = std::io::Error;

    fn send(
        &mut self,
        item: TxJsonRpcMessage<RoleServer>,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send + 'static {
        // What was accepted is answered, also beyond the limit.
        let permit = Arc::clone(&self.unsent).try_acquire_owned().ok();
        let sent = self.inner.send(item);
        async move {
            let result = sent.await;
            drop(permit);
            result
        }
    }

    async fn receive(&mut self) -> Option<RxJsonRpcMessage<RoleServer>> {
        // The permit itself is not needed: only that there is one.
        drop(self.unsent.acquire().await.ok()?);
        self.inner.receive().await
    }

    async fn close(&mut self) -> Result<(), Self::Error> {
        self.inner.close().await
    }
}
