//! Events of a job: numbered, readable again from any number on.
//!
//! In:  events, pushed by the engine; a push never waits for a reader. Out: [`Subscription`]s, which block with a time
//! limit or wake a task.
//!
//! Changes of state are kept as long as the job is. Of the others, only the latest are kept, so a slow reader finds
//! gaps in the numbers.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use crate::failure::JobFailure;
use crate::view::ImageInfo;

/// Progress events that are kept for readers.
const MAX_PROGRESS: usize = 64;
/// Previews that are kept for readers; each holds the bytes of a small picture.
const MAX_PREVIEWS: usize = 2;

/// Something that happened to a job.
#[derive(Clone, Debug, PartialEq)]
pub struct JobEvent {
    /// Its number: higher than those before it, also across restarts.
    pub seq: u64,
    /// What happened.
    pub kind: EventKind,
}

/// What happened to a job.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum EventKind {
    /// It waits. The first of these is a change of state; further ones, when it moves up, may be dropped.
    Queued {
        /// Its place in the queue, from 1.
        position: usize,
    },
    /// A worker begins to draw it. Comes again if it is repeated after a failure of the device.
    Started {
        /// The device that draws.
        device: String,
    },
    /// A part of the request is not carried out.
    Warning {
        /// What, as a sentence.
        text: String,
    },
    /// A stage of a picture begins; may be dropped.
    Stage {
        /// The picture, from 0.
        picture: u32,
        /// The stage, as [`Phase::name`](flux2::Phase::name) calls it.
        name: &'static str,
    },
    /// A denoising step is finished; may be dropped.
    Step {
        /// The picture, from 0.
        picture: u32,
        /// Number of the step, from 1.
        step: u32,
        /// Number of all steps.
        steps: u32,
    },
    /// What a picture looks like so far, at an eighth of its size; may be dropped. Only once somebody has asked for
    /// [previews](crate::Jobs::want_previews).
    Preview {
        /// The picture, from 0.
        picture: u32,
        /// Number of the step that it shows, from 1.
        step: u32,
        /// A file in the format of the job.
        bytes: Arc<[u8]>,
    },
    /// A picture is saved.
    ImageReady {
        /// The picture.
        image: ImageInfo,
    },
    /// All pictures are saved.
    Done,
    /// The job ended without all of its pictures.
    Failed {
        /// Why.
        failure: JobFailure,
    },
    /// The job was cancelled.
    Cancelled,
}

impl EventKind {
    /// Its name in snake case, for the wire.
    pub const fn name(&self) -> &'static str {
        match self {
            EventKind::Queued { .. } => "queued",
            EventKind::Started { .. } => "started",
            EventKind::Warning { .. } => "warning",
            EventKind::Stage { .. } => "stage",
            EventKind::Step { .. } => "step",
            EventKind::Preview { .. } => "preview",
            EventKind::ImageReady { .. } => "image_ready",
            EventKind::Done => "done",
            EventKind::Failed { .. } => "failed",
            EventKind::Cancelled => "cancelled",
        }
    }

    /// Whether no event comes after it.
    pub const fn is_final(&self) -> bool {
        matches!(self, EventKind::Done | EventKind::Failed { .. } | EventKind::Cancelled)
    }
}

/// The events of one job, for its readers.
#[derive(Debug)]
pub struct EventLog {
    inner: Mutex<Inner>,
    changed: Condvar,
}

#[derive(Debug)]
struct Inner {
    next_seq: u64,
    /// Changes of state, all of them.
    states: Vec<Arc<JobEvent>>,
    /// The latest of the others.
    progress: VecDeque<Arc<JobEvent>>,
    wakers: Vec<Waker>,
    readers: usize,
    wants_previews: bool,
}

impl EventLog {
    /// A log whose first event has the number `first_seq`.
    pub fn new(first_seq: u64) -> Arc<Self> {
        let inner = Inner {
            next_seq: first_seq,
            states: Vec::new(),
            progress: VecDeque::new(),
            wakers: Vec::new(),
            readers: 0,
            wants_previews: false,
        };
        Arc::new(EventLog { inner: Mutex::new(inner), changed: Condvar::new() })
    }

    /// Append an event that another machine has numbered. One whose number is not higher than the last is known and
    /// passed over. `is_kept` tells whether it is a change of state, which is never dropped.
    pub fn push_numbered(&self, seq: u64, kind: EventKind, is_kept: bool) {
        {
            let mut inner = self.lock();
            if seq < inner.next_seq {
                return;
            }
            inner.next_seq = seq;
        }
        match is_kept {
            true => self.push_state(kind),
            false => self.push_progress(kind),
        }
    }

    /// Append a change of state, which is never dropped.
    pub(crate) fn push_state(&self, kind: EventKind) {
        let mut inner = self.lock();
        // Nobody needs progress of a job that is finished.
        if kind.is_final() {
            inner.progress.clear();
        }
        let event = inner.numbered(kind);
        inner.states.push(event);
        self.wake(inner);
    }

    /// Append an event that is dropped when newer ones take its place.
    pub(crate) fn push_progress(&self, kind: EventKind) {
        let mut inner = self.lock();
        let is_preview = |event: &Arc<JobEvent>| matches!(event.kind, EventKind::Preview { .. });
        let event = inner.numbered(kind);
        inner.progress.push_back(event);
        if inner.progress.iter().filter(|event| is_preview(event)).count() > MAX_PREVIEWS {
            let oldest = inner.progress.iter().position(is_preview).expect("there are previews");
            inner.progress.remove(oldest);
        }
        if inner.progress.len() > MAX_PROGRESS {
            inner.progress.pop_front();
        }
        self.wake(inner);
    }

    /// Number of the last event; that before the first if there is none.
    pub fn last_seq(&self) -> u64 {
        self.lock().next_seq.saturating_sub(1)
    }

    /// Whether anybody reads.
    pub fn has_readers(&self) -> bool {
        self.lock().readers > 0
    }

    /// Ask for previews from now on.
    pub fn want_previews(&self) {
        self.lock().wants_previews = true;
    }

    /// Whether anybody has asked for previews.
    pub fn wants_previews(&self) -> bool {
        self.lock().wants_previews
    }

    /// Read the events after number `after`.
    pub fn subscribe(self: &Arc<Self>, after: u64) -> Subscription {
        self.lock().readers += 1;
        Subscription { log: Arc::clone(self), after, has_ended: false }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self, mut inner: MutexGuard<'_, Inner>) {
        let wakers = std::mem::take(&mut inner.wakers);
        drop(inner);
        self.changed.notify_all();
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl Inner {
    fn numbered(&mut self, kind: EventKind) -> Arc<JobEvent> {
        let seq = self.next_seq;
        self.next_seq += 1;
        Arc::new(JobEvent { seq, kind })
    }

    /// The first event after number `after`.
    fn first_after(&self, after: u64) -> Option<Arc<JobEvent>> {
        let state = self.states.partition_point(|event| event.seq <= after);
        let progress = self.progress.partition_point(|event| event.seq <= after);
        match (self.states.get(state), self.progress.get(progress)) {
            (Some(state), Some(progress)) if progress.seq < state.seq => Some(progress),
            (None, progress) => progress,
            (state, _) => state,
        }
        .cloned()
    }

    /// Whether `after` is the last event there will be, or a later number.
    fn ends_at(&self, after: u64) -> bool {
        self.states.last().is_some_and(|event| event.kind.is_final() && event.seq <= after)
    }
}

/// What [`Subscription::next`] found.
#[derive(Clone, Debug, PartialEq)]
pub enum Next {
    /// The next event.
    Event(Arc<JobEvent>),
    /// No event within the time.
    Timeout,
    /// The job is over and all of its events were read.
    End,
}

/// A reader of a job's events. Readers do not slow down the engine or one another.
#[derive(Debug)]
pub struct Subscription {
    log: Arc<EventLog>,
    after: u64,
    has_ended: bool,
}

impl Subscription {
    /// The next event, waiting for it at most so long.
    pub fn next(&mut self, timeout: Duration) -> Next {
        let until = Instant::now().checked_add(timeout);
        let log = Arc::clone(&self.log);
        let mut inner = log.lock();
        loop {
            if let Some(found) = self.take(&inner) {
                return found.map_or(Next::End, Next::Event);
            }
            let left = until.map_or(Duration::MAX, |until| until.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return Next::Timeout;
            }
            inner = log.changed.wait_timeout(inner, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The next event; `None` when the job is over and all of its events were read. Wakes the task of `context` when
    /// there is more. Never blocks: this is for a front end that has an executor.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Arc<JobEvent>>> {
        let log = Arc::clone(&self.log);
        let mut inner = log.lock();
        if let Some(found) = self.take(&inner) {
            return Poll::Ready(found);
        }
        if !inner.wakers.iter().any(|waker| waker.will_wake(context.waker())) {
            inner.wakers.push(context.waker().clone());
        }
        Poll::Pending
    }

    /// `Some(None)` at the end.
    fn take(&mut self, inner: &Inner) -> Option<Option<Arc<JobEvent>>> {
        if let Some(event) = inner.first_after(self.after).filter(|_| !self.has_ended) {
            self.after = event.seq;
            return Some(Some(event));
        }
        self.has_ended |= inner.ends_at(self.after);
        self.has_ended.then_some(None)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.log.lock().readers -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(step: u32) -> EventKind {
        EventKind::Step { picture: 0, step, steps: 1000 }
    }

    fn read(subscription: &mut Subscription) -> Vec<(u64, &'static str)> {
        let mut found = Vec::new();
        while let Next::Event(event) = subscription.next(Duration::ZERO) {
            found.push((event.seq, event.kind.name()));
        }
        found
    }

    #[test]
    fn a_slow_reader_loses_progress_and_never_states() {
        let log = EventLog::new(1);
        let mut reader = log.subscribe(0);
        log.push_state(EventKind::Queued { position: 1 });
        (1..=500).for_each(|n| log.push_progress(step(n)));
        log.push_state(EventKind::Warning { text: "w".into() });
        (501..=1000).for_each(|n| log.push_progress(step(n)));
        let events = read(&mut reader);
        assert_eq!(events[0], (1, "queued"));
        assert!(events.contains(&(502, "warning")));
        assert_eq!(events.last(), Some(&(1002, "step")));
        assert_eq!(events.len(), MAX_PROGRESS + 2);
        assert!(events.is_sorted());
        assert_eq!(reader.next(Duration::ZERO), Next::Timeout);
    }

    #[test]
    fn few_previews_are_kept() {
        let log = EventLog::new(1);
        for n in 1..=10 {
            log.push_progress(EventKind::Preview { picture: 0, step: n, bytes: Arc::from([0; 4].as_slice()) });
            log.push_progress(step(n));
        }
        let events = read(&mut log.subscribe(0));
        assert_eq!(events.iter().filter(|(_, name)| *name == "preview").count(), MAX_PREVIEWS);
        assert_eq!(events.iter().filter(|(_, name)| *name == "step").count(), 10);
    }

    #[test]
    fn events_are_read_again_from_any_number_until_the_end() {
        let log = EventLog::new(7);
        log.push_state(EventKind::Queued { position: 1 });
        log.push_state(EventKind::Started { device: "cpu".into() });
        log.push_progress(step(1));
        log.push_state(EventKind::Done);
        assert_eq!(read(&mut log.subscribe(0)), [(7, "queued"), (8, "started"), (10, "done")]);
        assert_eq!(read(&mut log.subscribe(8)), [(10, "done")]);
        for after in [10, 99] {
            assert_eq!(log.subscribe(after).next(Duration::from_secs(9)), Next::End);
        }
    }

    #[test]
    fn a_task_is_woken() {
        let log = EventLog::new(1);
        let mut reader = log.subscribe(0);
        let flag = Arc::new(Flag::default());
        let waker = Waker::from(Arc::clone(&flag));
        let mut context = Context::from_waker(&waker);
        assert!(reader.poll_next(&mut context).is_pending() && reader.poll_next(&mut context).is_pending());
        assert_eq!(log.lock().wakers.len(), 1);
        log.push_state(EventKind::Done);
        assert!(flag.0.load(std::sync::atomic::Ordering::SeqCst));
        assert!(matches!(reader.poll_next(&mut context), Poll::Ready(Some(_))));
        assert!(matches!(reader.poll_next(&mut context), Poll::Ready(None)));
        assert!(log.has_readers());
        drop(reader);
        assert!(!log.has_readers());
    }

    #[derive(Default)]
    struct Flag(std::sync::atomic::AtomicBool);

    impl std::task::Wake for Flag {
        fn wake(self: Arc<Self>) {
            self.0.store(true, std::sync::atomic::Ordering::SeqCst);
        }
    }
}
