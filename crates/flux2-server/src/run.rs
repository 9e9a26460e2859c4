//! A server from its start to its end: listening, signals, reloading, drain.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use flux2_jobs::{Drained, ModelChoice, Queue};
use tokio::task::JoinSet;

use crate::app::{App, Start};
use crate::connection::Connections;
use crate::keys::{Key, Keys, ParseKeysError};
use crate::listen::Listener;
use crate::options::ServerOptions;
use crate::router::router;
use crate::signals::{Signal, Signals};
use crate::tls::{Tls, TlsError, TlsFiles};

/// Threads that may block: for decoding, the journal, pictures.
const BLOCKING_THREADS: usize = 16;
/// Threads for everything that does not block; drawing has others.
const ASYNC_THREADS: usize = 2;
/// Time to finish responses after the last job.
const LAST_RESPONSES: Duration = Duration::from_secs(5);

/// A server that can be run.
pub struct Server {
    /// Sockets to listen on, at least one.
    pub listeners: Vec<Listener>,
    /// The jobs: of an engine in this process, or of many machines.
    pub jobs: Arc<dyn Queue>,
    /// Where API keys come from.
    pub keys: KeySource,
    /// A certificate, to encrypt TCP connections.
    pub tls: Option<TlsFiles>,
    /// Models to load, each of which draws a picture before the server is ready.
    pub preload: Vec<ModelChoice>,
    /// How it is run.
    pub options: ServerOptions,
}

/// Where API keys come from.
#[derive(Clone, Debug, Default)]
pub struct KeySource {
    /// A key file: see [`Keys::parse`].
    pub file: Option<PathBuf>,
    /// A key besides those of the file.
    pub extra: Option<Key>,
}

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A line of the file cannot be read.
    #[error("{}: {source}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Which line, and why.
        source: ParseKeysError,
    },
    /// The file has no key, so that everybody would be let in.
    #[error("{}: there is no key in it", path.display())]
    NoKey {
        /// The file.
        path: PathBuf,
    },
}

impl KeySource {
    /// Read the keys. Without a source there are none.
    ///
    /// # Errors
    /// [`KeysError`] if there is a file that cannot be read or has no key.
    pub fn load(&self) -> Result<Keys, KeysError> {
        let mut keys = Keys::default();
        if let Some(path) = &self.file {
            let text = std::fs::read_to_string(path).map_err(|source| KeysError::Io { path: path.clone(), source })?;
            keys = Keys::parse(&text).map_err(|source| KeysError::Parse { path: path.clone(), source })?;
            if keys.is_empty() {
                return Err(KeysError::NoKey { path: path.clone() });
            }
        }
        Ok(match &self.extra {
            Some(key) => keys.with(key.clone()),
            None => keys,
        })
    }
}

/// Why a server could not be run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The keys cannot be read.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// The certificate cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The system refuses threads or sockets.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// How a server ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was asked to end, and did so in order.
    Drained(Drained),
    /// It was asked a second time. Threads may still be at work, so the process should exit.
    AtOnce,
}

impl Server {
    /// Run until a signal ends it. The first one drains: new work is refused, what runs is finished within the time
    /// for that. The second one returns at once.
    ///
    /// # Errors
    /// [`RunError`] if it cannot start.
    pub fn run(self) -> Result<Ended, RunError> {
        let keys = self.keys.load()?;
        let tls = self.tls.clone().map(Tls::load).transpose()?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(ASYNC_THREADS)
            .max_blocking_threads(BLOCKING_THREADS)
            .thread_name("http")
            .enable_all()
            .build()?;
        let ended = runtime.block_on(self.serve(keys, tls));
        // What blocks may be the drain that nobody waits for any more.
        runtime.shutdown_background();
        ended
    }

    async fn serve(self, keys: Keys, tls: Option<Tls>) -> Result<Ended, RunError> {
        let Server { listeners, jobs, keys: source, preload, options, .. } = self;
        let (limits, times) = (options.limits, options.times);
        let (has_keys, is_fake) = (!keys.is_empty(), options.is_fake);
        let app = App::new(jobs, keys, options);
        let connections = Connections::new(router(app.clone()), limits, times, tls.clone());
        let mut signals = Signals::new()?;
        app.set_start(Start::Pending);
        let starting = app.clone();
        tokio::task::spawn_blocking(move || starting.set_start(begin_loading(&starting, &preload)));
        let mut accepting = JoinSet::new();
        let files: Vec<PathBuf> = listeners.iter().filter_map(socket_file).collect();
        for listener in listeners {
            let scheme = if tls.is_some() { "https" } else { "http" };
            tracing::info!(address = format!("{scheme}://{}", listener.address()), has_keys, is_fake, "listening");
            accepting.spawn(connections.clone().accept(listener));
        }
        app.jobs.notices().iter().for_each(|notice| tracing::warn!("{notice}"));
        loop {
            tokio::select! {
                signal = signals.next() => match signal {
                    Signal::End => break,
                    Signal::Reload => reload(&app, &source, tls.as_ref()).await,
                },
                Some(Ok(Err(error))) = accepting.join_next() => return Err(error.into()),
            }
        }
        let ended = drain(&app, &mut signals, times.drain).await;
        accepting.abort_all();
        while accepting.join_next().await.is_some() {}
        files.iter().for_each(|file| drop(std::fs::remove_file(file)));
        if ended != Ended::AtOnce {
            tokio::select! {
                _ = tokio::time::timeout(LAST_RESPONSES, connections.close()) => {}
                () = signals.end() => {}
            }
        }
        Ok(ended)
    }
}

/// Tell the engine which models to load. They are loaded behind the server.
fn begin_loading(app: &App, models: &[ModelChoice]) -> Start {
    for model in models {
        if let Err(error) = app.jobs.preload(model) {
            tracing::error!(%error, "a model cannot be loaded");
            return Start::Failed(error.to_string());
        }
    }
    Start::Done
}

fn socket_file(listener: &Listener) -> Option<PathBuf> {
    match listener {
        #[cfg(unix)]
        Listener::Unix { file, .. } => file.clone(),
        Listener::Tcp(_) => None,
    }
}

/// Keys and certificate are read again; those that cannot be read stay as they are.
async fn reload(app: &App, source: &KeySource, tls: Option<&Tls>) {
    let (source, tls) = (source.clone(), tls.cloned());
    let result = app.blocking(move |app| {
        match source.load() {
            Ok(keys) => {
                let count = keys.len();
                app.replace_keys(keys);
                tracing::info!(keys = count, "keys are read again");
            }
            Err(error) => tracing::error!(%error, "the keys stay as they were"),
        }
        if let Some(Err(error)) = tls.map(|tls| tls.reload()) {
            tracing::error!(%error, "the certificate stays as it was");
        }
    });
    if let Err(error) = result.await {
        tracing::error!(error = error.message, "reload failed");
    }
}

/// Refuse new work and finish what runs; or return when another signal comes.
async fn drain(app: &App, signals: &mut Signals, patience: Duration) -> Ended {
    app.begin_drain();
    tracing::info!(seconds = patience.as_secs(), "draining");
    let jobs = Arc::clone(&app.jobs);
    let ended = tokio::select! {
        drained = tokio::task::spawn_blocking(move || jobs.drain(patience)) => match drained {
            Ok(drained) => {
                tracing::info!(left = drained.left, lost = drained.lost, "drained");
                Ended::Drained(drained)
            }
            Err(_) => Ended::AtOnce,
        },
        () = signals.end() => Ended::AtOnce,
    };
    app.end_drain();
    ended
}
