//! A loop of one's own over the noise levels: `cargo run --release --example custom_sampler -- PROMPT OUTPUT [STEPS]`.
//!
//! The usual loop goes a part of the way along each velocity. This one goes to the end each time, and comes back to the
//! next level with fresh noise, as consistency models are sampled.

use std::num::NonZeroUsize;
use std::path::Path;

use flux2::backend::{CpuBackend, CpuOptions, Runtime};
use flux2::image::{self, ImageFormat, codec::IfExists};
use flux2::pipeline::DenoiseInputs;
use flux2::prelude::*;
use flux2::sampler::{noise, sigmas, with_noise};
use flux2::weights::{Location, ModelFiles, ModelPaths};
use flux2::{Pipeline, Residency, ResolvedRequest, latents};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    run(&std::env::args().skip(1).collect::<Vec<_>>())
}

/// Draws with klein-mini.
pub fn run(args: &[String]) -> Result<(), Box<dyn std::error::Error>> {
    let [prompt, output, steps @ ..] = args else {
        return Err("usage: custom_sampler PROMPT OUTPUT [STEPS]".into());
    };
    let steps = steps.first().map_or(Ok(8), |steps| steps.parse())?;
    let model = Location::builtin().ok_or("this build has no klein-mini")?;
    let files = ModelFiles::open(&ModelPaths { model, ..ModelPaths::default() })?;
    let channels = files.transformer.config.in_channels;
    let mut pipeline = Pipeline::of_files(CpuBackend::new(CpuOptions::default())?, files, Residency::KeepAll)?;
    let (observer, cancel) = (&mut |_: &Event| (), &CancelToken::new());

    let request = GenerateRequest { seed: 42, ..GenerateRequest::new(prompt) };
    let request = &ResolvedRequest::new(&request, pipeline.variant())?;
    let [h, w] = request.grid();
    let text = &pipeline.encode_prompt(prompt, observer, cancel)?;
    let references = &pipeline.encode_references(&request.references, observer, cancel)?;

    let levels = sigmas(steps, h * w)?;
    let mut state = request.initial_latents(channels, NonZeroUsize::MIN); // [n_img, c]
    for (step, level) in (1..).zip(&levels[..levels.len() - 1]) {
        let sigmas = &[*level, 0.0];
        let inputs = DenoiseInputs { request, latents: &state, sigmas, held: None, text, guided: None, references };
        let expected = pipeline.denoise(&inputs, &mut |_| (), observer, cancel)?.latents;
        let fresh = noise(request.noise, request.seed + step, channels * h * w);
        let fresh = latents::pack(&fresh, channels, h, w);
        let next = levels[step as usize];
        let mix = |(image, fresh): (&f32, &f32)| with_noise(*image, *fresh, next);
        state = pipeline.backend().download(&expected)?.iter().zip(&fresh).map(mix).collect();
    }
    let finished = pipeline.backend().upload(&[h * w, channels], &state)?;
    let picture = pipeline.decode(&finished, request, observer, cancel)?;
    let path = Path::new(output);
    image::save(path, &image::encode(&picture, ImageFormat::from_path(path)?, None)?, IfExists::Replace)?;
    Ok(())
}
