//! The host threads of a backend. All its parallel loops run on them, none on rayon's global pool.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

/// Approximate elements per parallel piece of a loop over rows: enough to amortize the scheduling.
const PIECE: usize = 16 * 1024;

/// Upper bound on the threads of one backend.
const MAX_THREADS: usize = 1024;

/// A fixed number of host threads, shared by everything a backend computes or decodes.
pub struct Threads {
    count: usize,
    /// `None` in a dry run: tasks are skipped.
    pool: Option<rayon::ThreadPool>,
}

impl Threads {
    /// Starts `count` threads, or as many as affinity and cgroup limits let this process use. At most 1024, and fewer
    /// if the system refuses to start that many.
    pub fn new(count: Option<NonZeroUsize>) -> Self {
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
    pub(crate) fn idle(count: Option<NonZeroUsize>) -> Self {
        Threads { count: Self::wanted(count), pool: None }
    }

    fn wanted(count: Option<NonZeroUsize>) -> usize {
        count.or_else(|| std::thread::available_parallelism().ok()).map_or(1, NonZeroUsize::get).min(MAX_THREADS)
    }

    /// The number of threads.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Runs `task(state, i)` for each `i` in `0..tasks`, started in ascending order. Each thread creates one `state`.
    pub(crate) fn run<S>(&self, tasks: usize, state: impl Fn() -> S + Sync, task: impl Fn(&mut S, usize) + Sync) {
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

    /// Runs `work` in the pool, so that rayon's parallel iterators in it use these threads. Does nothing in a dry run.
    pub(crate) fn install(&self, work: impl FnOnce() + Send) {
        if let Some(pool) = &self.pool {
            pool.install(work);
        }
    }

    /// Calls `row(index, row)` for every row of `cols` elements in `out`. The last row may be shorter.
    pub(crate) fn for_rows<T: Send>(&self, out: &mut [T], cols: usize, row: impl Fn(usize, &mut [T]) + Send + Sync) {
        let Some(pool) = self.pool.as_ref().filter(|_| cols > 0) else { return };
        let rows = (PIECE / cols).max(1);
        let piece = |(i, piece): (usize, &mut [T])| {
            for (j, r) in piece.chunks_mut(cols).enumerate() {
                row(i * rows + j, r);
            }
        };
        if out.len() <= rows * cols {
            return piece((0, out));
        }
        pool.install(|| out.par_chunks_mut(rows * cols).enumerate().for_each(piece));
    }
}
