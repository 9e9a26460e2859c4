//! Loops over many values on the host, on several threads where that pays: noise, pixels, random weights.
//!
//! Scoped threads rather than a rayon pool: these loops run twice for a picture and take milliseconds, and starting a
//! thread takes tens of microseconds. A second pool would keep as many threads again as the CPU backend's for the whole
//! run, and that pool cannot be shared, since a GPU backend has none.

use std::num::NonZeroUsize;
use std::thread;

/// The number of threads the process may use.
pub fn all_threads() -> NonZeroUsize {
    thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}

/// Split `values` among at most `threads` threads, each with at least `least` values, and call `fill(first, share)` for
/// each share, where `first` is the index of its first value. The calling thread is one of them.
pub fn in_shares<T: Send>(
    values: &mut [T],
    threads: NonZeroUsize,
    least: usize,
    fill: impl Fn(usize, &mut [T]) + Sync,
) {
    let share = values.len().div_ceil(threads.get()).max(least).max(1);
    let (mut shares, fill) = (values.chunks_mut(share).enumerate(), &fill);
    let first = shares.next();
    thread::scope(|scope| {
        shares.for_each(|(i, values)| drop(scope.spawn(move || fill(i * share, values))));
        first.into_iter().for_each(|(_, values)| fill(0, values));
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
