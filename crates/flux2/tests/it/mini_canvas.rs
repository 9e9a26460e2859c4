//! klein-mini paints what is asked for, where it is asked for. The figures of more pictures are in
//! docs/guide/editing.md: `cargo run --release --example evaluate_mini -- --paint`.

use flux2::{Engine, EngineOptions, Residency};

use crate::evaluation;
use crate::evaluation::judge::Judge;
use crate::evaluation::painting::{Replaced, enlarge, replace};

/// Cases of each test. At most a quarter of their sources is wrong.
const CASES: usize = 8;

fn engine() -> Box<dyn Engine> {
    let options = EngineOptions { residency: Residency::KeepAll, ..Default::default() };
    flux2::engine::load(&evaluation::mini(), &options).unwrap()
}

#[test]
fn a_subject_is_replaced_inside_the_mask_and_nothing_outside() {
    let (judge, mut engine) = (Judge::load(), engine());
    let replaced = (0..CASES).filter_map(|i| replace(engine.as_mut(), &judge, i).unwrap());
    let made: Vec<Replaced> = replaced.map(|(made, _)| made).collect();
    assert!(4 * made.len() >= 3 * CASES, "{} sources are right", made.len());
    assert!(made.iter().all(|made| made.changed_outside == 0));
    let [named, right] =
        [made.iter().filter(|made| made.named).count(), made.iter().filter(|made| made.looks_right).count()];
    assert!(10 * named.min(right) >= 9 * made.len(), "{named} subjects of {} are right, {right} look it", made.len());
}

#[test]
fn a_larger_canvas_continues_the_background() {
    let (judge, mut engine) = (Judge::load(), engine());
    let levels: Vec<f64> = (0..CASES).filter_map(|i| enlarge(engine.as_mut(), &judge, i).unwrap()).collect();
    assert!(4 * levels.len() >= 3 * CASES, "{} sources are right", levels.len());
    let mean = levels.iter().sum::<f64>() / levels.len() as f64;
    assert!(mean < 6.0, "{mean:.2} levels across the seam: {levels:.1?}");
}
