//! Ctrl-C and termination signals; the signal of the limit on file sizes.

#[cfg(any(unix, feature = "session"))]
use std::sync::Arc;
#[cfg(feature = "session")]
use std::sync::Mutex;
use std::sync::PoisonError;
#[cfg(unix)]
use std::sync::atomic::AtomicBool;

use flux2::CancelToken;

use crate::failure::code;
use crate::output;

/// A token that the first signal cancels. The second signal ends the process at once.
pub fn cancelled_by_signals() -> CancelToken {
    let cancel = CancelToken::new();
    let token = cancel.clone();
    // If no handler can be set, a signal ends the process at once; that leaves no partial file either.
    let _ = ctrlc::set_handler(move || {
        if token.is_cancelled() {
            exit_now();
        }
        token.cancel();
    });
    cancel
}

/// Signals while pictures are drawn one after the other: each cancels the picture that is drawn, and between two of them
/// the process.
#[cfg(feature = "session")]
#[derive(Clone, Default)]
pub struct Interrupts {
    current: Arc<Mutex<Option<CancelToken>>>,
}

#[cfg(feature = "session")]
impl Interrupts {
    /// Takes the signals from now on.
    pub fn install() -> Self {
        let interrupts = Interrupts::default();
        let current = Arc::clone(&interrupts.current);
        // If no handler can be set, a signal ends the process at once; that leaves no partial file either.
        let _ = ctrlc::set_handler(move || {
            let current = current.lock().unwrap_or_else(PoisonError::into_inner);
            match &*current {
                Some(token) if !token.is_cancelled() => token.cancel(),
                _ => exit_now(),
            }
        });
        interrupts
    }

    /// Does some work, with a token that the next signal cancels.
    pub fn during<T>(&self, work: impl FnOnce(&CancelToken) -> T) -> T {
        let token = CancelToken::new();
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Some(token.clone());
        let result = work(&token);
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = None;
        result
    }
}

/// Lets a write beyond the limit on file sizes (`ulimit -f`) fail with an error, so that its temporary file is removed.
/// By default a signal ends the process.
pub fn ignore_file_size_signal() {
    // Any handler does: the write returns after it. It cannot fail for this signal.
    #[cfg(unix)]
    let _ = signal_hook::flag::register(signal_hook::consts::SIGXFSZ, Arc::new(AtomicBool::new(false)));
}

#[expect(clippy::exit, reason = "the second Ctrl-C must end a run that does not reach its next block")]
fn exit_now() {
    let _no_write_in_progress = output::WRITING.write().unwrap_or_else(PoisonError::into_inner);
    std::process::exit(code::CANCELLED.into());
}
