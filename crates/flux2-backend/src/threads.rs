//! The host threads of a backend. All its parallel loops run on them, none on rayon's global pool.

use std::io;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;

use rayon::prelude::*;

use crate::{Error, Result};

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
    ///
    /// # Errors
    /// [`Error::NoThreads`] if the system starts none.
    pub fn new(count: Option<NonZeroUsize>) -> Result<Self> {
        Self::started(Self::wanted(count), |name, work| thread::Builder::new().name(name).spawn(work).map(drop))
    }

    /// The threads that `start` starts before it first fails.
    ///
    /// rayon gives up if one of its threads cannot be started. So they are started before the pool, and each waits for
    /// its place in it.
    fn started(count: usize, start: impl Fn(String, Box<dyn FnOnce() + Send>) -> io::Result<()>) -> Result<Self> {
        let (give, places) = mpsc::channel::<rayon::ThreadBuilder>();
        let places = Arc::new(Mutex::new(places));
        let mut refused = None;
        let start_one = |i| {
            let places = Arc::clone(&places);
            let work = move || {
                let place = places.lock().unwrap_or_else(PoisonError::into_inner).recv();
                place.into_iter().for_each(rayon::ThreadBuilder::run);
            };
            start(format!("flux2-cpu-{i}"), Box::new(work)).map_err(|error| refused = Some(error)).is_ok()
        };
        let count = (0..count).map(start_one).take_while(|started| *started).count();
        let failed = |reason: String| Error::NoThreads { reason };
        if count == 0 {
            return Err(failed(refused.map_or_else(String::new, |error| error.to_string())));
        }
        let pool = rayon::ThreadPoolBuilder::new().num_threads(count);
        let pool = pool.spawn_handler(|place| give.send(place).map_err(|_| io::ErrorKind::BrokenPipe.into()));
        let pool = pool.build().map_err(|error| failed(error.to_string()))?;
        Ok(Threads { count, pool: Some(pool) })
    }

    /// For a dry run: counts as many threads as [`new`](Self::new) would start, and starts none.
    pub(crate) fn idle(count: Option<NonZeroUsize>) -> Self {
        Threads { count: Self::wanted(count), pool: None }
    }

    fn wanted(count: Option<NonZeroUsize>) -> usize {
        count.or_else(|| thread::available_parallelism().ok()).map_or(1, NonZeroUsize::get).min(MAX_THREADS)
    }

    /// The number of threads.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Runs `task(state, i)` for each `i` in `0..tasks`, started in ascending order. Each thread that gets a task
    /// creates one `state`.
    ///
    /// Returns when all tasks are done, even if a thread has not run since they began: other programs may have taken
    /// its core.
    pub(crate) fn run<S>(&self, tasks: usize, state: impl Fn() -> S + Sync, task: impl Fn(&mut S, usize) + Sync) {
        let Some(pool) = &self.pool else { return };
        if tasks <= 1 || self.count() == 1 {
            let mut state = state();
            return (0..tasks).for_each(|i| task(&mut state, i));
        }
        let next = AtomicUsize::new(0);
        let work = || {
            let mut i = next.fetch_add(1, Ordering::Relaxed);
            if i < tasks {
                let mut state = state();
                while i < tasks {
                    task(&mut state, i);
                    i = next.fetch_add(1, Ordering::Relaxed);
                }
            }
        };
        // A job that no other thread has taken by the end is run by the thread that waits for it, and finds no task.
        let jobs = self.count().min(tasks);
        pool.scope(|scope| {
            (1..jobs).for_each(|_| scope.spawn(|_| work()));
            work();
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::time::Duration;

    use super::*;

    #[test]
    fn as_many_threads_are_used_as_can_be_started() {
        let started = AtomicUsize::new(0);
        let start_three = |name: String, work: Box<dyn FnOnce() + Send>| {
            if started.fetch_add(1, Ordering::Relaxed) == 3 {
                return Err(io::Error::from_raw_os_error(11));
            }
            thread::Builder::new().name(name).spawn(work).map(drop)
        };
        let threads = Threads::started(8, start_three).unwrap();
        assert_eq!((threads.count(), started.load(Ordering::Relaxed)), (3, 4));
        let sum = AtomicUsize::new(0);
        threads.run(100, || (), |(), i| _ = sum.fetch_add(i, Ordering::Relaxed));
        assert_eq!(sum.load(Ordering::Relaxed), 4950);
    }

    #[test]
    fn no_thread_is_an_error_that_says_why() {
        let refused = Threads::started(8, |_, _| Err(io::Error::other("no more")));
        assert_eq!(refused.err(), Some(Error::NoThreads { reason: "no more".into() }));
    }

    /// A loop does not wait for a thread that has not begun with it.
    #[test]
    fn a_loop_ends_without_threads_that_are_busy_elsewhere() {
        let threads = Threads::new(NonZeroUsize::new(2)).unwrap();
        let (release, is_held) = (AtomicBool::new(false), AtomicBool::new(false));
        thread::scope(|scope| {
            scope.spawn(|| {
                threads.install(|| {
                    is_held.store(true, Ordering::Release);
                    while !release.load(Ordering::Acquire) {
                        thread::sleep(Duration::from_millis(1));
                    }
                });
            });
            while !is_held.load(Ordering::Acquire) {
                thread::yield_now();
            }
            let done = AtomicUsize::new(0);
            threads.run(10, || (), |(), _| _ = done.fetch_add(1, Ordering::Relaxed));
            assert_eq!(done.load(Ordering::Relaxed), 10);
            release.store(true, Ordering::Release);
        });
    }
}
