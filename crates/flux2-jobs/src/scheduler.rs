//! The order of waiting jobs.
//!
//! In:  jobs, and workers that ask for the next one. Out: a job. Neither threads nor a clock: the time is passed in.
//!
//! Jobs go by priority, then owners take turns, then by the time of acceptance. Three rules bend that order and none
//! lets a job starve: a job of a lower priority goes after [`MAX_PASSED`] of higher ones, jobs of a model that the
//! worker has loaded go first within the limits of [`Affinity`], and so do jobs that complete a batch.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::id::JobId;
use crate::options::Affinity;
use crate::spec::{JobSpec, ModelKey};
use crate::submission::Priority;

/// Jobs of higher priorities that may go before one of a lower priority that waits.
pub(crate) const MAX_PASSED: usize = 8;

/// A waiting job.
#[derive(Clone, Debug)]
pub(crate) struct Waiting {
    pub id: JobId,
    pub owner: Arc<str>,
    pub priority: Priority,
    pub spec: Arc<JobSpec>,
    /// Estimated time to draw it, in seconds.
    pub seconds: f64,
    /// The worker that has encoded its prompt ahead.
    pub prepared_by: Option<usize>,
}

/// What a worker would like to draw.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wish<'a> {
    /// Anything, but rather with one of these models, which it has loaded.
    Any { loaded: &'a [ModelKey] },
    /// Only what can be drawn together with this job.
    Like(&'a JobSpec),
}

/// All waiting jobs.
#[derive(Debug)]
pub(crate) struct Scheduler {
    affinity: Affinity,
    classes: [Class; Priority::ALL.len()],
    /// The class and the owner of each job.
    places: HashMap<JobId, (usize, Arc<str>)>,
}

/// The waiting jobs of one priority.
#[derive(Debug, Default)]
struct Class {
    /// Owners with jobs; the first one's turn is next.
    turns: VecDeque<Arc<str>>,
    /// Jobs of each owner by the time of acceptance.
    queues: HashMap<Arc<str>, BTreeMap<JobId, Waiting>>,
    /// Jobs of higher priorities that went first while this class waited.
    passed: usize,
    /// The job whose turn it is and that others went before, how many, and since when.
    overtaken: Option<(JobId, usize, Duration)>,
}

impl Scheduler {
    pub fn new(affinity: Affinity) -> Self {
        Scheduler { affinity, classes: Default::default(), places: HashMap::new() }
    }

    pub fn len(&self) -> usize {
        self.places.len()
    }

    pub fn push(&mut self, job: Waiting) {
        let class = job.priority as usize;
        self.places.insert(job.id, (class, Arc::clone(&job.owner)));
        let Class { turns, queues, .. } = &mut self.classes[class];
        let queue = queues.entry(Arc::clone(&job.owner)).or_default();
        if queue.is_empty() {
            turns.push_back(Arc::clone(&job.owner));
        }
        queue.insert(job.id, job);
    }

    /// Take a job out, wherever it is.
    pub fn remove(&mut self, id: JobId) -> Option<Waiting> {
        let (class, owner) = self.places.remove(&id)?;
        let Class { turns, queues, .. } = &mut self.classes[class];
        let queue = queues.get_mut(&owner).expect("an owner with a job has a queue");
        let job = queue.remove(&id);
        if queue.is_empty() {
            queues.remove(&owner);
            turns.retain(|turn| *turn != owner);
        }
        job
    }

    /// Take the job that `worker` is to draw at the time `now`, which never decreases.
    pub fn take(&mut self, worker: usize, wish: Wish, now: Duration) -> Option<Waiting> {
        let class = self.next_class()?;
        let id = self.choose(class, worker, wish, now)?;
        let owner = self.places[&id].1.clone();
        let job = self.remove(id)?;
        let turns = &mut self.classes[class].turns;
        if let Some(at) = turns.iter().position(|turn| *turn == owner) {
            turns.remove(at);
            turns.push_back(owner);
        }
        self.classes[class].passed = 0;
        let lower = self.classes[class + 1..].iter_mut().filter(|class| !class.turns.is_empty());
        lower.for_each(|class| class.passed += 1);
        Some(job)
    }

    /// The class whose turn it is: the highest, unless a lower one was passed too often.
    fn next_class(&self) -> Option<usize> {
        let waits = |class: &&usize| !self.classes[**class].turns.is_empty();
        let all: Vec<usize> = (0..self.classes.len()).filter(|class| waits(&class)).collect();
        let passed = all.iter().rev().find(|class| self.classes[**class].passed >= MAX_PASSED);
        passed.or(all.first()).copied()
    }

    /// The job of a class that fits the wish and may go now.
    fn choose(&mut self, class: usize, worker: usize, wish: Wish, now: Duration) -> Option<JobId> {
        let Affinity { jobs, time } = self.affinity;
        let class = &mut self.classes[class];
        let first = class.in_order().next()?;
        let of_others = |job: &Waiting| job.prepared_by.is_some_and(|by| by != worker);
        let fits = |job: &&Waiting| match wish {
            Wish::Any { loaded } => loaded.contains(&job.spec.model) && !of_others(job),
            Wish::Like(spec) => can_batch(spec, &job.spec) && !of_others(job),
        };
        let is_first = fits(&first);
        let first = first.id;
        if is_first {
            class.overtaken = None;
            return Some(first);
        }
        let (count, since) = match class.overtaken {
            Some((id, count, since)) if id == first => (count, since),
            _ => (0, now),
        };
        let may_overtake = count < jobs && now.saturating_sub(since) < time;
        // Without a loaded model, a job that nobody has prepared is as good as one of a loaded model.
        let is_idle = matches!(wish, Wish::Any { loaded } if loaded.is_empty());
        let other = class.in_order().find(|job| fits(job) || is_idle && !of_others(job)).map(|job| job.id);
        match (other.filter(|_| may_overtake), wish) {
            (Some(other), _) if other != first => {
                class.overtaken = Some((first, count + 1, since));
                Some(other)
            }
            (_, Wish::Any { .. }) => {
                class.overtaken = None;
                Some(first)
            }
            (_, Wish::Like(_)) => None,
        }
    }

    /// All jobs in the order in which they would go if nothing bent it.
    pub fn in_order(&self) -> impl Iterator<Item = &Waiting> {
        self.classes.iter().flat_map(Class::in_order)
    }

    /// Place of a job in the queue, from 1, and the seconds of work before it.
    pub fn position(&self, id: JobId) -> Option<(usize, f64)> {
        self.places.get(&id)?;
        let mut before = 0.0;
        for (place, job) in self.in_order().enumerate() {
            if job.id == id {
                return Some((place + 1, before));
            }
            before += job.seconds;
        }
        None
    }

    /// Seconds of work of all jobs.
    pub fn seconds(&self) -> f64 {
        self.in_order().map(|job| job.seconds).sum()
    }

    /// Prompts that `worker` should encode ahead, now that it begins with `first`: those of its share of the jobs of
    /// the same model that come next, at most `most` different ones. The jobs are marked as prepared by it.
    pub fn prompts_ahead(&mut self, first: &[Arc<JobSpec>], worker: usize, workers: usize, most: usize) -> Vec<String> {
        let mut prompts: Vec<String> = Vec::new();
        for spec in first {
            if !prompts.contains(&spec.prompt) && prompts.len() < most {
                prompts.push(spec.prompt.clone());
            }
        }
        let Some(model) = first.first().map(|spec| &spec.model) else { return prompts };
        let free = |job: &&Waiting| job.spec.model == *model && job.prepared_by.is_none_or(|by| by == worker);
        let of_model = self.in_order().filter(free).count() + first.len();
        let share = of_model.div_ceil(workers.max(1)).saturating_sub(first.len());
        let mut marked = Vec::new();
        for job in self.in_order().filter(free).take(share) {
            if !prompts.contains(&job.spec.prompt) {
                if prompts.len() == most {
                    break;
                }
                prompts.push(job.spec.prompt.clone());
            }
            marked.push(job.id);
        }
        for id in marked {
            let (class, owner) = &self.places[&id];
            let job = self.classes[*class].queues.get_mut(owner).and_then(|queue| queue.get_mut(&id));
            job.expect("a marked job waits").prepared_by = Some(worker);
        }
        prompts
    }
}

impl Class {
    /// The jobs of this class, owners taking turns.
    fn in_order(&self) -> impl Iterator<Item = &Waiting> {
        let mut queues: VecDeque<_> = self.turns.iter().map(|owner| self.queues[owner].values()).collect();
        std::iter::from_fn(move || {
            while let Some(mut queue) = queues.pop_front() {
                if let Some(job) = queue.next() {
                    queues.push_back(queue);
                    return Some(job);
                }
            }
            None
        })
    }
}

/// Whether jobs can be drawn together. A picture with a source is drawn alone.
pub(crate) fn can_batch(one: &JobSpec, other: &JobSpec) -> bool {
    let shape = |spec: &JobSpec| (spec.width, spec.height, spec.steps, spec.guidance.map(f32::to_bits));
    one.model == other.model
        && shape(one) == shape(other)
        && one.references.len() == other.references.len()
        && one.source.is_none()
        && other.source.is_none()
}

#[cfg(test)]
pub(crate) mod tests;
