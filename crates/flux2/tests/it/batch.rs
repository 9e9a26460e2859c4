//! Several pictures denoised in one pass: the same bytes as alone, and what goes wrong with one reaches no other.

use flux2::image::RgbImage;
use flux2::pipeline::{Pipeline, Residency};
use flux2::weights::ModelFiles;
use flux2::{
    BatchKey, BatchMember, Batching, CancelToken, Device, Engine, EngineOptions, Error, Event, GenerateRequest,
    GeneratedImage, ModelPaths, Phase, Precision, Reference, ResolvedRequest, Result, Variant, engine,
};
use flux2_backend::Backend;

use crate::evaluation;
use crate::golden::fixture;
use crate::tally::Tally;

/// Picture `i` of a batch: its prompt and seed differ from those of the others.
fn request(i: usize) -> GenerateRequest {
    let prompt = ["a cat on a blue background", "two apples", "", "a small owl, pink stripes", "a fox"][i % 5];
    GenerateRequest {
        prompt: prompt.into(),
        width: Some(64),
        height: Some(96),
        steps: Some(2),
        seed: i as u64,
        ..Default::default()
    }
}

/// A reference image of this size, of color `i`.
fn reference(width: u32, height: u32, i: usize) -> Reference {
    let pixels = (0..width * height * 3).map(|v| (v as usize * (i + 3) % 251) as u8).collect();
    Reference::from_image(RgbImage::new(width, height, pixels).unwrap())
}

/// Anything that makes pictures.
trait Draw {
    fn draw(&mut self, members: &mut [BatchMember], batching: Batching) -> Vec<Result<GeneratedImage>>;
}

impl Draw for Box<dyn Engine> {
    fn draw(&mut self, members: &mut [BatchMember], batching: Batching) -> Vec<Result<GeneratedImage>> {
        self.generate_batch(members, batching)
    }
}

impl<B: Backend> Draw for Pipeline<B> {
    fn draw(&mut self, members: &mut [BatchMember], batching: Batching) -> Vec<Result<GeneratedImage>> {
        self.generate_batch(members, batching)
    }
}

/// Make `requests` together; `watch` gets the events of each with its number, and the tokens.
fn together(
    engine: &mut impl Draw,
    requests: &[GenerateRequest],
    batching: Batching,
    watch: impl Fn(usize, &Event, &[CancelToken]),
) -> Vec<Result<GeneratedImage>> {
    let cancels: Vec<CancelToken> = requests.iter().map(|_| CancelToken::new()).collect();
    let observer = |i| {
        let (watch, cancels) = (&watch, &cancels);
        move |event: &Event| watch(i, event, cancels)
    };
    let mut observers: Vec<_> = (0..requests.len()).map(observer).collect();
    let members = requests.iter().zip(&mut observers).zip(&cancels);
    let members = members.map(|((request, observer), cancel)| BatchMember { request, observer, cancel });
    engine.draw(&mut members.collect::<Vec<_>>(), batching)
}

fn mini(precision: Precision) -> Box<dyn Engine> {
    let options = EngineOptions { device: Device::Cpu, precision, residency: Residency::KeepAll, ..Default::default() };
    engine::load(&evaluation::mini(), &options).unwrap()
}

/// The tiny model run as `variant`.
fn tiny(variant: &str, residency: Residency) -> Box<dyn Engine> {
    let variant = Some(Variant::by_name(variant).unwrap());
    let paths = ModelPaths { model: fixture("tiny/klein").into(), variant, ..Default::default() };
    let options = EngineOptions { device: Device::Cpu, residency, ..Default::default() };
    engine::load(&paths, &options).unwrap()
}

/// Asserts that each of `requests` is the same picture alone and in a batch.
fn check_same(engine: &mut Box<dyn Engine>, requests: &[GenerateRequest], what: &str) {
    let alone = |request| engine.generate_with(request, &mut |_: &Event| {}, &CancelToken::new()).unwrap();
    let alone: Vec<GeneratedImage> = requests.iter().map(alone).collect();
    for batching in [Batching::SameBytes, Batching::Fast] {
        // On the CPU the rows of a product do not depend on their number, so `Fast` is the same.
        for (i, made) in together(engine, requests, batching, |_, _, _| {}).into_iter().enumerate() {
            let made = made.unwrap();
            assert!(made.image == alone[i].image, "{what}, {batching:?}: picture {i} of {}", requests.len());
            assert_eq!(made.parameters, alone[i].parameters);
        }
    }
    assert!(alone.iter().skip(1).all(|made| made.image != alone[0].image), "{what}: the pictures are all the same");
}

#[test]
fn a_picture_is_the_same_bytes_alone_and_beside_up_to_four_others() {
    for precision in [Precision::F32, Precision::BF16, Precision::INT8] {
        let mut engine = mini(precision);
        for count in 1..=5 {
            let requests: Vec<_> = (0..count).map(request).collect();
            check_same(&mut engine, &requests, &format!("{precision}"));
        }
    }
}

#[test]
fn references_guidance_and_cached_references_are_each_picture_s_own() {
    // Images of different sizes with as many tokens, alone or two.
    let with = |i, references| GenerateRequest { references, ..request(i) };
    let edits = [
        with(0, vec![reference(64, 128, 0)]),
        with(1, vec![reference(128, 64, 1)]),
        with(2, vec![reference(64, 64, 2), reference(64, 64, 3)]),
    ];
    for variant in ["klein", "klein-kv"] {
        check_same(&mut tiny(variant, Residency::KeepAll), &edits, variant);
    }
    let guided: Vec<_> = (0..3).map(|i| GenerateRequest { guidance: Some(3.0), ..request(i) }).collect();
    check_same(&mut tiny("klein-base", Residency::OneAtATime), &guided, "guided");
}

#[test]
fn pictures_that_do_not_fit_one_pass_are_made_in_several() {
    let requests = [
        request(0),
        GenerateRequest { width: Some(128), ..request(1) },
        GenerateRequest { steps: Some(3), ..request(2) },
        GenerateRequest { references: vec![reference(64, 64, 0)], ..request(3) },
        request(4),
    ];
    let key = |request: &GenerateRequest| {
        BatchKey::of(&ResolvedRequest::new(request, Variant::by_name("klein").unwrap()).unwrap())
    };
    let keys = requests.each_ref().map(key);
    assert!(keys[0] == keys[4] && (1..4).all(|i| keys[i] != keys[0]));
    check_same(&mut tiny("klein", Residency::KeepForNext), &requests, "a mixture");
}

#[test]
fn a_cancelled_picture_leaves_the_batch_at_the_next_step() {
    let paths = ModelPaths { model: fixture("tiny/klein").into(), ..Default::default() };
    let tally = Tally::of(&paths);
    let mut pipeline = Pipeline::load(tally.clone(), &paths, Residency::KeepForNext).unwrap();
    let requests: Vec<_> = (0..3).map(|i| GenerateRequest { steps: Some(4), ..request(i) }).collect();
    let rows = std::cell::RefCell::new(Vec::new());
    together(&mut pipeline, &requests, Batching::SameBytes, |i, event, cancels| {
        if let (0, Event::Step { step, .. }) = (i, event) {
            let products = tally.take();
            rows.borrow_mut().push(products.iter().find(|call| call.what == "img_in").unwrap().rows);
            if *step == 2 {
                cancels[1].cancel();
            }
        }
    });
    // 4 x 6 tokens a picture.
    assert_eq!(rows.into_inner(), [72, 72, 48, 48]);
}

#[test]
fn a_cancelled_picture_changes_no_other_and_hears_no_more() {
    let mut engine = tiny("klein", Residency::KeepAll);
    let requests: Vec<_> = (0..3).map(|i| GenerateRequest { steps: Some(4), ..request(i) }).collect();
    let heard = std::cell::RefCell::new(0);
    let made = together(&mut engine, &requests, Batching::SameBytes, |i, event, cancels| {
        if i == 1 && cancels[1].is_cancelled() {
            *heard.borrow_mut() += 1;
        }
        if matches!((i, event), (1, Event::Step { step: 2, .. })) {
            cancels[1].cancel();
        }
    });
    assert!(matches!(made[1], Err(Error::Cancelled)), "{:?}", made[1]);
    assert_eq!(heard.into_inner(), 0);
    for i in [0, 2] {
        let alone = engine.generate_with(&requests[i], &mut |_: &Event| {}, &CancelToken::new()).unwrap();
        assert!(made[i].as_ref().unwrap().image == alone.image, "picture {i}");
    }
    // All of them, in the middle of a step.
    let made = together(&mut engine, &requests, Batching::SameBytes, |_, event, cancels| {
        if matches!(event, Event::Progress { phase: Phase::Denoise, done: 3 }) {
            cancels.iter().for_each(CancelToken::cancel);
        }
    });
    assert!(made.iter().all(|made| matches!(made, Err(Error::Cancelled))));
}

#[test]
fn a_picture_that_fails_leaves_the_others_alone() {
    let mut engine = tiny("klein", Residency::OneAtATime);
    let requests = [request(0), GenerateRequest { steps: Some(0), ..request(1) }, request(2)];
    let made = together(&mut engine, &requests, Batching::SameBytes, |_, _, _| {});
    assert!(matches!(made[1], Err(Error::Steps { steps: 0, .. })), "{:?}", made[1]);
    for i in [0, 2] {
        let alone = engine.generate_with(&requests[i], &mut |_: &Event| {}, &CancelToken::new()).unwrap();
        assert!(made[i].as_ref().unwrap().image == alone.image, "picture {i}");
    }
    assert!(together(&mut engine, &[], Batching::SameBytes, |_, _, _| {}).is_empty());
}

#[test]
fn each_observer_sees_a_whole_run() {
    let files = ModelFiles::open(&ModelPaths { model: fixture("tiny/klein").into(), ..Default::default() }).unwrap();
    let options = EngineOptions { device: Device::Cpu, residency: Residency::KeepAll, ..Default::default() };
    let mut engine = engine::open(files, &options).unwrap();
    let seen: [std::cell::RefCell<Vec<String>>; 2] = Default::default();
    together(&mut engine, &[request(0), request(1)], Batching::SameBytes, |i, event, _| match event {
        Event::PhaseStarted { phase: Phase::Load(_), .. } => {}
        Event::PhaseStarted { phase, .. } => seen[i].borrow_mut().push(phase.name().into()),
        Event::Step { step, steps, .. } => seen[i].borrow_mut().push(format!("step {step} of {steps}")),
        _ => {}
    });
    for seen in seen {
        assert_eq!(seen.into_inner(), ["text", "denoise", "step 1 of 2", "step 2 of 2", "decode"]);
    }
}

#[test]
fn within_a_memory_limit_pictures_are_drawn_together_if_they_fit() {
    let files = ModelFiles::open(&ModelPaths { model: fixture("tiny/klein").into(), ..Default::default() }).unwrap();
    let options = EngineOptions { device: Device::Cpu, residency: Residency::KeepAll, ..Default::default() };
    let requests: Vec<_> = (0..3).map(request).collect();
    let both = flux2::plan::of_batch(&files, &options, &requests).unwrap().peak_bytes();
    let mut made = Vec::new();
    for (limit, passes) in [(None, 1), (Some(both), 1), (Some(both - 1), 3)] {
        let mut engine = engine::open(files.clone(), &EngineOptions { max_memory: limit, ..options.clone() }).unwrap();
        // Pictures that are drawn one after the other are decoded before the next one is denoised.
        let stages = std::cell::RefCell::new(Vec::new());
        let pictures = together(&mut engine, &requests, Batching::SameBytes, |_, event, _| {
            if let Event::PhaseStarted { phase: phase @ (Phase::Denoise | Phase::Decode), .. } = event {
                stages.borrow_mut().push(*phase);
            }
        });
        let mut stages = stages.into_inner();
        stages.dedup();
        assert_eq!(stages.len(), 2 * passes, "{limit:?}: {stages:?}");
        made.push(pictures.into_iter().map(|made| made.unwrap().image).collect::<Vec<_>>());
    }
    assert!(made[0] == made[1] && made[0] == made[2]);
}
