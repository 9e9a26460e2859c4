//! The kernel log of a run: it names the formats that were multiplied, not those that were asked for.

use flux2::pipeline::KernelRun;
use flux2::weights::{Format, Precision};
use flux2::{EngineOptions, GenerateRequest, ModelPaths, engine};
use flux2_backend::{Compute, DType};

use crate::golden::fixture;
use crate::once::products_of_blocks;

const STEPS: u32 = 2;

/// The kernels that ran for a picture of the tiny model.
fn ran(precision: Precision) -> Vec<KernelRun> {
    let paths = ModelPaths { model: fixture("tiny/klein").into(), ..Default::default() };
    let options = EngineOptions { precision, ..Default::default() };
    let request = GenerateRequest {
        prompt: "a red fox".into(),
        width: Some(64),
        height: Some(96),
        steps: Some(STEPS),
        ..Default::default()
    };
    let mut engine = engine::load(&paths, &options).unwrap();
    engine.generate(&request).unwrap().kernels
}

/// Number of products of activations with weights of each dtype.
fn linear(runs: &[KernelRun]) -> Vec<(DType, u64)> {
    runs.iter().filter(|run| run.op == "linear").map(|run| (run.weights.unwrap(), run.products)).collect()
}

fn total(runs: &[KernelRun]) -> u64 {
    linear(runs).iter().map(|(_, products)| products).sum()
}

#[test]
fn f32_multiplies_f32() {
    let runs = ran(Precision::F32);
    assert!(runs.iter().all(|run| run.kernel.ends_with(" f32")), "{runs:?}");
    // Weights keep their stored dtype.
    assert_eq!(linear(&runs), [(DType::Bf16, total(&runs))]);
    for op in ["conv2d", "attention"] {
        assert!(runs.iter().any(|run| run.op == op && run.products > 0), "no {op} in {runs:?}");
    }
}

#[test]
fn rounded_weights_are_those_of_the_blocks_and_no_others() {
    let stored = total(&ran(Precision::BF16));
    let blocks = products_of_blocks(STEPS);
    for (weights, dtype) in [(Format::Int8, DType::I8), (Format::Q8_0, DType::Q8_0)] {
        let runs = ran(Precision::new(Compute::Bf16, weights).unwrap());
        let of = |dtype| linear(&runs).iter().filter(|(d, _)| *d == dtype).map(|(_, n)| n).sum::<u64>();
        assert_eq!(of(dtype) + of(DType::Bf16), stored, "{weights:?}: {runs:?}");
        match weights {
            Format::Int8 => assert_eq!(of(dtype), blocks, "{runs:?}"),
            // The layers of the text encoder are quantized too.
            _ => assert!(of(dtype) > blocks, "{runs:?}"),
        }
        let int8 = runs.iter().any(|run| run.kernel.ends_with(" int8"));
        assert_eq!(int8, weights == Format::Int8, "{runs:?}");
    }
}
