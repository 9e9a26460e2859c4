//! All jobs in memory, and what changes them.
//!
//! One lock guards it. Nothing slow happens under the lock: changes are handed to the journal in their order, and
//! waiting for the disk comes after.

mod job;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use flux2::CancelToken;

use crate::estimate::Estimates;
use crate::event::{EventKind, EventLog};
use crate::failure::{FailureClass, JobFailure};
use crate::host::ModelHost;
use crate::id::JobId;
use crate::journal::{Change, Journal, Pending, Row};
use crate::options::Options;
use crate::references::References;
use crate::scheduler::Scheduler;
use crate::sink::Sink;
use crate::spec::ModelKey;
use crate::stats::{self, Stats};
use crate::store::Store;
use crate::view::{ImageInfo, JobState};
pub(crate) use job::{Job, picture_key, too_late};

/// Time between attempts to write the end of a job to a journal that cannot be written.
const RETRY: Duration = Duration::from_secs(1);
/// Event numbers of a job that one run of the program may use.
const SEQS_PER_GENERATION: u64 = 1_000_000;

/// What all threads of an engine share.
pub(crate) struct Shared {
    pub options: Options,
    pub host: Arc<dyn ModelHost>,
    pub sink: Option<Arc<dyn Sink>>,
    pub pictures: Store,
    pub uploads: Store,
    pub references: References,
    pub journal: Option<Journal>,
    /// Number of the first event of a job.
    pub first_seq: u64,
    /// What an operator should know of the start.
    pub notices: Vec<String>,
    /// Zero of the scheduler's time.
    pub start: Instant,
    /// The start in milliseconds since 1970, as revisions count on from it.
    pub started_ms: u64,
    state: Mutex<State>,
    /// Signaled when anything that a thread waits for may have changed.
    changed: Condvar,
}

/// What the engine does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Mode {
    Running,
    /// No new jobs; what runs is stopped at this time.
    Draining(Instant),
    /// All threads end.
    Stopping,
}

/// A worker as others see it.
#[derive(Clone, Debug, Default)]
pub(crate) struct WorkerState {
    pub name: String,
    /// Loaded models, the most recently used first, and their bytes.
    pub models: Vec<(ModelKey, usize)>,
    pub is_busy: bool,
    /// Models to preload that it is done with.
    pub preloaded: usize,
}

/// Everything behind the lock.
pub(crate) struct State {
    pub mode: Mode,
    pub is_paused: bool,
    pub jobs: BTreeMap<JobId, Job>,
    /// Jobs by owner and idempotency key.
    pub keys: HashMap<(Arc<str>, String), JobId>,
    pub scheduler: Scheduler,
    pub estimates: Estimates,
    pub stats: Stats,
    /// Jobs that are accepted and not yet in the journal.
    pub uncommitted: usize,
    /// Jobs that have ended and whose readers are not told yet.
    pub announcing: usize,
    pub running: usize,
    /// Jobs that are over, in the order of their end.
    pub ended: VecDeque<JobId>,
    /// Jobs with pictures whose deletion can be taken back.
    pub with_deleted: BTreeSet<JobId>,
    /// How often owners have changed their finished pictures since the start.
    pub revisions: HashMap<Arc<str>, u64>,
    /// `None` until the devices are opened.
    pub workers: Option<Vec<WorkerState>>,
    /// Why there are no devices.
    pub no_device: Option<JobFailure>,
    /// Models that every worker loads.
    pub preloads: Vec<ModelKey>,
    /// Why one of them could not be loaded.
    pub preload_failure: Option<JobFailure>,
    /// Finished pictures by their request, if they are reused.
    pub finished: HashMap<String, ImageInfo>,
}

/// How a job ends.
#[derive(Clone, Debug)]
pub(crate) enum End {
    Done,
    Failed(JobFailure),
    Cancelled,
}

impl Shared {
    pub fn new(
        options: Options,
        host: Arc<dyn ModelHost>,
        sink: Option<Arc<dyn Sink>>,
    ) -> Result<(Shared, Vec<Row>), String> {
        let mut rows = Vec::new();
        let (mut journal, mut notices, mut generation) = (None, Vec::new(), 1);
        let (mut pictures, mut uploads) = (Store::in_memory(), Store::in_memory());
        if let Some(folder) = &options.folder {
            let io = |error: std::io::Error| format!("{}: {error}", folder.display());
            pictures = Store::open(&folder.join("pictures")).map_err(io)?;
            uploads = Store::open(&folder.join("uploads")).map_err(io)?;
            let opened = Journal::open(folder)?;
            (journal, rows, generation, notices) =
                (Some(opened.journal), opened.rows, opened.generation, opened.notices);
        }
        let state = State {
            mode: Mode::Running,
            is_paused: options.starts_paused,
            jobs: BTreeMap::new(),
            keys: HashMap::new(),
            scheduler: Scheduler::new(options.affinity),
            estimates: Estimates::default(),
            stats: Stats::default(),
            uncommitted: 0,
            announcing: 0,
            running: 0,
            ended: VecDeque::new(),
            with_deleted: BTreeSet::new(),
            revisions: HashMap::new(),
            workers: None,
            no_device: None,
            preloads: Vec::new(),
            preload_failure: None,
            finished: HashMap::new(),
        };
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let shared = Shared {
            options,
            host,
            sink,
            pictures,
            uploads,
            references: References::default(),
            journal,
            first_seq: (generation - 1) * SEQS_PER_GENERATION + 1,
            notices,
            start: Instant::now(),
            started_ms: since_1970.as_millis() as u64,
            state: Mutex::new(state),
            changed: Condvar::new(),
        };
        Ok((shared, rows))
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wake the threads that wait for a change.
    pub fn notify(&self) {
        self.changed.notify_all();
    }

    /// Wait for a change, at most so long.
    pub fn wait<'a>(&self, state: MutexGuard<'a, State>, timeout: Duration) -> MutexGuard<'a, State> {
        self.changed.wait_timeout(state, timeout).unwrap_or_else(PoisonError::into_inner).0
    }

    /// Put the jobs of an earlier process back where they were; those that were running wait again.
    pub fn restore(&self, rows: Vec<Row>) {
        let mut state = self.lock();
        for row in rows {
            let was_running = row.state == JobState::Running;
            let mut job = Job::restored(row, EventLog::new(self.first_seq));
            if was_running && job.attempts >= self.options.max_attempts {
                let message = format!("the program ended {} times while this job was running", job.attempts);
                job.state = JobState::Failed;
                job.times.finished = Some(SystemTime::now());
                job.outcome.failure = Some(JobFailure::new(FailureClass::Crashed, message));
                self.write(Change::Put(Box::new(job.row())));
            }
            if let Some(key) = &job.idempotency_key {
                state.keys.insert((Arc::clone(&job.owner), key.clone()), job.id);
            }
            // A file that somebody has removed is missing when it is asked for.
            for image in job.outcome.files() {
                self.pictures.hold(&image.sha256);
            }
            for image in &job.outcome.images {
                job.log.push_state(EventKind::ImageReady { image: image.clone() });
            }
            let id = job.id;
            if !job.outcome.deleted.is_empty() {
                state.with_deleted.insert(id);
            }
            if job.state.is_final() {
                job.log.push_state(job.final_event());
                state.ended.push_back(id);
            } else {
                for digest in job.spec.uploads() {
                    self.uploads.hold(digest);
                }
                let seconds = state.estimates.seconds(&job.spec, job.work);
                state.scheduler.push(job.waiting(seconds));
                job.log.push_state(EventKind::Queued { position: state.scheduler.len() });
            }
            state.jobs.insert(id, job);
        }
        let State { jobs, ended, .. } = &mut *state;
        ended.make_contiguous().sort_by_key(|id| jobs[id].times.finished);
        drop(state);
        self.pictures.remove_all_unheld();
        self.apply_retention();
    }

    /// Hand a change to the journal, if there is one.
    pub fn write(&self, change: Change) {
        if let Some(journal) = &self.journal {
            journal.write(change);
        }
    }

    /// As [`write`](Self::write), to wait for.
    pub fn begin(&self, change: Change) -> Option<Pending> {
        self.journal.as_ref().map(|journal| journal.begin(change))
    }

    /// End a job, in the journal first. Returns whether this call did; the first one wins.
    pub fn finish(&self, id: JobId, end: End) -> bool {
        let mut state = self.lock();
        let Some(job) = state.jobs.get_mut(&id).filter(|job| !job.state.is_final() && !job.is_ending) else {
            return false;
        };
        job.is_ending = true;
        let (next, failure) = match end {
            End::Done => (JobState::Done, None),
            End::Failed(failure) => (JobState::Failed, Some(failure)),
            End::Cancelled => (JobState::Cancelled, None),
        };
        let finished = SystemTime::now();
        let mut row = job.row();
        (row.state, row.times.finished, row.outcome.failure) = (next, Some(finished), failure);
        let Some((mut state, row)) = self.write_end(state, row) else { return false };
        let (next, failure) = (row.state, row.outcome.failure);
        let State { jobs, stats, running, ended, announcing, .. } = &mut *state;
        let Some(job) = jobs.get_mut(&id) else { return false };
        *running -= usize::from(job.state == JobState::Running);
        *announcing += 1;
        (job.state, job.times.finished, job.outcome.failure, job.progress) =
            (next, Some(finished), failure.clone(), None);
        match &job.outcome.failure {
            Some(failure) => stats::count(&mut stats.failed, failure.class),
            None if next == JobState::Done => stats.done += 1,
            None => stats.cancelled += 1,
        }
        ended.push_back(id);
        let (spec, event, log) = (Arc::clone(&job.spec), job.final_event(), Arc::clone(&job.log));
        drop(state);
        let uploads = spec.uploads().filter(|digest| !self.references.is_pinned(digest));
        uploads.for_each(|digest| self.uploads.release(digest));
        if let Some(sink) = &self.sink {
            sink.ended(id, &spec, failure.as_ref());
        }
        // Before the event: who has seen the end of a job also sees which older ones are forgotten.
        self.apply_retention();
        log.push_state(event);
        self.lock().announcing -= 1;
        self.notify();
        true
    }

    /// Write the end of a job to the journal, waiting until that is possible. Returns what was written; `None` if the
    /// engine ends before, and the job is drawn again at the next start.
    ///
    /// Pictures may have taken the last room of a disk. If the journal has none for longer than a moment, the job gives
    /// its pictures back, and fails for this reason.
    fn write_end<'a>(&'a self, mut state: MutexGuard<'a, State>, mut row: Row) -> Option<(MutexGuard<'a, State>, Row)> {
        let begun = Instant::now();
        loop {
            let pending = self.begin(Change::Put(Box::new(row.clone())));
            drop(state);
            let written = pending.map_or(Ok(()), Pending::wait);
            state = self.lock();
            let Err(failure) = written else { return Some((state, row)) };
            match state.mode {
                Mode::Stopping => return None,
                Mode::Draining(until) if Instant::now() >= until => {
                    state.leave_to_next_start(row.id);
                    self.notify();
                    return None;
                }
                _ => {}
            }
            if begun.elapsed() < RETRY {
                state = self.wait(state, RETRY - begun.elapsed().min(RETRY));
            } else if row.outcome.images.is_empty() {
                state = self.wait(state, RETRY);
            } else {
                state.give_pictures_back(row.id, self);
                row.outcome.images.clear();
                if row.state == JobState::Done {
                    (row.state, row.outcome.failure) = (JobState::Failed, Some(failure));
                }
            }
        }
    }

    /// Forget jobs that are over, the oldest first, as far as the options say. The newest one stays. Those with a
    /// favorite picture do not grow old, and go last when there are too many.
    pub fn apply_retention(&self) {
        let retention = self.options.retention;
        let oldest_time = SystemTime::now().checked_sub(retention.age);
        let mut forgotten = Vec::new();
        let mut state = self.lock();
        while state.ended.len() > 1 {
            let is_plain = |id: &JobId| state.jobs.get(id).is_none_or(|job| !job.has_favorite());
            let plain = state.ended.iter().take(state.ended.len() - 1).position(is_plain);
            let id = state.ended[plain.unwrap_or(0)];
            let finished = state.jobs.get(&id).and_then(|job| job.times.finished);
            let is_old =
                plain.is_some() && oldest_time.is_some_and(|oldest| finished.is_none_or(|finished| finished < oldest));
            let is_over = state.ended.len() > retention.jobs || self.pictures.bytes() > retention.bytes;
            if !is_old && !is_over {
                break;
            }
            state.ended.remove(plain.unwrap_or(0));
            let Some(job) = state.jobs.remove(&id) else { continue };
            if let Some(key) = job.idempotency_key {
                state.keys.remove(&(job.owner, key));
            }
            job.outcome.files().for_each(|image| self.pictures.give_back(&image.sha256));
            forgotten.push(id);
        }
        if !forgotten.is_empty() {
            self.write(Change::Delete(forgotten));
        }
    }

    /// Remove the files of pictures whose deletion can no longer be taken back.
    pub fn remove_deleted(&self) {
        let mut state = self.lock();
        let State { jobs, with_deleted, .. } = &mut *state;
        with_deleted.retain(|id| {
            let Some(job) = jobs.get_mut(id) else { return false };
            let gone = job.outcome.forget_deleted(self.options.undo);
            if !gone.is_empty() {
                self.write(Change::Put(Box::new(job.row())));
                gone.iter().for_each(|image| self.pictures.give_back(&image.sha256));
            }
            !job.outcome.deleted.is_empty()
        });
    }
}

impl State {
    /// Estimated time until a job that is submitted now starts.
    pub fn wait(&self) -> Duration {
        self.wait_behind(self.scheduler.seconds())
    }

    /// Estimated time until the workers are done with what they draw and with `seconds` of work.
    pub fn wait_behind(&self, seconds: f64) -> Duration {
        let left = |job: &Job| {
            let elapsed = job.started.map_or(0.0, |started| started.elapsed().as_secs_f64());
            (self.estimates.seconds(&job.spec, job.work) - elapsed).max(0.0)
        };
        let running: f64 = match self.running {
            0 => 0.0,
            _ => self.jobs.values().filter(|job| job.state == JobState::Running).map(left).sum(),
        };
        let workers = self.workers.as_ref().map_or(1, |workers| workers.len().max(1));
        Duration::try_from_secs_f64((seconds + running) / workers as f64).unwrap_or(Duration::MAX)
    }

    /// Begin to draw a job: its state, and the token that stops it.
    pub fn begin(&mut self, id: JobId, device: &str, shared: &Shared) -> Option<CancelToken> {
        let job = self.jobs.get_mut(&id).filter(|job| job.state == JobState::Queued && !job.is_ending)?;
        let now = SystemTime::now();
        job.state = JobState::Running;
        job.attempts += 1;
        (job.started, job.times.started, job.device) = (Some(Instant::now()), Some(now), Some(device.to_owned()));
        // Pictures that were saved before a failure of the device are drawn again.
        job.outcome.drawn.clear();
        job.give_pictures_back(&shared.pictures);
        job.cancel = CancelToken::new();
        job.put_back = false;
        self.running += 1;
        self.stats.queue_wait.add(now.duration_since(job.times.accepted).unwrap_or_default().as_secs_f64());
        shared.write(Change::Put(Box::new(job.row())));
        job.log.push_state(EventKind::Started { device: device.to_owned() });
        Some(job.cancel.clone())
    }

    /// Remove the pictures of a job, unless others hold them.
    fn give_pictures_back(&mut self, id: JobId, shared: &Shared) {
        if let Some(job) = self.jobs.get_mut(&id) {
            job.give_pictures_back(&shared.pictures);
        }
    }

    /// Count a job that has ended, which the journal could not be told, as waiting for the next start.
    fn leave_to_next_start(&mut self, id: JobId) {
        if let Some(job) = self.jobs.get_mut(&id).filter(|job| job.state == JobState::Running) {
            job.state = JobState::Queued;
            self.running -= 1;
        }
    }

    /// Put a job that was running back into the queue, as if it had not been started.
    pub fn put_back(&mut self, id: JobId, shared: &Shared) {
        let Some(job) = self.jobs.get_mut(&id).filter(|job| job.state == JobState::Running && !job.is_ending) else {
            return;
        };
        job.state = JobState::Queued;
        job.attempts = job.attempts.saturating_sub(1);
        (job.started, job.times.started, job.progress) = (None, None, None);
        self.running -= 1;
        shared.write(Change::Put(Box::new(job.row())));
        let seconds = self.estimates.seconds(&job.spec, job.work);
        let waiting = job.waiting(seconds);
        self.scheduler.push(waiting);
        let position = self.scheduler.position(id).map_or(1, |(position, _)| position);
        job.log.push_state(EventKind::Queued { position });
        shared.notify();
    }
}
