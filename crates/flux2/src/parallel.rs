//! Loops over many values on the host, on several threads where that pays.

use std::num::NonZeroUsize;
use std::thread;

/// As many threads as the process may use.
pub(crate) fn all_threads() -> NonZeroUsize {
    thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}

/// Call `fill(first, values)` for shares of `values`, where `first` is the index of a share's first value, on at most so many
/// threads, none with fewer than `least` values.
pub(crate) fn in_shares<T: Send>(
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
