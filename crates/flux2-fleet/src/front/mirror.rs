//! The latest jobs of the fleet in memory, as the server tells of every change; and the events of those that somebody
//! reads.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::jetstream::kv::Operation;
use flux2_jobs::stats::QueueDepth;
use flux2_jobs::{EventLog, Filter, JobId, JobState, JobView, Page, Stats};
use futures_util::StreamExt as _;

use crate::connect::Bus;
use crate::record::{Record, Stage};

/// Jobs that are remembered; of those that are over, the oldest go first.
const MAX_JOBS: usize = 10_000;
/// Pause before the jobs are watched again.
const AGAIN: Duration = Duration::from_secs(1);
/// Weight of the latest job in a moving average.
const LATEST: f64 = 0.1;
/// Seconds of a job before one was drawn.
const FIRST_SECONDS: f64 = 5.0;

/// See the module.
#[derive(Default)]
pub struct Mirror {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    jobs: BTreeMap<JobId, Record>,
    feeds: HashMap<JobId, Arc<Feed>>,
    /// Seconds of a job by model.
    seconds: HashMap<String, f64>,
    stats: Stats,
}

/// The events of a job that somebody reads.
pub struct Feed {
    /// The events.
    pub log: Arc<EventLog>,
    /// Changes of state that are in it.
    pub changes: AtomicUsize,
}

impl Feed {
    fn apply(&self, record: &Record) {
        record.events().for_each(|(seq, kind)| self.log.push_numbered(seq, kind, true));
        self.changes.fetch_max(record.history.len(), Ordering::SeqCst);
    }
}

impl Mirror {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Listen for ever.
    pub async fn follow(self: Arc<Self>, bus: Bus) {
        loop {
            if let Ok(mut watch) = bus.status.watch_with_history(">").await {
                while let Some(Ok(entry)) = watch.next().await {
                    let Ok(id) = entry.key.parse::<JobId>() else { continue };
                    if entry.operation != Operation::Put {
                        self.lock().jobs.remove(&id);
                    } else if let Ok(record) = Record::read(id, &entry.value) {
                        self.put(id, record);
                    }
                }
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Take in a job, unless a later change of it is known.
    pub fn put(&self, id: JobId, record: Record) {
        let mut inner = self.lock();
        let Inner { jobs, feeds, seconds, stats } = &mut *inner;
        let known = jobs.get(&id);
        let age = |record: &Record| (record.history.len(), record.updated_ms);
        if let Some(known) = known.filter(|known| age(known) >= age(&record)) {
            if let Some(feed) = feeds.get(&id) {
                feed.apply(known);
            }
            return;
        }
        let was = known.map(|known| known.state);
        match (was, record.state) {
            (None, state) if !state.is_final() => stats.accepted += 1,
            (Some(was), Stage::Done) if was != Stage::Done => {
                stats.done += 1;
                stats.images += record.images.len() as u64;
                if let Some((started, finished)) = record.started_ms.zip(record.finished_ms) {
                    let took = finished.saturating_sub(started) as f64 / 1000.0;
                    let known = seconds.entry(record.spec.model.name.clone()).or_insert(took);
                    *known += LATEST * (took - *known);
                    let waited = started.saturating_sub(record.accepted_ms) as f64 / 1000.0;
                    stats.queue_wait.add(waited);
                }
            }
            (Some(was), Stage::Cancelled) if was != Stage::Cancelled => stats.cancelled += 1,
            (Some(was), Stage::Failed) if was != Stage::Failed => {
                if let Some(failure) = &record.failure {
                    match stats.failed.iter_mut().find(|(class, _)| *class == failure.class) {
                        Some((_, count)) => *count += 1,
                        None => stats.failed.push((failure.class, 1)),
                    }
                }
            }
            _ => {}
        }
        if let Some(feed) = feeds.get(&id) {
            feed.apply(&record);
        }
        jobs.insert(id, record);
        if jobs.len() > MAX_JOBS {
            let oldest = jobs.iter().find(|(_, record)| record.state.is_final()).map(|(id, _)| *id);
            oldest.and_then(|id| jobs.remove(&id));
        }
    }

    /// A job as it was last heard of.
    pub fn get(&self, id: JobId) -> Option<Record> {
        self.lock().jobs.get(&id).cloned()
    }

    /// Jobs that are not over.
    pub fn unfinished(&self) -> Vec<(JobId, Record)> {
        let inner = self.lock();
        let unfinished = inner.jobs.iter().filter(|(_, record)| !record.state.is_final());
        unfinished.map(|(id, record)| (*id, record.clone())).collect()
    }

    /// Events of a job. The second is whether they are new, and somebody must bring what is not in the record.
    pub fn feed(&self, id: JobId, record: &Record) -> (Arc<Feed>, bool) {
        let mut inner = self.lock();
        let known = inner.feeds.get(&id).map(Arc::clone);
        let is_new = known.is_none() && !record.state.is_final();
        let feed = known.unwrap_or_else(|| Arc::new(Feed { log: EventLog::new(1), changes: AtomicUsize::new(0) }));
        feed.apply(record);
        if is_new {
            inner.feeds.insert(id, Arc::clone(&feed));
        }
        (feed, is_new)
    }

    /// Forget the events of a job, if nobody reads them. Returns whether nobody does.
    pub fn end_feed(&self, id: JobId) -> bool {
        let mut inner = self.lock();
        let is_idle = inner.feeds.get(&id).is_none_or(|feed| !feed.log.has_readers());
        if is_idle {
            inner.feeds.remove(&id);
        }
        is_idle
    }

    /// Jobs that wait, and the estimated time until all are drawn by so many workers.
    pub fn backlog(&self, workers: usize) -> (usize, Duration) {
        let inner = self.lock();
        let waiting = inner.jobs.values().filter(|record| record.state.state() == JobState::Queued);
        let (count, seconds) = waiting.fold((0, 0.0), |(count, sum), record| (count + 1, sum + inner.seconds(record)));
        (count, wait(seconds, workers))
    }

    /// A job as front ends show it, with its place in the queue.
    pub fn view(&self, id: JobId, record: &Record, workers: usize) -> JobView {
        let view = record.view(id);
        if view.state != JobState::Queued {
            return view;
        }
        let inner = self.lock();
        let before = inner.jobs.iter().filter(|(other, waiting)| {
            waiting.state.state() == JobState::Queued && (waiting.priority, **other) < (record.priority, id)
        });
        let (count, seconds) = before.fold((0, 0.0), |(count, sum), (_, one)| (count + 1, sum + inner.seconds(one)));
        JobView { position: Some(count + 1), wait: Some(wait(seconds, workers)), ..view }
    }

    /// Jobs that match a filter, the newest first.
    pub fn list(&self, filter: &Filter, cursor: Option<JobId>, limit: usize, workers: usize) -> Page {
        let words: Vec<String> = filter.words.iter().map(|word| word.to_lowercase()).collect();
        let matches = |record: &Record| {
            let text = record.spec.prompt.to_lowercase();
            filter.owner.as_deref().is_none_or(|owner| owner == record.owner)
                && (filter.states.is_empty() || filter.states.contains(&record.state.state()))
                && filter.model.as_deref().is_none_or(|model| model == record.spec.model.name)
                && !filter.only_favorites
                && words.iter().all(|word| text.contains(word.as_str()))
        };
        let mut found: Vec<(JobId, Record)> = {
            let inner = self.lock();
            let before = inner.jobs.iter().rev().filter(|(id, _)| cursor.is_none_or(|cursor| **id < cursor));
            let found = before.filter(|(_, record)| matches(record)).take(limit.saturating_add(1));
            found.map(|(id, record)| (*id, record.clone())).collect()
        };
        let has_more = found.len() > limit;
        found.truncate(limit);
        let next = found.last().map(|(id, _)| *id).filter(|_| has_more);
        Page { jobs: found.iter().map(|(id, record)| self.view(*id, record, workers)).collect(), next, revision: 0 }
    }

    /// Numbers since the start of this front end.
    pub fn stats(&self) -> Stats {
        let inner = self.lock();
        let mut stats = inner.stats.clone();
        for record in inner.jobs.values() {
            match record.state.state() {
                JobState::Running => stats.running += 1,
                JobState::Queued => {
                    let (model, priority) = (&record.spec.model.name, record.priority);
                    match stats.queued.iter_mut().find(|one| one.model == *model && one.priority == priority) {
                        Some(depth) => depth.jobs += 1,
                        None => stats.queued.push(QueueDepth { model: model.clone(), priority, jobs: 1 }),
                    }
                }
                _ => {}
            }
        }
        stats
    }

    /// Count a submission that was refused.
    pub fn refused(&self, reason: &'static str) {
        let mut inner = self.lock();
        match inner.stats.rejected.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, count)) => *count += 1,
            None => inner.stats.rejected.push((reason, 1)),
        }
    }

    /// Seconds of a job.
    pub fn seconds(&self, record: &Record) -> f64 {
        self.lock().seconds(record)
    }
}

impl Inner {
    fn seconds(&self, record: &Record) -> f64 {
        self.seconds.get(&record.spec.model.name).copied().unwrap_or(FIRST_SECONDS)
    }
}

fn wait(seconds: f64, workers: usize) -> Duration {
    Duration::try_from_secs_f64(seconds / workers.max(1) as f64).unwrap_or(Duration::MAX)
}
