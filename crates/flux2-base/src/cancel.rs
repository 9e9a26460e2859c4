//! Stopping work from another thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Stops work from another thread: a run within one block of a network, a transfer within one buffer. Clones share the
/// state.
#[derive(Clone, Debug, Default)]
pub struct CancelToken {
    cancelled: Arc<AtomicBool>,
    parents: Parents,
}

/// The tokens that a token depends on.
#[derive(Clone, Debug, Default)]
enum Parents {
    #[default]
    None,
    /// Cancelled if this one is.
    One(Arc<CancelToken>),
    /// Cancelled if all of these are; one or more.
    All(Arc<[CancelToken]>),
}

/// The work was stopped by its [`CancelToken`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cancelled")]
pub struct Cancelled;

impl CancelToken {
    /// A token that is not cancelled.
    pub fn new() -> Self {
        Self::default()
    }

    /// A token for a part of the work: cancelled together with this one, or on its own.
    pub fn child(&self) -> Self {
        CancelToken { cancelled: Arc::default(), parents: Parents::One(Arc::new(self.clone())) }
    }

    /// A token for work that is shared: cancelled once all of `users` are, or on its own. Without users it is not
    /// cancelled.
    pub fn of_all<'a>(users: impl IntoIterator<Item = &'a CancelToken>) -> Self {
        let users: Arc<[CancelToken]> = users.into_iter().cloned().collect();
        let parents = if users.is_empty() { Parents::None } else { Parents::All(users) };
        CancelToken { cancelled: Arc::default(), parents }
    }

    /// Ask the work to stop.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    /// Whether [`cancel`](Self::cancel) was called on this token, on the one it is a child of, or on all users.
    pub fn is_cancelled(&self) -> bool {
        let by_parents = || match &self.parents {
            Parents::None => false,
            Parents::One(parent) => parent.is_cancelled(),
            Parents::All(users) => users.iter().all(CancelToken::is_cancelled),
        };
        self.cancelled.load(Ordering::Relaxed) || by_parents()
    }

    /// Returns early from work that was cancelled.
    ///
    /// # Errors
    /// [`Cancelled`] once [`cancel`](Self::cancel) was called.
    pub fn check(&self) -> Result<(), Cancelled> {
        if self.is_cancelled() { Err(Cancelled) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_work_is_cancelled_with_its_last_user() {
        let users = [CancelToken::new(), CancelToken::new()];
        let shared = CancelToken::of_all(&users);
        users[0].cancel();
        assert!(!shared.is_cancelled());
        users[1].cancel();
        assert!(shared.is_cancelled());
        assert!(!CancelToken::of_all([]).is_cancelled());
    }
}
