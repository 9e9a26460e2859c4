//! The threads of an engine: those of the devices, those that save, and the janitor.

use std::fs::{self, File, TryLockError};
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::failure::{FailureClass, JobFailure};
use crate::host::ModelHost;
use crate::janitor;
use crate::options::Options;
use crate::saver::{self, Handover};
use crate::sink::Sink;
use crate::state::{End, Mode, Shared};
use crate::worker::Worker;

/// The threads of an engine, and what they share.
pub(super) struct Threads {
    shared: Arc<Shared>,
    running: Vec<JoinHandle<()>>,
    /// Held while the engine runs, so that no other process uses its folder.
    _lock: Option<File>,
}

impl Threads {
    /// Take the folder, read the journal, and start all threads.
    pub fn start(options: Options, host: Arc<dyn ModelHost>, sink: Option<Arc<dyn Sink>>) -> Result<Self, JobFailure> {
        let storage = |message: String| JobFailure::new(FailureClass::Storage, message);
        let lock = lock_folder(&options).map_err(storage)?;
        let (shared, rows) = Shared::new(options, host, sink).map_err(storage)?;
        let shared = Arc::new(shared);
        shared.restore(rows);
        let internal = |error: std::io::Error| JobFailure::new(FailureClass::Internal, format!("no thread: {error}"));
        let mut threads = Threads { shared: Arc::clone(&shared), running: Vec::new(), _lock: lock };
        let (sender, savers) = saver::start(&shared).map_err(internal)?;
        threads.running = savers;
        let of_janitor = Arc::clone(&shared);
        let janitor = thread::Builder::new().name("janitor".into()).spawn(move || janitor::run(&of_janitor));
        threads.running.push(janitor.map_err(internal)?);
        let opener = thread::Builder::new().name("devices".into()).spawn(move || run_workers(&shared, &sender));
        threads.running.push(opener.map_err(internal)?);
        Ok(threads)
    }

    pub fn shared(&self) -> &Shared {
        &self.shared
    }
}

/// Ends the threads: what is running is stopped, and with a journal drawn at the next start.
impl Drop for Threads {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.mode = Mode::Stopping;
        state.stop_running();
        drop(state);
        self.shared.notify();
        for thread in self.running.drain(..) {
            // A panic of a thread was printed when it happened.
            let _ = thread.join();
        }
    }
}

/// Take the folder for this process, and make it if it is missing.
fn lock_folder(options: &Options) -> Result<Option<File>, String> {
    let Some(folder) = &options.folder else { return Ok(None) };
    fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let path = folder.join("lock");
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Err(format!("another process uses {}", folder.display())),
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

/// Open the devices, and run a worker on each until the engine stops.
fn run_workers(shared: &Arc<Shared>, saver: &SyncSender<Handover>) {
    let devices = match shared.host.devices() {
        Ok(devices) => devices,
        Err(failure) => {
            shared.lock().no_device = Some(failure.clone());
            shared.notify();
            return fail_new_jobs(shared, &failure);
        }
    };
    if let Some(speed) = devices.iter().map(|device| device.assumed_speed()).reduce(f64::min) {
        shared.lock().estimates.assume(speed);
    }
    let mut workers: Vec<Worker> = devices
        .into_iter()
        .enumerate()
        .map(|(number, device)| Worker::new(Arc::clone(shared), number, device, saver.clone()))
        .collect();
    shared.lock().workers = Some(workers.iter().map(Worker::state).collect());
    shared.notify();
    let last = workers.pop();
    thread::scope(|scope| {
        for worker in workers {
            scope.spawn(move || worker.run());
        }
        // This thread has nothing else to do.
        last.into_iter().for_each(Worker::run);
    });
}

/// Without a device, jobs that were accepted while it was being opened fail. Those of the journal wait for a start with
/// one.
fn fail_new_jobs(shared: &Shared, failure: &JobFailure) {
    if shared.journal.is_some() {
        return;
    }
    loop {
        let mut state = shared.lock();
        if state.mode == Mode::Stopping || (state.scheduler.len() == 0 && state.uncommitted == 0) {
            return;
        }
        let next = state.scheduler.in_order().next().map(|waiting| waiting.id);
        match next {
            Some(id) => {
                state.scheduler.remove(id);
                drop(state);
                shared.finish(id, End::Failed(failure.clone()));
            }
            None => drop(shared.wait(state, Duration::from_millis(100))),
        }
    }
}
