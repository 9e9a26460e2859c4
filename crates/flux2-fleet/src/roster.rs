//! What workers say of themselves: the models that are offered, and who is there.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_nats::jetstream::kv::Operation;
use flux2::{Precision, Variant};
use flux2_jobs::{JobId, ModelInfo};
use futures_util::StreamExt as _;
use serde::{Deserialize, Serialize};

use crate::connect::{Bus, WORKER_GONE};
use crate::error::{FleetError, Result};
use crate::names::slug;
use crate::record::Drawer;

/// Pause before the workers are watched again.
const AGAIN: Duration = Duration::from_secs(1);

/// A model that workers offer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Offer {
    /// Version of this layout.
    pub v: u32,
    /// Its place among the models of the worker: the first is the default.
    pub rank: usize,
    /// Its name.
    pub name: String,
    /// Other names that lead to it.
    pub aliases: Vec<String>,
    /// The member of the family, which gives defaults and limits.
    pub variant: String,
    /// Number format where a job names none.
    pub precision: String,
    /// LoRAs that may be added.
    pub loras: Vec<String>,
    /// Upscalers that may be named, the default first.
    pub upscalers: Vec<String>,
}

impl Offer {
    /// The member of the family, if this version knows it.
    pub fn variant(&self) -> Option<&'static Variant> {
        Variant::by_name(&self.variant).ok()
    }

    /// Number format where a job names none, if this version knows it.
    pub fn precision(&self) -> Option<Precision> {
        self.precision.parse().ok()
    }

    /// The model as front ends list it.
    pub fn info(&self) -> ModelInfo {
        ModelInfo { name: self.name.clone(), aliases: self.aliases.clone(), variant: self.variant() }
    }
}

/// What a worker does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activity {
    /// It opens its device or loads its first model.
    #[default]
    Starting,
    /// It waits for jobs.
    Idle,
    /// It draws.
    Busy,
    /// It takes no new jobs.
    Draining,
}

impl Activity {
    /// Its name in lower case.
    pub const fn name(self) -> &'static str {
        match self {
            Activity::Starting => "starting",
            Activity::Idle => "idle",
            Activity::Busy => "busy",
            Activity::Draining => "draining",
        }
    }
}

/// A model on a worker.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Held {
    /// Its name.
    pub name: String,
    /// Whether it is loaded.
    pub is_warm: bool,
    /// Seconds to load it, as far as that was measured.
    pub load_seconds: f64,
    /// Seconds of a job of it, as far as that was measured.
    pub job_seconds: f64,
}

/// A worker.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Announcement {
    /// Version of this layout.
    pub v: u32,
    /// Its name, device and version.
    pub drawer: Drawer,
    /// What it does.
    pub activity: Activity,
    /// Models that it can draw with.
    pub models: Vec<Held>,
    /// Jobs that it has.
    pub jobs: Vec<JobId>,
    /// Jobs that it has finished since its start.
    pub done: u64,
    /// Attempts that failed since its start.
    pub failed: u64,
    /// Its start, in milliseconds since 1970.
    pub started_ms: u64,
}

/// The workers that are there, as they announce themselves. Clones are handles of the same one.
#[derive(Clone, Debug, Default)]
pub struct Roster {
    seen: Arc<Mutex<BTreeMap<String, (Announcement, Instant)>>>,
}

impl Roster {
    /// Listen for ever.
    pub(crate) async fn follow(self, bus: Bus) {
        loop {
            if let Ok(mut watch) = bus.workers.watch_with_history(">").await {
                while let Some(Ok(entry)) = watch.next().await {
                    let mut seen = self.lock();
                    match serde_json::from_slice(&entry.value).ok().filter(|_| entry.operation == Operation::Put) {
                        Some(one) => drop(seen.insert(entry.key, (one, Instant::now()))),
                        None => drop(seen.remove(&entry.key)),
                    }
                }
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Those that were there in the last seconds.
    pub fn now(&self) -> Vec<Announcement> {
        let mut seen = self.lock();
        seen.retain(|_, (one, heard)| one.v == 1 && heard.elapsed() < WORKER_GONE);
        seen.values().map(|(one, _)| one.clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, (Announcement, Instant)>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Bus {
    /// The workers that were there in the last seconds, by name.
    ///
    /// # Errors
    /// If the server does not answer.
    pub async fn announcements(&self) -> Result<Vec<Announcement>> {
        let found: BTreeMap<String, Announcement> = self.all(&self.workers).await?;
        Ok(found.into_values().filter(|one| one.v == 1).collect())
    }

    /// The models that were ever offered, the default first.
    ///
    /// # Errors
    /// If the server does not answer.
    pub async fn offers(&self) -> Result<Vec<Offer>> {
        let found: BTreeMap<String, Offer> = self.all(&self.models).await?;
        let mut offers: Vec<Offer> = found.into_values().filter(|offer| offer.v == 1).collect();
        offers.sort_by_key(|offer| offer.rank);
        Ok(offers)
    }

    /// Make a model known.
    pub(crate) async fn offer(&self, offer: &Offer) -> Result<()> {
        let value = serde_json::to_vec(offer).expect("an offer is JSON");
        let put = self.models.put(slug(&offer.name), value.into()).await;
        put.map(drop).map_err(|error| FleetError::refused(format!("model {}", offer.name), error))
    }

    /// Tell that a worker is there.
    pub(crate) async fn announce(&self, announcement: &Announcement) -> Result<()> {
        let value = serde_json::to_vec(announcement).expect("an announcement is JSON");
        let put = self.workers.put(slug(&announcement.drawer.worker), value.into()).await;
        put.map(drop).map_err(|error| FleetError::refused("an announcement", error))
    }

    /// Tell that a worker is gone.
    pub(crate) async fn retire(&self, worker: &str) {
        // It would be forgotten in a moment anyway.
        let _ = self.workers.delete(slug(worker)).await;
    }

    /// All entries of a bucket that can be read.
    async fn all<T: for<'de> Deserialize<'de>>(
        &self,
        bucket: &async_nats::jetstream::kv::Store,
    ) -> Result<BTreeMap<String, T>> {
        let refused = |error: &dyn std::fmt::Display| FleetError::refused("a list", error);
        let mut keys = bucket.keys().await.map_err(|error| refused(&error))?;
        let mut found = BTreeMap::new();
        while let Some(key) = keys.next().await {
            let key = key.map_err(|error| refused(&error))?;
            let entry = bucket.entry(&key).await.map_err(|error| refused(&error))?;
            let Some(entry) = entry.filter(|entry| entry.operation == Operation::Put) else { continue };
            if let Ok(value) = serde_json::from_slice(&entry.value) {
                found.insert(key, value);
            }
        }
        Ok(found)
    }
}
