use super::*;

fn model(is_warm: bool) -> ModelState {
    ModelState { is_warm, has_jobs: true, load: Duration::from_secs(10), ..ModelState::default() }
}

/// A model that other workers have loaded.
fn elsewhere() -> ModelState {
    ModelState { warm_elsewhere: 3, ..model(false) }
}

fn models(order: &[Choice]) -> Vec<usize> {
    let mut models: Vec<usize> = Vec::new();
    for (model, _) in order {
        if !models.contains(model) {
            models.push(*model);
        }
    }
    models
}

/// First letters of the priorities of so many jobs that a worker takes. `waiting` is looked for and found, others not.
fn taken(policy: &mut Policy, waiting: &[Priority], jobs: usize) -> String {
    let take = |_| {
        let order = policy.order(&[model(true)]);
        let choice = *order.iter().find(|(_, priority)| waiting.contains(priority)).unwrap();
        policy.took(choice);
        &choice.1.name()[..1]
    };
    (0..jobs).map(take).collect()
}

#[test]
fn a_lower_priority_goes_first_after_eight_jobs() {
    // Of two that were passed, the lower goes first; a normal job has passed a low one, too.
    assert_eq!(taken(&mut Policy::default(), &Priority::ALL, 21), "hhhhhhhhlnhhhhhhhlhnh");
    assert_eq!(taken(&mut Policy::default(), &[Priority::High, Priority::Normal], 12), "hhhhhhhhhnhh");
}

#[test]
fn a_priority_that_was_looked_for_in_vain_was_not_passed() {
    let mut policy = Policy::default();
    taken(&mut policy, &[Priority::High], 8);
    assert_eq!(policy.order(&[model(true)])[0].1, Priority::Low);
    taken(&mut policy, &[Priority::High], 1);
    assert_eq!(policy.order(&[model(true)])[0].1, Priority::Normal);
    taken(&mut policy, &[Priority::High], 1);
    assert_eq!(policy.order(&[model(true)])[0].1, Priority::High);
}

#[test]
fn a_loaded_model_goes_first_but_not_for_ever() {
    let policy = Policy::default();
    let order = |cold: ModelState| models(&policy.order(&[model(true), cold]));
    let busy = ModelState { warm_elsewhere: 1, ..model(false) };
    assert_eq!(order(busy.clone()), [0]);
    assert_eq!(order(ModelState { passed: 8, ..busy.clone() }), [0]);
    assert_eq!(order(ModelState { passed: 8, ..model(false) }), [1, 0]);
    assert_eq!(order(ModelState { stalled: Duration::from_secs(30), ..busy.clone() }), [1, 0]);
    // One worker does not keep up with its jobs.
    assert_eq!(order(ModelState { backlog: Duration::from_secs(41), ..busy }), [1, 0]);
}

#[test]
fn too_much_work_for_all_models_makes_nobody_change() {
    let backlog = Duration::from_secs(500);
    let states = [ModelState { backlog, ..model(true) }, ModelState { backlog, ..elsewhere() }];
    // The other model is only looked at when there is no job of the loaded one.
    assert_eq!(models(&Policy::default().order(&states)), [0, 1]);
}

#[test]
fn a_worker_without_work_helps_once_a_backlog_takes_longer_than_a_load() {
    let order = |seconds| {
        let behind = ModelState { backlog: Duration::from_secs(seconds), ..elsewhere() };
        models(&Policy::default().order(&[ModelState { has_jobs: false, ..model(true) }, behind]))
    };
    assert_eq!(order(9), [0]);
    assert_eq!(order(10), [0, 1]);
}

#[test]
fn a_worker_without_a_model_begins_with_the_longest_backlog() {
    let behind = |seconds| ModelState { backlog: Duration::from_secs(seconds), ..elsewhere() };
    assert_eq!(models(&Policy::default().order(&[behind(1), behind(3), behind(2)])), [1, 2, 0]);
}

#[test]
fn of_two_loaded_models_the_one_with_the_longer_backlog_goes_first() {
    let with = |seconds| ModelState { backlog: Duration::from_secs(seconds), ..model(true) };
    let mut policy = Policy::default();
    policy.took((0, Priority::High));
    assert_eq!(policy.order(&[with(1), with(2)])[..2], [(1, Priority::High), (0, Priority::High)]);
}

#[test]
fn a_model_is_loaded_where_that_is_soonest() {
    let policy = Policy::default();
    let of = |cold: ModelState| models(&policy.order(&[ModelState { has_jobs: false, ..model(true) }, cold]));
    assert_eq!(of(model(false)), [0, 1]);
    assert_eq!(of(ModelState { sooner_elsewhere: true, ..model(false) }), [0]);
    assert_eq!(of(elsewhere()), [0]);
    // Whoever could take it has not, in the time in which it would have been loaded here.
    assert_eq!(of(ModelState { stalled: Duration::from_secs(10), ..elsewhere() }), [0, 1]);
    assert_eq!(of(ModelState { has_jobs: false, ..model(false) }), [0]);
}
