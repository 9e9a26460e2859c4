//! A picture that is explained: the same picture, and what is said about it.

use flux2::explain::{Attended, BlockName, Blocks, ImageRole};
use flux2::image::{ImageFormat, RgbImage, encode};
use flux2::pipeline::{Pipeline, Residency};
use flux2::{
    CancelToken, Error, Event, ExplainOptions, Explanation, GenerateRequest, ModelPaths, PreviewOptions, Reference,
    Source, SourceOptions, Variant,
};
#[cfg(all(feature = "cuda", target_os = "linux"))]
use flux2_backend::Compute;
#[cfg(all(feature = "cuda", target_os = "linux"))]
use flux2_backend::testing::on_cuda;
use flux2_backend::{Backend, CpuBackend};

use crate::golden::{f32_backend, fixture};
use crate::tally::{Call, Tally};

fn paths(variant: &str) -> ModelPaths {
    let variant = Some(Variant::by_name(variant).unwrap());
    ModelPaths { model: fixture("tiny/klein").into(), variant, ..Default::default() }
}

fn pipeline(variant: &str) -> Pipeline<CpuBackend> {
    pipeline_on(&f32_backend(), variant)
}

fn pipeline_on<B: Backend>(be: &B, variant: &str) -> Pipeline<B> {
    Pipeline::load(be.clone(), &paths(variant), Residency::KeepForNext).unwrap()
}

fn image(width: u32, height: u32) -> RgbImage {
    let pixels = (0..width * height * 3).map(|i| (i * 37 % 251) as u8).collect();
    RgbImage::new(width, height, pixels).unwrap()
}

fn request(references: usize) -> GenerateRequest {
    let reference = |i| Reference::from_image(image(70 + 16 * i, 64));
    GenerateRequest {
        prompt: "a red fox \u{1F98A} <html>".into(),
        references: (0..references as u32).map(reference).collect(),
        width: Some(64),
        height: Some(96),
        steps: Some(3),
        seed: 7,
        ..Default::default()
    }
}

fn explain<B: Backend>(pipeline: &mut Pipeline<B>, request: &GenerateRequest, blocks: Blocks) -> Explanation {
    let (_, explanation) = explained(pipeline, request, blocks);
    explanation
}

fn explained<B: Backend>(
    pipeline: &mut Pipeline<B>,
    request: &GenerateRequest,
    blocks: Blocks,
) -> (flux2::GeneratedImage, Explanation) {
    pipeline.explain(request, &ExplainOptions { blocks }, &mut |_: &Event| {}, &CancelToken::new()).unwrap()
}

/// An explained picture has the bytes of one that is not, and the same kernels ran.
#[track_caller]
fn check_same(variant: &str, request: &GenerateRequest) {
    check_same_on(&f32_backend(), variant, request);
    #[cfg(all(feature = "cuda", target_os = "linux"))]
    on_cuda(Compute::F32, |be| -> Result<(), ()> {
        check_same_on(be, variant, request);
        Ok(())
    });
}

fn check_same_on<B: Backend>(be: &B, variant: &str, request: &GenerateRequest) {
    let plain = pipeline_on(be, variant).generate(request, &mut |_: &Event| {}, &CancelToken::new()).unwrap();
    let (made, explanation) = explained(&mut pipeline_on(be, variant), request, Blocks::All);
    assert_eq!(made.image, plain.image);
    assert_eq!(made.parameters, plain.parameters);
    let kernels = plain.kernels.iter().map(|run| (run.op, run.kernel.as_str(), run.products));
    let of_explained = explanation.kernels.iter().map(|kernel| (kernel.op, kernel.kernel.as_str(), kernel.products));
    assert_eq!(of_explained.collect::<Vec<_>>(), kernels.collect::<Vec<_>>());
    let attention = explanation.attention.unwrap();
    assert_eq!((attention.steps.len(), explanation.steps.len()), (3, 3));
    for step in &attention.steps {
        let sum: f32 = step.shares.iter().sum();
        assert!((sum - 1.0).abs() < 1e-4, "{variant}: {sum}");
    }
}

#[test]
fn an_explained_picture_is_the_same_bytes() {
    for variant in ["klein", "klein-base", "klein-kv"] {
        for references in [0, 2] {
            check_same(variant, &request(references));
        }
    }
    let png = |image: &RgbImage| encode(image, ImageFormat::Png, None).unwrap();
    let half = RgbImage::new(96, 64, (0..96 * 64).flat_map(|i| [if i % 96 < 48 { 255 } else { 0 }; 3]).collect());
    let (source, mask) = (png(&image(96, 64)), png(&half.unwrap()));
    let options = SourceOptions { strength: 0.5, ..SourceOptions::default() };
    let source = Source::from_bytes(&source, "source", Some((&mask, "mask")), options).unwrap();
    let request = GenerateRequest { source: Some(source), width: None, height: None, ..request(1) };
    check_same("klein", &request);
}

/// The calls of a run on the backend that computes nothing.
fn calls(run: impl FnOnce(&mut Pipeline<Tally>)) -> Vec<Call> {
    let paths = paths("klein-base");
    let tally = Tally::of(&paths);
    let cache = tempfile::tempdir().unwrap();
    let previews = PreviewOptions { cache: Some(cache.path().to_owned()), ..PreviewOptions::default() };
    let pipeline = Pipeline::load(tally.clone(), &paths, Residency::KeepForNext).unwrap();
    let mut pipeline = pipeline.with_previews(previews);
    // Networks are loaded, and the map to colors is fitted and kept, before.
    explain(&mut pipeline, &request(1), Blocks::None);
    tally.take();
    run(&mut pipeline);
    tally.take()
}

#[test]
fn a_picture_that_is_not_explained_costs_nothing_more() {
    let plain = |pipeline: &mut Pipeline<Tally>| {
        pipeline.generate(&request(1), &mut |_: &Event| {}, &CancelToken::new()).unwrap();
    };
    let ordinary = calls(plain);
    assert!(ordinary.len() > 100);
    // What is copied to the host is no call of the device: without attention there is no other work.
    let watched = calls(|pipeline| drop(explain(pipeline, &request(1), Blocks::None)));
    assert!(watched == ordinary, "{} calls, {} of an ordinary run", watched.len(), ordinary.len());
    let after = calls(|pipeline| {
        explain(pipeline, &request(1), Blocks::All);
        pipeline.backend().take();
        plain(pipeline);
    });
    assert!(after == ordinary, "{} calls, {} of an ordinary run", after.len(), ordinary.len());
    // Reading is one attention more for each block and step, for up to as many words as a head has channels.
    let read = calls(|pipeline| drop(explain(pipeline, &request(1), Blocks::These(vec![BlockName::Single(0)]))));
    let count = |calls: &[Call], what: &str| calls.iter().filter(|call| call.what == what).count();
    let more = count(&read, "attention") - count(&ordinary, "attention");
    let selecting = count(&read, "upload") - count(&ordinary, "upload");
    assert_eq!(more, 3 * selecting);
    assert_eq!(read.len(), ordinary.len() + more + selecting);
}

#[test]
fn what_is_said_is_about_this_picture() {
    let mut pipeline = pipeline("klein");
    let explanation = explain(&mut pipeline, &request(2), Blocks::These(vec![BlockName::Double(0)]));
    let text = &explanation.text;
    let words: Vec<&str> = text.tokens.iter().filter(|token| token.is_prompt).map(|token| &*token.text).collect();
    // The emoji is several tokens of bytes that are no whole character.
    assert!(words.concat().starts_with("a red fox") && words.concat().ends_with("<html>"), "{words:?}");
    assert!(words.concat().contains("<F0>") || words.concat().contains('\u{1F98A}'), "{words:?}");
    assert_eq!(text.tokens.first().map(|token| &*token.text), Some("<|im_start|>"));
    assert_eq!(text.tokens.len() + text.padding, text.embedding[0]);
    assert_eq!(text.taps.iter().map(|tap| tap.token_norms.len()).collect::<Vec<_>>(), [text.tokens.len(); 3]);
    assert!(text.taps.iter().flat_map(|tap| &tap.token_norms).all(|norm| *norm > 0.0));

    let images = explanation.images;
    assert_eq!(images.iter().map(|image| image.file_px).collect::<Vec<_>>(), [[70, 64], [86, 64]]);
    assert_eq!(images.iter().map(|image| image.grid).collect::<Vec<_>>(), [[4, 4], [4, 5]]);
    assert_eq!(images[1].position_ids, [[20, 0, 0, 0], [20, 3, 4, 0]]);
    assert!(images.iter().all(|image| image.role == ImageRole::Reference));

    assert_eq!(explanation.noise.image, explanation.start.image);
    assert!((explanation.noise.spread.deviation - 1.0).abs() < 0.1);
    let schedule = &explanation.schedule;
    assert_eq!(schedule.sigmas.first().zip(schedule.sigmas.last()), Some((&1.0, &0.0)));
    assert_eq!(schedule.linear, [1.0, 2.0 / 3.0, 1.0 / 3.0, 0.0].map(|level| level as f32));

    // The last estimate is the end, and the way ends on the line.
    let last = explanation.steps.last().unwrap();
    assert_eq!((last.estimate_distance, last.line_distance), (0.0, 0.0));
    assert_eq!(last.latents.image, explanation.latents.image);
    let first = &explanation.steps[0];
    assert!(first.estimate_distance > 0.0 && first.line_distance > 0.0 && first.velocity_norm > 0.0);
    assert!(first.turn_cosine.is_none() && explanation.steps[1].turn_cosine.unwrap() <= 1.0);

    let attention = explanation.attention.unwrap();
    assert_eq!((attention.blocks, attention.grid), (vec!["double.0".to_owned()], [6, 4]));
    assert_eq!(attention.attended.last(), Some(&Attended::Image(2)));

    let stages: Vec<&str> = explanation.stages.iter().map(|stage| stage.stage).collect();
    assert_eq!(stages, ["text", "references", "denoise", "decode"]);
    assert!(
        explanation.timeline.iter().map(|span| span.seconds).sum::<f64>()
            <= explanation.seconds + explanation.explaining_seconds
    );
}

#[test]
fn guidance_has_a_second_prompt_and_a_velocity_of_its_own() {
    let request = GenerateRequest { negative_prompt: Some("rain".into()), guidance: Some(3.0), ..request(0) };
    let explanation = explain(&mut pipeline("klein-base"), &request, Blocks::None);
    assert!(explanation.attention.is_none());
    assert!(explanation.negative.unwrap().chat.contains("rain"));
    let step = &explanation.steps[0];
    let [prompt, negative, guided] =
        [Some(step.velocity_norm), step.negative_velocity_norm, step.guided_velocity_norm].map(Option::unwrap);
    assert!(negative > 0.0 && guided > 0.0 && guided != prompt && negative != prompt);
}

#[test]
fn a_block_that_is_not_there_is_refused_before_any_work() {
    let mut pipeline = pipeline("klein");
    let mut events = 0;
    let options = ExplainOptions { blocks: Blocks::These(vec![BlockName::Double(99)]) };
    let result = pipeline.explain(&request(0), &options, &mut |_: &Event| events += 1, &CancelToken::new());
    assert!(matches!(result, Err(Error::NoSuchBlock { .. })));
    assert_eq!(events, 0);
}

/// The plan and the run count the same memory.
#[test]
fn what_is_taken_is_what_was_planned() {
    let files = flux2::weights::ModelFiles::open(&paths("klein")).unwrap();
    let options = flux2::EngineOptions { device: flux2::Device::Cpu, ..Default::default() };
    let request = request(1);
    let planned = flux2::plan::of(&files, &options, std::slice::from_ref(&request)).unwrap();
    let mut engine = flux2::engine::open(files, &options).unwrap();
    let (_, explanation) =
        engine.explain(&request, &ExplainOptions::default(), &mut |_: &Event| {}, &CancelToken::new()).unwrap();
    assert_eq!(explanation.stages.len(), planned.stages.len());
    for (taken, planned) in explanation.stages.iter().zip(&planned.stages) {
        let (taken_bytes, planned_bytes) = (taken.allocated_bytes + taken.mapped_bytes, planned.memory.total());
        assert_eq!(taken.stage, planned.stage.name());
        let ratio = taken_bytes as f64 / planned_bytes as f64;
        assert!((0.95..1.05).contains(&ratio), "{}: {taken_bytes} taken, {planned_bytes} planned", taken.stage);
    }
}
