//! Dead letters: jobs that failed on every worker that tried them.

use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use async_nats::jetstream::message::PublishMessage;
use flux2_jobs::{FailureClass, JobFailure, JobId};
use futures_util::StreamExt as _;
use serde::{Deserialize, Serialize};

use crate::connect::Bus;
use crate::error::{FleetError, Result};
use crate::names;
use crate::record::{Change, Record, Stage, now_ms};
use crate::store::Ticket;

/// Longest pause between two dead letters that are read.
const NEXT: Duration = Duration::from_secs(2);

/// A dead letter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// Version of this layout.
    pub v: u32,
    /// The job; none if the message of the queue could not be read.
    pub id: Option<JobId>,
    /// Why it is here.
    pub reason: String,
    /// When it was put here, in milliseconds since 1970.
    pub at_ms: u64,
    /// The job as it was, if there is one.
    pub record: Option<Record>,
    /// Number of this letter.
    #[serde(skip)]
    pub seq: u64,
}

impl Bus {
    /// Keep a job as a dead letter, and fail it for this reason.
    pub(crate) async fn bury(&self, id: JobId, record: &Record, failure: &JobFailure) -> Result<()> {
        let letter = DeadLetter {
            v: 1,
            id: Some(id),
            reason: failure.message.clone(),
            at_ms: now_ms(),
            record: Some(record.clone()),
            seq: 0,
        };
        // Not twice, should this be interrupted and repeated.
        self.put_letter(&letter, &record.spec.model.name, &format!("dead.{}", record.message_id(id))).await?;
        let failed = |stored: &Record| {
            (!stored.state.is_final()).then(|| stored.clone().ended(Stage::Failed, Some(failure.clone())))
        };
        self.change(id, failed).await?;
        tracing::warn!(job = %id, reason = failure.message, "dead letter");
        Ok(())
    }

    async fn put_letter(&self, letter: &DeadLetter, model: &str, message_id: &str) -> Result<()> {
        let body = serde_json::to_vec(letter).expect("a letter is JSON");
        let message = PublishMessage::build().message_id(message_id).payload(body.into());
        let refused = |error| FleetError::refused("a dead letter", error);
        self.jetstream.send_publish(names::dead(model), message).await.map_err(refused)?.await.map_err(refused)?;
        Ok(())
    }

    /// All dead letters, the oldest first.
    ///
    /// # Errors
    /// If the server does not answer.
    pub async fn dead_letters(&self) -> Result<Vec<DeadLetter>> {
        let refused = |error: &dyn std::fmt::Display| FleetError::refused("the dead letters", error);
        let info = self.dead.get_info().await.map_err(|error| refused(&error))?;
        let mut letters = Vec::new();
        if info.state.messages == 0 {
            return Ok(letters);
        }
        let config = pull::Config {
            ack_policy: AckPolicy::None,
            deliver_policy: DeliverPolicy::All,
            inactive_threshold: Duration::from_secs(30),
            ..pull::Config::default()
        };
        let consumer = self.dead.create_consumer(config).await.map_err(|error| refused(&error))?;
        let mut messages = consumer.messages().await.map_err(|error| refused(&error))?;
        while let Ok(Some(message)) = tokio::time::timeout(NEXT, messages.next()).await {
            let message = message.map_err(|error| refused(&error))?;
            let seq = message.info().map_err(|error| refused(&error))?.stream_sequence;
            if let Ok(letter) = serde_json::from_slice::<DeadLetter>(&message.payload) {
                letters.push(DeadLetter { seq, ..letter });
            }
            if seq >= info.state.last_sequence {
                break;
            }
        }
        Ok(letters)
    }

    /// Put a dead letter's job into the queue again, as if it were new. Returns whether it has a job.
    ///
    /// # Errors
    /// [`FleetError::Full`], or if the server does not answer.
    pub async fn requeue(&self, letter: &DeadLetter) -> Result<bool> {
        let Some((id, kept)) = letter.id.zip(letter.record.as_ref()) else { return Ok(false) };
        let again = |record: &Record| {
            let mut record = record.clone();
            (record.state, record.attempts, record.cancel) = (Stage::Accepted, 0, false);
            (record.failure, record.finished_ms, record.seq, record.deadline_ms) = (None, None, None, None);
            record.publishes += 1;
            record.history.push(Change::Queued);
            record
        };
        let changed = self.change(id, |stored| (stored.state == Stage::Failed).then(|| again(stored))).await?;
        let record = match changed {
            Some(record) => record,
            // It is not kept any more, so the letter's is taken.
            None => {
                let record = again(kept).touched();
                self.create(id, &record).await?;
                record
            }
        };
        if record.state == Stage::Accepted {
            self.enqueue_accepted(id, &record).await?;
        }
        let removed = self.dead.delete_message(letter.seq).await;
        removed.map(|_| true).map_err(|error| FleetError::refused("to delete a dead letter", error))
    }

    /// Turn what the server gave up into dead letters, until none is left. Returns how many there were.
    pub(crate) async fn take_advisories(&self) -> Result<usize> {
        let refused = |error: &dyn std::fmt::Display| FleetError::refused("advisories", error);
        let config = pull::Config {
            durable_name: Some(names::JANITOR.into()),
            ack_policy: AckPolicy::Explicit,
            ..pull::Config::default()
        };
        let consumer = self.advisories.get_or_create_consumer(names::JANITOR, config).await;
        let consumer = consumer.map_err(|error| refused(&error))?;
        let mut messages = consumer.fetch().max_messages(100).messages().await.map_err(|error| refused(&error))?;
        let mut count = 0;
        while let Some(message) = messages.next().await {
            let message = message.map_err(|error| refused(&error))?;
            #[derive(Deserialize)]
            struct Advisory {
                stream_seq: u64,
            }
            if let Ok(Advisory { stream_seq }) = serde_json::from_slice(&message.payload) {
                self.give_up(stream_seq).await?;
                count += 1;
            }
            message.ack().await.map_err(|error| refused(&error))?;
        }
        Ok(count)
    }

    /// Keep a message of the queue that leads to no job as a dead letter.
    pub(crate) async fn set_aside(&self, seq: u64, payload: &[u8]) -> Result<()> {
        let reason = format!("message {seq} of the queue names no job: {:?}", shortened(payload));
        let id = Ticket::read(payload).map(|ticket| ticket.id);
        let letter = DeadLetter { v: 1, id, reason, at_ms: now_ms(), record: None, seq: 0 };
        self.put_letter(&letter, "unknown", &format!("dead.message.{seq}")).await
    }

    /// Turn a message of the queue into a dead letter.
    async fn give_up(&self, seq: u64) -> Result<()> {
        // Somebody else may have done it.
        let Ok(message) = self.jobs.get_raw_message(seq).await else { return Ok(()) };
        let ticket = Ticket::read(&message.payload);
        let record = match ticket {
            Some(Ticket { id, .. }) => self.get(id).await.unwrap_or_default().map(|(record, _)| (id, record)),
            None => None,
        };
        match record {
            Some((_, record)) if record.state.is_final() => {}
            Some((id, record)) => {
                let reason = "the server delivered it too often: workers ended before they could say why";
                self.bury(id, &record, &JobFailure::new(FailureClass::Crashed, reason)).await?;
            }
            None => self.set_aside(seq, &message.payload).await?,
        }
        // Without the message there is nothing to delete.
        let _ = self.jobs.delete_message(seq).await;
        Ok(())
    }
}

/// The begin of a message, for people.
fn shortened(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(80)]).into_owned()
}
