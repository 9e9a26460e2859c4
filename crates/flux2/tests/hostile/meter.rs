//! What a piece of work takes: memory at its peak, processor time, whether it ends and whether it panics.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use crate::allocator::high_water;

/// What some work took.
pub struct Taken {
    /// The most bytes that were allocated beyond those at the start.
    pub bytes: usize,
    /// Time on processors, of all threads of the process.
    pub time: Duration,
}

/// Longer than any machine is kept from working.
const HANG: Duration = Duration::from_secs(120);

/// The right to measure: what is counted is the whole process, so that nothing else may happen in it.
pub struct Meter(#[expect(dead_code, reason = "held until it is dropped")] MutexGuard<'static, ()>);

/// Waits until nobody else measures.
pub fn alone() -> Meter {
    static ALONE: Mutex<()> = Mutex::new(());
    Meter(ALONE.lock().unwrap_or_else(PoisonError::into_inner))
}

impl Meter {
    /// Does `work` on a thread of its own.
    ///
    /// # Errors
    /// If it panics or does not end, in words.
    pub fn measure<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<(T, Taken), String> {
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            let start = processor_time();
            let (bytes, result) = high_water(|| catch_unwind(AssertUnwindSafe(work)));
            let time = processor_time().saturating_sub(start);
            // Nobody listens any more where it took too long.
            let _ = sender.send((result, Taken { bytes, time }));
        });
        match receiver.recv_timeout(HANG) {
            Ok((Ok(result), taken)) => Ok((result, taken)),
            Ok((Err(panic), _)) => {
                let text = panic.downcast_ref::<String>().cloned();
                let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
                Err(format!("panics: {}", text.unwrap_or_default()))
            }
            Err(_) => Err(format!("does not end within {HANG:?}")),
        }
    }
}

/// Of all threads of the process: unlike the time of day, it does not go on while others work on the machine.
#[cfg(unix)]
fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[cfg(not(unix))]
fn processor_time() -> Duration {
    static START: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    START.get_or_init(std::time::Instant::now).elapsed()
}
