//! Taking the next job: the queues of this worker's models, in the order of the [`Policy`].

use std::time::{Duration, Instant};

use async_nats::jetstream::Message;
use flux2_jobs::Priority;
use flux2_jobs::lanes::{ModelState, Policy};
use futures_util::StreamExt as _;
use futures_util::stream::{SelectAll, select_all};

use super::Shared;
use crate::connect::Consumer;
use crate::error::{FleetError, Result};
use crate::names::Lane;
use crate::roster::{Activity, Announcement, Offer};

/// How long a look at the queues of other models counts.
const FRESH: Duration = Duration::from_millis(500);
/// Longest wait for the server's answer that a queue is empty.
const ANSWER: Duration = Duration::from_secs(5);

/// The queues of a worker's models.
pub(super) struct Chooser {
    models: Vec<Queues>,
    policy: Policy,
    looked: Option<Instant>,
}

/// The queues of a model.
struct Queues {
    name: String,
    lanes: [Lane; 2],
    /// By priority: jobs for this kind of device, and for any.
    consumers: Vec<(Priority, [Consumer; 2])>,
    /// Jobs that wait, and how many were ever taken by anybody.
    pending: u64,
    /// Of those that a worker has or had, and that may wait for a repetition.
    unacknowledged: u64,
    taken: u64,
    stalled: Option<Instant>,
    passed: usize,
}

impl Chooser {
    /// Make the models of this worker known, and their queues.
    pub async fn open(shared: &Shared) -> Result<Chooser> {
        let mut models = Vec::new();
        for (rank, offer) in offers(shared)?.into_iter().enumerate() {
            shared.bus.offer(&Offer { rank, ..offer.clone() }).await?;
            let lanes = [Lane::new(&offer.name, Some(&shared.me.kind)), Lane::new(&offer.name, None)];
            let mut consumers = Vec::new();
            for priority in Priority::ALL {
                let own = shared.bus.consumer(&lanes[0], priority).await?;
                consumers.push((priority, [own, shared.bus.consumer(&lanes[1], priority).await?]));
            }
            let (pending, unacknowledged, taken, stalled, passed) = (0, 0, 0, None, 0);
            let name = offer.name;
            models.push(Queues { name, lanes, consumers, pending, unacknowledged, taken, stalled, passed });
        }
        let policy = Policy::new(shared.options.patience);
        Ok(Chooser { models, policy, looked: None })
    }

    /// Messages that say that there is work. One worker of those that wait for it gets each.
    pub async fn wake(&self, shared: &Shared) -> Result<SelectAll<async_nats::Subscriber>> {
        let mut all = Vec::new();
        for lane in self.models.iter().flat_map(|model| &model.lanes) {
            let subscribed = shared.bus.client.queue_subscribe(lane.wake(), "workers".into()).await;
            all.push(subscribed.map_err(|error| FleetError::refused(lane.wake(), error))?);
        }
        Ok(select_all(all))
    }

    /// The next job, if there is one for this worker.
    pub async fn take(&mut self, shared: &Shared) -> Result<Option<Message>> {
        let states = self.look(shared).await?;
        for choice in self.policy.order(&states) {
            let (index, priority) = choice;
            let queues = &self.models[index].consumers;
            let (_, consumers) = queues.iter().find(|(known, _)| *known == priority).expect("all priorities");
            for consumer in consumers {
                let Some(message) = fetch(consumer).await? else { continue };
                self.policy.took(choice);
                for (other, model) in self.models.iter_mut().enumerate() {
                    model.passed = if other == index || model.pending == 0 { 0 } else { model.passed + 1 };
                }
                return Ok(Some(message));
            }
        }
        Ok(None)
    }

    /// The state of each model. The only model is taken as loaded: its jobs are nobody else's.
    async fn look(&mut self, shared: &Shared) -> Result<Vec<ModelState>> {
        if self.models.len() == 1 {
            return Ok(vec![ModelState { is_warm: true, has_jobs: true, ..ModelState::default() }]);
        }
        if self.looked.is_none_or(|looked| looked.elapsed() > FRESH) {
            self.refresh().await?;
        }
        let (held, others) = (shared.held(), shared.roster.now());
        let idle = |one: &&Announcement| one.activity == Activity::Idle && one.drawer.worker != shared.me.worker;
        let mine = |name: &str| held.iter().find(|model| model.name == name).cloned().unwrap_or_default();
        let state = |queues: &Queues| {
            let own = mine(&queues.name);
            let of = |one: &Announcement| one.models.iter().find(|model| model.name == queues.name).cloned();
            let elsewhere = others.iter().filter(|one| one.drawer.worker != shared.me.worker);
            let warm_elsewhere = elsewhere.filter(|one| of(one).is_some_and(|model| model.is_warm)).count();
            let sooner = |one: &Announcement| of(one).is_some_and(|model| model.load_seconds < own.load_seconds);
            let workers = warm_elsewhere + usize::from(own.is_warm);
            // The server does not count repetitions as waiting. Where no worker has the model, none is at work on it.
            let pending = queues.pending + if workers == 0 { queues.unacknowledged } else { 0 };
            let backlog = pending as f64 * own.job_seconds / workers.max(1) as f64;
            ModelState {
                is_warm: own.is_warm,
                has_jobs: pending > 0,
                stalled: queues.stalled.map(|since| since.elapsed()).unwrap_or_default(),
                backlog: Duration::try_from_secs_f64(backlog).unwrap_or(Duration::MAX),
                passed: queues.passed,
                warm_elsewhere,
                sooner_elsewhere: others.iter().filter(idle).any(sooner),
                load: Duration::try_from_secs_f64(own.load_seconds).unwrap_or_default(),
            }
        };
        Ok(self.models.iter().map(state).collect())
    }

    async fn refresh(&mut self) -> Result<()> {
        for model in &mut self.models {
            let (mut pending, mut unacknowledged, mut taken) = (0, 0, 0);
            for consumer in model.consumers.iter().flat_map(|(_, consumers)| consumers) {
                let info = consumer.get_info().await.map_err(|error| FleetError::refused("a queue", error))?;
                pending += info.num_pending;
                unacknowledged += info.num_ack_pending as u64;
                taken += info.delivered.consumer_sequence;
            }
            let is_stalled = pending > 0 && taken == model.taken;
            model.stalled = if is_stalled { model.stalled.or(Some(Instant::now())) } else { None };
            (model.pending, model.unacknowledged, model.taken) = (pending, unacknowledged, taken);
        }
        self.looked = Some(Instant::now());
        Ok(())
    }
}

/// One job of a queue, if it has one.
async fn fetch(consumer: &Consumer) -> Result<Option<Message>> {
    let refused = |error: &dyn std::fmt::Display| FleetError::refused("a job", error);
    let fetch = async {
        let mut messages = consumer.fetch().max_messages(1).messages().await.map_err(|error| refused(&error))?;
        messages.next().await.transpose().map_err(|error| refused(&error))
    };
    tokio::time::timeout(ANSWER, fetch).await.unwrap_or_else(|_| Err(refused(&"the server does not answer")))
}

/// The models of this worker.
fn offers(shared: &Shared) -> Result<Vec<Offer>> {
    let host = &shared.host;
    let loras = host.loras();
    let upscalers: Vec<String> = host.upscalers().iter().map(|upscaler| upscaler.name().to_owned()).collect();
    let offer = |info: flux2_jobs::ModelInfo| {
        let choice = flux2_jobs::ModelChoice { name: Some(info.name.clone()), ..Default::default() };
        let resolved = host.resolve(&choice).map_err(|refused| FleetError::refused(&info.name, refused))?;
        Ok(Offer {
            v: 1,
            rank: 0,
            name: info.name,
            aliases: info.aliases,
            variant: resolved.variant.name.to_owned(),
            precision: resolved.key.precision.to_string(),
            loras: loras.clone(),
            upscalers: upscalers.clone(),
        })
    };
    host.models().into_iter().map(offer).collect()
}
