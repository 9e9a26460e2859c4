//! Connections: accepted within a limit, read and written with limited patience.
//!
//! A client that sends its head slowly, or does not read what is written to it, costs a connection for a limited time
//! and nothing else.

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, Sleep};
use tower::ServiceExt as _;

use crate::access::Connection;
use crate::listen::Listener;
use crate::options::{Limits, Times};
use crate::tls::Tls;

/// Smallest buffer for a head that hyper takes.
const MIN_HEAD_BYTES: usize = 8192;
/// Pause after an error of the system, as where it has no more file descriptors.
const PAUSE: Duration = Duration::from_millis(100);
/// Time to tell a client that there are too many connections, and for the handshake of TLS.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// The answer to a connection over the limit.
const TOO_MANY: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 2\r\n\
    connection: close\r\ncontent-length: 124\r\n\r\n{\"error\":{\"message\":\"the server has too many connections\",\
    \"type\":\"server_error\",\"param\":null,\"code\":\"too_many_connections\"}}";

/// What all connections share.
#[derive(Clone)]
pub struct Connections {
    router: Router,
    limits: Limits,
    times: Times,
    tls: Option<Tls>,
    permits: Arc<Semaphore>,
    /// Whether connections are to end after the response they are at.
    is_closing: watch::Sender<bool>,
}

impl Connections {
    /// Connections whose requests `router` answers; encrypted with `tls`, if it is given, unless they are local.
    pub fn new(router: Router, limits: Limits, times: Times, tls: Option<Tls>) -> Self {
        let permits = Arc::new(Semaphore::new(limits.connections));
        Connections { router, limits, times, tls, permits, is_closing: watch::channel(false).0 }
    }

    /// Accept connections for as long as the future lives. Those that were accepted go on without it, until
    /// [`close`](Self::close).
    ///
    /// # Errors
    /// If the socket cannot be used.
    pub async fn accept(self, listener: Listener) -> io::Result<()> {
        match listener {
            Listener::Tcp(socket) => {
                socket.set_nonblocking(true)?;
                let socket = tokio::net::TcpListener::from_std(socket)?;
                loop {
                    match socket.accept().await {
                        Ok((stream, _)) => {
                            // Events of a stream are small, and each is wanted at once.
                            let _ = stream.set_nodelay(true);
                            self.start(stream, false);
                        }
                        Err(error) => pause(&error).await,
                    }
                }
            }
            #[cfg(unix)]
            Listener::Unix { socket, .. } => {
                socket.set_nonblocking(true)?;
                let socket = tokio::net::UnixListener::from_std(socket)?;
                loop {
                    match socket.accept().await {
                        Ok((stream, _)) => self.start(stream, true),
                        Err(error) => pause(&error).await,
                    }
                }
            }
        }
    }

    fn start<S>(&self, stream: S, is_unix: bool)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Ok(permit) = self.permits.clone().try_acquire_owned() else {
            tracing::warn!(most = self.limits.connections, "too many connections");
            if self.tls.is_none() || is_unix {
                tokio::spawn(tokio::time::timeout(HANDSHAKE, refuse(stream)));
            }
            return;
        };
        let connections = self.clone();
        tokio::spawn(async move {
            match connections.tls.as_ref().filter(|_| !is_unix).map(Tls::acceptor) {
                None => connections.serve(stream, Connection { is_unix, is_tls: false }).await,
                Some(acceptor) => match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
                    Ok(Ok(stream)) => connections.serve(stream, Connection { is_unix, is_tls: true }).await,
                    Ok(Err(error)) => tracing::debug!(%error, "no TLS"),
                    Err(_) => tracing::debug!("no TLS in time"),
                },
            }
            drop(permit);
        });
    }

    async fn serve<S>(self, stream: S, connection: Connection)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Connections { router, limits, times, is_closing, .. } = self;
        let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
            let mut request: Request = request.map(Body::new);
            request.extensions_mut().insert(connection);
            router.clone().oneshot(request)
        });
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(times.head)
            .max_headers(limits.headers)
            .max_buf_size(limits.head_bytes.max(MIN_HEAD_BYTES))
            .serve_connection(TokioIo::new(Impatient::new(stream, times.stall)), service)
            .with_upgrades();
        let mut served = pin!(served);
        let mut closing = is_closing.subscribe();
        let result = tokio::select! {
            result = served.as_mut() => result,
            // The value that is waited for is a lock, which must not be held.
            () = async { drop(closing.wait_for(|is_closing| *is_closing).await) } => {
                served.as_mut().graceful_shutdown();
                served.await
            }
        };
        if let Err(error) = result {
            tracing::debug!(%error, "connection ended");
        }
    }

    /// End all connections after the response each is at, and wait for that.
    pub async fn close(self) {
        self.is_closing.send_replace(true);
        // All permits are back when all connections have ended.
        let _ = self.permits.acquire_many(self.limits.connections as u32).await;
    }
}

async fn pause(error: &io::Error) {
    tracing::warn!(%error, "no connection could be accepted");
    tokio::time::sleep(PAUSE).await;
}

async fn refuse(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    // The client may be gone.
    let _ = stream.write_all(TOO_MANY.as_bytes()).await;
    let _ = stream.shutdown().await;
}

/// A stream whose writes fail when its reader takes nothing for a time.
struct Impatient<S> {
    stream: S,
    patience: Duration,
    /// Runs while a write waits.
    sleep: Pin<Box<Sleep>>,
    is_waiting: bool,
}

impl<S> Impatient<S> {
    fn new(stream: S, patience: Duration) -> Self {
        Impatient { stream, patience, sleep: Box::pin(tokio::time::sleep(patience)), is_waiting: false }
    }

    /// `result` of a write, or an error when it has been pending for too long.
    fn limited<T>(&mut self, context: &mut Context<'_>, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if result.is_ready() {
            self.is_waiting = false;
            return result;
        }
        if !self.is_waiting {
            self.is_waiting = true;
            self.sleep.as_mut().reset(Instant::now() + self.patience);
        }
        self.sleep.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Impatient<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(context, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Impatient<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.stream).poll_write(context, bytes);
        this.limited(context, result)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.stream).poll_write_vectored(context, slices);
        this.limited(context, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.stream).poll_flush(context);
        this.limited(context, result)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.stream).poll_shutdown(context);
        this.limited(context, result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_refusal_is_as_long_as_it_says() {
        let (head, body) = TOO_MANY.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}", body.len())), "{}", body.len());
        assert!(serde_json::from_str::<crate::error::ErrorBody>(body).is_ok());
    }

    #[test]
    fn a_write_that_nobody_reads_fails() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let (near, _far) = tokio::io::duplex(8);
            let mut near = Impatient::new(near, Duration::from_millis(20));
            assert_eq!(near.write(b"12345678").await.unwrap(), 8);
            assert_eq!(near.write(b"9").await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        });
    }
}
