//! Keeps the processes of workers running: one that fails is started again.

use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::args::WorkerArgs;
use crate::failure::{Failure, Result, code};

/// Time between two looks at the processes.
const LOOK: Duration = Duration::from_millis(100);
/// Pause before a process is started again. It doubles each time, up to [`LONGEST`].
const PAUSE: Duration = Duration::from_secs(1);
/// See [`PAUSE`].
const LONGEST: Duration = Duration::from_secs(30);
/// A process that ran for so long starts with the shortest pause again.
const STEADY: Duration = Duration::from_secs(60);

/// The process of a worker.
struct Slot {
    number: u16,
    child: Option<Child>,
    started: Instant,
    pause: Duration,
    /// When it is started again; `None` when it has ended for good.
    again: Option<Instant>,
}

/// Runs so many workers until a signal, or until all have ended by themselves.
pub fn run(args: &WorkerArgs, workers: u16) -> Result<()> {
    let is_ending = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&is_ending);
    ctrlc::set_handler(move || told.store(true, Ordering::SeqCst)).map_err(|error| Failure {
        code: code::FAILURE,
        message: format!("no signals can be received: {error}"),
        hint: None,
    })?;
    tracing::info!(
        workers,
        fleet = crate::commands::fleet::server(&args.fleet, &args.credentials).shown(),
        "supervising"
    );
    let now = Instant::now();
    let slot = |number| Slot { number, child: None, started: now, pause: PAUSE, again: Some(now) };
    let mut slots: Vec<Slot> = (0..workers).map(slot).collect();
    let mut has_told = false;
    loop {
        if is_ending.load(Ordering::SeqCst) && !has_told {
            has_told = true;
            slots.iter_mut().for_each(Slot::end);
        }
        for slot in &mut slots {
            slot.look()?;
        }
        if slots.iter().all(|slot| slot.child.is_none() && slot.again.is_none()) {
            return Ok(());
        }
        thread::sleep(LOOK);
    }
}

impl Slot {
    /// Start the process if it is time, and notice its end.
    fn look(&mut self) -> Result<()> {
        let failed = |error: std::io::Error| {
            let message = format!("worker {} cannot be started: {error}", self.number);
            Failure { code: code::FAILURE, message, hint: None }
        };
        if self.child.is_none() && self.again.is_some_and(|again| again <= Instant::now()) {
            let program = std::env::current_exe().map_err(failed)?;
            let number = self.number.to_string();
            let mut command = Command::new(program);
            command.args(std::env::args_os().skip(1)).args(["--only", &number]);
            self.child = Some(command.spawn().map_err(failed)?);
            (self.started, self.again) = (Instant::now(), None);
        }
        let Some(child) = &mut self.child else { return Ok(()) };
        let Some(status) = child.try_wait().map_err(failed)? else { return Ok(()) };
        self.child = None;
        if status.success() {
            return Ok(());
        }
        let usage = [code::USAGE, code::MODEL_MISSING, code::ACCESS].map(i32::from);
        if let Some(code) = status.code().filter(|code| usage.contains(code)) {
            let message = format!("worker {} cannot run, see above", self.number);
            return Err(Failure { code: u8::try_from(code).unwrap_or(code::FAILURE), message, hint: None });
        }
        self.pause = if self.started.elapsed() > STEADY { PAUSE } else { self.pause };
        let (worker, seconds) = (self.number, self.pause.as_secs());
        tracing::warn!(worker, %status, seconds, "a worker ended: it is started again");
        self.again = Some(Instant::now() + self.pause);
        self.pause = (self.pause * 2).min(LONGEST);
        Ok(())
    }

    /// Let the process finish its job and end.
    fn end(&mut self) {
        self.again = None;
        if let Some(child) = &mut self.child {
            terminate(child);
        }
    }
}

/// A process whose supervisor fails must not stay behind.
impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            terminate(child);
        }
    }
}

#[cfg(unix)]
fn terminate(child: &mut Child) {
    let id = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw);
    // One that has ended needs no signal.
    let _ = id.map(|id| rustix::process::kill_process(id, rustix::process::Signal::TERM));
}

#[cfg(not(unix))]
fn terminate(child: &mut Child) {
    let _ = child.kill();
}
