//! A server on standard input and output, which a client starts as a process of its own.

use std::io;

use rmcp::service::{ServerInitializeError, ServiceExt as _};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::handler::Handler;
use crate::transport::Bounded;

/// Threads for messages; drawing has others.
const ASYNC_THREADS: usize = 2;
/// Threads that may block: for files, decoding and encoding.
const BLOCKING_THREADS: usize = 16;

/// Serve on standard input and output until the input ends or a signal comes.
///
/// When the input ends, calls have five seconds to be answered; then their jobs are cancelled.
///
/// # Errors
/// If the system refuses threads, or the output cannot be written.
pub fn serve(handler: Handler) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(ASYNC_THREADS)
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_name("mcp")
        .enable_all()
        .build()?;
    let ended = runtime.block_on(async {
        tokio::select! {
            ended = serve_on(handler, tokio::io::stdin(), tokio::io::stdout()) => ended,
            signal = signal() => signal,
        }
    });
    // A thread may be reading the input, which nothing ends.
    runtime.shutdown_background();
    ended
}

/// Serve on a pair of streams until the first ends.
///
/// # Errors
/// If the second cannot be written.
pub async fn serve_on(
    handler: Handler,
    read: impl AsyncRead + Send + Unpin + 'static,
    write: impl AsyncWrite + Send + Unpin + 'static,
) -> io::Result<()> {
    match handler.serve(Bounded::new(read, write)).await {
        Ok(running) => running.waiting().await.map(drop).map_err(io::Error::other),
        // A client that says nothing is no error.
        Err(ServerInitializeError::ConnectionClosed(_)) => Ok(()),
        Err(error) => Err(io::Error::other(sentence(&error))),
    }
}

/// An error at the start without the message that it quotes: that may hold a prompt.
fn sentence(error: &ServerInitializeError) -> String {
    match error {
        ServerInitializeError::ExpectedInitializeRequest(_) => "the client did not begin with `initialize`".into(),
        other => other.to_string(),
    }
}

/// The first signal that ends a process.
async fn signal() -> io::Result<()> {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::select! {
            interrupted = tokio::signal::ctrl_c() => interrupted,
            _ = terminate.recv() => Ok(()),
        }
    }
    #[cfg(not(unix))]
    tokio::signal::ctrl_c().await
}
