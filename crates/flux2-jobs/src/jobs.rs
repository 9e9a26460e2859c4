//! The facade: [`Jobs`].

mod threads;

use std::sync::Arc;
use std::time::{Duration, Instant};

use flux2::image::{ImageFormat, Parameters};
use flux2::marks::watermark;
use flux2::upscale::Before;
use flux2::{CancelToken, Reference, Source, UpscaleSize, Upscaler, Upscaling};

use crate::event::Subscription;
use crate::failure::{FailureClass, JobFailure};
use crate::host::{self, ModelHost, ModelInfo};
use crate::id::JobId;
use crate::options::Options;
use crate::sink::Sink;
use crate::state::{End, Job, Mode, Shared, State, WorkerState};
use crate::stats::{DeviceStats, QueueDepth, Stats};
use crate::submission::{Accepted, ModelChoice, Refused, Submission};
use crate::view::{Filter, JobState, JobView, Page, Picture};
use threads::Threads;

/// A running engine. Clones are handles of the same one; the threads end when the last handle is dropped.
///
/// Every method may be called from any thread. Those that touch the disk or decode images say so: a front end with an
/// executor calls them on a thread that may block.
#[derive(Clone)]
pub struct Jobs {
    threads: Arc<Threads>,
}

/// A picture that was enlarged.
#[derive(Clone, Debug)]
pub struct Enlarged {
    /// The bytes of its file.
    pub file: Vec<u8>,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// What made it, if this program made the smaller one.
    pub made: Option<Parameters>,
}

/// Longest time that a drain may take: a century, so that no sum of times overflows.
const LONGEST_DRAIN: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// Whether jobs are drawn.
#[derive(Clone, Debug, PartialEq)]
pub enum Readiness {
    /// Devices are opened, or a model that was asked for with [`Jobs::preload`] is loaded.
    Starting,
    /// Jobs are drawn.
    Ready,
    /// No jobs can be drawn, for this reason: no device, or the model that was to be loaded could not be.
    Failed(JobFailure),
    /// [`Jobs::drain`] was called.
    Draining,
}

/// How a [drain](Jobs::drain) ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Jobs that wait in the journal for the next start: queued ones, and running ones that were put back.
    pub left: usize,
    /// Jobs that were given up, as there is no journal to keep them.
    pub lost: usize,
}

/// What [`Jobs::cancel`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CancelOutcome {
    /// It was queued and is cancelled.
    Cancelled,
    /// It is running and will be cancelled within one block of a network.
    Requested,
    /// It was over before; nothing changed.
    AlreadyOver,
}

impl Jobs {
    /// Start an engine. Returns before devices are opened and models are loaded. With a folder, the journal is read
    /// and the jobs that were not finished are queued again (blocks on the disk).
    ///
    /// A journal that cannot be read is renamed, an empty one takes its place, and [`notices`](Self::notices) says so.
    ///
    /// # Errors
    /// [`Storage`](crate::FailureClass::Storage) if the folder cannot be written, or another process uses it.
    pub fn start(options: Options, host: Arc<dyn ModelHost>) -> Result<Jobs, JobFailure> {
        Self::with_sink(options, host, None)
    }

    /// As [`start`](Self::start), with a front end that takes the pictures in place of the engine's store: there are
    /// none to [get](Self::image).
    ///
    /// # Errors
    /// As there.
    pub fn start_with_sink(
        options: Options,
        host: Arc<dyn ModelHost>,
        sink: Arc<dyn Sink>,
    ) -> Result<Jobs, JobFailure> {
        Self::with_sink(options, host, Some(sink))
    }

    fn with_sink(options: Options, host: Arc<dyn ModelHost>, sink: Option<Arc<dyn Sink>>) -> Result<Jobs, JobFailure> {
        Ok(Jobs { threads: Arc::new(Threads::start(options, host, sink)?) })
    }

    pub(crate) fn shared(&self) -> &Shared {
        self.threads.shared()
    }

    /// What an operator should know of the start, as sentences: a journal that was set aside, say.
    pub fn notices(&self) -> Vec<String> {
        self.shared().notices.clone()
    }

    /// Accept a job: every default is filled in now, so that a repetition draws the same bytes. Decodes its reference
    /// images and writes the journal (blocks on the disk).
    ///
    /// # Errors
    /// [`Refused`] says why, and for a full queue when to come back.
    pub fn submit(&self, submission: Submission) -> Result<Accepted, Refused> {
        self.shared().submit(submission)
    }

    /// A job as it is now; `None` if there is none of this id, or not any more.
    pub fn get(&self, id: JobId) -> Option<JobView> {
        let state = self.shared().lock();
        let job = state.jobs.get(&id).filter(|job| job.is_committed)?;
        Some(state.view(job))
    }

    /// Jobs that match `filter`, the newest first: those after `cursor`, at most `limit`.
    pub fn list(&self, filter: &Filter, cursor: Option<JobId>, limit: usize) -> Page {
        let state = self.shared().lock();
        let words: Vec<String> = filter.words.iter().map(|word| word.to_lowercase()).collect();
        let matches = |job: &&Job| {
            job.is_committed
                && filter.owner.as_deref().is_none_or(|owner| *owner == *job.owner)
                && (filter.states.is_empty() || filter.states.contains(&job.state))
                && filter.model.as_deref().is_none_or(|model| model == job.spec.model.name)
                && (!filter.only_favorites || job.has_favorite())
                && (words.is_empty() || contains_all(&job.spec.prompt, &words))
        };
        let before = state.jobs.iter().rev().map(|(_, job)| job).filter(|job| cursor.is_none_or(|c| job.id < c));
        let mut found = before.filter(matches);
        let jobs: Vec<&Job> = found.by_ref().take(limit).collect();
        let next = jobs.last().map(|job| job.id).filter(|_| found.next().is_some());
        let changes = match filter.owner.as_deref() {
            Some(owner) => state.revisions.get(owner).copied().unwrap_or_default(),
            None => state.revisions.values().sum(),
        };
        let revision = self.shared().started_ms + changes;
        Page { jobs: jobs.into_iter().map(|job| state.view(job)).collect(), next, revision }
    }

    /// The events of a job after number `after`; 0 reads all that are kept. `None` if there is no such job.
    pub fn events(&self, id: JobId, after: u64) -> Option<Subscription> {
        let state = self.shared().lock();
        let job = state.jobs.get(&id).filter(|job| job.is_committed)?;
        Some(job.log.subscribe(after))
    }

    /// Make [previews](crate::EventKind::Preview) of a job from now on, if there is such a job.
    pub fn want_previews(&self, id: JobId) {
        if let Some(job) = self.shared().lock().jobs.get(&id) {
            job.log.want_previews();
        }
    }

    /// Cancel a job, queued or running. `None` if there is no such job.
    pub fn cancel(&self, id: JobId) -> Option<CancelOutcome> {
        let shared = self.shared();
        let mut state = shared.lock();
        let State { jobs, scheduler, .. } = &mut *state;
        let job = jobs.get_mut(&id).filter(|job| job.is_committed)?;
        if job.state.is_final() || job.is_ending {
            return Some(CancelOutcome::AlreadyOver);
        }
        job.cancel_requested = true;
        job.cancel.cancel();
        if job.state == JobState::Running {
            return Some(CancelOutcome::Requested);
        }
        scheduler.remove(id);
        drop(state);
        match shared.finish(id, End::Cancelled) {
            true => Some(CancelOutcome::Cancelled),
            false => Some(CancelOutcome::AlreadyOver),
        }
    }

    /// A saved picture of a job (blocks on disk). `None` if there is no such job, or the picture is not ready or not
    /// kept any more.
    ///
    /// # Errors
    /// If its file cannot be read.
    pub fn image(&self, id: JobId, index: u32) -> Result<Option<Picture>, JobFailure> {
        let info = {
            let state = self.shared().lock();
            let image = |job: &Job| job.outcome.images.iter().find(|image| image.index == index).cloned();
            state.jobs.get(&id).and_then(image)
        };
        let Some(info) = info else { return Ok(None) };
        let bytes = self.shared().pictures.get(&info.sha256).map_err(|error| of_file("picture", &error))?;
        Ok(bytes.map(|bytes| Picture { info, bytes }))
    }

    /// Keep an upload, and return its SHA-256 in lower-case hexadecimal, which names it (blocks on the disk). Its bytes
    /// are not looked at.
    ///
    /// # Errors
    /// If it cannot be written, or is larger than all uploads may be.
    pub fn put_blob(&self, bytes: &[u8]) -> Result<String, JobFailure> {
        let (uploads, max) = (&self.shared().uploads, self.shared().options.max_upload_bytes);
        let digest = uploads.put(bytes).map_err(|error| of_file("upload", &error))?;
        let is_kept = uploads.shrink(max) <= max;
        uploads.release(&digest);
        if !is_kept {
            uploads.remove_unheld(&digest);
            let message = format!("uploads may take {max} bytes together, and waiting jobs need those that are here");
            return Err(JobFailure::new(FailureClass::Storage, message));
        }
        Ok(digest)
    }

    /// The bytes of an upload (blocks on the disk); `None` if there is none of this digest.
    ///
    /// # Errors
    /// If its file cannot be read.
    pub fn blob(&self, digest: &str) -> Result<Option<Arc<[u8]>>, JobFailure> {
        self.shared().uploads.get(digest).map_err(|error| of_file("upload", &error))
    }

    /// Keep a decoded reference image for the life of the engine, under its digest, for jobs to name. It is not
    /// journaled: this is for a front end whose jobs end with it.
    pub fn put_reference(&self, reference: Reference) {
        self.shared().references.pin(reference);
    }

    /// Keep a decoded source for the life of the engine, as [`put_reference`](Self::put_reference) does with references:
    /// for jobs that name it and its mask by their digests. Of several strengths of one source, the job's counts.
    pub fn put_source(&self, source: Source) {
        self.shared().references.pin_source(source);
    }

    /// The models that are offered, the default first.
    pub fn models(&self) -> Vec<ModelInfo> {
        self.shared().host.models()
    }

    /// Names of the LoRAs that are offered.
    pub fn loras(&self) -> Vec<String> {
        self.shared().host.loras()
    }

    /// The upscalers that are offered, the default first.
    pub fn upscalers(&self) -> Vec<Upscaler> {
        self.shared().host.upscalers()
    }

    /// The upscaler of this name; without one, the default.
    ///
    /// # Errors
    /// [`Refused::UnknownUpscaler`].
    pub fn upscaler(&self, name: Option<&str>) -> Result<Upscaler, Refused> {
        host::upscaler(&*self.shared().host, name)
    }

    /// Enlarge a picture that is there, without a job. Takes as long as the upscaler does. Where every picture gets a
    /// watermark, so does the larger one; it is not signed.
    ///
    /// # Errors
    /// [`Refused::UnknownUpscaler`]; [`Refused::Invalid`] if the size is not possible, there is no memory, or `cancel`
    /// was cancelled.
    pub fn enlarge(
        &self,
        before: &Before,
        upscaler: Option<&str>,
        size: UpscaleSize,
        format: ImageFormat,
        cancel: &CancelToken,
    ) -> Result<Enlarged, Refused> {
        let how = Upscaling { upscaler: self.upscaler(upscaler)?, size };
        let larger = self.shared().host.enlarge(before.image(), &how, cancel)?;
        let marked = self.shared().options.watermark.then(|| watermark::embed(&larger)).transpose()?;
        let larger = marked.as_ref().unwrap_or(&larger);
        Ok(Enlarged {
            file: before.encode(larger, &how, format, true)?,
            width: larger.width(),
            height: larger.height(),
            made: before.parameters(&how),
        })
    }

    /// Load a model on every device in the background, and draw a small picture with it that is not kept. Until then
    /// [`readiness`](Self::readiness) is not [`Ready`](Readiness::Ready).
    ///
    /// # Errors
    /// If there is no such model (may touch the disk).
    pub fn preload(&self, model: &ModelChoice) -> Result<(), Refused> {
        let key = self.shared().host.resolve(model)?.key;
        let mut state = self.shared().lock();
        if !state.preloads.contains(&key) {
            state.preloads.push(key);
        }
        drop(state);
        self.shared().notify();
        Ok(())
    }

    /// Begin to draw, after a [paused start](Options::starts_paused).
    pub fn resume(&self) {
        self.shared().lock().is_paused = false;
        self.shared().notify();
    }

    /// Whether jobs are drawn.
    pub fn readiness(&self) -> Readiness {
        let state = self.shared().lock();
        if state.mode != Mode::Running {
            return Readiness::Draining;
        }
        if let Some(failure) = state.no_device.as_ref().or(state.preload_failure.as_ref()) {
            return Readiness::Failed(failure.clone());
        }
        let is_done = |worker: &WorkerState| worker.preloaded == state.preloads.len();
        match state.workers.as_ref().is_some_and(|workers| workers.iter().all(is_done)) {
            true => Readiness::Ready,
            false => Readiness::Starting,
        }
    }

    /// Whether jobs are drawn: short for [`readiness`](Self::readiness).
    pub fn is_ready(&self) -> bool {
        self.readiness() == Readiness::Ready
    }

    /// Numbers for metrics.
    pub fn stats(&self) -> Stats {
        let state = self.shared().lock();
        let mut stats = state.stats.clone();
        for waiting in state.scheduler.in_order() {
            let (model, priority) = (&waiting.spec.model.name, waiting.priority);
            match stats.queued.iter_mut().find(|depth| depth.model == *model && depth.priority == priority) {
                Some(depth) => depth.jobs += 1,
                None => stats.queued.push(QueueDepth { model: model.clone(), priority, jobs: 1 }),
            }
        }
        stats.wait_seconds = state.wait().as_secs_f64();
        stats.running = state.running;
        let device = |worker: &WorkerState| DeviceStats {
            name: worker.name.clone(),
            models: worker.models.clone(),
            is_busy: worker.is_busy,
        };
        stats.devices = state.workers.iter().flatten().map(device).collect();
        (stats.picture_bytes, stats.upload_bytes) = (self.shared().pictures.bytes(), self.shared().uploads.bytes());
        stats
    }

    /// Take no new jobs and finish what is running. With a journal, queued jobs wait for the next start. Without, they
    /// are drawn too. What is running after `timeout` is stopped: put back into the journal, or given up. Blocks until
    /// then; a second call from another thread with a shorter timeout shortens the first.
    pub fn drain(&self, timeout: Duration) -> Drained {
        let shared = self.shared();
        let until = Instant::now() + timeout.min(LONGEST_DRAIN);
        let mut state = shared.lock();
        let until = match state.mode {
            Mode::Draining(earlier) => earlier.min(until),
            _ => until,
        };
        state.mode = Mode::Draining(until);
        shared.notify();
        // What is running stops within one block of a network once it is told to.
        while let Mode::Draining(until) = state.mode {
            let is_drawn = state.running == 0 && (shared.journal.is_some() || state.scheduler.len() == 0);
            let is_over = is_drawn && state.uncommitted == 0 && state.announcing == 0;
            let now = Instant::now();
            if is_over || (now >= until && state.running == 0) {
                break;
            }
            if now >= until {
                state.stop_running();
            }
            let left = until.saturating_duration_since(now).max(Duration::from_millis(10));
            state = shared.wait(state, left.min(Duration::from_secs(1)));
        }
        let left = state.scheduler.len();
        match shared.journal {
            Some(_) => Drained { left, lost: 0 },
            None => Drained { left: 0, lost: left },
        }
    }
}

impl State {
    /// A job as others see it.
    fn view(&self, job: &Job) -> JobView {
        let place = match job.state {
            JobState::Queued => self.scheduler.position(job.id),
            _ => None,
        };
        let wait = place.map(|(_, before)| self.wait_behind(before));
        JobView { position: place.map(|(position, _)| position), wait, ..job.view() }
    }

    /// Stop what is running; it is put back.
    fn stop_running(&mut self) {
        for job in self.jobs.values_mut().filter(|job| job.state == JobState::Running) {
            job.put_back = true;
            job.cancel.cancel();
        }
    }
}

/// Whether a text contains each of `words`, which are in lower case.
fn contains_all(text: &str, words: &[String]) -> bool {
    let text = text.to_lowercase();
    words.iter().all(|word| text.contains(word.as_str()))
}

fn of_file(what: &str, error: &std::io::Error) -> JobFailure {
    let failure = JobFailure::new(FailureClass::Storage, format!("the {what} cannot be kept or read: {error}"));
    JobFailure { remedy: flux2::Remedy::for_io(error.kind()), ..failure }
}
