//! The error of number formats on a checkpoint: of bf16, q8_0, q4_k, int8 and fp8 against f32, and of each block and
//! each kind of matrix against bf16 if it alone is quantized to 8 bits. Relative L2 of the text embedding and of the
//! first step's velocity.
//!
//! `cargo run --release -p flux2 --example precision -- MODEL [SIDE_PX] [cuda]`
//!
//! MODEL is a folder, or `klein-4b`: random weights of that size. The 8-bit formats are int8 and fp8
//! on a GPU, int8 on the CPU.

#![allow(clippy::print_stdout)] // its result

use flux2::latents::pack;
use flux2::models::flow_transformer::{FlowTransformer, References};
use flux2::pipeline::{Pipeline, Residency};
use flux2::weights::{MappedWeights, ModelFiles, Part, WeightSource};
use flux2::{CancelToken, Event, ModelPaths, Precision, Result, Variant, sampler};
use flux2_backend::{Backend, Compute, CpuBackend, CpuOptions, Format, HostTensor};
#[cfg(all(feature = "cuda", target_os = "linux"))]
use flux2_backend::{CudaBackend, CudaOptions};

const PROMPT: &str = "a small wooden house beside a quiet lake at sunset";

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let model = args.next().expect("usage: precision MODEL [SIDE_PX] [cuda]");
    let side = args.next().map_or(256, |px| px.parse().expect("a number of pixels"));
    let files = match Variant::by_name(&model).ok().and_then(ModelFiles::synthetic) {
        Some(synthetic) => synthetic,
        None => ModelFiles::open(&ModelPaths { model: model.into(), ..Default::default() })?,
    };
    match args.next().as_deref() {
        None => report(&files, side, &cpu, &[Precision::INT8]),
        #[cfg(all(feature = "cuda", target_os = "linux"))]
        Some("cuda") => report(&files, side, &gpu, &[Precision::INT8, Precision::FP8]),
        Some(other) => panic!("no such device: {other}"),
    }
}

/// Print the tables; `bytes` are the 8-bit formats, which are measured matrix by matrix.
fn report<B: Backend>(
    files: &ModelFiles,
    side: usize,
    backend: &dyn Fn(Compute) -> B,
    bytes: &[Precision],
) -> Result<()> {
    let rounded = |format| Precision::new(Compute::Bf16, format).expect("bf16 goes with every format");
    let formats = [Precision::BF16, rounded(Format::Q8_0), rounded(Format::Q4K)];
    let text = |precision: Precision| embedding(backend(precision.compute()), files, precision);
    let exact = text(Precision::F32)?;
    println!("| against f32 | relative L2 |\n|---|---|");
    for precision in formats {
        println!("| text embedding, {precision} | {:.2e} |", relative(&text(precision)?, &exact));
    }
    // All velocities use the same text embedding, so that the errors are those of the transformer alone.
    let text = exact;
    let velocity = |precision: Precision, formats: &dyn Fn(&str) -> Format| {
        velocity(&backend(precision.compute()), files, formats, &text, side / 16)
    };
    let exact = velocity(Precision::F32, &|_| Format::AsStored)?;
    let bf16 = velocity(Precision::BF16, &|_| Format::AsStored)?;
    for precision in formats.iter().chain(bytes) {
        let found = velocity(*precision, &|name| precision.format(Part::Transformer, name))?;
        println!("| velocity, {precision} | {:.2e} |", relative(&found, &exact));
    }

    let names: Vec<String> = bytes.iter().map(Precision::to_string).collect();
    println!("\n| in bytes alone, against bf16 | {} |\n|---|{}", names.join(" | "), "---|".repeat(bytes.len()));
    let alone = |what: &str, chosen: &dyn Fn(&str) -> bool| -> Result<()> {
        print!("| {what} |");
        for precision in bytes {
            let formats = |name: &str| if chosen(name) { precision.blocks() } else { Format::AsStored };
            print!(" {:.2e} |", relative(&velocity(*precision, &formats)?, &bf16));
        }
        println!();
        Ok(())
    };
    for matrix in ["qkv", "proj", "mlp_in", "mlp_out", "qkv_mlp", "out"] {
        alone(&format!("`{matrix}` of all blocks"), &|name| name.ends_with(&format!(".{matrix}")))?;
    }
    for matrix in ["img_in", "txt_in", "final.proj"] {
        alone(&format!("`{matrix}`"), &|name| name == matrix)?;
    }
    alone("`time_in` and `modulation`", &|name| name.contains("time_in") || name.contains("modulation"))?;
    let config = &files.transformer.config;
    for (kind, blocks) in [("double", config.double_blocks), ("single", config.single_blocks)] {
        for i in 0..blocks {
            alone(&format!("{kind} block {i}"), &|name| name.starts_with(&format!("{kind}.{i}.")))?;
        }
    }
    Ok(())
}

fn cpu(compute: Compute) -> CpuBackend {
    CpuBackend::new(CpuOptions { compute, ..Default::default() }).expect("threads can be started")
}

#[cfg(all(feature = "cuda", target_os = "linux"))]
fn gpu(compute: Compute) -> CudaBackend {
    CudaBackend::new(CudaOptions { compute, ..Default::default() }).unwrap_or_else(|error| panic!("{error}"))
}

fn embedding<B: Backend>(be: B, files: &ModelFiles, precision: Precision) -> Result<Vec<f32>> {
    let mut pipeline = Pipeline::of_files(be, files.clone(), Residency::OneAtATime)?.with_precision(precision);
    let text = pipeline.encode_prompt(PROMPT, &mut |_: &Event| (), &CancelToken::new())?;
    Ok(pipeline.backend().download(&text.rows)?)
}

/// The velocity of the first of four steps, for a picture of `grid` x `grid` tokens.
fn velocity<B: Backend>(
    be: &B,
    files: &ModelFiles,
    formats: &dyn Fn(&str) -> Format,
    text: &[f32],
    grid: usize,
) -> Result<Vec<f32>> {
    let source = Formatted { weights: files.transformer.map()?, formats };
    let transformer = FlowTransformer::load(be, &files.transformer.config, &source)?;
    let dim = files.transformer.config.context_dim;
    let text = be.upload(&[text.len() / dim, dim], text)?;
    let c = files.transformer.config.in_channels;
    let noise = sampler::noise(Default::default(), 1, c * grid * grid);
    let latents = be.upload(&[grid * grid, c], &pack(&noise, c, grid, grid))?;
    let modulations = transformer.modulations(&sampler::sigmas(4, grid * grid)?[..1])?;
    let conditioning = transformer.condition(&text, [grid, grid], &References::Tokens(&[], &[]))?;
    let velocity = transformer.forward(&latents, &conditioning, &modulations[0], &mut || Ok(()))?;
    Ok(be.download(&velocity)?)
}

/// Weights with a format for each name.
struct Formatted<'a> {
    weights: MappedWeights,
    formats: &'a dyn Fn(&str) -> Format,
}

impl WeightSource for Formatted<'_> {
    fn tensor(&self, name: &str) -> flux2::weights::Result<HostTensor> {
        self.weights.tensor(name)
    }

    fn format(&self, name: &str) -> Format {
        (self.formats)(name)
    }
}

fn relative(got: &[f32], expected: &[f32]) -> f64 {
    let sum = |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v).powi(2)).sum::<f64>();
    (sum(&mut got.iter().zip(expected).map(|(g, e)| g - e)) / sum(&mut expected.iter().copied())).sqrt()
}
