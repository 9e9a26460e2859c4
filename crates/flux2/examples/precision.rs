//! How far bf16 is from f32 on a checkpoint: relative L2 of the text embedding and of the first step's velocity.
//!
//! `cargo run --release -p flux2 --example precision -- MODEL [SIDE_PX]`

#![allow(clippy::print_stdout)] // its result

use flux2::pipeline::{DenoiseInputs, Pipeline, ReferenceTokens, Residency, TextEmbedding};
use flux2::{CancelToken, Event, GenerateRequest, ModelPaths, ResolvedRequest, Result};
use flux2_backend::{Backend, Compute, CpuBackend, CpuOptions};

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let paths =
        ModelPaths { model: args.next().expect("usage: precision MODEL [SIDE_PX]").into(), ..Default::default() };
    let side = args.next().map_or(256, |px| px.parse().expect("a number of pixels"));

    let (text, velocity) = one_step(Compute::F32, &paths, side, None)?;
    // Both velocities start from the same text, so that the second figure is the transformer's alone.
    let (_, velocity_bf16) = one_step(Compute::Bf16, &paths, side, Some(&text))?;
    let (text_bf16, _) = one_step(Compute::Bf16, &paths, side, None)?;
    println!("text embedding  {:.2e}", relative(&text_bf16.rows, &text.rows));
    println!("velocity        {:.2e}", relative(&velocity_bf16, &velocity));
    Ok(())
}

/// The text embedding, and the velocity of the first step computed from it or from `given`.
fn one_step(
    compute: Compute,
    paths: &ModelPaths,
    side: u32,
    given: Option<&TextEmbedding>,
) -> Result<(TextEmbedding, Vec<f32>)> {
    let be = CpuBackend::new(CpuOptions { compute, ..Default::default() });
    let mut pipeline = Pipeline::load(be.clone(), paths, Residency::OneAtATime)?;
    let prompt = "a small wooden house beside a quiet lake at sunset".into();
    let request =
        GenerateRequest { prompt, width: Some(side), height: Some(side), steps: Some(1), ..Default::default() };
    let request = ResolvedRequest::new(&request, pipeline.variant())?;
    let (cancel, mut observer) = (CancelToken::new(), |_: &Event| ());
    let text = match given {
        Some(text) => text.clone(),
        None => pipeline.encode_prompt(&request.prompt, &mut observer, &cancel)?,
    };
    let none = ReferenceTokens::default();
    let inputs = DenoiseInputs { request: &request, text: &text, guided: None, references: &none };
    let mut velocity = Ok(Vec::new());
    pipeline.denoise(&inputs, &mut |state| velocity = be.download(state.velocity), &mut observer, &cancel)?;
    Ok((text, velocity?))
}

fn relative(got: &[f32], expected: &[f32]) -> f64 {
    let sum = |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v).powi(2)).sum::<f64>();
    (sum(&mut got.iter().zip(expected).map(|(g, e)| g - e)) / sum(&mut expected.iter().copied())).sqrt()
}
