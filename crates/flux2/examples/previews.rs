//! What previews cost and how near they are.
//!
//! ```sh
//! cargo run --release --example previews                              # klein-mini on the CPU
//! cargo run --release --example previews -- klein-4b 1024 cuda        # random weights of that size, side, device
//! cargo run --release --example previews -- FOLDER 1024 cuda          # a model
//! ```
//!
//! Prints the time of the map to colors for 1024x1024, the PSNR of the preview of each step against the finished
//! picture (both an eighth of its size), and the time of a step with and without previews, in turns.

#![allow(clippy::print_stdout)] // its result

use std::time::{Duration, Instant};

use flux2::event::{Preview, WithPreviews};
use flux2::image::RgbImage;
use flux2::preview::Projection;
use flux2::variant::KLEIN_MINI;
use flux2::weights::{Location, ModelFiles};
use flux2::{
    CancelToken, Device, Engine, EngineOptions, Event, GenerateRequest, ModelPaths, Residency, Result, Variant, engine,
};

/// Pictures of the table.
const PICTURES: u64 = 24;
/// Rounds of the comparison, each with and without previews.
const ROUNDS: u64 = 12;

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let model = args.next().unwrap_or_else(|| KLEIN_MINI.into());
    let side = args.next().and_then(|side| side.parse().ok());
    let device: Device = args.next().map_or(Device::Cpu, |device| device.parse().expect("cpu or cuda"));
    println!("map to colors, 32 channels, 1024x1024: {:.3} ms on one thread", 1e3 * projection_seconds());
    let options = EngineOptions { device, residency: Residency::KeepAll, ..EngineOptions::default() };
    let synthetic = Variant::by_name(&model).ok().filter(|variant| variant.name != KLEIN_MINI);
    let files = match synthetic.and_then(ModelFiles::synthetic) {
        Some(synthetic) => synthetic,
        None => {
            let builtin = Location::builtin().filter(|_| model == KLEIN_MINI);
            ModelFiles::open(&ModelPaths {
                model: builtin.unwrap_or_else(|| model.as_str().into()),
                ..Default::default()
            })?
        }
    };
    let mut engine = engine::open(files, &options)?;
    println!("{}: {}", engine.name(), engine.device());
    table(&mut *engine, side)?;
    delay(&mut *engine, side)
}

fn projection_seconds() -> f64 {
    let projection = Projection::new(vec![[0.1, 0.2, 0.3]; 32], [0.0; 3]).expect("finite");
    let tokens: Vec<f32> = (0..64 * 64 * 128).map(|i| (i % 97) as f32 / 97.0 - 0.5).collect();
    let mut times: Vec<f64> = (0..101)
        .map(|_| {
            let start = Instant::now();
            std::hint::black_box(projection.picture(std::hint::black_box(&tokens), [64, 64]));
            start.elapsed().as_secs_f64()
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

const PROMPTS: [&str; 6] = [
    "a cat on a blue background",
    "two apples, yellow gradient",
    "small owl, pink stripes",
    "a red heart",
    "a dog on a green background",
    "a fox, white dots",
];

fn request(picture: u64, side: Option<u32>) -> GenerateRequest {
    let prompt = PROMPTS[picture as usize % PROMPTS.len()].into();
    GenerateRequest { prompt, width: side, height: side, seed: picture, ..GenerateRequest::default() }
}

/// A picture, its previews and the times of its steps.
fn draw(
    engine: &mut dyn Engine,
    request: &GenerateRequest,
    watched: bool,
) -> Result<(RgbImage, Vec<Preview>, Vec<Duration>)> {
    let mut seen = Vec::new();
    let mut observer = WithPreviews(|event: &Event| {
        if let Event::Preview(preview) = event {
            seen.push(preview.clone());
        }
    });
    let cancel = CancelToken::new();
    let made = match watched {
        true => engine.generate_with(request, &mut observer, &cancel)?,
        false => engine.generate(request)?,
    };
    Ok((made.image, seen, made.timings.steps))
}

fn table(engine: &mut dyn Engine, side: Option<u32>) -> Result<()> {
    let mut sums: Vec<f64> = Vec::new();
    for picture in 0..PICTURES {
        let (image, previews, _) = draw(engine, &request(picture, side), true)?;
        let best = shrunk(&image);
        sums.resize(previews.len(), 0.0);
        sums.iter_mut().zip(&previews).for_each(|(sum, preview)| *sum += psnr(&preview.image, &best));
    }
    for (step, sum) in (1..).zip(sums) {
        println!("step {step}: {:.1} dB", sum / PICTURES as f64);
    }
    Ok(())
}

fn delay(engine: &mut dyn Engine, side: Option<u32>) -> Result<()> {
    let mut times = [Vec::new(), Vec::new()];
    for round in 0..=ROUNDS {
        for watched in [false, true] {
            let (_, _, steps) = draw(engine, &request(round, side), watched)?;
            // The first round warms up.
            if round > 0 {
                times[usize::from(watched)].extend(steps.iter().map(Duration::as_secs_f64));
            }
        }
    }
    let [without, with] = times.map(|mut times| {
        times.sort_by(f64::total_cmp);
        1e3 * times[times.len() / 2]
    });
    println!(
        "median step: {without:.3} ms without previews, {with:.3} ms with: {:+.2} %",
        100.0 * (with / without - 1.0)
    );
    Ok(())
}

/// The picture as a preview of it would be at best: means of 8x8 pixels.
fn shrunk(image: &RgbImage) -> RgbImage {
    let (w, h) = (image.width() / 8, image.height() / 8);
    let mut pixels = Vec::new();
    for (y, x) in (0..h).flat_map(|y| (0..w).map(move |x| (y, x))) {
        for k in 0..3 {
            let sum: u32 = (0..64).map(|i| u32::from(image.pixel(8 * x + i % 8, 8 * y + i / 8)[k])).sum();
            pixels.push(((sum + 32) / 64) as u8);
        }
    }
    RgbImage::new(w, h, pixels).expect("three bytes a pixel")
}

fn psnr(a: &RgbImage, b: &RgbImage) -> f64 {
    let squares = a.pixels().iter().zip(b.pixels()).map(|(a, b)| f64::from(a.abs_diff(*b)).powi(2));
    let mean = squares.sum::<f64>() / a.pixels().len() as f64;
    10.0 * (255.0 * 255.0 / mean.max(1e-9)).log10()
}
