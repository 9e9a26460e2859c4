//! The thread of a device: takes jobs, loads their models, draws.

mod draw;
mod models;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use flux2::{CancelToken, GenerateRequest};

use crate::host::{Device, Drawing};
use crate::id::JobId;
use crate::saver::Handover;
use crate::scheduler::Wish;
use crate::spec::{JobSpec, ModelKey};
use crate::state::{End, Mode, Shared, State, WorkerState, too_late};
use models::Models;

/// Longest sleep of a worker without work.
const SLEEP: Duration = Duration::from_secs(60);

/// A device and its models.
pub(crate) struct Worker {
    shared: Arc<Shared>,
    number: usize,
    name: String,
    models: Models,
    saver: SyncSender<Handover>,
    /// Model and prompts that were encoded ahead.
    prepared: Option<(ModelKey, Vec<String>)>,
}

/// A job that a worker has taken.
pub(crate) struct Taken {
    pub id: JobId,
    pub spec: Arc<JobSpec>,
    pub work: f64,
    pub cancel: CancelToken,
}

/// What a worker does next.
enum Task {
    Draw(Taken),
    /// Fail a job that nobody waits for any more.
    TooLate(JobId),
    /// Load a model and draw a small picture with it.
    Preload(ModelKey),
    /// Release models that were idle for too long.
    Unload,
    Stop,
}

impl Worker {
    pub fn new(shared: Arc<Shared>, number: usize, device: Box<dyn Device>, saver: SyncSender<Handover>) -> Self {
        let name = device.name();
        Worker { shared, number, name, models: Models::new(device), saver, prepared: None }
    }

    /// What others see of it before it has begun.
    pub fn state(&self) -> WorkerState {
        WorkerState { name: self.name.clone(), ..WorkerState::default() }
    }

    /// Work until the engine stops.
    pub fn run(mut self) {
        loop {
            let task = self.next();
            match task {
                Task::Stop => return,
                Task::Unload => {
                    if let Some(idle) = self.shared.options.idle_unload {
                        self.models.release_idle(idle);
                    }
                }
                Task::TooLate(id) => drop(self.shared.finish(id, End::Failed(too_late()))),
                Task::Preload(model) => self.preload(&model),
                Task::Draw(first) => {
                    let id = first.id;
                    // A panic is a bug; it must not take the other jobs along.
                    if catch_unwind(AssertUnwindSafe(|| self.draw(first))).is_err() {
                        self.models.release_all();
                        self.fail_after_panic(id);
                    }
                }
            }
            self.show(false);
        }
    }

    /// The next task, waiting for it.
    fn next(&mut self) -> Task {
        let shared = Arc::clone(&self.shared);
        let mut state = shared.lock();
        loop {
            if state.mode == Mode::Stopping {
                return Task::Stop;
            }
            let done = state.workers.as_ref().map_or(0, |workers| workers[self.number].preloaded);
            if let Some(model) = state.preloads.get(done) {
                let model = model.clone();
                self.show_in(&mut state, true);
                return Task::Preload(model);
            }
            // With a journal, waiting jobs are left to the next start.
            let may_draw = match state.mode {
                Mode::Running => true,
                Mode::Draining(until) => shared.journal.is_none() && Instant::now() < until,
                Mode::Stopping => false,
            };
            let loaded = self.models.keys();
            if may_draw
                && !state.is_paused
                && let Some(task) = self.take(&mut state, Wish::Any { loaded: &loaded })
            {
                self.show_in(&mut state, true);
                return task;
            }
            let idle = shared.options.idle_unload.and_then(|idle| self.models.until_idle(idle));
            if idle.is_some_and(|left| left.is_zero()) {
                return Task::Unload;
            }
            state = shared.wait(state, idle.unwrap_or(SLEEP).min(SLEEP));
        }
    }

    /// Take a job that fits `wish`, and begin it.
    fn take(&self, state: &mut State, wish: Wish) -> Option<Task> {
        let now = self.shared.start.elapsed();
        loop {
            let waiting = state.scheduler.take(self.number, wish, now)?;
            let Some(job) = state.jobs.get(&waiting.id) else { continue };
            if job.is_late(std::time::SystemTime::now()) {
                return Some(Task::TooLate(waiting.id));
            }
            let work = job.work;
            // A job that is being cancelled at this moment is passed over.
            if let Some(cancel) = state.begin(waiting.id, &self.name, &self.shared) {
                return Some(Task::Draw(Taken { id: waiting.id, spec: waiting.spec, work, cancel }));
            }
        }
    }

    /// Load a model and draw a small picture with it, so that the first job does not wait for that.
    fn preload(&mut self, model: &ModelKey) {
        let request = GenerateRequest { width: Some(64), height: Some(64), steps: Some(1), ..Default::default() };
        let warm_up = AssertUnwindSafe(|| {
            let loaded = self.models.get(model, &self.shared)?;
            let cancel = CancelToken::new();
            let drawing = Drawing { request: &request, cancel: &cancel, wants_previews: &|| false };
            loaded
                .draw(&[drawing], &mut |_, _| {})
                .into_iter()
                .try_for_each(|result| result.and_then(|drawn| drawn().map(drop)))
        });
        let result = catch_unwind(warm_up).unwrap_or_else(|_| Err(draw::panicked()));
        let mut state = self.shared.lock();
        // Whoever sees that it is loaded also sees what is loaded.
        self.show_in(&mut state, false);
        if let Some(workers) = &mut state.workers {
            workers[self.number].preloaded += 1;
        }
        if let Err(error) = result {
            state.preload_failure.get_or_insert(error.into());
        }
        drop(state);
        self.shared.notify();
    }

    /// End a job that a panic interrupted, and those that were drawn with it.
    fn fail_after_panic(&self, id: JobId) {
        let mut interrupted = vec![id];
        {
            let state = self.shared.lock();
            let of_this = |job: &&crate::state::Job| {
                job.state == crate::JobState::Running && job.device.as_deref() == Some(self.name.as_str())
            };
            interrupted.extend(state.jobs.values().filter(of_this).map(|job| job.id));
        }
        for id in interrupted {
            self.hand_over(Handover::End(id, End::Failed(draw::panicked().into())));
        }
    }

    fn hand_over(&self, handover: Handover) {
        // The savers live until all workers have ended.
        let _ = self.saver.send(handover);
    }

    /// Let others see what is loaded, and whether the device is busy.
    fn show(&self, is_busy: bool) {
        self.show_in(&mut self.shared.lock(), is_busy);
        self.shared.notify();
    }

    fn show_in(&self, state: &mut State, is_busy: bool) {
        if let Some(workers) = &mut state.workers {
            let worker = &mut workers[self.number];
            (worker.models, worker.is_busy) = (self.models.loaded(), is_busy);
        }
    }
}
