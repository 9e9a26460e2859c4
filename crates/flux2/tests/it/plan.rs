//! Plans, and runs within a memory limit. `tests/memory` compares plans with what runs take.

use flux2::weights::ModelFiles;
use flux2::{
    Device, EngineOptions, Error, ErrorKind, GenerateRequest, MemoryPlan, ModelPaths, Phase, Precision, Remedy,
    Residency, Variant, engine, plan,
};

use crate::golden::fixture;

/// The tiny model, whose weights are mapped.
fn tiny() -> ModelFiles {
    ModelFiles::open(&ModelPaths { model: fixture("tiny/klein").into(), ..Default::default() }).unwrap()
}

fn request() -> GenerateRequest {
    GenerateRequest { prompt: "a red fox".into(), width: Some(64), height: Some(64), ..Default::default() }
}

fn options(residency: Residency) -> EngineOptions {
    EngineOptions { device: Device::Cpu, residency, precision: Precision::BF16, ..Default::default() }
}

fn plan(residency: Residency) -> MemoryPlan {
    plan::of(&tiny(), &options(residency), &[request()]).unwrap()
}

#[test]
fn each_residency_keeps_less_than_the_one_before() {
    let all = [Residency::KeepAll, Residency::KeepForNext, Residency::OneAtATime, Residency::Blocks(0)];
    // Unless they are streamed, all of the transformer's weights are mapped in its stage.
    let denoise = |residency| {
        let plan = plan(residency);
        plan.stages.iter().find(|at| at.stage == Phase::Denoise).unwrap().memory
    };
    let mapped = all.map(|residency| denoise(residency).mapped);
    assert!(mapped[0] > mapped[1] && mapped[1] >= mapped[2] && mapped[2] > 10 * mapped[3].max(1), "{mapped:?}");
    assert_eq!(
        plan(Residency::OneAtATime).stages.iter().map(|at| at.stage).collect::<Vec<_>>(),
        [Phase::Text, Phase::Denoise, Phase::Decode]
    );
}

#[test]
fn a_limit_is_kept_by_keeping_fewer_weights_or_refused() {
    let ways = [Residency::KeepAll, Residency::Blocks(0), Residency::Smallest];
    let [kept, streamed, smallest] = ways.map(|residency| plan(residency).peak_bytes());
    assert!(smallest <= streamed && streamed < kept);
    let within = |limit| plan::within(limit, &tiny(), &options(Residency::KeepAll), &[request()], false);
    let (options, plan) = within(kept).unwrap();
    assert_eq!((options.residency, plan.peak_bytes()), (Residency::KeepAll, kept));
    let (options, plan) = within(kept - 1).unwrap();
    assert!(options.residency != Residency::KeepAll && plan.peak_bytes() < kept);
    assert_eq!(within(streamed).unwrap().0.residency, Residency::Blocks(0));
    // Between keeping none and all, as many blocks stay as fit.
    let blocks = tiny().transformer.config.double_blocks + tiny().transformer.config.single_blocks;
    let peaks: Vec<usize> = (0..=blocks).map(|count| self::plan(Residency::Blocks(count)).peak_bytes()).collect();
    assert!(peaks.is_sorted() && peaks[blocks] > peaks[0], "{peaks:?}");
    for (count, &limit) in peaks.iter().enumerate().filter(|(_, limit)| **limit < kept) {
        let (options, plan) = within(limit).unwrap();
        let Residency::Blocks(chosen) = options.residency else { continue };
        assert!(chosen >= count && plan.peak_bytes() <= limit, "{chosen} of {count} blocks in {limit}");
    }
    let refused = within(smallest - 1).unwrap_err();
    assert!(matches!(refused, Error::MemoryLimit { limit, least, ref formats, .. }
        if limit == smallest - 1 && least == smallest && formats.is_empty()));
    assert_eq!(refused.kind(), ErrorKind::OutOfMemory);
}

#[test]
fn pictures_that_differ_in_the_seed_are_planned_twice() {
    let requests =
        |count| -> Vec<GenerateRequest> { (0..count).map(|seed| GenerateRequest { seed, ..request() }).collect() };
    let plan = |count| plan::of(&tiny(), &options(Residency::KeepForNext), &requests(count)).unwrap();
    assert_eq!(plan(2), plan(1000), "in a moment");
}

#[test]
fn weights_are_rounded_only_where_that_is_allowed_and_needed() {
    // Weights in no file cannot be streamed from one.
    let files = ModelFiles::synthetic(Variant::by_name("klein-mini").unwrap()).unwrap();
    let request = GenerateRequest { width: Some(64), height: Some(64), ..request() };
    let within = |limit, may_round| {
        plan::within(limit, &files, &options(Residency::OneAtATime), std::slice::from_ref(&request), may_round)
    };
    let as_stored = plan::of(&files, &options(Residency::OneAtATime), std::slice::from_ref(&request)).unwrap();
    let limit = as_stored.peak_bytes();
    assert_eq!(within(limit, true).unwrap().0.precision, Precision::BF16);
    let least = plan::of(&files, &options(Residency::Smallest), std::slice::from_ref(&request)).unwrap();
    let limit = least.peak_bytes();
    // The refusal says which formats would do.
    let Err(refused @ Error::MemoryLimit { .. }) = within(limit - 1, false) else { panic!("{limit}") };
    let Some(Remedy::AllowQuantizing { formats }) = refused.remedy() else { panic!("{refused}") };
    assert!(formats[0].0 == "bf16+q8_0" && formats.iter().all(|(_, bytes)| *bytes < limit), "{formats:?}");
    assert_eq!(formats[0].1, within(formats[0].1, true).unwrap().1.peak_bytes());
    let (options, plan) = within(limit - 1, true).unwrap();
    assert_eq!(options.precision.to_string(), "bf16+q8_0");
    assert!(plan.peak_bytes() < limit);
}

#[test]
fn streamed_weights_give_the_same_picture() {
    let picture = |residency| {
        let mut engine = engine::open(tiny(), &options(residency)).unwrap();
        let made = engine.generate(&request()).unwrap();
        made.image.into_pixels()
    };
    let kept = picture(Residency::KeepAll);
    for residency in [Residency::Blocks(0), Residency::Blocks(1), Residency::Blocks(2), Residency::Smallest] {
        assert!(picture(residency) == kept, "{residency:?}");
    }
}

#[test]
fn the_largest_batch_for_a_limit_is_known() {
    let options = options(Residency::KeepAll);
    let requests: Vec<_> = (0..4).map(|i| GenerateRequest { prompt: format!("a red fox {i}"), ..request() }).collect();
    let peaks = [1, 2, 4].map(|n| plan::of_batch(&tiny(), &options, &requests[..n]).unwrap().peak_bytes());
    assert!(peaks[0] < peaks[1] && peaks[1] < peaks[2], "{peaks:?}");
    let largest = |limit| plan::largest_batch(limit, &tiny(), &options, &request(), 4).unwrap();
    assert_eq!([largest(usize::MAX), largest(peaks[2]), largest(peaks[2] - 1), largest(peaks[1])], [4, 4, 3, 2]);
    assert_eq!([largest(peaks[0]), largest(peaks[0] - 1)], [1, 0]);
    // A batch of one is planned as one picture is.
    assert_eq!(peaks[0], plan::of(&tiny(), &options, &requests[..1]).unwrap().peak_bytes());
}
