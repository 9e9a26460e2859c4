//! A GPU's memory: plans, fallbacks when it is short, and that neither changes a picture. Plans and fallbacks are
//! tested on described GPUs by dry runs; tests that need a real one are skipped with a message if there is none.
#![cfg(all(feature = "cuda", target_os = "linux"))]

use flux2::event::Rung;
use flux2::pipeline::ladder::Rescue;
use flux2::pipeline::{GeneratedImage, Pipeline, Residency};
use flux2::plan::DryRun;
use flux2::weights::ModelFiles;
use flux2::{
    BatchMember, Batching, CancelToken, EngineOptions, Error, ErrorKind, Event, GenerateRequest, MemoryPlan, Phase,
    Precision, Result, Variant, Warning,
};
use flux2_backend::cuda::{CONTEXT_BYTES, GpuInfo};
use flux2_backend::testing::on_cuda;
use flux2_backend::{Compute, CudaBackend, Runtime};

use crate::evaluation;

const GB: usize = 1_000_000_000;

fn h100() -> GpuInfo {
    GpuInfo { name: "an H100".into(), capability: [9, 0], memory: 80 << 30, multiprocessors: 132 }
}

fn rtx_4090() -> GpuInfo {
    GpuInfo { name: "an RTX 4090".into(), capability: [8, 9], memory: 24 << 30, multiprocessors: 128 }
}

fn request(side: u32) -> GenerateRequest {
    GenerateRequest {
        prompt: "a red fox".into(),
        width: Some(side),
        height: Some(side),
        steps: Some(3),
        ..Default::default()
    }
}

fn synthetic(name: &str) -> ModelFiles {
    ModelFiles::synthetic(Variant::by_name(name).unwrap()).unwrap()
}

fn plan(gpu: GpuInfo, precision: Precision, residency: Residency, side: u32) -> MemoryPlan {
    let options = EngineOptions { precision, residency, ..Default::default() };
    DryRun::Gpu(gpu, 0).plan(&synthetic("klein-4b"), &options, &[request(side)]).unwrap()
}

#[test]
fn klein_4b_keeps_to_the_memory_of_small_gpus() {
    for gpu in [h100(), rtx_4090()] {
        for (precision, residency, limit) in [
            (Precision::BF16, Residency::OneAtATime, 12 * GB),
            (Precision::FP8, Residency::OneAtATime, 8 * GB),
            (Precision::BF16, Residency::Streamed, 6 * GB),
        ] {
            let plan = plan(gpu.clone(), precision, residency, 1024);
            let peak = plan.peak_bytes();
            assert!(peak < limit, "{precision}, {residency:?} on {}: {peak} of {limit}", gpu.name);
            // A lower peak would mean that something is not counted.
            assert!(peak > limit / 4, "{precision}, {residency:?} on {}: {peak} of {limit}", gpu.name);
        }
    }
}

#[test]
fn each_residency_takes_less_than_the_one_before() {
    use Residency::{KeepAll, KeepForNext, OneAtATime, Smallest, Streamed};
    let peaks = [KeepAll, KeepForNext, OneAtATime, Streamed, Smallest]
        .map(|residency| plan(h100(), Precision::BF16, residency, 1024).peak_bytes());
    assert!(peaks.is_sorted_by(|more, less| more > less), "{peaks:?}");
}

#[test]
fn a_limit_chooses_the_residency_or_is_refused() {
    let files = synthetic("klein-4b");
    let options = EngineOptions { residency: Residency::KeepAll, ..Default::default() };
    let within = |limit, may_round| DryRun::Gpu(h100(), 0).within(limit, &files, &options, &[request(1024)], may_round);
    let chosen = |limit, may_round| {
        let (options, plan) = within(limit, may_round).unwrap();
        assert!(plan.peak_bytes() <= limit && options.gpu_memory == Some(limit));
        (options.residency, options.precision)
    };
    assert_eq!(chosen(40 * GB, true), (Residency::KeepAll, Precision::BF16));
    assert_eq!(chosen(12 * GB, true), (Residency::KeepForNext, Precision::BF16));
    assert_eq!(chosen(needed(Residency::OneAtATime) + CONTEXT_BYTES, true).0, Residency::OneAtATime);
    assert_eq!(chosen(6 * GB, true), (Residency::Streamed, Precision::BF16));
    let least = match within(GB, false) {
        Err(Error::MemoryLimit { limit: GB, least, .. }) => least,
        other => panic!("{other:?}"),
    };
    assert_eq!(chosen(least, false), (Residency::Smallest, Precision::BF16));
    assert!(within(least - 1, false).is_err());
}

/// A pipeline on a described GPU with a limit of `bytes`, context not included.
fn on_described(bytes: usize, residency: Residency) -> Pipeline<CudaBackend> {
    let be = CudaBackend::dry_run(h100(), Compute::Bf16, Some(CONTEXT_BYTES + bytes)).unwrap();
    Pipeline::of_files(be, synthetic("klein-4b").outline(), residency).unwrap()
}

fn draw(pipeline: &mut Pipeline<CudaBackend>, prompt: &str, events: &mut Vec<Event>) -> Result<GeneratedImage> {
    let request = GenerateRequest { prompt: prompt.into(), ..request(1024) };
    pipeline.generate(&request, &mut |event: &Event| events.push(event.clone()), &CancelToken::new())
}

/// GPU memory that a run takes without a limit, in bytes, context not included.
fn needed(residency: Residency) -> usize {
    plan(h100(), Precision::BF16, residency, 1024).peak_bytes() - CONTEXT_BYTES
}

#[test]
fn with_enough_memory_no_fallback_is_taken() {
    let mut pipeline = on_described(needed(Residency::OneAtATime), Residency::OneAtATime);
    let mut events = Vec::new();
    assert_eq!(draw(&mut pipeline, "a fox", &mut events).unwrap().rescues, []);
    assert!(!events.iter().any(|event| matches!(event, Event::Warning(_))));
}

#[test]
fn a_stage_that_runs_out_of_memory_takes_fallbacks() {
    let mut pipeline = on_described(6 * GB, Residency::OneAtATime);
    let mut events = Vec::new();
    let image = draw(&mut pipeline, "a fox", &mut events).unwrap();
    let rescue = |rung| Rescue { stage: Phase::Denoise, rung };
    assert_eq!(image.rescues, [rescue(Rung::FreeCaches), rescue(Rung::StreamBlocks)]);
    let said = events.iter().filter_map(|event| match event {
        Event::Warning(Warning::MemoryShort { stage, rung }) => Some(Rescue { stage: *stage, rung: *rung }),
        _ => None,
    });
    assert_eq!(said.collect::<Vec<_>>(), image.rescues);
    // The rung stays taken, so the next picture needs none.
    assert_eq!(draw(&mut pipeline, "a fox", &mut events).unwrap().rescues, []);
}

#[test]
fn the_encoder_is_offloaded_before_the_transformer() {
    let mut pipeline = on_described(10 * GB, Residency::KeepAll);
    let image = draw(&mut pipeline, "a fox", &mut Vec::new()).unwrap();
    let rescue = |rung| Rescue { stage: Phase::Denoise, rung };
    assert_eq!(image.rescues, [rescue(Rung::FreeCaches), rescue(Rung::OffloadEncoder)]);
    // With the encoder offloaded, both have room for any prompt.
    for prompt in ["a hare", "an owl"] {
        assert_eq!(draw(&mut pipeline, prompt, &mut Vec::new()).unwrap().rescues, []);
    }
}

#[test]
fn a_decoder_that_runs_out_of_memory_computes_in_bands() {
    // Less than the decoder's maps take, more than anything else.
    let (streamed, smallest) = (needed(Residency::Streamed), needed(Residency::Smallest));
    let mut pipeline = on_described((streamed + smallest) / 2, Residency::Streamed);
    let image = draw(&mut pipeline, "a fox", &mut Vec::new()).unwrap();
    let rescue = |rung| Rescue { stage: Phase::Decode, rung };
    assert_eq!(image.rescues, [rescue(Rung::FreeCaches), rescue(Rung::StreamDecoder)]);
}

#[test]
fn a_run_that_no_fallback_makes_fit_is_refused() {
    let mut pipeline = on_described(300 << 20, Residency::KeepAll);
    let refused = draw(&mut pipeline, "a fox", &mut Vec::new()).unwrap_err();
    assert!(matches!(refused, Error::NoMemory { .. }), "{refused:?}");
    assert_eq!(refused.kind(), ErrorKind::OutOfMemory);
}

fn draw_batch(pipeline: &mut Pipeline<CudaBackend>, count: usize, side: u32) -> Vec<GeneratedImage> {
    let requests: Vec<_> = (0..count).map(|i| GenerateRequest { seed: i as u64, ..request(side) }).collect();
    let (cancel, mut observers) = (CancelToken::new(), vec![|_: &Event| {}; count]);
    let members = requests.iter().zip(&mut observers);
    let members = members.map(|(request, observer)| BatchMember { request, observer, cancel: &cancel });
    let made = pipeline.generate_batch(&mut members.collect::<Vec<_>>(), Batching::SameBytes);
    made.into_iter().collect::<Result<_>>().unwrap()
}

#[test]
fn a_batch_that_runs_out_of_memory_is_halved_before_anything_else() {
    let files = synthetic("klein-4b");
    let options = EngineOptions { precision: Precision::BF16, residency: Residency::OneAtATime, ..Default::default() };
    let needed = |count| {
        let requests = vec![request(1024); count];
        let plan = DryRun::Gpu(h100(), 0).plan_batch(&files, &options, &requests).unwrap();
        plan.peak_bytes() - CONTEXT_BYTES
    };
    let [two, eight] = [2, 8].map(needed);
    assert!(two < eight, "{two}, {eight}");
    let mut pipeline = on_described((two + eight) / 2, Residency::OneAtATime);
    let made = draw_batch(&mut pipeline, 8, 1024);
    let halved = Rescue { stage: Phase::Denoise, rung: Rung::HalveBatch };
    let rescues = &made[0].rescues;
    assert!(!rescues.is_empty() && rescues.iter().all(|rescue| *rescue == halved), "{rescues:?}");
    // It stays so for pictures as large, and smaller ones may be as many as have the same tokens.
    assert_eq!(draw_batch(&mut pipeline, 8, 1024)[0].rescues, []);
    assert_eq!(draw_batch(&mut pipeline, 8, 256)[0].rescues, []);
}

#[test]
fn the_planner_knows_the_largest_batch_for_a_limit() {
    let files = synthetic("klein-4b");
    let options = EngineOptions { precision: Precision::BF16, residency: Residency::KeepForNext, ..Default::default() };
    let gpu = DryRun::Gpu(h100(), 0);
    let peak = |count| {
        let like = |i| GenerateRequest { prompt: format!("a red fox {i}"), ..request(1024) };
        let requests: Vec<_> = (0..count).map(like).collect();
        gpu.plan_batch(&files, &options, &requests).unwrap().peak_bytes()
    };
    let largest = |limit| gpu.largest_batch(limit, &files, &options, &request(1024), 8).unwrap();
    let (one, three) = (peak(1), peak(3));
    assert_eq!([largest(three), largest(three - 1), largest(one), largest(one - 1)], [3, 2, 1, 0]);
    assert_eq!(largest(usize::MAX), 8);
}

fn mini(be: &CudaBackend, precision: Precision, residency: Residency) -> Pipeline<CudaBackend> {
    let files = ModelFiles::open(&evaluation::mini()).unwrap();
    Pipeline::of_files(be.clone(), files, residency).unwrap().with_precision(precision)
}

#[test]
fn offloaded_weights_draw_the_same_picture() {
    on_cuda(Compute::Bf16, |be| {
        for precision in [Precision::BF16, Precision::INT8, Precision::FP8] {
            if !be.takes(precision.blocks()) {
                continue;
            }
            let draw = |pipeline: &mut Pipeline<CudaBackend>, prompt: &str| {
                let request = GenerateRequest { prompt: prompt.into(), ..request(128) };
                Ok::<_, Error>(pipeline.generate(&request, &mut |_: &Event| {}, &CancelToken::new())?.image)
            };
            let prompts = ["a cat on a blue background", "an owl, pink stripes", "a fox"];
            let mut kept = mini(be, precision, Residency::KeepAll);
            let expected = prompts.iter().map(|prompt| draw(&mut kept, prompt)).collect::<Result<Vec<_>>>()?;
            for residency in [Residency::KeepForNext, Residency::OneAtATime, Residency::Streamed, Residency::Smallest] {
                let mut pipeline = mini(be, precision, residency);
                for round in 0..2 {
                    for (prompt, expected) in prompts.iter().zip(&expected) {
                        let same = draw(&mut pipeline, prompt)? == *expected;
                        assert!(same, "{precision}, {residency:?}, round {round}, \"{prompt}\"");
                    }
                }
            }
        }
        Ok::<_, Error>(())
    });
}

/// Bytes by which a plan may be off: a dry run takes the same buffers as a run except for the scratch of libraries.
const SCRATCH: usize = 64 << 20;

#[test]
fn a_run_takes_what_was_planned() {
    on_cuda(Compute::Bf16, |be| {
        let files = synthetic("klein-mini");
        let requests =
            ["a fox", "a hare", "a fox"].map(|prompt| GenerateRequest { prompt: prompt.into(), ..request(512) });
        for residency in [
            Residency::KeepAll,
            Residency::KeepForNext,
            Residency::OneAtATime,
            Residency::Streamed,
            Residency::Smallest,
        ] {
            let options = EngineOptions { residency, ..Default::default() };
            let plan = DryRun::Gpu(be.gpu().clone(), 0).plan(&files, &options, &requests)?;
            let mut pipeline = Pipeline::of_files(be.clone(), files.clone(), residency)?;
            be.take_memory_peak();
            let (mut observer, cancel) = (|_: &Event| {}, CancelToken::new());
            let prompts: Vec<&str> = requests.iter().map(|request| request.prompt.as_str()).collect();
            pipeline.prepare_prompts(&prompts, &mut observer, &cancel)?;
            for request in &requests {
                pipeline.generate(request, &mut observer, &cancel)?;
            }
            let (planned, taken) = (plan.largest().memory.allocated, be.take_memory_peak().allocated);
            let off = planned.abs_diff(taken);
            assert!(off <= planned / 20, "{residency:?}: planned {planned}, taken {taken}");
            assert!(off <= SCRATCH, "{residency:?}: planned {planned}, taken {taken}");
        }
        Ok::<_, Error>(())
    });
}
