//! Ctrl-C and termination signals.

use std::sync::PoisonError;

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

#[expect(clippy::exit, reason = "the second Ctrl-C must end a run that does not reach its next block")]
fn exit_now() {
    let _no_write_in_progress = output::WRITING.write().unwrap_or_else(PoisonError::into_inner);
    std::process::exit(code::CANCELLED.into());
}
