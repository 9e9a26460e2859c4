//! What the stages do when they are right: states, estimates, trajectories, number formats.

use flux2::backend::{Compute, Format};
use flux2::image::RgbImage;
use flux2::weights::ModelPaths;
use flux2::{EngineOptions, GenerateRequest, Precision, engine};

use super::lab::{Lab, Result, distance, near, norm, repository, request};
use super::plots::{Axis, Plot, Series};
use super::sheet;

const CAT: &str = "a cat on a blue background";

/// Above: the state after each step, decoded. Below: what the model expects to come out.
pub fn steps() -> Result<Vec<u8>> {
    let mut lab = Lab::open()?;
    let drawn = lab.draw(&request(CAT))?;
    let decode = |lab: &mut Lab, latents: &[f32]| lab.decode(latents, [128; 2]);
    let mut labeled: Vec<(String, RgbImage)> = Vec::new();
    for (latents, sigma) in drawn.latents.iter().zip(&drawn.sigmas) {
        labeled.push((format!("level {sigma:.2}"), decode(&mut lab, latents)?));
    }
    for (step, estimate) in (1..).zip(drawn.estimates()) {
        let image = decode(&mut lab, &estimate)?;
        labeled.push((format!("step {step} expects: {}", near(&image, &drawn.image)?), image));
    }
    let all: Vec<_> = labeled.iter().map(|(label, image)| (label.as_str(), image)).collect();
    sheet(&all, drawn.latents.len())
}

/// How far the latents leave the straight line from the noise to the finished latents.
pub fn trajectory() -> Result<Vec<u8>> {
    let mut lab = Lab::open()?;
    let mut series = Vec::new();
    for (steps, name) in [(2, "2 steps"), (4, "4 steps"), (8, "8 steps"), (32, "32 steps")] {
        let drawn = lab.draw(&GenerateRequest { steps: Some(steps), ..request(CAT) })?;
        let (noise, end) = (&drawn.latents[0], &drawn.latents[steps as usize]);
        let line: Vec<f32> = end.iter().zip(noise).map(|(end, noise)| end - noise).collect();
        let length = norm(line.iter().copied());
        let place = |latents: &Vec<f32>| {
            let way = latents.iter().zip(noise).map(|(x, noise)| x - noise);
            let along = way.clone().zip(&line).map(|(way, line)| f64::from(way * line)).sum::<f64>() / length.powi(2);
            let off = norm(way.zip(&line).map(|(way, line)| way - along as f32 * line)) / length;
            (along, off)
        };
        series.push(Series { name: name.into(), points: drawn.latents.iter().map(place).collect(), dashed: false });
    }
    series.push(Series { name: "straight line".into(), points: vec![(0.0, 0.0), (1.0, 0.0)], dashed: true });
    Ok(Plot {
        title: "Way from the noise to the finished latents, klein-mini".into(),
        x: Axis { name: "part of the way".into(), ticks: vec![0.0, 0.25, 0.5, 0.75, 1.0], ..Axis::default() },
        y: Axis {
            name: "distance from the straight line / its length".into(),
            ticks: vec![0.0, 0.02, 0.04, 0.06, 0.08, 0.1],
            ..Axis::default()
        },
        series,
    }
    .svg())
}

/// How far what the model expects is from what comes out, by noise level.
pub fn estimate() -> Result<Vec<u8>> {
    let mut lab = Lab::open()?;
    let mut series = Vec::new();
    for (prompt, name) in [(CAT, "all said"), ("a cat", "only the subject"), ("", "empty prompt")] {
        let drawn = lab.draw(&GenerateRequest { steps: Some(16), ..request(prompt) })?;
        let end = drawn.latents.last().ok_or("no latents")?;
        let far = |estimate: &Vec<f32>| distance(estimate, end);
        let points = drawn.sigmas.iter().copied().map(f64::from).zip(drawn.estimates().iter().map(far)).collect();
        series.push(Series { name: name.into(), points, dashed: false });
    }
    Ok(Plot {
        title: "Expected latents against finished ones, 16 steps, klein-mini".into(),
        x: Axis { name: "noise level".into(), ticks: vec![1.0, 0.75, 0.5, 0.25, 0.0], ..Axis::default() },
        y: Axis { name: "relative distance".into(), ticks: vec![0.0, 0.2, 0.4, 0.6, 0.8], ..Axis::default() },
        series,
    }
    .svg())
}

/// The same request with other numbers of steps.
pub fn step_counts() -> Result<Vec<u8>> {
    let mut lab = Lab::open()?;
    let mut labeled = Vec::new();
    for steps in [1, 2, 4, 8, 32] {
        labeled
            .push((format!("{steps}"), lab.draw(&GenerateRequest { steps: Some(steps), ..request("a cat") })?.image));
    }
    labeled[0].0 = "1 step".into();
    let all: Vec<_> = labeled.iter().map(|(label, image)| (label.as_str(), image)).collect();
    sheet(&all, all.len())
}

/// Number formats, by the engine that everybody uses.
pub fn formats() -> Result<Vec<u8>> {
    let rounded = |compute, format| Precision::new(compute, format).ok_or("no such format");
    let formats = [
        ("f32", Precision::F32),
        ("bf16", Precision::BF16),
        ("q8_0", rounded(Compute::Bf16, Format::Q8_0)?),
        ("int8", Precision::INT8),
    ];
    let mut labeled: Vec<(String, RgbImage)> = Vec::new();
    for (name, precision) in formats {
        let paths = ModelPaths { model: repository("assets/mini").into(), ..ModelPaths::default() };
        let options = EngineOptions { precision, device: flux2::Device::Cpu, ..EngineOptions::default() };
        let image = engine::load(&paths, &options)?.generate(&request(CAT))?.image;
        let label = match labeled.first() {
            Some((_, right)) => format!("{name}: {}", near(&image, right)?),
            None => name.to_owned(),
        };
        labeled.push((label, image));
    }
    let all: Vec<_> = labeled.iter().map(|(label, image)| (label.as_str(), image)).collect();
    sheet(&all, all.len())
}
