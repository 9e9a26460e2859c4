//! The thread that watches the clock: deadlines, retention, deleted pictures, and places in the queue for those who
//! watch them.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::event::EventKind;
use crate::state::{End, Mode, Shared, too_late};
use crate::view::JobState;

/// Time between looks at deadlines and places.
const TICK: Duration = Duration::from_millis(200);
/// Time between looks at the age of jobs that are over.
const RETENTION_TICK: Duration = Duration::from_secs(60);

/// Work until the engine stops.
pub(crate) fn run(shared: &Arc<Shared>) {
    let mut last_retention = Instant::now();
    loop {
        let mut state = shared.lock();
        let until = Instant::now() + TICK;
        while state.mode != Mode::Stopping && Instant::now() < until {
            state = shared.wait(state, until.saturating_duration_since(Instant::now()));
        }
        if state.mode == Mode::Stopping {
            return;
        }
        drop(state);
        end_late_jobs(shared);
        tell_places(shared);
        shared.remove_deleted();
        if last_retention.elapsed() >= RETENTION_TICK {
            last_retention = Instant::now();
            shared.apply_retention();
        }
    }
}

/// Queued jobs whose deadline has passed fail; running ones are stopped, and fail when they have.
fn end_late_jobs(shared: &Shared) {
    let now = SystemTime::now();
    let mut state = shared.lock();
    let mut late = Vec::new();
    let crate::state::State { jobs, scheduler, .. } = &mut *state;
    let with_deadline = jobs.values().filter(|job| !job.state.is_final() && job.is_committed && job.is_late(now));
    for job in with_deadline {
        match job.state {
            JobState::Running => job.cancel.cancel(),
            _ => late.extend(scheduler.remove(job.id).map(|waiting| waiting.id)),
        }
    }
    drop(state);
    for id in late {
        shared.finish(id, End::Failed(too_late()));
    }
}

/// Tell the readers of waiting jobs that they have moved up.
fn tell_places(shared: &Shared) {
    let mut state = shared.lock();
    let crate::state::State { jobs, scheduler, .. } = &mut *state;
    for (waiting, position) in scheduler.in_order().zip(1..) {
        let Some(job) = jobs.get_mut(&waiting.id) else { continue };
        if job.told_position != position && job.log.has_readers() {
            job.told_position = position;
            job.log.push_progress(EventKind::Queued { position });
        }
    }
}
