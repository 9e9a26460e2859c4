//! klein-mini follows prompts: tests of the content of pictures, which random weights do not allow.
//!
//! The whole evaluation is the example `evaluate_mini`; [`a_part_of_the_evaluation`] holds the weights that ship to a
//! part of it.

use std::num::NonZeroUsize;

use flux2::weights::{Compute, Format};
use flux2::{Engine, EngineOptions, GenerateRequest, ModelPaths, Precision, Residency};
use flux2_backend::DType;

use crate::evaluation::judge::Judge;
use crate::evaluation::world::{Layout, Picture, World};
use crate::evaluation::{self, Drawing, Kind, draw, psnr};

// The shipped weights get all of these right. One of a kind may be wrong: other processors round otherwise and turn a
// picture. Set anew with the weights, from what the tests print when they fail.

/// Least share for prompts that specify everything.
const SUBJECT: f64 = 0.95;
const BACKGROUND: f64 = 0.95;
const LAYOUT: f64 = 0.95;
/// Least share of edits that are right in all fields, over all kinds of edits.
const EDITS: f64 = 0.9;
/// Least share of right subject and background.
const TWO_REFERENCES: f64 = 0.65;
const WORDINGS: f64 = 0.85;
/// Least PSNR, in dB, of a bf16 picture against the f32 one.
const BF16: f64 = 35.0;
/// Least PSNR of an int8 picture.
const INT8: f64 = 34.0;
/// Least PSNR with q8_0 weights.
const Q8_0: f64 = 39.0;
/// Least PSNR with q4_k weights.
const Q4_K: f64 = 18.0;

/// Seeds and prompts of the pictures that are compared with f32.
const PROMPTS: [(u64, &str); 3] =
    [(1, "a cat on a blue background"), (2, "two apples, yellow gradient"), (3, "small owl, pink stripes")];

/// Requests of each kind in the tested part.
fn a_few(kind: Kind) -> usize {
    match kind {
        Kind::Text => 20,
        Kind::Wording => 8,
        Kind::Unplaced => 0,
        Kind::TwoReferences => 3,
        Kind::Background | Kind::Replace | Kind::Size | Kind::Add | Kind::Move => 2,
    }
}

#[test]
fn a_part_of_the_evaluation() {
    let judge = Judge::load();
    let cases = evaluation::cases(a_few);
    let drawing = Drawing { model: evaluation::mini(), precision: Precision::BF16, steps: 4, seed: 1 };
    let outcomes = drawing.outcomes(&judge, &cases, &|_| ()).unwrap();

    type About = fn(Kind) -> bool;
    type Right = fn(&Picture, &Picture) -> bool;
    let background: Right = |seen, target| (seen.color, seen.pattern) == (target.color, target.pattern);
    let both: Right = |seen, target| Picture { layout: target.layout, ..*seen } == *target;
    let is_edit = |kind| matches!(kind, Kind::Background | Kind::Replace | Kind::Size | Kind::Add | Kind::Move);
    let questions: [(&str, f64, About, Right); 6] = [
        ("subject", SUBJECT, |kind| kind == Kind::Text, |seen, target| seen.subject == target.subject),
        ("background", BACKGROUND, |kind| kind == Kind::Text, background),
        ("layout", LAYOUT, |kind| kind == Kind::Text, |seen, target| seen.layout == target.layout),
        ("edits", EDITS, is_edit, Picture::eq),
        ("two references", TWO_REFERENCES, |kind| kind == Kind::TwoReferences, both),
        ("wordings", WORDINGS, |kind| kind == Kind::Wording, both),
    ];
    let mut report = String::new();
    let mut good = true;
    for (what, least, about, right) in questions {
        let asked = cases.iter().zip(&outcomes).filter(|(case, _)| about(case.kind));
        let answers: Vec<bool> =
            asked.filter_map(|(case, outcome)| Some(right(&outcome.as_ref()?.1, &case.target))).collect();
        let share = answers.iter().filter(|right| **right).count() as f64 / answers.len() as f64;
        good &= share >= least; // false for NaN, if no reference was right
        report += &format!("\n{what}: {share:.2} of {}, at least {least}", answers.len());
    }
    assert!(good, "{report}");
}

#[test]
fn single_subjects_look_right() {
    let world = World::load();
    let mut cases = evaluation::scene_cases(16);
    cases.retain(|case| case.row == "one" && case.size == [128, 128]);
    let drawing = Drawing { model: evaluation::mini(), precision: Precision::BF16, steps: 4, seed: 1 };
    let measured = drawing.measured(&world, &cases, &|_| ()).unwrap();
    let wrong: Vec<String> = cases
        .iter()
        .zip(measured)
        .filter_map(|(case, measured)| Some((case, measured?.1)))
        .filter(|(_, measures)| !measures.right())
        .map(|(case, measures)| format!("{}: {measures:?}", world.describe_scene(&case.target)))
        .collect();
    assert!(wrong.len() * 10 <= cases.len() * 2, "{} of {}: {wrong:#?}", wrong.len(), cases.len());
}

fn engine(precision: Precision, threads: usize) -> Box<dyn Engine> {
    let threads = NonZeroUsize::new(threads);
    let options = EngineOptions { precision, threads, residency: Residency::KeepAll, ..Default::default() };
    flux2::engine::load(&evaluation::mini(), &options).unwrap()
}

fn picture(world: &World, color: &str, subject: &str, layout: Layout) -> Picture {
    let color = world.colors.iter().position(|c| c.name == color).unwrap();
    let subject = world.subjects.iter().position(|s| s.name == subject).unwrap();
    Picture { color, pattern: 0, subject, layout: Some(layout) }
}

#[test]
fn a_red_circle_is_red_and_round_where_it_should_be() {
    let mut engine = engine(Precision::BF16, 2);
    let image = draw(engine.as_mut(), "a large red circle at the top left on a white background", &[], 4, 1).unwrap();
    // A large subject at the top left has a box of 96 x 96 pixels; the radius of a circle is 15/32 of that.
    let (middle, radius) = (47.5, 45.0);
    for y in 0..128 {
        for x in 0..128 {
            let from_edge = (x as f64 - middle).hypot(y as f64 - middle) - radius;
            if from_edge.abs() > 2.5 {
                let [r, g, b] = image.pixel(x, y);
                let (red, white) = (g.max(b) < 90 && r > 170, r.min(g).min(b) > 215);
                assert_eq!((red, white), (from_edge < 0.0, from_edge > 0.0), "pixel {x},{y} is {r} {g} {b}");
            }
        }
    }
}

#[test]
fn an_edit_changes_the_background_and_keeps_the_subject() {
    let judge = Judge::load();
    let mut engine = engine(Precision::BF16, 2);
    let cat = picture(&judge.world, "blue", "cat", Layout { size: 2, count: 1, place: 4 });
    let before = draw(engine.as_mut(), "a large cat in the center on a blue background", &[], 4, 1).unwrap();
    assert_eq!(judge.look(&before, &cat), cat);

    let expected = picture(&judge.world, "red", "cat", Layout { size: 2, count: 1, place: 4 });
    let after = draw(engine.as_mut(), "make the background red", std::slice::from_ref(&before), 4, 2).unwrap();
    assert_eq!(judge.look(&after, &expected), expected);
    assert!(evaluation::looks_right(&judge.world, &after, &expected));

    // Pixels of the cat stay nearly the same.
    let glyph = judge.world.glyph(cat.subject, 96);
    let covered = (0..96 * 96).filter(|i| glyph[*i][3] > 250.0).map(|i| (16 + i as u32 % 96, 16 + i as u32 / 96));
    let distances: Vec<f64> = covered
        .flat_map(|(x, y)| before.pixel(x, y).into_iter().zip(after.pixel(x, y)))
        .map(|(a, b)| f64::from(a.abs_diff(b)))
        .collect();
    let mean = distances.iter().sum::<f64>() / distances.len() as f64;
    assert!(distances.len() > 3 * 3000 && mean < 12.0, "{mean} levels apart over {} bytes", distances.len());
}

#[test]
fn bf16_and_rounded_weights_agree_with_f32() {
    let mut full = engine(Precision::F32, 2);
    let rounded = |compute, weights| Precision::new(compute, weights).unwrap();
    for (precision, least) in [
        (Precision::BF16, BF16),
        (Precision::INT8, INT8),
        (rounded(Compute::Bf16, Format::Q8_0), Q8_0),
        (rounded(Compute::F32, Format::Q8_0), Q8_0),
    ] {
        let mut engine = engine(precision, 2);
        for (seed, prompt) in PROMPTS {
            let of = |engine: &mut Box<dyn Engine>| draw(engine.as_mut(), prompt, &[], 4, seed).unwrap();
            let psnr = psnr(&of(&mut engine), &of(&mut full));
            assert!(psnr >= least, "\"{prompt}\": {precision} is {psnr:.1} dB from f32");
            assert!(
                precision == Precision::BF16 || psnr < 60.0,
                "\"{prompt}\": {precision} rounded nothing, {psnr:.1} dB"
            );
        }
    }
}

#[test]
fn q4_k_agrees_with_f32_where_rows_are_filled_up_to_its_blocks() {
    let folder = evaluation::padded::padded(evaluation::mini().model.path(), DType::Q4K).unwrap();
    let paths = ModelPaths { model: folder.path().into(), ..Default::default() };
    let options = EngineOptions { precision: Precision::F32, residency: Residency::KeepAll, ..Default::default() };
    let (mut full, mut rounded) = (engine(Precision::F32, 2), flux2::engine::load(&paths, &options).unwrap());
    for (seed, prompt) in PROMPTS {
        let of = |engine: &mut Box<dyn Engine>| draw(engine.as_mut(), prompt, &[], 4, seed).unwrap();
        let psnr = psnr(&of(&mut rounded), &of(&mut full));
        assert!((Q4_K..40.0).contains(&psnr), "\"{prompt}\": q4_k is {psnr:.1} dB from f32");
    }
}

#[test]
fn the_seed_is_the_picture() {
    let (mut one, mut other) = (engine(Precision::BF16, 1), engine(Precision::BF16, 2));
    let first = draw(one.as_mut(), "cat", &[], 4, 7).unwrap();
    assert_eq!(draw(other.as_mut(), "cat", &[], 4, 7).unwrap(), first, "the same seed");
    // A prompt of one word leaves background, size and place to the seed.
    let second = draw(other.as_mut(), "cat", &[], 4, 8).unwrap();
    assert!(psnr(&first, &second) < 15.0, "another seed: {:.1} dB", psnr(&first, &second));
}

#[test]
fn other_sizes_do_not_break() {
    let mut engine = engine(Precision::BF16, 2);
    for (width, height) in [(64, 64), (96, 96), (192, 192), (256, 256), (192, 96), (80, 160)] {
        let request = GenerateRequest {
            prompt: "a fox on a green background".into(),
            width: Some(width),
            height: Some(height),
            seed: 1,
            ..Default::default()
        };
        let image = engine.generate(&request).unwrap().image;
        assert_eq!((image.width(), image.height()), (width, height));
        // Most pixels of the border are green (50, 155, 70), and the subject has other colors.
        let green = |x, y| image.pixel(x, y).iter().zip([50, 155, 70]).all(|(a, b)| a.abs_diff(b) < 40);
        let edge: Vec<bool> = (0..width).map(|x| green(x, 0)).chain((0..height).map(|y| green(0, y))).collect();
        let on_edge = edge.iter().filter(|g| **g).count() as f64 / edge.len() as f64;
        let pixels = (0..width * height).filter(|i| green(i % width, i / width)).count();
        let in_all = pixels as f64 / f64::from(width * height);
        assert!(on_edge > 0.6 && (0.3..0.99).contains(&in_all), "{width}x{height}: {on_edge:.2} and {in_all:.2} green");
    }
}
