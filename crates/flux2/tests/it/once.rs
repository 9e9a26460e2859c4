//! Work is not repeated: per request and not per step, per prompt and not per picture.

use flux2::image::RgbImage;
use flux2::pipeline::{Pipeline, Residency};
use flux2::text::Tokenizer;
use flux2::weights::Part;
use flux2::{CancelToken, Event, GenerateRequest, ModelPaths, Phase, Reference, Variant};

use crate::golden::fixture;
use crate::tally::{Call, Tally};

/// The tiny model run as `variant`, on a backend that records its work.
fn pipeline(variant: &str) -> (Pipeline<Tally>, Tally) {
    let variant = Some(Variant::by_name(variant).unwrap());
    let paths = ModelPaths { model: fixture("tiny/klein").into(), variant, ..Default::default() };
    let tally = Tally::of(&paths);
    (Pipeline::load(tally.clone(), &paths, Residency::KeepForNext).unwrap(), tally)
}

fn request(references: usize, steps: u32) -> GenerateRequest {
    let reference = |i| Reference::from_image(RgbImage::new(64, 64, vec![i as u8; 64 * 64 * 3]).unwrap());
    GenerateRequest {
        prompt: "a red fox".into(),
        references: (0..references).map(reference).collect(),
        width: Some(64),
        height: Some(96),
        steps: Some(steps),
        ..Default::default()
    }
}

/// Work of each stage of a picture. Denoising is divided into steps; its preparation belongs to the first.
fn stages(variant: &str, request: &GenerateRequest) -> Vec<(Phase, Vec<Call>)> {
    let (mut pipeline, tally) = pipeline(variant);
    let mut stages = vec![];
    let mut observer = |event: &Event| match event {
        Event::PhaseFinished { phase: Phase::Denoise, .. } => {}
        Event::PhaseFinished { phase, .. } => stages.push((*phase, tally.take())),
        Event::Step { .. } => stages.push((Phase::Denoise, tally.take())),
        _ => {}
    };
    pipeline.generate(request, &mut observer, &CancelToken::new()).unwrap();
    stages
}

/// Number of products with matrices of the transformer's blocks in a picture of this many steps.
pub fn products_of_blocks(steps: u32) -> u64 {
    let stages = stages("klein", &request(0, steps));
    let calls = stages.iter().flat_map(|(_, calls)| calls);
    calls.filter(|call| call.what.starts_with("double.") || call.what.starts_with("single.")).count() as u64
}

/// Asserts how often each step-independent piece of work is done in all steps together.
fn check(variant: &str, references: usize, steps: u32, expected: &[(&str, usize)]) {
    let stages = stages(variant, &request(references, steps));
    let denoise: Vec<&[Call]> =
        stages.iter().filter(|(phase, _)| *phase == Phase::Denoise).map(|(_, calls)| calls.as_slice()).collect();
    assert_eq!(denoise.len(), steps as usize);
    let all = denoise.concat();
    for (what, times) in expected {
        let found = all.iter().filter(|call| call.what == *what).count();
        assert_eq!(found, *times, "{variant}, {references} references, {steps} steps: {what}");
    }
    for (i, step) in denoise.iter().enumerate().skip(1) {
        assert_eq!(step, &denoise[1], "step {i}");
        let once = ["upload", "embedding", "txt_in", "time_in.0", "time_in.1", "final.modulation"];
        let again = step.iter().find(|call| once.contains(&&*call.what) || call.what.starts_with("modulation."));
        assert_eq!(again, None, "{variant}: in step {i}");
    }
}

/// Expected counts: the modulation of the blocks `times` times, and the uploads from the host.
fn modulations(times: usize) -> Vec<(&'static str, usize)> {
    ["time_in.0", "time_in.1", "modulation.img", "modulation.txt", "modulation.single", "final.modulation"]
        .map(|name| (name, times))
        .to_vec()
}

#[test]
fn what_does_not_depend_on_the_step_is_computed_once_a_request() {
    for steps in [2, 5] {
        let n = steps as usize;
        // Uploads: noise, time, cosines, sines.
        let text = [modulations(1), vec![("txt_in", 1), ("img_in", n), ("upload", 4)]].concat();
        check("klein", 0, steps, &text);
        // The references, which are projected once.
        let edit = [modulations(1), vec![("txt_in", 1), ("img_in", n + 1), ("upload", 5)]].concat();
        check("klein", 2, steps, &edit);
        // Guidance takes two passes per step; the empty prompt adds no other work.
        let guided = [modulations(1), vec![("txt_in", 2), ("img_in", 2 * n), ("upload", 4)]].concat();
        check("klein-base", 0, steps, &guided);
        let guided_edit = [modulations(1), vec![("txt_in", 2), ("img_in", 2 * n + 1), ("upload", 5)]].concat();
        check("klein-base", 2, steps, &guided_edit);
        // The KV variant processes references in a separate pass, at sigma 0.
        let cached = [modulations(2), vec![("txt_in", 1), ("img_in", n + 1), ("upload", 8)]].concat();
        check("klein-kv", 2, steps, &cached);
    }
}

#[test]
fn the_text_encoder_stops_at_its_last_tap_and_pads_have_no_keys() {
    let tokenizer = Tokenizer::from_file(fixture("tiny/klein/tokenizer/tokenizer.json")).unwrap();
    let valid = tokenizer.encode_prompt("a red fox", 512).valid;
    assert!(valid < 100);
    let stages = stages("klein", &request(0, 1));
    let of = |wanted| &stages.iter().find(|(phase, _)| *phase == wanted).unwrap().1;

    let loaded = of(Phase::Load(Part::TextEncoder));
    assert!(loaded.iter().any(|call| call.what == "load layer.26.down"));
    assert!(!loaded.iter().any(|call| call.what.contains("layer.27.")));

    let text = of(Phase::Text);
    for layer in 0..27 {
        for (name, rows) in
            [("q", 512), ("k", valid), ("v", valid), ("o", 512), ("gate", 512), ("up", 512), ("down", 512)]
        {
            let name = format!("layer.{layer}.{name}");
            let found: Vec<usize> = text.iter().filter(|call| call.what == name).map(|call| call.rows).collect();
            assert_eq!(found, [rows], "{name}");
        }
    }
    let keys: Vec<usize> = text.iter().filter(|call| call.what == "attention").map(|call| call.rows).collect();
    assert_eq!(keys, [valid; 27]);
}

#[test]
fn sixteen_pictures_of_one_prompt_encode_it_once() {
    let (mut pipeline, _) = pipeline("klein-base");
    let mut started = vec![];
    for seed in 0..16 {
        let request = GenerateRequest { seed, ..request(1, 1) };
        let mut observer = |event: &Event| {
            if let Event::PhaseStarted { phase, .. } = event {
                started.push(*phase);
            }
        };
        pipeline.generate(&request, &mut observer, &CancelToken::new()).unwrap();
    }
    let times = |wanted| started.iter().filter(|phase| **phase == wanted).count();
    // The prompt and, with guidance, the empty one.
    assert_eq!(times(Phase::Text), 2);
    for part in [Part::TextEncoder, Part::Transformer] {
        assert_eq!(times(Phase::Load(part)), 1, "{part}");
    }
    // Once for the references, once for the pictures.
    assert_eq!((times(Phase::References), times(Phase::Load(Part::Vae))), (1, 2));
    assert_eq!((times(Phase::Denoise), times(Phase::Decode)), (16, 16));
}
