use super::*;

const LOAD: Duration = Duration::from_secs(10);
const HELD: ModelState = ModelState { is_loaded: true, is_loaded_elsewhere: true, load: LOAD };
/// Loaded by another worker.
const AWAY: ModelState = ModelState { is_loaded: false, ..HELD };
/// Loaded by nobody.
const COLD: ModelState = ModelState { is_loaded_elsewhere: false, ..AWAY };

const AFFINITY: Affinity = Affinity { jobs: 100, time: Duration::from_secs(200) };

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Lanes as `1n`: the model and the first letter of the priority.
fn text(order: &[Lane]) -> String {
    let lane = |lane: &Lane| format!("{}{}", lane.model, &lane.priority.name()[..1]);
    order.iter().map(lane).collect::<Vec<_>>().join(" ")
}

#[test]
fn priorities_go_in_order_and_a_lower_one_comes_after_eight_jobs() {
    let mut picker = Picker::new(AFFINITY, 1);
    let mut taken = String::new();
    for second in 0..21 {
        let order = picker.order(&[HELD], seconds(second));
        taken += order[0].priority.name().get(..1).unwrap();
        picker.polled(&order, Some(0), seconds(second));
    }
    // Every lane always has a job. Of the two that are overdue, the lower goes first. A normal job passes a low one too.
    assert_eq!(taken, "hhhhhhhhlnhhhhhhhlhnh");
}

#[test]
fn a_priority_that_was_polled_in_vain_was_not_passed() {
    let mut picker = Picker::new(AFFINITY, 1);
    for second in 0..8 {
        let order = picker.order(&[HELD], seconds(second));
        picker.polled(&order, Some(0), seconds(second));
    }
    let order = picker.order(&[HELD], seconds(8));
    assert_eq!(text(&order), "0l 0h 0n");
    picker.polled(&order, Some(1), seconds(8));
    assert_eq!(text(&picker.order(&[HELD], seconds(9))), "0n 0h 0l");
}

#[test]
fn of_two_loaded_models_the_one_that_was_polled_less_recently_goes_first() {
    let mut picker = Picker::new(AFFINITY, 2);
    let order = picker.order(&[HELD, HELD], seconds(1));
    assert_eq!(text(&order), "0h 1h 0n 1n 0l 1l");
    picker.polled(&order, Some(0), seconds(1));
    assert_eq!(text(&picker.order(&[HELD, HELD], seconds(2))), "1h 0h 0n 1n 0l 1l");
}

#[test]
fn an_idle_worker_loads_a_model_after_the_time_that_the_load_takes() {
    let mut picker = Picker::new(AFFINITY, 2);
    let order = picker.order(&[HELD, AWAY], seconds(1));
    assert_eq!(text(&order), "0h 0n 0l");
    picker.polled(&order, None, seconds(1));
    assert_eq!(text(&picker.order(&[HELD, AWAY], seconds(10))), "0h 0n 0l");
    assert_eq!(text(&picker.order(&[HELD, AWAY], seconds(11))), "0h 1h 0n 1n 0l 1l");
    // Who loads faster is the first to look.
    let fast = ModelState { load: seconds(2), ..AWAY };
    assert_eq!(text(&picker.order(&[HELD, fast], seconds(3))), "0h 1h 0n 1n 0l 1l");
    // A job ends the idleness.
    picker.polled(&order, Some(0), seconds(11));
    assert_eq!(text(&picker.order(&[HELD, AWAY], seconds(12))), "0h 0n 0l");
}

#[test]
fn a_model_that_nobody_has_loaded_waits_for_nobody() {
    let picker = Picker::new(AFFINITY, 2);
    assert_eq!(text(&picker.order(&[HELD, COLD], seconds(0))), "0h 1h 0n 1n 0l 1l");
}

/// A worker that always finds a job in the first lane, until it polls model 1: jobs and seconds until then.
fn until_turn(affinity: Affinity, load: Duration, seconds_per_job: u64) -> (usize, u64) {
    let mut picker = Picker::new(affinity, 2);
    for jobs in 0.. {
        let now = jobs as u64 * seconds_per_job;
        let order = picker.order(&[HELD, ModelState { load, ..AWAY }], seconds(now));
        if order[0].model == 1 {
            return (jobs, now);
        }
        picker.polled(&order, Some(0), seconds(now));
    }
    unreachable!()
}

#[test]
fn a_model_that_is_not_loaded_gets_its_turn_from_a_busy_worker() {
    // After so many jobs, after so long, and in any case not before eight times the duration of its load. Without a
    // limit in the way, the first lane of the model that is polled is that of an urgent job.
    assert_eq!(until_turn(AFFINITY, LOAD, 1), (100, 100));
    assert_eq!(until_turn(AFFINITY, LOAD, 4), (50, 200));
    assert_eq!(until_turn(AFFINITY, seconds(30), 4), (60, 240));
    assert_eq!(until_turn(Affinity { jobs: 3, ..AFFINITY }, Duration::ZERO, 1), (3, 3));
}

#[test]
fn a_turn_in_vain_is_not_repeated_at_once() {
    let mut picker = Picker::new(AFFINITY, 2);
    let order = picker.order(&[HELD, AWAY], seconds(200));
    assert_eq!(text(&order), "1h 0h 1n 0n 1l 0l");
    picker.polled(&order, Some(1), seconds(200));
    assert_eq!(text(&picker.order(&[HELD, AWAY], seconds(201))), "0h 1n 0n 1l 0l");
    picker.polled(&order, None, seconds(202));
    assert_eq!(text(&picker.order(&[HELD, AWAY], seconds(203))), "0h 0n 0l");
}

#[test]
fn an_overdue_priority_without_a_lane_to_poll_does_not_hide_another() {
    let mut picker = Picker::new(AFFINITY, 1);
    picker.passed = [0, MAX_PASSED, MAX_PASSED];
    picker.lanes[0][Priority::Low as usize].at = seconds(199);
    assert_eq!(text(&picker.order(&[AWAY], seconds(200))), "0n 0h");
}

#[test]
fn retries_end_with_the_last_delivery() {
    let waits: Vec<u64> = (1..=MAX_DELIVERIES).map_while(retry_after).map(|wait| wait.as_secs()).collect();
    assert_eq!(waits, [5, 30, 120]);
    assert_eq!(retry_after(MAX_DELIVERIES), None);
}
