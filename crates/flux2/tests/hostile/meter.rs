//! Measures a piece of work: peak memory, CPU time, whether it ends and whether it panics.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use crate::allocator::high_water;

/// Resources that a piece of work took.
pub struct Taken {
    /// Peak of allocated bytes above those at the start.
    pub bytes: usize,
    /// CPU time of all threads of the process.
    pub time: Duration,
}

/// Timeout after which work counts as hanging; long enough for a busy machine.
const HANG: Duration = Duration::from_secs(120);

/// A lock on measuring: the counters cover the whole process, so tests measure one at a time.
pub struct Meter(#[expect(dead_code, reason = "held until it is dropped")] MutexGuard<'static, ()>);

/// Waits for the lock on measuring.
pub fn alone() -> Meter {
    static ALONE: Mutex<()> = Mutex::new(());
    Meter(ALONE.lock().unwrap_or_else(PoisonError::into_inner))
}

impl Meter {
    /// Runs `work` on its own thread.
    ///
    /// # Errors
    /// A description if it panics or does not end.
    pub fn measure<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<(T, Taken), String> {
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            let start = processor_time();
            let (bytes, result) = high_water(|| catch_unwind(AssertUnwindSafe(work)));
            let time = processor_time().saturating_sub(start);
            // The receiver is gone after a timeout.
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

/// CPU time of all threads of the process: unlike wall time, it does not depend on other load.
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
