//! Memory as promised: a run takes what was planned, a conversion never has a whole network in memory.
//!
//! A single test, since every allocation of the process counts.

#[path = "../allocator/mod.rs"]
mod allocator;
mod references;
mod sources;

use std::num::NonZeroUsize;

use flux2::image::RgbImage;
use flux2::text::Tokenizer;
use flux2::variant::{KLEIN_MINI, Variant};
use flux2::weights::convert::Conversion;
use flux2::weights::{Compute, Format, Location, LoraPath, ModelFiles, ModelPaths};
use flux2::{CancelToken, Engine, EngineOptions, GenerateRequest, Precision, Reference, Residency, engine, plan};

use allocator::high_water;

/// Largest relative error of a plan.
const TOLERANCE: f64 = 0.05;

#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    precision: Precision,
    size: [u32; 2],
    prompts: &'static [&'static str],
    reference: Option<u32>,
    residency: Residency,
}

fn requests(case: &Case) -> Vec<GenerateRequest> {
    let picture = |side: u32| RgbImage::new(side, side, vec![100; 3 * (side * side) as usize]).unwrap();
    let references = case.reference.map(|side| Reference::from_image(picture(side)));
    let request = |prompt: &&str| GenerateRequest {
        prompt: (*prompt).to_owned(),
        width: Some(case.size[0]),
        height: Some(case.size[1]),
        steps: Some(2),
        references: references.iter().cloned().collect(),
        ..Default::default()
    };
    case.prompts.iter().map(request).collect()
}

#[test]
fn memory_is_what_was_promised() {
    a_tokenizer_takes_what_a_plan_counts();
    references::reading_takes_what_the_header_says();
    references::a_run_with_large_references_keeps_to_its_plan();
    sources::reading_a_source_takes_what_the_headers_say();
    sources::a_run_with_a_large_source_keeps_to_its_plan();
    a_run_takes_the_memory_that_was_planned();
    a_conversion_has_one_tensor_in_memory();
}

fn a_tokenizer_takes_what_a_plan_counts() {
    let (needed, _) = high_water(Tokenizer::builtin);
    let counted = Tokenizer::memory(None).unwrap();
    assert!(needed <= counted && counted < 2 * needed, "{needed} of {counted}");
}

/// Bytes that a conversion may take beside its largest tensor in f32: buffers, headers, the plan of every tensor.
const CONVERSION: usize = 2_500_000;

fn a_conversion_has_one_tensor_in_memory() {
    let mini = concat!(env!("CARGO_MANIFEST_DIR"), "/../../assets/mini");
    let files = ModelFiles::open(&ModelPaths { model: mini.into(), ..Default::default() }).unwrap();
    let (transformer, text) =
        (files.transformer.config.expected_tensors(), files.text_encoder.config.expected_tensors());
    let sizes = transformer.iter().chain(&text).map(|(_, shape)| 4 * shape.iter().product::<usize>());
    let (largest, all) = (sizes.clone().max().unwrap(), sizes.sum::<usize>());
    let temp = tempfile::tempdir().unwrap();
    for format in [Format::Bf16, Format::Int8, Format::Q8_0, Format::Q4K] {
        let out = temp.path().join(format!("{format:?}"));
        let threads = NonZeroUsize::new(2);
        let conversion = Conversion { model: mini.into(), part: None, format, out, replace: false, threads };
        let (needed, converted) = high_water(|| conversion.run(&mut |_: &_| {}, &CancelToken::new()).unwrap());
        let most = largest + CONVERSION;
        assert!(needed <= most, "{format:?}: {needed} of {most}, {all} in all");
        // Otherwise the bound would say nothing.
        assert!(converted.bytes as usize > most, "{format:?}: {} bytes were written, {needed} taken", converted.bytes);
    }
}

fn a_run_takes_the_memory_that_was_planned() {
    let case = |name, precision, size, residency| Case {
        name,
        precision,
        size,
        residency,
        prompts: &["a fox"],
        reference: None,
    };
    let cases = [
        case("f32", Precision::F32, [512, 384], Residency::OneAtATime),
        case("bf16", Precision::BF16, [512, 512], Residency::OneAtATime),
        case("q8_0", Precision::new(Compute::Bf16, Format::Q8_0).unwrap(), [256, 256], Residency::OneAtATime),
        case("streamed", Precision::BF16, [256, 256], Residency::Blocks(0)),
        case("blocks kept", Precision::BF16, [256, 256], Residency::Blocks(2)),
        Case { reference: Some(512), ..case("int8, a reference", Precision::INT8, [256, 256], Residency::OneAtATime) },
        Case {
            prompts: &["a fox", "a cat"],
            ..case("two prompts", Precision::BF16, [384, 384], Residency::KeepForNext)
        },
    ];
    let variant = Variant::by_name(KLEIN_MINI).unwrap();
    let in_no_file = ModelFiles::synthetic(variant).unwrap();
    let tiny = |name: &str| Location::from(format!("{}/../../fixtures/tiny/{name}", env!("CARGO_MANIFEST_DIR")));
    let open = |variant, loras| {
        let variant = Some(Variant::by_name(variant).unwrap());
        ModelFiles::open(&ModelPaths { model: tiny("klein"), variant, loras, ..Default::default() }).unwrap()
    };
    let lora = LoraPath { location: tiny("lora.safetensors"), scale: 1.0 };
    let small = case("bf16, 256x256", Precision::BF16, [256, 256], Residency::OneAtATime);
    let edit = Case { reference: Some(256), ..case("an edit", Precision::BF16, [256, 256], Residency::OneAtATime) };
    for (files, kind, cases) in [
        (in_no_file, "in memory", &cases[..]),
        (open("klein", vec![]), "mapped", &cases),
        (open("klein", vec![lora]), "with a LoRA", &[small]),
        (open("klein-base", vec![]), "with guidance", &[small]),
        (open("klein-kv", vec![]), "with references read once", &[edit]),
    ] {
        for case in cases {
            let Case { name, precision, residency, .. } = *case;
            let options = EngineOptions { precision, residency, threads: NonZeroUsize::new(2), ..Default::default() };
            let requests = requests(case);
            let plan = plan::of(&files, &options, &requests).unwrap();
            let planned = plan.stages.iter().map(|stage| stage.memory.allocated).max().unwrap();
            let mut engine = engine::open(files.clone(), &options).unwrap();
            drop(requests);
            let (needed, ()) = high_water(|| run(&mut *engine, &self::requests(case)));
            let error = planned as f64 / needed as f64 - 1.0;
            assert!(error.abs() < TOLERANCE, "{name}, {kind}: planned {planned}, needed {needed}: {plan:?}");
        }
    }
}

fn run(engine: &mut dyn Engine, requests: &[GenerateRequest]) {
    let cancel = CancelToken::new();
    if requests.len() > 1 {
        let prompts: Vec<&str> = requests.iter().map(|request| request.prompt.as_str()).collect();
        engine.prepare_prompts(&prompts, &mut |_: &_| {}, &cancel).unwrap();
    }
    for request in requests {
        engine.generate_with(request, &mut |_: &_| {}, &cancel).unwrap();
    }
}
