//! Loops over many values on the host, on several threads where that pays: noise, pixels, random weights.
//!
//! Scoped threads rather than a rayon pool: these loops run twice for a picture and take milliseconds, and starting a
//! thread takes tens of microseconds. A second pool would keep as many threads again as the CPU backend's for the whole
//! run, and that pool cannot be shared, since a GPU backend has none.

use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};
use std::thread;

/// The number of threads of this process that run at once: within its affinity and the quota of its cgroup.
pub fn all_threads() -> NonZeroUsize {
    thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}

/// As many threads as are asked for, by default all, and at most as many as run at once.
pub fn usable_threads(asked: Option<NonZeroUsize>) -> NonZeroUsize {
    asked.map_or_else(all_threads, |asked| asked.min(all_threads()))
}

/// Split `values` among at most `threads` threads, each with at least `least` values, and call `fill(first, share)` for
/// each share, where `first` is the index of its first value. The calling thread is one of them, and the only one if no
/// other can be started.
pub fn in_shares<T: Send>(
    values: &mut [T],
    threads: NonZeroUsize,
    least: usize,
    fill: impl Fn(usize, &mut [T]) + Sync,
) {
    let share = values.len().div_ceil(threads.get()).max(least).max(1);
    let shares = values.chunks_mut(share).enumerate();
    for_each(shares, threads, |(i, values)| fill(i * share, values));
}

/// Call `work` for each of `items` on at most `threads` threads. The calling thread is one of them, and the only one if
/// no other can be started.
pub fn for_each<T: Send>(
    items: impl ExactSizeIterator<Item = T> + Send,
    threads: NonZeroUsize,
    work: impl Fn(T) + Sync,
) {
    let others = threads.get().min(items.len()).saturating_sub(1);
    let items = Mutex::new(items);
    let next = || items.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work_on = || std::iter::from_fn(next).for_each(&work);
    thread::scope(|scope| {
        (0..others).map_while(|_| thread::Builder::new().spawn_scoped(scope, work_on).ok()).for_each(drop);
        work_on();
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_filled_once() {
        for n in [0, 1, 7, 100, 1001] {
            let mut values = vec![0; n];
            in_shares(&mut values, NonZeroUsize::new(3).unwrap(), 10, |first, share| {
                share.iter_mut().zip(first..).for_each(|(value, index)| *value += index + 1);
            });
            assert!(values.iter().copied().eq(1..=n), "{n}: {values:?}");
        }
    }
}
