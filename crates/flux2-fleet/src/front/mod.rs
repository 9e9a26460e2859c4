//! A front end's side of a fleet: [`Front`] is the [`Queue`] of jobs that workers elsewhere draw.
//!
//! All state is in NATS, and a front end holds a copy of it. So any number of them may run, and each answers for every
//! job.

mod host;
mod janitor;
mod mirror;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use flux2::image::ImageFormat;
use flux2::upscale::Before;
use flux2::{CancelToken, UpscaleSize, Upscaler, Warning};
use flux2_jobs::stats::DeviceStats;
use flux2_jobs::{
    Accepted, CancelOutcome, Draft, Drained, Enlarged, FailureClass, Filter, Forecast, JobFailure, JobId, JobView,
    Jobs, ModelChoice, ModelInfo, ModelKey, NotChanged, Options, Page, Picture, Queue, Readiness, Refused, Stats,
    Submission, Subscription,
};
use futures_util::StreamExt as _;
use tokio::runtime::Runtime;

use crate::connect::{Bus, QueueOptions, Server};
use crate::error::{FleetError, Result};
use crate::names;
use crate::objects::{Kind, Objects, Place};
use crate::record::{Record, Stage, changes_before};
use crate::roster::{Activity, Announcement, Roster};
use crate::wire::{self, Told};
use host::Models;
use mirror::{Feed, Mirror};

/// Time between two looks at what workers offer.
const OFFERS: Duration = Duration::from_secs(2);
/// Time without readers after which the events of a job are forgotten.
const UNREAD: Duration = Duration::from_secs(30);
/// How often a job is read again when the server does not answer, as long as it takes to restart one.
const TRIES: u32 = 20;
/// Pause before that.
const PAUSE: Duration = Duration::from_millis(250);
/// Why finished pictures are not changed.
const NO_GALLERY: &str = "pictures of a fleet cannot be marked or deleted: they go when they are a week old";

/// How a front end is run.
#[derive(Clone, Debug)]
pub struct FrontOptions {
    /// Where the NATS server is.
    pub server: Server,
    /// How the queue is kept.
    pub queue: QueueOptions,
    /// Where pictures are stored.
    pub place: Place,
    /// What the front end allows: `max_queued`, `max_wait`, `max_count`, and whether pictures get a watermark.
    pub jobs: Options,
    /// The only kind of device that may draw its jobs, so that equal requests give equal bytes.
    pub same_device: Option<String>,
    /// Most bytes of a reference image.
    pub max_input: u64,
}

/// The jobs of a fleet.
pub struct Front {
    shared: Arc<Shared>,
    runtime: Option<Runtime>,
}

/// What the tasks of a front end share.
pub(crate) struct Shared {
    bus: Bus,
    objects: Objects,
    mirror: Arc<Mirror>,
    roster: Roster,
    models: Models,
    /// Checks jobs, keeps uploads at hand, enlarges. It draws nothing.
    local: Jobs,
    options: FrontOptions,
    is_draining: AtomicBool,
    /// Why the models are not known.
    trouble: RwLock<Option<String>>,
}

impl Front {
    /// Connect.
    ///
    /// # Errors
    /// If the server cannot be reached, or refuses.
    pub fn connect(options: FrontOptions) -> Result<Front> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("fleet")
            .enable_all()
            .build()
            .map_err(FleetError::Thread)?;
        let shared = runtime.block_on(Shared::open(options))?;
        runtime.spawn(Arc::clone(&shared.mirror).follow(shared.bus.clone()));
        runtime.spawn(shared.roster.clone().follow(shared.bus.clone()));
        runtime.spawn(Arc::clone(&shared).learn());
        runtime.spawn(Arc::clone(&shared).tidy());
        Ok(Front { shared, runtime: Some(runtime) })
    }

    /// Wait for the server, on any thread: one of an executor gives its other tasks away meanwhile.
    fn wait<T>(&self, work: impl Future<Output = T>) -> T {
        let runtime = self.runtime.as_ref().expect("it is there until the end");
        tokio::task::block_in_place(|| runtime.handle().block_on(work))
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Shared {
    async fn open(options: FrontOptions) -> Result<Arc<Shared>> {
        let bus = Bus::open(&options.server, options.queue).await?;
        let objects = Objects::open(&options.place, &bus).await?;
        let models = Models::default();
        models.replace(bus.offers().await?);
        let max_upload_bytes = options.max_input.saturating_mul(8);
        let jobs = Options { folder: None, reuse_pictures: false, max_upload_bytes, ..options.jobs.clone() };
        let local = Jobs::start(jobs, Arc::new(models.clone()));
        let local = local.map_err(|failure| FleetError::refused("threads", failure))?;
        let (mirror, roster, trouble) = (Arc::default(), Roster::default(), RwLock::default());
        let is_draining = AtomicBool::new(false);
        Ok(Arc::new(Shared { bus, objects, mirror, roster, models, local, options, is_draining, trouble }))
    }

    /// Learn what is offered, for ever.
    async fn learn(self: Arc<Self>) {
        loop {
            let trouble = match self.bus.offers().await {
                Ok(offers) => {
                    self.models.replace(offers);
                    None
                }
                Err(error) => Some(error.to_string()),
            };
            *self.trouble.write().unwrap_or_else(PoisonError::into_inner) = trouble;
            tokio::time::sleep(OFFERS).await;
        }
    }

    /// Workers that take jobs.
    fn workers(&self) -> usize {
        let takes = |one: &Announcement| {
            let is_kind = self.options.same_device.as_ref().is_none_or(|kind| *kind == one.drawer.kind);
            is_kind && matches!(one.activity, Activity::Idle | Activity::Busy)
        };
        self.roster.now().iter().filter(|one| takes(one)).count()
    }

    /// A job as the server has it; as it was last heard of, if the server does not answer.
    async fn record(&self, id: JobId) -> Option<Record> {
        for _ in 0..TRIES {
            match self.bus.get(id).await {
                Ok(found) => return found.map(|(record, _)| record),
                Err(FleetError::Malformed { what, reason }) => {
                    tracing::error!(what, reason, "a job cannot be read");
                    return None;
                }
                Err(_) => match self.mirror.get(id) {
                    Some(known) => return Some(known),
                    None => tokio::time::sleep(PAUSE).await,
                },
            }
        }
        None
    }

    /// Have the uploads of a draft at hand.
    async fn fetch_uploads(&self, draft: &Draft) -> Result<(), Refused> {
        let of_source = draft.source.iter().flat_map(|source| source.digests());
        for digest in draft.references.iter().chain(of_source) {
            self.blob(digest).await.map_err(Refused::Storage)?;
        }
        Ok(())
    }

    async fn blob(&self, digest: &str) -> Result<Option<Arc<[u8]>>, JobFailure> {
        if let Some(known) = self.local.blob(digest)? {
            return Ok(Some(known));
        }
        let is_digest = digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !is_digest {
            return Ok(None);
        }
        let Some(bytes) = self.objects.get(Kind::Input, digest, self.options.max_input).await? else {
            return Ok(None);
        };
        self.local.put_blob(&bytes)?;
        Ok(Some(bytes.as_ref().into()))
    }

    async fn submit(&self, submission: Submission) -> Result<Accepted, Refused> {
        let Submission { draft, owner, priority, deadline, idempotency_key, previews } = submission;
        if self.is_draining.load(Ordering::SeqCst) {
            return Err(Refused::Draining);
        }
        let mut id = JobId::new();
        if let Some(key) = &idempotency_key {
            id = self.bus.claim_key(&owner, key, id).await.map_err(unavailable)?;
            let earlier = self.bus.get(id).await.map_err(unavailable)?;
            if let Some((record, _)) = earlier.filter(|(record, _)| record.state != Stage::Rejected) {
                return Ok(self.accepted(id, &record, true, vec![]));
            }
        }
        self.check_room()?;
        self.fetch_uploads(&draft).await?;
        let local = self.local.clone();
        let forecast = tokio::task::spawn_blocking(move || local.forecast(draft)).await;
        let panicked = |error: tokio::task::JoinError| JobFailure::new(FailureClass::Internal, error.to_string());
        let Forecast { spec, warnings, .. } = forecast.map_err(|error| Refused::Unavailable(panicked(error)))??;
        let texts = warnings.iter().map(Warning::to_string).collect();
        let deadline = deadline.and_then(|deadline| SystemTime::now().checked_add(deadline));
        let deadline = deadline.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let record = Record {
            only: self.options.same_device.clone(),
            previews,
            deadline_ms: deadline.and_then(|time| u64::try_from(time.as_millis()).ok()),
            ..Record::new(owner, priority, spec, texts)
        };
        let record = match self.create(id, record).await? {
            Ok(record) => record,
            Err(earlier) => return Ok(self.accepted(id, &earlier, true, vec![])),
        };
        match self.bus.enqueue_accepted(id, &record).await {
            Ok(()) => {}
            Err(FleetError::Full) => return Err(self.full()),
            // It is stored, and a janitor puts it into the queue.
            Err(error) => tracing::warn!(job = %id, %error, "not in the queue yet"),
        }
        self.mirror.put(id, record.clone());
        Ok(self.accepted(id, &record, false, warnings))
    }

    /// Store a new job, or one of the same key that was rejected. `Err` is the job of somebody who was faster.
    async fn create(&self, id: JobId, record: Record) -> Result<Result<Record, Record>, Refused> {
        match self.bus.create(id, &record).await {
            Ok(_) => return Ok(Ok(record)),
            Err(FleetError::Conflict { .. }) => {}
            Err(error) => return Err(unavailable(error)),
        }
        let again = |stored: &Record| {
            let again = Record { publishes: stored.publishes + 1, ..record.clone() };
            (stored.state == Stage::Rejected).then_some(again)
        };
        let stored = self.bus.change(id, again).await.map_err(unavailable)?.unwrap_or(record.clone());
        let is_ours = stored.state == Stage::Accepted && stored.accepted_ms == record.accepted_ms;
        Ok(if is_ours { Ok(stored) } else { Err(stored) })
    }

    fn check_room(&self) -> Result<(), Refused> {
        let (jobs, wait) = self.mirror.backlog(self.workers());
        let options = &self.options.jobs;
        let is_long = jobs > 0 && wait > options.max_wait;
        if jobs >= options.max_queued || is_long { Err(self.full()) } else { Ok(()) }
    }

    fn full(&self) -> Refused {
        let workers = self.workers();
        let (jobs, wait) = self.mirror.backlog(workers);
        // A place is free when the next job is taken.
        let next = wait.checked_div(u32::try_from(jobs).unwrap_or(u32::MAX)).unwrap_or(wait);
        let over = wait.saturating_sub(self.options.jobs.max_wait);
        Refused::Full { jobs, wait, retry_after: over.max(next).max(Duration::from_secs(1)) }
    }

    fn accepted(&self, id: JobId, record: &Record, is_repeat: bool, warnings: Vec<Warning>) -> Accepted {
        let view = self.mirror.view(id, record, self.workers());
        Accepted { id, is_repeat, position: view.position, wait: view.wait.unwrap_or_default(), warnings }
    }

    /// Bring the events of a job that may be lost, for as long as somebody reads.
    async fn bring(self: Arc<Self>, id: JobId, feed: Arc<Feed>) {
        let mut unread = tokio::time::interval(UNREAD);
        unread.tick().await;
        loop {
            let Ok(mut told) = self.bus.client.subscribe(names::progress(id)).await else {
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            // What had happened before this was listened to.
            if let Some(record) = self.record(id).await {
                self.mirror.put(id, record);
            }
            loop {
                tokio::select! {
                    message = told.next() => {
                        let Some(message) = message else { break };
                        let Some((seq, kind)) = Told::read(&message.payload) else { continue };
                        if changes_before(seq) > feed.changes.load(Ordering::SeqCst)
                            && let Some(record) = self.record(id).await
                        {
                            self.mirror.put(id, record);
                        }
                        feed.log.push_numbered(seq, kind, false);
                    }
                    _ = unread.tick() => if self.mirror.end_feed(id) {
                        return;
                    },
                }
            }
        }
    }

    async fn cancel(&self, id: JobId) -> Option<CancelOutcome> {
        let mut outcome = CancelOutcome::AlreadyOver;
        let changed = self.bus.change(id, |stored| match stored.state {
            Stage::Accepted | Stage::Queued => {
                outcome = CancelOutcome::Cancelled;
                Some(stored.clone().ended(Stage::Cancelled, None))
            }
            Stage::Running => {
                outcome = CancelOutcome::Requested;
                (!stored.cancel).then(|| Record { cancel: true, ..stored.clone() })
            }
            // It may have been this call whose answer was lost.
            _ => None,
        });
        match changed.await {
            Ok(Some(record)) => {
                self.mirror.put(id, record);
                if outcome == CancelOutcome::Requested {
                    let _ = self.bus.client.publish(names::ask(id), wire::CANCEL.into()).await;
                }
                Some(outcome)
            }
            Ok(None) => None,
            Err(error) => {
                tracing::error!(job = %id, %error, "not cancelled");
                None
            }
        }
    }

    async fn want_previews(&self, id: JobId) {
        let wanted = |stored: &Record| {
            let is_new = !stored.previews && !stored.state.is_final();
            is_new.then(|| Record { previews: true, ..stored.clone() })
        };
        if let Err(error) = self.bus.change(id, wanted).await {
            tracing::debug!(job = %id, %error, "no previews");
        }
        let _ = self.bus.client.publish(names::ask(id), wire::PREVIEWS.into()).await;
    }
}

fn unavailable(error: FleetError) -> Refused {
    match error {
        FleetError::Malformed { .. } => Refused::Storage(error.into()),
        error => Refused::Unavailable(error.into()),
    }
}

impl Queue for Front {
    fn notices(&self) -> Vec<String> {
        Vec::new()
    }

    /// Workers load models by themselves.
    fn preload(&self, _: &ModelChoice) -> Result<(), Refused> {
        Ok(())
    }

    fn readiness(&self) -> Readiness {
        if self.shared.is_draining.load(Ordering::SeqCst) {
            return Readiness::Draining;
        }
        if let Some(reason) = &*self.shared.trouble.read().unwrap_or_else(PoisonError::into_inner) {
            return Readiness::Failed(JobFailure::new(FailureClass::Storage, reason.clone()));
        }
        if self.shared.models.is_empty() { Readiness::Starting } else { Readiness::Ready }
    }

    fn submit(&self, submission: Submission) -> Result<Accepted, Refused> {
        let result = self.wait(self.shared.submit(submission));
        if let Err(refused) = &result {
            self.shared.mirror.refused(refused.reason());
        }
        result
    }

    fn forecast(&self, draft: Draft) -> Result<Forecast, Refused> {
        self.wait(self.shared.fetch_uploads(&draft))?;
        let forecast = tokio::task::block_in_place(|| self.shared.local.forecast(draft))?;
        let record = Record::new(String::new(), Default::default(), forecast.spec.clone(), vec![]);
        let (_, wait) = self.shared.mirror.backlog(self.shared.workers());
        Ok(Forecast { seconds: self.shared.mirror.seconds(&record), wait, ..forecast })
    }

    fn get(&self, id: JobId) -> Option<JobView> {
        let record = self.wait(self.shared.record(id))?;
        Some(self.shared.mirror.view(id, &record, self.shared.workers()))
    }

    fn list(&self, filter: &Filter, cursor: Option<JobId>, limit: usize) -> Page {
        self.shared.mirror.list(filter, cursor, limit, self.shared.workers())
    }

    fn events(&self, id: JobId, after: u64) -> Option<Subscription> {
        let record = self.wait(self.shared.record(id))?;
        let (feed, is_new) = self.shared.mirror.feed(id, &record);
        let subscription = feed.log.subscribe(after);
        if is_new && let Some(runtime) = &self.runtime {
            runtime.spawn(Arc::clone(&self.shared).bring(id, feed));
        }
        Some(subscription)
    }

    fn want_previews(&self, id: JobId) {
        self.wait(self.shared.want_previews(id));
    }

    fn cancel(&self, id: JobId) -> Option<CancelOutcome> {
        self.wait(self.shared.cancel(id))
    }

    fn image(&self, id: JobId, index: u32) -> Result<Option<Picture>, JobFailure> {
        let Some(record) = self.wait(self.shared.record(id)) else { return Ok(None) };
        let Some(info) = record.images.into_iter().find(|image| image.index == index) else { return Ok(None) };
        let bytes = self.wait(self.shared.objects.get(Kind::Picture, &info.sha256, info.bytes))?;
        Ok(bytes.map(|bytes| Picture { info, bytes: bytes.as_ref().into() }))
    }

    fn set_favorite(&self, _: JobId, _: u32, _: bool) -> Result<(), NotChanged> {
        Err(NotChanged::Unsupported(NO_GALLERY))
    }

    fn delete_image(&self, _: JobId, _: u32) -> Result<(), NotChanged> {
        Err(NotChanged::Unsupported(NO_GALLERY))
    }

    fn restore_image(&self, _: JobId, _: u32) -> Result<(), NotChanged> {
        Err(NotChanged::Unsupported(NO_GALLERY))
    }

    fn put_blob(&self, bytes: &[u8]) -> Result<String, JobFailure> {
        self.wait(self.shared.objects.put(Kind::Input, bytes::Bytes::copy_from_slice(bytes)))?;
        self.shared.local.put_blob(bytes)
    }

    fn blob(&self, digest: &str) -> Result<Option<Arc<[u8]>>, JobFailure> {
        self.wait(self.shared.blob(digest))
    }

    fn models(&self) -> Vec<ModelInfo> {
        self.shared.local.models()
    }

    fn loras(&self) -> Vec<String> {
        self.shared.local.loras()
    }

    fn upscalers(&self) -> Vec<Upscaler> {
        self.shared.local.upscalers()
    }

    fn enlarge(
        &self,
        before: &Before,
        upscaler: Option<&str>,
        size: UpscaleSize,
        format: ImageFormat,
        cancel: &CancelToken,
    ) -> Result<Enlarged, Refused> {
        self.shared.local.enlarge(before, upscaler, size, format, cancel)
    }

    fn stats(&self) -> Stats {
        let workers = self.shared.roster.now();
        let takes = self.shared.workers();
        let device = |one: Announcement| DeviceStats {
            name: one.drawer.worker,
            models: one.models.into_iter().filter(|model| model.is_warm).map(|model| (key_of(model.name), 0)).collect(),
            is_busy: one.activity == Activity::Busy,
        };
        let mut stats = self.shared.mirror.stats();
        stats.wait_seconds = self.shared.mirror.backlog(takes).1.as_secs_f64();
        stats.devices = workers.into_iter().map(device).collect();
        stats
    }

    /// Nothing is lost: the fleet has the jobs.
    fn drain(&self, _: Duration) -> Drained {
        self.shared.is_draining.store(true, Ordering::SeqCst);
        Drained { left: 0, lost: 0 }
    }
}

/// A model of which only the name is known.
fn key_of(name: String) -> ModelKey {
    ModelKey { name, loras: Vec::new(), precision: flux2::Precision::default() }
}
