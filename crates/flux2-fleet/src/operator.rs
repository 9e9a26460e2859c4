//! A fleet as an operator sees it: [`Operator`].

use flux2_jobs::Priority;
use futures_util::TryStreamExt as _;
use serde::Serialize;
use tokio::runtime::Runtime;

use crate::connect::{Bus, QueueOptions, Server};
use crate::dead::DeadLetter;
use crate::error::{FleetError, Result};
use crate::names::{self, Lane};
use crate::roster::Announcement;

/// Queues, workers, dead letters.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Overview {
    /// Queues that have jobs, and those of every model for any device.
    pub queues: Vec<QueueLength>,
    /// Workers that are there.
    pub workers: Vec<Announcement>,
    /// Number of dead letters.
    pub dead: u64,
}

/// A queue and its jobs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct QueueLength {
    /// The model.
    pub model: String,
    /// The only kind of device for its jobs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The priority.
    pub priority: Priority,
    /// Jobs that wait.
    pub waiting: u64,
    /// Jobs that workers have.
    pub drawn: u64,
}

/// Looks at a fleet and directs it. Methods wait for the server.
pub struct Operator {
    bus: Bus,
    runtime: Runtime,
}

impl Operator {
    /// Connect.
    ///
    /// # Errors
    /// If the server cannot be reached, or refuses.
    pub fn connect(server: &Server) -> Result<Operator> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.map_err(FleetError::Thread)?;
        let bus = runtime.block_on(Bus::open(server, QueueOptions::default()))?;
        Ok(Operator { bus, runtime })
    }

    /// The fleet as it is now.
    ///
    /// # Errors
    /// If the server does not answer.
    pub fn overview(&self) -> Result<Overview> {
        self.runtime.block_on(self.bus.overview())
    }

    /// Let workers finish their job and end; all of them without names. Returns those that are there.
    ///
    /// # Errors
    /// If the server does not answer.
    pub fn drain(&self, workers: Option<&[String]>) -> Result<Vec<String>> {
        self.runtime.block_on(self.bus.drain_workers(workers))
    }

    /// All dead letters, the oldest first.
    ///
    /// # Errors
    /// If the server does not answer.
    pub fn dead_letters(&self) -> Result<Vec<DeadLetter>> {
        self.runtime.block_on(self.bus.dead_letters())
    }

    /// Put a dead letter's job into the queue again, as if it were new. Returns whether it has a job.
    ///
    /// # Errors
    /// [`FleetError::Full`], or if the server does not answer.
    pub fn requeue(&self, letter: &DeadLetter) -> Result<bool> {
        self.runtime.block_on(self.bus.requeue(letter))
    }
}

impl Bus {
    async fn overview(&self) -> Result<Overview> {
        let refused = |error: &dyn std::fmt::Display| FleetError::refused("the queues", error);
        let mut consumers = self.jobs.consumers();
        let mut found = Vec::new();
        while let Some(info) = consumers.try_next().await.map_err(|error| refused(&error))? {
            found.push((info.name, info.num_pending, info.num_ack_pending as u64));
        }
        let workers = self.announcements().await?;
        let mut kinds: Vec<&str> = workers.iter().map(|worker| worker.drawer.kind.as_str()).collect();
        kinds.sort_unstable();
        kinds.dedup();
        let mut queues = Vec::new();
        for offer in self.offers().await? {
            for kind in std::iter::once(None).chain(kinds.iter().copied().map(Some)) {
                let lane = Lane::new(&offer.name, kind);
                for priority in Priority::ALL {
                    let name = lane.consumer(priority);
                    let Some((_, waiting, drawn)) = found.iter().find(|(known, ..)| *known == name) else { continue };
                    if kind.is_none() || waiting + drawn > 0 {
                        queues.push(QueueLength {
                            model: offer.name.clone(),
                            kind: kind.map(str::to_owned),
                            priority,
                            waiting: *waiting,
                            drawn: *drawn,
                        });
                    }
                }
            }
        }
        let dead = self.dead.get_info().await.map_err(|error| refused(&error))?.state.messages;
        Ok(Overview { queues, workers, dead })
    }

    async fn drain_workers(&self, only: Option<&[String]>) -> Result<Vec<String>> {
        let refused = |error: &dyn std::fmt::Display| FleetError::refused("to drain", error);
        let there = self.announcements().await?.into_iter().map(|one| one.drawer.worker);
        let meant: Vec<String> = there.filter(|name| only.is_none_or(|only| only.contains(name))).collect();
        for worker in &meant {
            let told = self.client.publish(names::control(worker), "drain".into()).await;
            told.map_err(|error| refused(&error))?;
        }
        self.client.flush().await.map_err(|error| refused(&error))?;
        Ok(meant)
    }
}
