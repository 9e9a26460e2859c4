//! The threads of a CPU backend. All loops over rows and tiles go through here.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

/// Rows are handed out in pieces of about this many elements: long enough to hide the hand-over.
const PIECE: usize = 16 * 1024;

/// Threads of one backend, at most.
const MAX_THREADS: usize = 1024;

/// A fixed set of threads.
pub(super) struct Threads {
    count: usize,
    /// `None` in a dry run: tasks are skipped.
    pool: Option<rayon::ThreadPool>,
}

impl Threads {
    /// `count` threads (at most [`MAX_THREADS`], and fewer if the system will not start so many), or as many as affinity and cgroup limits let this process use.
    pub(super) fn new(count: Option<NonZeroUsize>) -> Self {
        let count = Self::wanted(count);
        let start = |count| {
            rayon::ThreadPoolBuilder::new().num_threads(count).thread_name(|i| format!("flux2-cpu-{i}")).build().ok()
        };
        // Where the system allows fewer threads or less memory for their stacks, make do with as many as it gives.
        let counts = std::iter::successors(Some(count), |n| (*n > 1).then_some(n / 2));
        let pool = counts.filter_map(start).next().expect("one thread can be started");
        Threads { count: pool.current_num_threads(), pool: Some(pool) }
    }

    /// As many threads as [`new`](Self::new) starts, that do nothing.
    pub(super) fn idle(count: Option<NonZeroUsize>) -> Self {
        Threads { count: Self::wanted(count), pool: None }
    }

    fn wanted(count: Option<NonZeroUsize>) -> usize {
        count.or_else(|| std::thread::available_parallelism().ok()).map_or(1, NonZeroUsize::get).min(MAX_THREADS)
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Run `task(0..tasks)`, each once, in rising order of start. A thread asks `state` for scratch once.
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

    /// Call `row(index, row)` for every row of `cols` elements in `out`.
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
