//! Brings jobs back that were interrupted between two steps. Every front end does it; each change is a compare-and-set,
//! so several do no harm.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::stream::RawMessageErrorKind;
use flux2_jobs::{FailureClass, JobFailure, JobId};

use super::Shared;
use crate::connect::MAX_AGE;
use crate::error::{FleetError, Result};
use crate::record::{Change, Record, Stage, now_ms};

/// Time between two rounds.
const EVERY: Duration = Duration::from_secs(5);
/// Time after which an accepted job that is not known to be in the queue is put there.
const ACCEPTED: Duration = Duration::from_secs(10);
/// Time without a change after which it is looked whether a job's message is in the queue.
const SILENT: Duration = Duration::from_secs(60);
/// Jobs that are looked at in a round.
const MOST: usize = 100;

impl Shared {
    /// Tidy up for ever.
    pub(super) async fn tidy(self: Arc<Self>) {
        loop {
            tokio::time::sleep(EVERY).await;
            if let Err(error) = self.tidy_once().await {
                tracing::debug!(%error, "the janitor was interrupted");
            }
        }
    }

    async fn tidy_once(&self) -> Result<()> {
        self.bus.take_advisories().await?;
        let silent = |record: &Record, time: Duration| {
            now_ms().saturating_sub(record.updated_ms) > u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
        };
        let unfinished = self.mirror.unfinished();
        let is_lost = |record: &Record| match record.state {
            Stage::Accepted => silent(record, ACCEPTED),
            _ => silent(record, SILENT),
        };
        for (id, _) in unfinished.iter().filter(|(_, record)| is_lost(record)).take(MOST) {
            // What is in memory may be old.
            let Some((record, _)) = self.bus.get(*id).await?.filter(|(record, _)| is_lost(record)) else { continue };
            match record.state {
                Stage::Accepted => match self.bus.enqueue_accepted(*id, &record).await {
                    Ok(()) | Err(FleetError::Full) => {}
                    Err(error) => return Err(error),
                },
                Stage::Queued | Stage::Running => self.find(*id, &record).await?,
                _ => {}
            }
        }
        Ok(())
    }

    /// Put a job into the queue again if its message is not there any more.
    async fn find(&self, id: JobId, record: &Record) -> Result<()> {
        let Some(seq) = record.seq else { return Ok(()) };
        match self.bus.jobs.get_raw_message(seq).await {
            Ok(_) => return self.touch(id, record).await,
            Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => {}
            Err(error) => return Err(FleetError::refused("a job", error)),
        }
        let is_this = |stored: &Record| stored.updated_ms == record.updated_ms && !stored.state.is_final();
        if now_ms().saturating_sub(record.accepted_ms) >= u64::try_from(MAX_AGE.as_millis()).unwrap_or(u64::MAX) {
            let failure = JobFailure::new(
                FailureClass::DeadlineExceeded,
                format!("it waited for longer than {} hours", MAX_AGE.as_secs() / 3600),
            );
            let expired =
                |stored: &Record| is_this(stored).then(|| stored.clone().ended(Stage::Failed, Some(failure.clone())));
            return self.bus.change(id, expired).await.map(drop);
        }
        let again = |stored: &Record| {
            is_this(stored).then(|| {
                let mut again = stored.clone();
                again.history.push(Change::Queued);
                (again.state, again.seq, again.worker) = (Stage::Accepted, None, None);
                again.publishes += 1;
                again
            })
        };
        let Some(changed) = self.bus.change(id, again).await? else { return Ok(()) };
        if changed.state == Stage::Accepted {
            tracing::warn!(job = %id, "its message was lost: it is put into the queue again");
            self.bus.enqueue_accepted(id, &changed).await?;
        }
        Ok(())
    }

    /// Look again only after a while.
    async fn touch(&self, id: JobId, record: &Record) -> Result<()> {
        let touched = |stored: &Record| (stored.updated_ms == record.updated_ms).then(|| stored.clone());
        self.bus.change(id, touched).await.map(drop)
    }
}
