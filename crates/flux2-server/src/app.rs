//! What all handlers share.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use flux2_jobs::{FailureClass, JobFailure, JobId, Queue, Readiness};
use flux2_mcp::HttpService;
use tokio::sync::{Semaphore, watch};

use crate::error::{ApiError, Result};
use crate::keys::{Keys, Rates};
use crate::links::Links;
use crate::metrics::RequestCounts;
use crate::options::ServerOptions;

/// Bytes of all bodies that are received at one time; further ones wait.
const BODY_BUDGET: usize = 512 << 20;
/// Thumbnails that are made at one time.
const THUMBNAILS: usize = 2;

/// What all handlers share. Clones are handles of the same one.
#[derive(Clone)]
pub struct App(Arc<Shared>);

/// See [`App`].
pub struct Shared {
    /// The jobs: of an engine in this process, or of many machines.
    pub jobs: Arc<dyn Queue>,
    /// How the server is run.
    pub options: ServerOptions,
    /// Requests of each key over the last minute.
    pub rates: Rates,
    /// Links to pictures.
    pub links: Links,
    /// Requests by route and status.
    pub requests: RequestCounts,
    /// The Model Context Protocol.
    pub mcp: HttpService,
    /// Permits for bytes of bodies, in KiB.
    pub bodies: Arc<Semaphore>,
    /// Permits for making thumbnails.
    pub thumbnails: Semaphore,
    /// Held while a key's jobs are counted and one is added.
    pub counting: Mutex<()>,
    keys: RwLock<Arc<Keys>>,
    waiting: Mutex<HashMap<JobId, usize>>,
    chosen_models: Mutex<HashMap<String, String>>,
    start: Mutex<Start>,
    is_draining: AtomicBool,
    is_drained: watch::Sender<bool>,
}

/// Whether the engine knows which models are to be loaded before the server is ready.
#[derive(Clone, Debug, PartialEq)]
pub enum Start {
    /// Not yet.
    Pending,
    /// It does.
    Done,
    /// One cannot be loaded, for this reason.
    Failed(String),
}

impl Deref for App {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl App {
    /// The shared state of a server of `jobs`.
    pub fn new(jobs: Arc<dyn Queue>, keys: Keys, options: ServerOptions) -> Self {
        App(Arc::new(Shared {
            jobs,
            rates: Rates::default(),
            links: Links::new(options.times.link),
            requests: RequestCounts::default(),
            mcp: HttpService::new(),
            bodies: Arc::new(Semaphore::new(BODY_BUDGET.max(options.limits.body_bytes) / 1024)),
            thumbnails: Semaphore::new(THUMBNAILS),
            counting: Mutex::default(),
            keys: RwLock::new(Arc::new(keys)),
            waiting: Mutex::default(),
            chosen_models: Mutex::default(),
            start: Mutex::new(Start::Done),
            is_draining: AtomicBool::new(false),
            is_drained: watch::channel(false).0,
            options,
        }))
    }

    /// Run `work` on a thread that may block.
    ///
    /// # Errors
    /// If it panics.
    pub async fn blocking<T: Send + 'static>(&self, work: impl FnOnce(&App) -> T + Send + 'static) -> Result<T> {
        let app = self.clone();
        let result = tokio::task::spawn_blocking(move || work(&app)).await;
        result.map_err(|error| ApiError::internal(format!("a bug: {error}")))
    }

    /// The keys that are accepted now.
    pub fn keys(&self) -> Arc<Keys> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Accept these keys and no others from now on.
    pub fn replace_keys(&self, keys: Keys) {
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
    }

    /// Tell how far the start is.
    pub fn set_start(&self, start: Start) {
        *self.start.lock().unwrap_or_else(PoisonError::into_inner) = start;
    }

    /// Whether pictures are drawn.
    pub fn readiness(&self) -> Readiness {
        if self.is_draining() {
            return Readiness::Draining;
        }
        match &*self.start.lock().unwrap_or_else(PoisonError::into_inner) {
            Start::Pending => Readiness::Starting,
            Start::Failed(reason) => Readiness::Failed(JobFailure::new(FailureClass::ModelUnavailable, reason)),
            Start::Done => self.jobs.readiness(),
        }
    }

    /// Take no new work from now on.
    pub fn begin_drain(&self) {
        self.is_draining.store(true, Ordering::SeqCst);
    }

    /// Whether new work is refused.
    pub fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::SeqCst) || self.jobs.readiness() == Readiness::Draining
    }

    /// Tell those who wait for jobs that none runs any more.
    pub fn end_drain(&self) {
        self.is_drained.send_replace(true);
        self.mcp.close();
    }

    /// Wait until [`end_drain`](Self::end_drain) is called.
    pub async fn drained(&self) {
        let mut is_drained = self.is_drained.subscribe();
        // The sender lives as long as `self`.
        let _ = is_drained.wait_for(|is_drained| *is_drained).await;
    }

    /// The number of clients that wait for each job's end.
    pub fn waiting(&self) -> MutexGuard<'_, HashMap<JobId, usize>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The models that owners chose for requests that name none.
    pub fn chosen_models(&self) -> MutexGuard<'_, HashMap<String, String>> {
        self.chosen_models.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The model that `name` leads to, by the operator's aliases.
    pub fn resolve_alias(&self, name: &str) -> String {
        self.options.aliases.get(name).map_or(name, String::as_str).to_owned()
    }
}
