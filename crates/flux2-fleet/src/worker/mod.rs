//! A worker: takes jobs from the queue, draws them with the engine of this process, stores the pictures.
//!
//! A worker draws one job at a time and takes the next when its engine is free, so waiting jobs go to idle workers.
//! The pictures of a job are encoded and stored while the next job is drawn.

mod attempt;
mod choose;
mod report;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use flux2_jobs::lanes::Patience;
use flux2_jobs::{Jobs, ModelHost, Options, Readiness, Retention};
use futures_util::StreamExt as _;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::connect::{Bus, QueueOptions, Server};
use crate::error::{FleetError, Result};
use crate::names;
use crate::objects::{Objects, Place};
use crate::record::Drawer;
use crate::roster::Roster;
use choose::Chooser;
use report::Numbers;

/// Jobs that one device has: one that is drawn, and one whose pictures are stored.
const IN_FLIGHT: usize = 2;
/// Time to finish jobs once a worker is to end; then they are put back.
const DRAIN: Duration = Duration::from_secs(25);
/// Pause of a worker without work before it looks again. It grows to [`LONGEST_PAUSE`].
const PAUSE: Duration = Duration::from_millis(250);
/// See [`PAUSE`].
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// Pause after the server did not answer.
const AFTER_ERROR: Duration = Duration::from_millis(500);
/// Failures of the device, one after another, after which it counts as lost.
const DEVICE_FAILURES: u32 = 2;

/// How a worker is run.
#[derive(Clone, Debug)]
pub struct WorkerOptions {
    /// Its name: no other worker may have it at the same time.
    pub name: String,
    /// Kind of its device: jobs that are drawn by equal kinds have equal bytes.
    pub kind: String,
    /// Where the NATS server is.
    pub server: Server,
    /// How the queue is kept.
    pub queue: QueueOptions,
    /// Where pictures are stored.
    pub place: Place,
    /// How the engine is run. It keeps pictures and uploads only for a moment.
    pub jobs: Options,
    /// Most bytes of a reference image.
    pub max_input: u64,
    /// When a worker leaves a model that still has jobs.
    pub patience: Patience,
}

/// How a worker ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was told to.
    Drained,
    /// Its device fails: the process should be started again.
    DeviceLost,
}

/// A running worker.
pub struct Worker {
    stop: Arc<watch::Sender<bool>>,
    kill: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<Result<Ended>>>,
}

impl Worker {
    /// Connect, and begin to take jobs.
    ///
    /// # Errors
    /// If the server cannot be reached, or there is no device.
    pub fn start(options: WorkerOptions, host: Arc<dyn ModelHost>) -> Result<Worker> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("fleet")
            .enable_all()
            .build()
            .map_err(FleetError::Thread)?;
        let stop = Arc::new(watch::channel(false).0);
        let shared = runtime.block_on(Shared::open(options, host, Arc::clone(&stop)))?;
        let (kill, killed) = tokio::sync::oneshot::channel();
        let run = move || {
            let ended = runtime.block_on(async {
                tokio::select! {
                    ended = shared.run() => ended,
                    Ok(()) = killed => Ok(Ended::DeviceLost),
                }
            });
            runtime.shutdown_background();
            ended
        };
        let thread = std::thread::Builder::new().name("worker".into()).spawn(run).map_err(FleetError::Thread)?;
        Ok(Worker { stop, kill: Some(kill), thread: Some(thread) })
    }

    /// Take no further jobs; finish those that it has, or put them back when that takes too long.
    pub fn drain(&self) {
        self.stop.send_replace(true);
    }

    /// What [drains](Self::drain) the worker, for a handler of signals.
    pub fn drainer(&self) -> impl Fn() + Send + Sync + 'static {
        let stop = Arc::clone(&self.stop);
        move || {
            stop.send_replace(true);
        }
    }

    /// Wait until it ends.
    ///
    /// # Errors
    /// If there is no device.
    ///
    /// # Panics
    /// If the worker did.
    pub fn wait(mut self) -> Result<Ended> {
        let thread = self.thread.take().expect("a worker is waited for once");
        thread.join().expect("the worker does not panic")
    }

    /// Stop at once, as if the process had been killed: jobs stay with this worker until their lease ends.
    pub fn kill(mut self) {
        if let Some(kill) = self.kill.take() {
            let _ = kill.send(());
        }
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// What the tasks of a worker share.
pub(crate) struct Shared {
    pub bus: Bus,
    pub objects: Objects,
    pub jobs: Jobs,
    pub host: Arc<dyn ModelHost>,
    pub me: Drawer,
    pub options: WorkerOptions,
    stop: Arc<watch::Sender<bool>>,
    /// Set when jobs are to be put back.
    give_back: watch::Sender<bool>,
    device_failures: AtomicU32,
    /// Who else is there.
    pub roster: Roster,
    numbers: Mutex<Numbers>,
}

impl Shared {
    async fn open(
        options: WorkerOptions,
        host: Arc<dyn ModelHost>,
        stop: Arc<watch::Sender<bool>>,
    ) -> Result<Arc<Shared>> {
        let bus = Bus::open(&options.server, options.queue).await?;
        let objects = Objects::open(&options.place, &bus).await?;
        let no_engine = |failure: flux2_jobs::JobFailure| FleetError::refused("an engine", failure);
        let retention = Retention { jobs: 32, bytes: 256 << 20, ..Retention::default() };
        let max_upload_bytes = options.max_input.saturating_mul(8);
        let own = Options { folder: None, retention, max_upload_bytes, ..options.jobs.clone() };
        let jobs = Jobs::start(own, Arc::clone(&host));
        let me = Drawer {
            worker: options.name.clone(),
            epoch: String::new(),
            kind: options.kind.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
        };
        Ok(Arc::new(Shared {
            bus,
            objects,
            jobs: jobs.map_err(no_engine)?,
            host,
            me,
            options,
            stop,
            give_back: watch::channel(false).0,
            device_failures: AtomicU32::new(0),
            roster: Roster::default(),
            numbers: Mutex::default(),
        }))
    }

    fn numbers(&self) -> MutexGuard<'_, Numbers> {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it takes no further jobs.
    fn is_stopping(&self) -> bool {
        *self.stop.borrow() || self.has_lost_device()
    }

    fn has_lost_device(&self) -> bool {
        self.device_failures.load(Ordering::Relaxed) >= DEVICE_FAILURES
    }

    async fn run(self: Arc<Self>) -> Result<Ended> {
        let mut background = JoinSet::new();
        background.spawn(Arc::clone(&self).report());
        background.spawn(self.roster.clone().follow(self.bus.clone()));
        self.ready().await?;
        let mut chooser = Chooser::open(&self).await?;
        let mut wake = chooser.wake(&self).await?;
        let mut control = self.subscribe(names::control(&self.me.worker)).await?;
        let stop = Arc::clone(&self.stop);
        background.spawn(async move {
            while let Some(message) = control.next().await {
                if message.payload.as_ref() == b"drain" {
                    stop.send_replace(true);
                }
            }
        });
        let devices = self.jobs.stats().devices.len().max(1);
        let drawing = Arc::new(Semaphore::new(devices));
        let flights = Arc::new(Semaphore::new(devices * IN_FLIGHT));
        let mut stop = self.stop.subscribe();
        let mut attempts = JoinSet::new();
        let mut pause = PAUSE;
        tracing::info!(worker = self.me.worker, kind = self.me.kind, devices, "ready");
        while !self.is_stopping() {
            let permits = async {
                let drawing = Arc::clone(&drawing).acquire_owned().await;
                (drawing.expect("open"), Arc::clone(&flights).acquire_owned().await.expect("open"))
            };
            let (turn, flight) = tokio::select! {
                permits = permits => permits,
                () = set(&mut stop) => break,
            };
            if self.is_stopping() {
                break;
            }
            match chooser.take(&self).await {
                Ok(Some(message)) => {
                    pause = PAUSE;
                    let shared = Arc::clone(&self);
                    attempts.spawn(async move {
                        shared.attempt(message, turn).await;
                        drop(flight);
                    });
                }
                Ok(None) => {
                    drop((turn, flight));
                    let woken = tokio::select! {
                        _ = wake.next() => true,
                        () = tokio::time::sleep(pause) => false,
                        () = set(&mut stop) => break,
                    };
                    pause = if woken { PAUSE } else { (pause * 2).min(LONGEST_PAUSE) };
                }
                Err(error) => {
                    tracing::warn!(%error, "no job can be taken");
                    tokio::time::sleep(AFTER_ERROR).await;
                }
            }
            while attempts.try_join_next().is_some() {}
        }
        let finish = async { while attempts.join_next().await.is_some() {} };
        if tokio::time::timeout(DRAIN, finish).await.is_err() {
            self.give_back.send_replace(true);
            while attempts.join_next().await.is_some() {}
        }
        background.abort_all();
        self.bus.retire(&self.me.worker).await;
        let _ = self.bus.client.flush().await;
        match self.has_lost_device() {
            true => Ok(Ended::DeviceLost),
            false => Ok(Ended::Drained),
        }
    }

    /// Wait until the engine draws.
    async fn ready(&self) -> Result<()> {
        loop {
            match self.jobs.readiness() {
                Readiness::Ready => return Ok(()),
                Readiness::Failed(failure) => return Err(FleetError::refused("a device", failure)),
                Readiness::Starting | Readiness::Draining => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    async fn subscribe(&self, subject: String) -> Result<async_nats::Subscriber> {
        let subscribed = self.bus.client.subscribe(subject.clone()).await;
        subscribed.map_err(|error| FleetError::refused(subject, error))
    }
}

/// Wait until a flag is set.
async fn set(flag: &mut watch::Receiver<bool>) {
    // Nobody sets one whose sender is gone.
    if flag.wait_for(|is_set| *is_set).await.is_err() {
        std::future::pending::<()>().await;
    }
}
