//! One attempt to draw a job: claim it, draw, store, finish. Interrupted anywhere, it leaves the job to another worker.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use async_nats::jetstream::{AckKind, Message};
use flux2_jobs::{
    Draft, DrawingRecord, EventKind, FailureClass, ImageInfo, JobFailure, JobId, Refused, Submission, Subscription,
};
use futures_util::StreamExt as _;
use tokio::sync::OwnedSemaphorePermit;

use super::Shared;
use crate::error::{FleetError, Result};
use crate::names;
use crate::objects::Kind;
use crate::record::{Change, Drawer, Record, Stage, Step, now_ms, number};
use crate::store::Ticket;
use crate::wire::{self, Told, What};

/// Attempts before a job becomes a dead letter.
const MAX_ATTEMPTS: u32 = 4;
/// Longest time from the start of a job to its first step: a model is loaded then.
const LONGEST_LOAD: Duration = Duration::from_secs(600);
/// A device that reports no step for this long counts as hung. The limit is longer if its steps take longer.
const HUNG: Duration = Duration::from_secs(60);
/// A step may take this many times as long as the longest one before it.
const STEPS: u32 = 4;
/// Shortest time between two updates of a job's progress in its record.
const RECORD: Duration = Duration::from_secs(2);

/// How an attempt ended.
enum Outcome {
    /// All pictures are stored, the last ones are not in the record yet.
    Drawn(Vec<ImageInfo>, Vec<DrawingRecord>),
    Failed(JobFailure),
    Cancelled,
    /// Another worker has the job, or the job is over.
    Lost,
    /// This worker is to end.
    GivenBack,
}

/// An attempt.
struct Attempt {
    id: JobId,
    /// Names this attempt and no other.
    me: Drawer,
    record: Record,
    /// Events that may be dropped, since the last change of state.
    told: u32,
    recorded: Instant,
}

impl Shared {
    /// Draw the job of a message. `turn` is let go when the device is free for the next.
    pub(super) async fn attempt(self: &Arc<Self>, message: Message, turn: OwnedSemaphorePermit) {
        let Some(Ticket { id, .. }) = Ticket::read(&message.payload) else {
            tracing::warn!(subject = %message.subject, "a message of the queue names no job");
            let seq = message.info().map_or(0, |info| info.stream_sequence);
            match self.bus.set_aside(seq, &message.payload).await {
                Ok(()) => self.acknowledge(&message, AckKind::Ack).await,
                Err(error) => tracing::error!(%error, "it comes again"),
            }
            return;
        };
        self.numbers().jobs.push(id);
        if let Err(error) = self.try_attempt(id, &message, turn).await {
            // The lease ends, and another attempt follows.
            tracing::error!(job = %id, %error, "the job is left to another attempt");
        }
        self.numbers().jobs.retain(|known| *known != id);
    }

    async fn try_attempt(self: &Arc<Self>, id: JobId, message: &Message, turn: OwnedSemaphorePermit) -> Result<()> {
        let me = Drawer { epoch: uuid::Uuid::now_v7().to_string(), ..self.me.clone() };
        let Some(record) = self.claim(id, &me).await? else {
            tracing::warn!(job = %id, "the record of the job has expired");
            self.acknowledge(message, AckKind::Ack).await;
            return Ok(());
        };
        if record.worker.as_ref() != Some(&me) {
            if !record.state.is_final() {
                let reason = match &record.failure {
                    Some(failure) => failure.clone(),
                    None => {
                        let message = format!("{MAX_ATTEMPTS} workers ended while they drew it");
                        JobFailure::new(FailureClass::Crashed, message)
                    }
                };
                self.bus.bury(id, &record, &reason).await?;
            }
            self.acknowledge(message, AckKind::Ack).await;
            return Ok(());
        }
        let model = record.spec.model.name.clone();
        let mut attempt = Attempt { id, me, record, told: 0, recorded: Instant::now() };
        let begun = Instant::now();
        let outcome = self.draw(&mut attempt, message, turn).await?;
        let elapsed = begun.elapsed();
        match outcome {
            Outcome::Drawn(images, drawn) => {
                let ended = self.finish(&attempt, |stored| {
                    let mut record = stored.clone();
                    record.history.extend(images.iter().cloned().map(Change::Picture));
                    record.images.extend(images.iter().cloned());
                    record.drawn.clone_from(&drawn);
                    record.ended(Stage::Done, None)
                });
                if ended.await? {
                    let mut numbers = self.numbers();
                    numbers.done += 1;
                    numbers.add_job(&model, elapsed);
                    drop(numbers);
                    self.device_failures.store(0, Ordering::Relaxed);
                }
                self.acknowledge(message, AckKind::Ack).await;
            }
            Outcome::Cancelled => {
                self.finish(&attempt, |stored| stored.clone().ended(Stage::Cancelled, None)).await?;
                self.acknowledge(message, AckKind::Ack).await;
            }
            Outcome::Failed(failure) => self.failed(&attempt, message, failure).await?,
            // Its message belongs to whoever has it.
            Outcome::Lost => {}
            Outcome::GivenBack => {
                let back = |stored: &Record| Record { attempts: stored.attempts.saturating_sub(1), ..waiting(stored) };
                self.finish(&attempt, back).await?;
                self.acknowledge(message, AckKind::Nak(None)).await;
            }
        }
        Ok(())
    }

    /// Make a job this attempt's. Returns what is stored: another attempt's, not over, if there were too many.
    async fn claim(&self, id: JobId, me: &Drawer) -> Result<Option<Record>> {
        let claim = |stored: &Record| match () {
            () if stored.state.is_final() || stored.worker.as_ref() == Some(me) => None,
            () if stored.cancel => Some(stored.clone().ended(Stage::Cancelled, None)),
            () if stored.is_late() => Some(stored.clone().ended(Stage::Failed, Some(too_late()))),
            () if stored.attempts >= MAX_ATTEMPTS => None,
            () => {
                let mut record = stored.clone();
                record.history.push(Change::Started(me.to_string()));
                record.images.clear();
                record.drawn.clear();
                Some(Record {
                    state: Stage::Running,
                    attempts: record.attempts + 1,
                    worker: Some(me.clone()),
                    started_ms: Some(now_ms()),
                    progress: None,
                    ..record
                })
            }
        };
        self.bus.change(id, claim).await
    }

    /// Change the record if it is still this attempt's. A wish to cancel it counts. Returns whether it was.
    async fn finish(&self, attempt: &Attempt, mut change: impl FnMut(&Record) -> Record) -> Result<bool> {
        let mut is_mine = false;
        let changed = self.bus.change(attempt.id, |stored| {
            is_mine |= attempt.has(stored);
            match () {
                () if !attempt.has(stored) => None,
                () if stored.cancel => Some(stored.clone().ended(Stage::Cancelled, None)),
                () => Some(change(stored)),
            }
        });
        changed.await?;
        Ok(is_mine)
    }

    /// End an attempt that failed: for good, or until the next.
    async fn failed(&self, attempt: &Attempt, message: &Message, failure: JobFailure) -> Result<()> {
        self.numbers().failed += 1;
        let is_transient = matches!(
            failure.class,
            FailureClass::Internal | FailureClass::Crashed | FailureClass::Storage | FailureClass::ModelUnavailable
        );
        if failure.class == FailureClass::Internal {
            self.device_failures.fetch_add(1, Ordering::Relaxed);
        }
        let attempts = attempt.record.attempts;
        tracing::warn!(job = %attempt.id, attempts, reason = failure.message, "the attempt failed");
        if !is_transient {
            self.finish(attempt, |stored| stored.clone().ended(Stage::Failed, Some(failure.clone()))).await?;
            self.acknowledge(message, AckKind::Ack).await;
            return Ok(());
        }
        let failed = |stored: &Record| Record { failure: Some(failure.clone()), ..waiting(stored) };
        if !self.finish(attempt, failed).await? {
            return Ok(());
        }
        if attempts >= MAX_ATTEMPTS {
            if let Some((record, _)) = self.bus.get(attempt.id).await?.filter(|(record, _)| !record.state.is_final()) {
                self.bus.bury(attempt.id, &record, &failure).await?;
            }
            self.acknowledge(message, AckKind::Ack).await;
            return Ok(());
        }
        let lease = self.bus.options.lease;
        let delay = match attempts {
            1 => lease / 6,
            2 => lease,
            _ => lease * 4,
        };
        self.acknowledge(message, AckKind::Nak(Some(delay))).await;
        Ok(())
    }

    /// Tell the server what became of a message. Should it not hear of it, the message comes again and is dropped then.
    async fn acknowledge(&self, message: &Message, kind: AckKind) {
        let told = match kind {
            AckKind::Ack => message.double_ack().await,
            kind => message.ack_with(kind).await,
        };
        if let Err(error) = told {
            tracing::debug!(%error, "not acknowledged");
        }
    }

    /// Draw a job, and store its pictures.
    async fn draw(
        self: &Arc<Self>,
        attempt: &mut Attempt,
        message: &Message,
        turn: OwnedSemaphorePermit,
    ) -> Result<Outcome> {
        let id = attempt.id;
        let mut asks = self.subscribe(names::ask(id)).await?;
        if let Err(failure) = self.fetch_inputs(&attempt.record).await {
            return Ok(Outcome::Failed(failure));
        }
        let local = match self.submit(attempt).await {
            Ok(local) => local,
            Err(failure) => return Ok(Outcome::Failed(failure)),
        };
        let gone = || FleetError::refused("the engine's job", "it is gone");
        let mut events = self.jobs.events(local, 0).ok_or_else(gone)?;
        let mut turn = Some(turn);
        let mut give_back = self.give_back.subscribe();
        let mut beat = tokio::time::interval(self.bus.options.lease / 3);
        let (begun, mut last_sign, mut stepped) = (Instant::now(), Instant::now(), false);
        let was_warm = self.held().iter().any(|held| held.name == attempt.record.spec.model.name && held.is_warm);
        let mut images = Vec::new();
        let outcome = loop {
            tokio::select! {
                event = next(&mut events) => {
                    let Some(event) = event else { return Err(gone()) };
                    match event {
                        EventKind::Step { picture, step, steps } => {
                            if !stepped && !was_warm {
                                self.numbers().add_load(&attempt.record.spec.model.name, begun.elapsed());
                            }
                            if stepped {
                                let mut numbers = self.numbers();
                                numbers.longest_step = numbers.longest_step.max(last_sign.elapsed());
                            }
                            (last_sign, stepped) = (Instant::now(), true);
                            if picture + 1 == attempt.record.spec.count && step == steps {
                                turn = None;
                            }
                            let at = Step { picture, step, steps };
                            self.tell(attempt, What::Step(at), &[]).await;
                            if attempt.recorded.elapsed() > RECORD {
                                attempt.recorded = Instant::now();
                                let at = |stored: &Record| Record { progress: Some(at), ..stored.clone() };
                                if !self.finish(attempt, at).await? {
                                    break Outcome::Lost;
                                }
                            }
                        }
                        EventKind::Stage { picture, name } => {
                            last_sign = Instant::now();
                            self.tell(attempt, What::Stage { picture, name: name.into() }, &[]).await;
                        }
                        EventKind::Preview { picture, step, bytes } if bytes.len() <= wire::MAX_PREVIEW => {
                            let at = Step { picture, step, steps: attempt.record.spec.steps };
                            self.tell(attempt, What::Preview(at), &bytes).await;
                        }
                        EventKind::ImageReady { image } => {
                            if let Err(failure) = self.store(local, &image).await {
                                break Outcome::Failed(failure);
                            }
                            let is_last = image.index + 1 == attempt.record.spec.count;
                            images.push(image);
                            if !is_last && !self.append(attempt, &mut images).await? {
                                break Outcome::Lost;
                            }
                        }
                        EventKind::Done => {
                            let drawn = self.jobs.get(local).map(|job| job.drawn).unwrap_or_default();
                            break Outcome::Drawn(images, drawn);
                        }
                        EventKind::Failed { failure } => break Outcome::Failed(failure),
                        EventKind::Cancelled => break Outcome::Cancelled,
                        _ => {}
                    }
                }
                Some(ask) = asks.next() => match ask.payload.as_ref() {
                    wire::CANCEL => drop(self.jobs.cancel(local)),
                    wire::PREVIEWS => self.jobs.want_previews(local),
                    _ => {}
                },
                _ = beat.tick() => {
                    let longest = self.numbers().longest_step;
                    let patience = if stepped { HUNG.max(longest * STEPS) } else { LONGEST_LOAD };
                    if last_sign.elapsed() > patience {
                        tracing::error!(job = %id, "the device gives no sign: the job is left to another worker");
                    } else if let Err(error) = message.ack_with(AckKind::Progress).await {
                        tracing::debug!(%error, "no sign of life sent");
                    }
                    match self.bus.get(id).await {
                        Ok(Some((stored, _))) if !attempt.has(&stored) => break Outcome::Lost,
                        Ok(Some((stored, _))) if stored.cancel => drop(self.jobs.cancel(local)),
                        // The server may be starting again.
                        _ => {}
                    }
                }
                () = super::set(&mut give_back) => break Outcome::GivenBack,
            }
        };
        drop(turn);
        if !matches!(outcome, Outcome::Drawn(..)) {
            self.jobs.cancel(local);
        }
        Ok(outcome)
    }

    /// Get the reference images of a job from where they are stored.
    async fn fetch_inputs(&self, record: &Record) -> Result<(), JobFailure> {
        for digest in record.spec.uploads() {
            if self.jobs.blob(digest)?.is_some() {
                continue;
            }
            let found = self.objects.get(Kind::Input, digest, self.options.max_input).await?;
            let Some(bytes) = found else {
                let message = format!("reference image {digest} is not kept any more");
                return Err(JobFailure::new(FailureClass::BadImage, message));
            };
            self.jobs.put_blob(&bytes)?;
        }
        Ok(())
    }

    /// Hand the job to the engine, which checks it like any other; what it would draw must be what was asked for.
    async fn submit(self: &Arc<Self>, attempt: &Attempt) -> Result<JobId, JobFailure> {
        let record = &attempt.record;
        let deadline = record.deadline_ms.map(|ms| {
            let deadline = UNIX_EPOCH + Duration::from_millis(ms);
            deadline.duration_since(SystemTime::now()).unwrap_or_default()
        });
        let submission = Submission {
            draft: Draft::from(record.spec.clone()),
            owner: record.owner.clone(),
            priority: record.priority,
            deadline,
            idempotency_key: None,
            previews: record.previews,
        };
        let shared = Arc::clone(self);
        let submitted = tokio::task::spawn_blocking(move || shared.jobs.submit(submission)).await;
        let internal = |error: tokio::task::JoinError| JobFailure::new(FailureClass::Internal, error.to_string());
        let accepted = submitted.map_err(internal)?.map_err(|refused| failure_of(&refused))?;
        let is_same = self.jobs.get(accepted.id).is_some_and(|job| *job.spec == record.spec);
        if !is_same {
            self.jobs.cancel(accepted.id);
            let message =
                "this worker would draw something else than was asked for: its settings differ from the server's";
            return Err(JobFailure::new(FailureClass::Invalid, message));
        }
        Ok(accepted.id)
    }

    /// Store a picture.
    async fn store(&self, local: JobId, image: &ImageInfo) -> Result<(), JobFailure> {
        let picture = self.jobs.image(local, image.index)?.ok_or_else(|| {
            JobFailure::new(FailureClass::Storage, format!("picture {} is gone before it was stored", image.index))
        })?;
        self.objects.put(Kind::Picture, bytes::Bytes::from_owner(picture.bytes)).await?;
        Ok(())
    }

    /// Add pictures to the record.
    async fn append(&self, attempt: &mut Attempt, images: &mut Vec<ImageInfo>) -> Result<bool> {
        let new = std::mem::take(images);
        let is_mine = self.finish(attempt, |stored| {
            let mut record = stored.clone();
            for image in new.iter().filter(|image| !stored.images.contains(image)) {
                record.history.push(Change::Picture(image.clone()));
                record.images.push(image.clone());
            }
            record
        });
        let is_mine = is_mine.await?;
        if is_mine {
            attempt.record.history.extend(new.into_iter().map(Change::Picture));
            attempt.told = 0;
        }
        Ok(is_mine)
    }

    /// Tell whoever listens.
    async fn tell(&self, attempt: &mut Attempt, what: What, preview: &[u8]) {
        attempt.told += 1;
        let told = Told { seq: number(attempt.record.history.len(), attempt.told), what };
        let _ = self.bus.client.publish(names::progress(attempt.id), told.bytes(preview)).await;
    }
}

impl Attempt {
    /// Whether a record is still this attempt's.
    fn has(&self, stored: &Record) -> bool {
        stored.state == Stage::Running && stored.worker.as_ref() == Some(&self.me)
    }
}

/// The next event of the engine.
async fn next(events: &mut Subscription) -> Option<EventKind> {
    poll_fn(|context| events.poll_next(context)).await.map(|event| event.kind.clone())
}

/// The job in the queue again.
fn waiting(stored: &Record) -> Record {
    let mut record = stored.clone();
    record.history.push(Change::Queued);
    Record { state: Stage::Queued, worker: None, progress: None, started_ms: None, ..record }
}

fn too_late() -> JobFailure {
    JobFailure::new(FailureClass::DeadlineExceeded, "the deadline passed before the job was done")
}

/// Why the engine does not take a job.
fn failure_of(refused: &Refused) -> JobFailure {
    let class = match refused {
        Refused::Invalid(error) if error.kind() == flux2::ErrorKind::BadImage => FailureClass::BadImage,
        Refused::Invalid(_) | Refused::Count { .. } | Refused::SeedRange { .. } | Refused::UnknownUpscaler { .. } => {
            FailureClass::Invalid
        }
        Refused::UnknownModel { .. } | Refused::UnknownLora { .. } => FailureClass::ModelUnavailable,
        _ => FailureClass::Storage,
    };
    JobFailure::new(class, refused.to_string())
}
