//! Reads and compare-and-sets of jobs.

use std::time::Duration;

use async_nats::jetstream::context::PublishError;
use async_nats::jetstream::kv::{CreateErrorKind, Operation, UpdateErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::{self, ErrorCode};
use flux2_jobs::JobId;
use serde::{Deserialize, Serialize};

use crate::connect::Bus;
use crate::error::{FleetError, Result};
use crate::names::{self, Lane};
use crate::record::{Record, Stage};

/// Pause before the server is asked again.
const PAUSE: Duration = Duration::from_millis(200);
/// How often a change is tried anew when the server does not answer: as long as it takes to restart one.
const TRIES: u32 = 100;

/// A message of the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticket {
    /// Version of this layout.
    pub v: u32,
    /// The job.
    pub id: JobId,
}

impl Ticket {
    /// Read a message.
    pub fn read(bytes: &[u8]) -> Option<Ticket> {
        serde_json::from_slice(bytes).ok().filter(|ticket: &Ticket| ticket.v == 1)
    }
}

impl Bus {
    /// A job and its revision; `None` if there is none of this id.
    ///
    /// # Errors
    /// If the server does not answer, or the record cannot be read.
    pub async fn get(&self, id: JobId) -> Result<Option<(Record, u64)>> {
        let entry = self.status.entry(id.to_string()).await;
        let entry = entry.map_err(|error| FleetError::refused(format!("job {id}"), error))?;
        let entry = entry.filter(|entry| entry.operation == Operation::Put);
        entry.map(|entry| Ok((Record::read(id, &entry.value)?, entry.revision))).transpose()
    }

    /// Store a new job.
    ///
    /// # Errors
    /// [`FleetError::Conflict`] if there is one of this id.
    pub async fn create(&self, id: JobId, record: &Record) -> Result<u64> {
        self.status.create(id.to_string(), record.bytes()).await.map_err(|error| match error.kind() {
            CreateErrorKind::AlreadyExists => FleetError::Conflict { what: format!("job {id}") },
            _ => FleetError::refused(format!("job {id}"), error),
        })
    }

    /// Store a job that had this revision.
    ///
    /// # Errors
    /// [`FleetError::Conflict`] if it has another by now.
    async fn update(&self, id: JobId, record: &Record, revision: u64) -> Result<u64> {
        let updated = self.status.update(id.to_string(), record.bytes(), revision).await;
        updated.map_err(|error| match error.kind() {
            UpdateErrorKind::WrongLastRevision => FleetError::Conflict { what: format!("job {id}") },
            _ => FleetError::refused(format!("job {id}"), error),
        })
    }

    /// Change a job: `change` gets what is stored and returns what is to be; `None` leaves it. It is asked again when
    /// somebody else was faster, or when it is not known whether the server has stored it, so it must recognize its own
    /// change. Returns what is stored now; `None` if there is no such job.
    ///
    /// # Errors
    /// If the server does not answer for long, or the record cannot be read.
    pub async fn change(&self, id: JobId, mut change: impl FnMut(&Record) -> Option<Record>) -> Result<Option<Record>> {
        let mut tries = 0;
        loop {
            let result = async {
                let Some((stored, revision)) = self.get(id).await? else { return Ok(None) };
                let Some(wanted) = change(&stored) else { return Ok(Some(stored)) };
                let wanted = wanted.touched();
                self.update(id, &wanted, revision).await.map(|_| Some(wanted))
            };
            match result.await {
                Err(FleetError::Conflict { .. }) => {}
                Err(error @ FleetError::Refused { .. }) if tries < TRIES => {
                    tracing::debug!(job = %id, %error, "asking again");
                    tokio::time::sleep(PAUSE).await;
                }
                other => return other,
            }
            tries += 1;
        }
    }

    /// Put a job into the queue. The server stores one message of each [`Record::message_id`]. Returns its number.
    ///
    /// # Errors
    /// [`FleetError::Full`]; [`FleetError::Refused`] if it is not known whether it is stored.
    pub async fn enqueue(&self, id: JobId, record: &Record) -> Result<u64> {
        let lane = Lane::new(&record.spec.model.name, record.only.as_deref());
        let body = serde_json::to_vec(&Ticket { v: 1, id }).expect("a ticket is JSON");
        let message = PublishMessage::build().message_id(record.message_id(id)).payload(body.into());
        let refused = |error: PublishError| match is_full(&error) {
            true => FleetError::Full,
            false => FleetError::refused("a job", error),
        };
        let sent = self.jetstream.send_publish(lane.subject(record.priority), message).await.map_err(refused)?;
        let stored = sent.await.map_err(refused)?;
        // Only a hint: workers without work look by themselves, too.
        let _ = self.client.publish(lane.wake(), bytes::Bytes::new()).await;
        Ok(stored.sequence)
    }

    /// Put an accepted job into the queue, and note that it is there.
    ///
    /// # Errors
    /// [`FleetError::Full`]; the job is rejected then.
    pub async fn enqueue_accepted(&self, id: JobId, record: &Record) -> Result<()> {
        match self.enqueue(id, record).await {
            Ok(seq) => {
                let queued = |stored: &Record| {
                    let is_new = stored.state == Stage::Accepted && stored.publishes == record.publishes;
                    is_new.then(|| Record { state: Stage::Queued, seq: Some(seq), ..stored.clone() })
                };
                self.change(id, queued).await.map(drop)
            }
            Err(FleetError::Full) => {
                let failure =
                    flux2_jobs::JobFailure::new(flux2_jobs::FailureClass::Storage, FleetError::Full.to_string());
                let rejected = |stored: &Record| {
                    let is_new = stored.state == Stage::Accepted;
                    is_new.then(|| stored.clone().ended(Stage::Rejected, Some(failure.clone())))
                };
                self.change(id, rejected).await?;
                Err(FleetError::Full)
            }
            Err(other) => Err(other),
        }
    }

    /// The id of an idempotency key: that of an earlier submission, else `id` from now on.
    ///
    /// # Errors
    /// If the server does not answer.
    pub async fn claim_key(&self, owner: &str, key: &str, id: JobId) -> Result<JobId> {
        let name = names::key(owner, key);
        let refused = |error: String| FleetError::refused("an idempotency key", error);
        match self.keys.create(&name, id.to_string().into()).await {
            Ok(_) => Ok(id),
            Err(error) if error.kind() == CreateErrorKind::AlreadyExists => {
                let stored = self.keys.get(&name).await.map_err(|error| refused(error.to_string()))?;
                let text = stored.ok_or_else(|| refused("it expired at this moment".into()))?;
                let text = String::from_utf8_lossy(&text).into_owned();
                text.parse().map_err(|_| FleetError::Malformed { what: format!("key {name}"), reason: text })
            }
            Err(error) => Err(refused(error.to_string())),
        }
    }
}

/// Whether a stream has as many messages or bytes as it may.
fn is_full(error: &PublishError) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<jetstream::Error>());
    source.is_some_and(|error| error.error_code() == ErrorCode::STREAM_STORE_FAILED)
}
