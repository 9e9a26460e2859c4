//! Work that is done once: once a request rather than once a step, once a prompt or reference rather than once a
//! picture.

use flux2::image::RgbImage;
use flux2::pipeline::{Pipeline, ReferenceTokens, Residency};
use flux2::text::Tokenizer;
use flux2::weights::Part;
use flux2::{CancelToken, Event, GenerateRequest, ModelPaths, Phase, Reference, ResolvedRequest, Variant};

use crate::golden::{f32_backend, fixture};
use crate::tally::{Call, Tally};

/// The tiny model run as `variant`, and the backend that lists its work.
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

/// The work of each stage of one picture. Denoising is split into its steps; its preparation counts as the first.
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

/// Number of products with the matrices of the flow transformer's blocks in a picture of `steps` steps.
pub fn products_of_blocks(steps: u32) -> u64 {
    let stages = stages("klein", &request(0, steps));
    let calls = stages.iter().flat_map(|(_, calls)| calls);
    calls.filter(|call| call.what.starts_with("double.") || call.what.starts_with("single.")).count() as u64
}

/// Check how often work that does not depend on the step is done in all steps together.
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

/// The products that compute modulations, each `times` times.
fn modulations(times: usize) -> Vec<(&'static str, usize)> {
    ["time_in.0", "time_in.1", "modulation.img", "modulation.txt", "modulation.single", "final.modulation"]
        .map(|name| (name, times))
        .to_vec()
}

#[test]
fn what_does_not_depend_on_the_step_is_computed_once_a_request() {
    for steps in [2, 5] {
        let n = steps as usize;
        // Uploads: noise, time embedding, cosines, sines.
        let text = [modulations(1), vec![("txt_in", 1), ("img_in", n), ("upload", 4)]].concat();
        check("klein", 0, steps, &text);
        // With references also their tokens, which are projected once.
        let edit = [modulations(1), vec![("txt_in", 1), ("img_in", n + 1), ("upload", 5)]].concat();
        check("klein", 2, steps, &edit);
        // Guidance doubles the passes of a step; otherwise the empty prompt only adds its projection.
        let guided = [modulations(1), vec![("txt_in", 2), ("img_in", 2 * n), ("upload", 4)]].concat();
        check("klein-base", 0, steps, &guided);
        let guided_edit = [modulations(1), vec![("txt_in", 2), ("img_in", 2 * n + 1), ("upload", 5)]].concat();
        check("klein-base", 2, steps, &guided_edit);
        // The KV variant runs its references in a separate pass, at noise level 0.
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
    // The encoder for the reference, the decoder for the pictures.
    assert_eq!((times(Phase::References), times(Phase::Load(Part::Vae))), (1, 2));
    assert_eq!((times(Phase::Denoise), times(Phase::Decode)), (16, 16));
}

/// An image whose pixels depend on `seed`.
fn image(seed: usize, [width, height]: [u32; 2]) -> Reference {
    let pixels = (0..3 * (width * height) as usize).map(|i| (i * (seed + 1) % 251) as u8).collect();
    Reference::from_image(RgbImage::new(width, height, pixels).unwrap())
}

/// Numbers of prompts and of references that are encoded for each request.
fn encoded(pipeline: &mut Pipeline<Tally>, requests: &[GenerateRequest]) -> Vec<[usize; 2]> {
    let encoded = |request| {
        let (mut prompts, mut references) = (0, 0);
        let mut observer = |event: &Event| match event {
            Event::PhaseStarted { phase: Phase::Text, .. } => prompts += 1,
            Event::PhaseStarted { phase: Phase::References, units } => references += units,
            _ => {}
        };
        pipeline.generate(request, &mut observer, &CancelToken::new()).unwrap();
        [prompts, references]
    };
    requests.iter().map(encoded).collect()
}

#[test]
fn alternating_requests_encode_each_reference_once() {
    let (mut pipeline, _) = pipeline("klein");
    let [a, b, c] = [0, 1, 2].map(|seed| image(seed, [64, 64]));
    let with = |references: &[&Reference]| GenerateRequest {
        references: references.iter().map(|reference| (*reference).clone()).collect(),
        ..request(0, 1)
    };
    let requests = [with(&[&a]), with(&[&b]), with(&[&a]), with(&[&b, &a]), with(&[&c, &a, &c]), with(&[&b])];
    let references = encoded(&mut pipeline, &requests).iter().map(|[_, references]| *references).collect::<Vec<_>>();
    assert_eq!(references, [1, 1, 0, 0, 1, 0]);
}

#[test]
fn alternating_requests_encode_each_prompt_once() {
    let (mut pipeline, _) = pipeline("klein");
    let requests = ["a fox", "a hare", "a fox", "a hare"];
    let requests = requests.map(|prompt| GenerateRequest { prompt: prompt.into(), ..request(0, 1) });
    assert_eq!(encoded(&mut pipeline, &requests), [[1, 0], [1, 0], [0, 0], [0, 0]]);
}

/// Tokens and ids of `references` from a pipeline that encoded `before` first.
fn tokens_after(before: &[Reference], references: &[Reference]) -> ReferenceTokens {
    let paths = ModelPaths { model: fixture("tiny/klein").into(), ..Default::default() };
    let mut pipeline = Pipeline::load(f32_backend(), &paths, Residency::OneAtATime).unwrap();
    let mut encode = |references: &[Reference]| {
        let resolved = GenerateRequest { references: references.to_vec(), ..Default::default() };
        let resolved = ResolvedRequest::new(&resolved, pipeline.variant()).unwrap();
        pipeline.encode_references(&resolved.references, &mut |_: &Event| {}, &CancelToken::new()).unwrap()
    };
    encode(before);
    encode(references)
}

#[test]
fn remembered_references_give_the_tokens_of_new_ones() {
    let [a, b] = [0, 1].map(|seed| image(seed, [64, 96]));
    let (new, remembered) =
        (tokens_after(&[], &[b.clone(), a.clone()]), tokens_after(&[a.clone(), b.clone()], &[b, a]));
    assert!(new.tokens == remembered.tokens && new.ids == remembered.ids);
}

/// The digest of an image that comes from no file is that of its pixels, whatever their arrangement.
#[test]
fn references_of_the_same_bytes_and_another_shape_are_not_confused() {
    // Both are cropped to 96x64.
    let [wide, high] = [[100, 72], [96, 75]].map(|size| image(3, size));
    assert_eq!(wide.sha256(), high.sha256());
    let (new, remembered) = (tokens_after(&[], std::slice::from_ref(&high)), tokens_after(&[wide], &[high]));
    assert!(new.tokens == remembered.tokens);
}
