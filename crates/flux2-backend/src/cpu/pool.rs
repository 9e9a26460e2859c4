//! The thread pool of a CPU backend. All parallel loops go through it.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

/// Approximate elements per parallel piece of a loop over rows: enough to amortize the scheduling.
const PIECE: usize = 16 * 1024;

/// Most threads of one backend.
const MAX_THREADS: usize = 1024;

/// A fixed number of threads.
pub(super) struct Threads {
    count: usize,
    /// `None` in a dry run: tasks are skipped.
    pool: Option<rayon::ThreadPool>,
}

impl Threads {
    /// Starts `count` threads, or as many as affinity and cgroup limits allow. At most [`MAX_THREADS`], and fewer if
    /// the system refuses to start that many.
    pub(super) fn new(count: Option<NonZeroUsize>) -> Self {
        let count = Self::wanted(count);
        let start = |count| {
            rayon::ThreadPoolBuilder::new().num_threads(count).thread_name(|i| format!("flux2-cpu-{i}")).build().ok()
        };
        // Limits on threads or on memory for their stacks: retry with half as many.
        let counts = std::iter::successors(Some(count), |n| (*n > 1).then_some(n / 2));
        let pool = counts.filter_map(start).next().expect("one thread can be started");
        Threads { count: pool.current_num_threads(), pool: Some(pool) }
    }

    /// For a dry run: counts as many threads as [`new`](Self::new) would start, and starts none.
    pub(super) fn idle(count: Option<NonZeroUsize>) -> Self {
        Threads { count: Self::wanted(count), pool: None }
    }

    fn wanted(count: Option<NonZeroUsize>) -> usize {
        count.or_else(|| std::thread::available_parallelism().ok()).map_or(1, NonZeroUsize::get).min(MAX_THREADS)
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Runs `task(state, i)` for each `i` in `0..tasks`, started in ascending order. Each thread creates one `state`.
    pub(super) fn run<S>(&self, tasks: usize, state: impl Fn() -> S + Sync, task: impl Fn(&mut S, usize) + Sync) {
        let Some(pool) = &self.pool else { return };
        if tasks <= 1 || self.count() == 1 {
            let mut state = state();
            return (0..tasks).for_each(|i| task(&mut state, i));
        }
        let next = AtomicUsize::new(0);
        pool.broadcast(|_| {
            let mut state = state();
            loop {
                let i = next.fetch_add(1, Ordering::Relaxed);
                if i >= tasks {
                    break;
                }
                task(&mut state, i);
            }
        });
    }

    /// Calls `row(index, row)` for every row of `cols` elements in `out`, in parallel.
    pub(super) fn for_rows<T: Send>(&self, out: &mut [T], cols: usize, row: impl Fn(usize, &mut [T]) + Send + Sync) {
        let Some(pool) = self.pool.as_ref().filter(|_| cols > 0) else { return };
        let rows = (PIECE / cols).max(1);
        let piece = |(i, piece): (usize, &mut [T])| {
            for (j, r) in piece.chunks_exact_mut(cols).enumerate() {
                row(i * rows + j, r);
            }
        };
        if out.len() <= rows * cols {
            return piece((0, out));
        }
        pool.install(|| out.par_chunks_mut(rows * cols).enumerate().for_each(piece));
    }
}
