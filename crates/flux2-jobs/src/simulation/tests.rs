//! Scenarios, and what must hold in them.

use super::*;

const HOUR: f64 = 3600.0;
/// A distilled model, one with guidance, and a larger one.
const MODELS: [Model; 3] =
    [Model { draw: 2.4, load: 8.0 }, Model { draw: 4.0, load: 8.0 }, Model { draw: 3.2, load: 18.0 }];
const SHARES: [f64; 3] = [0.5, 0.25, 0.25];

/// A fleet of so many workers, each with one model at a time. They get 1,000 jobs an hour for each worker, which keeps
/// five of six busy. Measured is after ten minutes.
fn steady(workers: usize) -> Fleet {
    Fleet {
        seed: 1,
        workers,
        models: MODELS.to_vec(),
        slots: 1,
        patience: Patience::default(),
        has_one_scheduler: false,
        phases: vec![Phase { until: HOUR, jobs_per_hour: 1000.0 * workers as f64, models: SHARES, is_split: false }],
        warm_up: HOUR / 6.0,
        priorities: [0.1, 0.7, 0.2],
        owners: 100,
        share_of_first: 0.01,
        max_waiting: 10 * workers,
        max_of_owner: usize::MAX,
        failures: 0.01,
        poison: 1e-4,
    }
}

/// The same until the measurement begins, then a load that is `times` as high, with other shares of the models.
fn then(workers: usize, times: f64, models: [f64; 3], is_split: bool) -> Fleet {
    let fleet = steady(workers);
    let [phase] = fleet.phases[..] else { unreachable!("a steady fleet has one phase") };
    let first = Phase { until: fleet.warm_up, ..phase };
    let second = Phase { jobs_per_hour: times * phase.jobs_per_hour, models, is_split, ..phase };
    Fleet { phases: vec![first, second], ..fleet }
}

/// Half as much work again as the workers can do.
fn overload(workers: usize) -> Fleet {
    then(workers, 1.8, SHARES, false)
}

/// The same; one of 100 owners sends half of all jobs.
fn flood(workers: usize, max_of_owner: usize) -> Fleet {
    Fleet { share_of_first: 0.5, max_of_owner, ..overload(workers) }
}

/// Too much urgent work for one model; one job in ten is a background job of another.
fn urgent(workers: usize) -> Fleet {
    then(workers, 1.6, [0.9, 0.05, 0.05], true)
}

/// Every accepted job has come to one end.
fn check_ends(report: &Report) {
    assert_eq!(report.arrived, report.done + report.dead + report.refused);
    assert!(report.arrived > 50_000, "{} jobs are too few to say anything", report.arrived);
    assert!(report.retried > report.arrived / 200, "{} jobs failed once", report.retried);
}

#[test]
fn jobs_of_a_steady_load_wait_seconds_and_models_stay_loaded() {
    let report = steady(100).run();
    check_ends(&report);
    assert!(report.dead > 0 && report.refused == 0, "{} dead, {} refused", report.dead, report.refused);
    assert!(report.wait(None, 0.5) < 0.2, "half of the jobs wait {} s", report.wait(None, 0.5));
    assert!(report.wait(None, 0.99) < 15.0, "of 100 jobs, one waits {} s", report.wait(None, 0.99));
    assert!(report.wait(None, 1.0) < 60.0, "a job waits {} s", report.wait(None, 1.0));
    // A crash costs a load, and half of a percent of the jobs are crashes.
    assert!(report.loads_per_hour() < 1000.0, "{} loads an hour", report.loads_per_hour());
    assert!(report.fairness() > 0.999 && report.least_part() > 0.99, "{}", report.fairness());
}

#[test]
fn without_failures_nothing_is_loaded_again() {
    let report = Fleet { failures: 0.0, poison: 0.0, ..steady(100) }.run();
    assert_eq!((report.loads, report.dead, report.retried), (0, 0, 0));
    assert!(report.wait(None, 0.99) < 5.0, "of 100 jobs, one waits {} s", report.wait(None, 0.99));
}

#[test]
fn workers_follow_a_demand_that_moves_to_another_model() {
    let report = then(100, 1.0, [0.25, 0.25, 0.5], false).run();
    check_ends(&report);
    assert_eq!(report.refused, 0);
    assert!(report.wait(None, 0.99) < 60.0, "of 100 jobs, one waits {} s", report.wait(None, 0.99));
}

#[test]
fn too_much_work_keeps_workers_drawing() {
    let report = overload(100).run();
    check_ends(&report);
    assert!(report.refused > 0);
    assert!(report.drawing() > 0.93, "{} of the time is spent on drawing", report.drawing());
    assert!(report.loading() < 0.03, "{} of the time is spent on loads", report.loading());
    // The urgent ones do not wait for the others.
    assert!(report.wait(Some(0), 0.99) < 20.0, "of 100 urgent jobs, one waits {} s", report.wait(Some(0), 0.99));
}

#[test]
fn background_jobs_of_another_model_do_not_starve() {
    let report = urgent(100).run();
    check_ends(&report);
    assert!(report.wait(Some(2), 1.0) < 120.0, "a background job waits {} s", report.wait(Some(2), 1.0));
    // Two models at a time, of which one always has jobs.
    let report = Fleet { slots: 2, ..urgent(100) }.run();
    assert!(report.wait(Some(2), 1.0) < 240.0, "a background job waits {} s", report.wait(Some(2), 1.0));
}

#[test]
fn a_limit_for_each_owner_is_what_makes_queues_fair() {
    let report = flood(100, 100).run();
    assert!(report.fairness() > 0.999 && report.least_part() > 0.95, "{}", report.least_part());
    // Without one, who sends more gets more.
    let report = flood(100, usize::MAX).run();
    assert!(report.least_part() < 0.8, "{}", report.least_part());
}

#[test]
fn the_same_seed_gives_the_same_report() {
    let fleet = Fleet { phases: vec![Phase { until: 900.0, ..steady(50).phases[0] }], ..steady(50) };
    assert_eq!(fleet.run(), fleet.run());
    assert_ne!(fleet.run(), Fleet { seed: 2, ..fleet.clone() }.run());
}

/// The table of the guide: an hour of 1,000 workers and a million jobs. It is long for a test of every day.
#[test]
#[ignore = "a million jobs: cargo test --release -p flux2-jobs --lib simulation -- --ignored"]
fn the_table_of_the_guide_is_what_the_simulation_says() {
    const WORKERS: usize = 1000;
    let mut table = String::new();
    let one_scheduler = Fleet { has_one_scheduler: true, ..steady(WORKERS) };
    for (name, fleet) in [
        ("steady", steady(WORKERS)),
        ("steady, no failures", Fleet { failures: 0.0, poison: 0.0, ..steady(WORKERS) }),
        ("steady, two models a worker", Fleet { slots: 2, ..steady(WORKERS) }),
        ("demand moves", then(WORKERS, 1.0, [0.25, 0.25, 0.5], false)),
        ("1.5 times too much", overload(WORKERS)),
        ("one owner floods", flood(WORKERS, usize::MAX)),
        ("one owner floods, limited", flood(WORKERS, WORKERS)),
        ("urgent jobs only", urgent(WORKERS)),
        ("an engine's scheduler", one_scheduler),
    ] {
        table += &fleet.run().row(name);
    }
    let guide = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/guide/fleet.md");
    let guide = std::fs::read_to_string(guide).unwrap();
    assert!(guide.contains(&table), "docs/guide/fleet.md has another table than\n{table}");
}
