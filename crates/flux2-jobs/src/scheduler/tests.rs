//! Order, fairness and bounds, also in a simulation with a clock of its own.

use flux2::image::{ImageFormat, Quality};
use flux2::{NoiseKind, Precision};

use super::*;

fn key(name: &str) -> ModelKey {
    ModelKey { name: name.into(), loras: vec![], precision: Precision::BF16 }
}

pub(crate) fn spec(model: &str, prompt: &str) -> JobSpec {
    JobSpec {
        model: key(model),
        prompt: prompt.into(),
        negative_prompt: None,
        template: None,
        references: vec![],
        source: None,
        width: 64,
        height: 64,
        steps: 4,
        guidance: None,
        noise: NoiseKind::Philox,
        compat: None,
        seed: 0,
        count: 1,
        format: ImageFormat::Png,
        quality: Quality::default(),
        metadata: true,
        watermark: false,
        upscale: None,
    }
}

fn job(owner: &str, priority: Priority, model: &str, prompt: &str) -> Waiting {
    let spec = Arc::new(spec(model, prompt));
    Waiting { id: JobId::new(), owner: owner.into(), priority, spec, seconds: 1.0, prepared_by: None }
}

fn scheduler(affinity: Affinity, jobs: impl IntoIterator<Item = Waiting>) -> Scheduler {
    let mut scheduler = Scheduler::new(affinity);
    jobs.into_iter().for_each(|job| scheduler.push(job));
    scheduler
}

const NONE: Affinity = Affinity { jobs: 0, time: Duration::ZERO };

/// Prompts in the order in which one worker with `loaded` takes all jobs, one a second.
fn order(scheduler: &mut Scheduler, loaded: &[ModelKey]) -> String {
    let mut seconds = 0;
    let take = || {
        seconds += 1;
        let job = scheduler.take(0, Wish::Any { loaded }, Duration::from_secs(seconds))?;
        Some(job.spec.prompt.clone())
    };
    std::iter::from_fn(take).collect::<Vec<_>>().join(" ")
}

#[test]
fn priority_then_owners_in_turn_then_time() {
    let (high, normal, low) = (Priority::High, Priority::Normal, Priority::Low);
    let jobs = [
        job("a", normal, "m", "a1"),
        job("a", normal, "m", "a2"),
        job("a", normal, "m", "a3"),
        job("b", low, "m", "b-low"),
        job("b", normal, "m", "b1"),
        job("c", high, "m", "c-high"),
        job("b", normal, "m", "b2"),
    ];
    let mut queue = scheduler(NONE, jobs);
    let expected = "c-high a1 b1 a2 b2 a3 b-low";
    let planned: Vec<_> = queue.in_order().map(|job| job.spec.prompt.clone()).collect();
    assert_eq!(planned.join(" "), expected);
    assert_eq!(order(&mut queue, &[]), expected);
    assert_eq!(queue.len(), 0);
}

#[test]
fn the_position_is_the_number_of_jobs_that_go_first() {
    let jobs: Vec<_> = "abacabb".chars().map(|c| job(&c.to_string(), Priority::Normal, "m", "")).collect();
    let mut queue = scheduler(NONE, jobs.clone());
    let mut places: Vec<(usize, JobId)> = jobs.iter().map(|job| (queue.position(job.id).unwrap().0, job.id)).collect();
    places.sort_unstable();
    for (_, id) in places {
        assert_eq!(queue.position(id), Some((1, 0.0)));
        assert_eq!(queue.take(0, Wish::Any { loaded: &[] }, Duration::ZERO).unwrap().id, id);
        assert_eq!(queue.position(id), None);
    }
}

#[test]
fn a_lower_priority_waits_for_a_bounded_number_of_others() {
    let high = (0..20).map(|i| job("a", Priority::High, "m", &format!("h{i}")));
    let mut queue = scheduler(NONE, high.chain([job("a", Priority::Low, "m", "low")]));
    let order = order(&mut queue, &[]);
    assert_eq!(order.split(' ').position(|prompt| prompt == "low"), Some(MAX_PASSED));
}

#[test]
fn a_loaded_model_goes_first_for_so_many_jobs_or_so_long() {
    let jobs = || {
        let loaded = (0..6).map(|i| job("a", Priority::Normal, "loaded", &format!("l{i}")));
        std::iter::once(job("a", Priority::Normal, "other", "o")).chain(loaded).collect::<Vec<_>>()
    };
    let by_number = Affinity { jobs: 3, time: Duration::MAX };
    assert_eq!(order(&mut scheduler(by_number, jobs()), &[key("loaded")]), "l0 l1 l2 o l3 l4 l5");
    let by_time = Affinity { jobs: 99, time: Duration::from_secs(2) };
    assert_eq!(order(&mut scheduler(by_time, jobs()), &[key("loaded")]), "l0 l1 o l2 l3 l4 l5");
    assert_eq!(order(&mut scheduler(NONE, jobs()), &[key("loaded")]), "o l0 l1 l2 l3 l4 l5");
}

#[test]
fn affinity_does_not_reach_below_a_higher_priority() {
    let jobs = [job("a", Priority::High, "other", "o"), job("a", Priority::Normal, "loaded", "l")];
    assert_eq!(order(&mut scheduler(Affinity::default(), jobs), &[key("loaded")]), "o l");
}

#[test]
fn a_batch_takes_jobs_of_its_model_and_size_and_no_others() {
    let with = |prompt| job("a", Priority::Normal, "m", prompt);
    let mut jobs = [with("1"), with("2"), job("b", Priority::Normal, "other", "o"), with("large"), with("3")];
    Arc::make_mut(&mut jobs[3].spec).width = 128;
    let mut queue = scheduler(Affinity { jobs: 2, time: Duration::MAX }, jobs);
    let now = Duration::ZERO;
    let first = queue.take(0, Wish::Any { loaded: &[] }, now).unwrap();
    let mut batch = vec![first.spec.prompt.clone()];
    while let Some(next) = queue.take(0, Wish::Like(&first.spec), now) {
        batch.push(next.spec.prompt.clone());
    }
    assert_eq!(batch, ["1", "2", "3"]);
    assert_eq!(order(&mut queue, &[key("m")]), "o large");
}

#[test]
fn a_removed_job_is_gone() {
    let jobs = [job("a", Priority::Normal, "m", "1"), job("a", Priority::Normal, "m", "2")];
    let mut queue = scheduler(NONE, jobs.clone());
    assert_eq!(queue.remove(jobs[0].id).unwrap().spec.prompt, "1");
    assert!(queue.remove(jobs[0].id).is_none());
    assert_eq!(order(&mut queue, &[]), "2");
}

#[test]
fn a_job_that_is_put_back_keeps_its_place() {
    let jobs: Vec<_> = (0..3).map(|i| job("a", Priority::Normal, "m", &i.to_string())).collect();
    let mut queue = scheduler(NONE, jobs);
    let first = queue.take(0, Wish::Any { loaded: &[] }, Duration::ZERO).unwrap();
    queue.push(first);
    assert_eq!(order(&mut queue, &[]), "0 1 2");
}

#[test]
fn each_worker_encodes_the_prompts_of_its_share() {
    let jobs = (0..5).map(|i| job("a", Priority::Normal, "m", &format!("p{i}")));
    let mut queue = scheduler(Affinity::default(), jobs);
    let mut of = |worker| {
        let first = queue.take(worker, Wish::Any { loaded: &[] }, Duration::ZERO).unwrap();
        let ahead = queue.prompts_ahead(&[Arc::clone(&first.spec)], worker, 2, 16);
        (first.spec.prompt.clone(), ahead.join(" "))
    };
    assert_eq!(of(0), ("p0".into(), "p0 p1 p2".into()));
    assert_eq!(of(1), ("p3".into(), "p3".into()));
    // Its own share is taken; rather than wait it draws what the other has prepared.
    assert_eq!(of(1).0, "p4");
    assert_eq!(of(1).0, "p1");
    assert_eq!(of(0).0, "p2");
}

#[test]
fn at_most_so_many_prompts_are_encoded_ahead() {
    let jobs = (0..40).map(|i| job("a", Priority::Normal, "m", &format!("p{}", i / 2)));
    let mut queue = scheduler(Affinity::default(), jobs);
    let first = queue.take(0, Wish::Any { loaded: &[] }, Duration::ZERO).unwrap();
    let ahead = queue.prompts_ahead(&[first.spec], 0, 1, 16);
    assert_eq!(ahead, (0..16).map(|i| format!("p{i}")).collect::<Vec<_>>());
}

/// A small generator of numbers, the same on every machine.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

/// Under any load, owners of equal priority get equal shares while both wait, and nobody waits for ever.
#[test]
fn in_a_simulation_nobody_starves() {
    for seed in 0..30 {
        let mut numbers = Numbers(seed);
        let affinity = Affinity { jobs: 4, time: Duration::from_secs(20) };
        let mut queue = Scheduler::new(affinity);
        let (mut clock, mut loaded) = (Duration::ZERO, [key("m0"), key("m1")]);
        let (mut waiting, mut taken) = (HashMap::new(), 0usize);
        let mut longest = 0;
        for _ in 0..3000 {
            // Somewhat more work than two workers do, from a greedy owner and two modest ones.
            for _ in 0..numbers.below(4) {
                let owner = ["greedy", "greedy", "greedy", "b", "c"][numbers.below(5) as usize];
                let priority = Priority::ALL[[0, 1, 1, 1, 2][numbers.below(5) as usize]];
                if queue.len() < 60 {
                    let job = job(owner, priority, &format!("m{}", numbers.below(3)), "");
                    waiting.insert(job.id, taken);
                    queue.push(job);
                }
            }
            let worker = numbers.below(2) as usize;
            clock += Duration::from_secs(1 + numbers.below(3));
            if let Some(job) = queue.take(worker, Wish::Any { loaded: &loaded[worker..=worker] }, clock) {
                loaded[worker] = job.spec.model.clone();
                longest = longest.max(taken - waiting.remove(&job.id).unwrap());
                taken += 1;
            }
        }
        while let Some(job) = queue.take(0, Wish::Any { loaded: &[] }, clock) {
            waiting.remove(&job.id).expect("no job is given out twice");
        }
        assert!(waiting.is_empty(), "seed {seed}: every job is given out");
        // Before the last of 60 places, the other two owners and the higher priorities each take their share.
        assert!(longest <= 60 * 3 * (MAX_PASSED + 1), "seed {seed}: a job waited for {longest} others");
    }
}

#[test]
fn owners_get_equal_shares_however_much_they_submit() {
    let greedy = (0..100).map(|_| job("greedy", Priority::Normal, "m", "greedy"));
    let modest = (0..20).map(|_| job("modest", Priority::Normal, "m", "modest"));
    let mut queue = scheduler(Affinity::default(), greedy.chain(modest));
    let mut shares = HashMap::new();
    for _ in 0..40 {
        let job = queue.take(0, Wish::Any { loaded: &[key("m")] }, Duration::ZERO).unwrap();
        *shares.entry(job.spec.prompt.clone()).or_insert(0) += 1;
    }
    assert_eq!((shares["greedy"], shares["modest"]), (20, 20));
}
