//! Upscalers: golden tensors, tiles, sizes, memory, and pictures that are enlarged once they are drawn.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use flux2::image::RgbImage;
use flux2::image::resize::resize_lanczos;
use flux2::models::upscaler;
use flux2::plan;
use flux2::upscale::{Tiling, UpscaleReport, Upscaled};
use flux2::weights::{Location, ModelFiles, ModelPaths, UpscalerFile};
use flux2::{
    BatchMember, Batching, CancelToken, Device, EngineOptions, Error, Event, GenerateRequest, Phase, Precision,
    UpscaleEngine, UpscaleSize, Upscaler, Upscaling, engine,
};
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use tempfile::TempDir;

use crate::golden::{Golden, assert_absolute, f32_backend, fixture};

/// Cases with all weights, and whether their picture is padded.
const CASES: [&str; 4] = ["rrdb_x4", "rrdb_x2_unshuffle", "srvgg_x4", "srvgg_x2"];

fn golden(case: &str) -> Golden {
    Golden::open(&format!("upscale/{case}"))
}

/// The weights of a case as a file of their own, changed by `change`.
fn weights(case: &str, folder: &TempDir, change: impl Fn(&str, &[u8]) -> Vec<u8>) -> PathBuf {
    let golden = golden(case);
    let all = SafeTensors::deserialize(&golden.bytes).unwrap();
    let of_network = |name: &str| !["input", "output", "input_u8", "output_u8"].contains(&name);
    let tensors: Vec<_> = all.iter().filter(|(name, _)| of_network(name)).collect();
    let data: Vec<Vec<u8>> = tensors.iter().map(|(name, tensor)| change(name, tensor.data())).collect();
    let views = tensors.iter().zip(&data).map(|((name, tensor), data)| {
        (name.to_string(), TensorView::new(tensor.dtype(), tensor.shape().to_vec(), data).unwrap())
    });
    let path = folder.path().join(format!("{case}.safetensors"));
    safetensors::serialize_to_file(views, None, &path).unwrap();
    path
}

fn upscaler_of(case: &str, folder: &TempDir) -> Upscaler {
    open(&weights(case, folder, |_, data| data.to_vec()))
}

fn open(path: &Path) -> Upscaler {
    Upscaler::open(&Location::from(path)).unwrap()
}

fn options(threads: usize) -> EngineOptions {
    let (device, precision, threads) = (Device::Cpu, Precision::F32, NonZeroUsize::new(threads));
    EngineOptions { device, precision, threads, ..EngineOptions::default() }
}

fn ready(upscaler: &Upscaler, threads: usize) -> UpscaleEngine {
    UpscaleEngine::open(upscaler.clone(), &options(threads)).unwrap()
}

fn image(golden: &Golden, name: &str) -> RgbImage {
    let shape = golden.shape(name);
    let pixels = golden.values(name).into_iter().map(|value| value as u8).collect();
    RgbImage::new(shape[1] as u32, shape[0] as u32, pixels).unwrap()
}

/// A picture with detail everywhere.
fn noisy(width: u32, height: u32) -> RgbImage {
    let mut state = 7u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    RgbImage::new(width, height, (0..width * height * 3).map(|_| next()).collect()).unwrap()
}

fn upscale(engine: &UpscaleEngine, image: &RgbImage, size: UpscaleSize) -> Upscaled {
    engine.upscale(image, size, &mut |_: &Event| {}, &CancelToken::new()).unwrap()
}

fn by(factor: f32) -> UpscaleSize {
    UpscaleSize::By(factor)
}

#[test]
fn values_are_those_of_the_reference() {
    let folder = TempDir::new().unwrap();
    for case in CASES {
        let golden = golden(case);
        let file = UpscalerFile::open(&weights(case, &folder, |_, data| data.to_vec()).into()).unwrap();
        let (be, scale, unit) = (f32_backend(), file.config.scale(), file.config.unshuffle());
        let network = upscaler::Upscaler::load(&be, &file.config, &file).unwrap();
        let [_, h, w] = golden.shape("input")[..] else { panic!("{case}") };
        // Padded as the reference does it: mirrored at the last pixel.
        let (padded_h, padded_w) = (h.next_multiple_of(unit), w.next_multiple_of(unit));
        let input = golden.channels_last("input");
        let mirrored = |i: usize, n: usize| if i < n { i } else { 2 * n - 2 - i };
        let pixels: Vec<f32> = (0..padded_h * padded_w * 3)
            .map(|i| input[(mirrored(i / 3 / padded_w, h) * w + mirrored(i / 3 % padded_w, w)) * 3 + i % 3])
            .collect();
        let (mut rows, mut calls) = (vec![], 0);
        let mut emit = |first: usize, values: &[f32]| {
            assert_eq!(first * padded_w * scale * 3, rows.len(), "{case}: rows come in order");
            rows.extend_from_slice(values);
            Ok(())
        };
        let mut pulse = || {
            calls += 1;
            Ok(())
        };
        network.forward(&pixels, [padded_h, padded_w], &mut emit, &mut pulse).unwrap();
        assert_eq!(calls, network.blocks([padded_h, padded_w]), "{case}");
        let cut: Vec<f32> = rows
            .chunks_exact(padded_w * scale * 3)
            .take(h * scale)
            .flat_map(|row| &row[..w * scale * 3])
            .copied()
            .collect();
        assert_absolute(case, &cut, &golden.channels_last("output"), 2e-5);
    }
}

#[test]
fn bytes_are_those_of_the_reference() {
    let folder = TempDir::new().unwrap();
    for case in CASES {
        let (golden, upscaler) = (golden(case), upscaler_of(case, &folder));
        let factor = upscaler.scale().unwrap() as f32;
        let Upscaled { image: made, report, .. } =
            upscale(&ready(&upscaler, 1), &image(&golden, "input_u8"), by(factor));
        let expected = image(&golden, "output_u8");
        assert_eq!((made.width(), made.height()), (expected.width(), expected.height()), "{case}");
        let worst = made.pixels().iter().zip(expected.pixels()).map(|(a, b)| a.abs_diff(*b)).max();
        assert!(worst <= Some(1), "{case}: {worst:?}");
        let whole = UpscaleReport { upscaler: case.into(), passes: 1, tiles: 1, is_exact: true, is_resampled: false };
        assert_eq!(report, whole);
    }
}

#[test]
fn a_pytorch_file_is_the_same_network() {
    let folder = TempDir::new().unwrap();
    for (case, pth) in [("srvgg_x4", "srvgg_x4.pth"), ("rrdb_x4", "rrdb_x4_first_names.pth")] {
        let picture = noisy(9, 7);
        let expected = upscale(&ready(&upscaler_of(case, &folder), 1), &picture, by(4.0)).image;
        let upscaler = open(&fixture("golden/upscale").join(pth));
        assert!(upscale(&ready(&upscaler, 1), &picture, by(4.0)).image == expected, "{pth}");
    }
}

/// Tiles that see all that the network looks at give the bytes of the whole picture, whatever their size.
#[test]
fn tiles_are_the_whole_picture() {
    let folder = TempDir::new().unwrap();
    for (case, sides) in
        [("srvgg_x4", &[4, 7, 16, 33][..]), ("srvgg_x2", &[9]), ("rrdb_x4", &[24]), ("rrdb_x2_unshuffle", &[21])]
    {
        let (upscaler, picture) = (upscaler_of(case, &folder), noisy(61, 40));
        let factor = by(upscaler.scale().unwrap() as f32);
        let whole = upscale(&ready(&upscaler, 1).with_tiling(Tiling { whole: 1 << 20, side: 512 }), &picture, factor);
        assert_eq!(whole.report.tiles, 1);
        for &side in sides {
            for threads in [1, 3] {
                let engine = ready(&upscaler, threads).with_tiling(Tiling { whole: 0, side });
                let tiled = upscale(&engine, &picture, factor);
                assert!(tiled.report.tiles > 1 && tiled.report.is_exact, "{case}, {side}: {:?}", tiled.report);
                assert!(tiled.image == whole.image, "{case}: tiles of {side} on {threads} threads");
            }
        }
    }
}

#[test]
fn any_size_is_made_from_the_networks_result() {
    let folder = TempDir::new().unwrap();
    let (upscaler, picture) = (upscaler_of("srvgg_x4", &folder), noisy(30, 20));
    let engine = ready(&upscaler, 1).with_tiling(Tiling { whole: 0, side: 8 });
    let four_times = upscale(&engine, &picture, by(4.0)).image;
    for (size, [w, h]) in [
        (by(2.0), [60, 40]),
        (by(3.3), [99, 66]),
        (UpscaleSize::To { width: Some(100), height: None }, [100, 67]),
        (UpscaleSize::To { width: Some(31), height: Some(70) }, [31, 70]),
    ] {
        let Upscaled { image, report, .. } = upscale(&engine, &picture, size);
        assert!(image == resize_lanczos(&four_times, w, h).unwrap(), "{size:?}");
        assert!(report.is_resampled && report.passes == 1 && report.to_string().ends_with("resized by Lanczos"));
    }
    let twice = upscale(&engine, &picture, by(16.0));
    assert!(twice.image == upscale(&engine, &four_times, by(4.0)).image && twice.report.passes == 2);
    // Where there is nothing to enlarge, the network does not run.
    let smaller = upscale(&engine, &picture, UpscaleSize::To { width: Some(15), height: None });
    assert!(smaller.image == resize_lanczos(&picture, 15, 10).unwrap() && smaller.report.passes == 0);
    let lanczos = upscale(&ready(&Upscaler::Lanczos, 1), &picture, by(2.0));
    assert!(lanczos.image == resize_lanczos(&picture, 60, 40).unwrap());
    assert_eq!(lanczos.report.to_string(), "lanczos");
}

#[test]
fn less_memory_takes_smaller_tiles_for_the_same_bytes() {
    let folder = TempDir::new().unwrap();
    let (upscaler, picture) = (upscaler_of("srvgg_x4", &folder), noisy(300, 200));
    let made = |max_memory: Option<usize>| {
        let engine = UpscaleEngine::open(upscaler.clone(), &EngineOptions { max_memory, ..options(2) }).unwrap();
        engine.upscale(&picture, by(4.0), &mut |_: &Event| {}, &CancelToken::new())
    };
    let free = made(None).unwrap();
    let Err(Error::MemoryLimit { least, stage, .. }) = made(Some(1 << 20)) else { panic!("a megabyte is too little") };
    assert_eq!(stage, Phase::Upscale);
    let limited = made(Some(least)).unwrap();
    assert!(limited.report.tiles > free.report.tiles && limited.image == free.image, "{:?}", limited.report);
    assert!(made(Some(least - 1)).is_err());
}

#[test]
fn progress_is_counted_and_a_token_stops_it() {
    let folder = TempDir::new().unwrap();
    for (case, factor) in [("srvgg_x4", 16.0), ("rrdb_x4", 4.0)] {
        let engine = ready(&upscaler_of(case, &folder), 1).with_tiling(Tiling { whole: 0, side: 32 });
        let (mut units, mut done, mut reports) = (0, 0, 0);
        let mut watch = |event: &Event| match event {
            Event::PhaseStarted { phase: Phase::Upscale, units: all } => units = *all,
            Event::Progress { phase: Phase::Upscale, done: now } => done = *now,
            Event::Upscaled(_) => reports += 1,
            _ => {}
        };
        engine.upscale(&noisy(70, 40), by(factor), &mut watch, &CancelToken::new()).unwrap();
        assert!(units > 5 && units == done && reports == 1, "{case}: {done} of {units}");
        let cancel = CancelToken::new();
        let mut seen = 0;
        let mut stop = |event: &Event| {
            if matches!(event, Event::Progress { .. }) {
                seen += 1;
                cancel.cancel();
            }
        };
        let stopped = engine.upscale(&noisy(70, 40), by(4.0), &mut stop, &cancel);
        assert!(matches!(stopped, Err(Error::Cancelled)) && seen == 1, "{case}: {seen}");
    }
}

#[test]
fn bf16_is_nearly_f32_and_infinite_weights_are_an_error() {
    let folder = TempDir::new().unwrap();
    let (upscaler, picture) = (upscaler_of("srvgg_x4", &folder), noisy(20, 20));
    let bf16 = EngineOptions { precision: Precision::BF16, ..options(1) };
    let rounded = upscale(&UpscaleEngine::open(upscaler.clone(), &bf16).unwrap(), &picture, by(4.0)).image;
    let exact = upscale(&ready(&upscaler, 1), &picture, by(4.0)).image;
    let worst = rounded.pixels().iter().zip(exact.pixels()).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
    // Random weights pass on more of an error than trained ones do.
    assert!(worst <= 4, "{worst} levels");
    let broken = weights("srvgg_x2", &folder, |name, data| match name {
        "body.0.bias" => f32::INFINITY.to_le_bytes().repeat(data.len() / 4),
        _ => data.to_vec(),
    });
    let broken = ready(&open(&broken), 1).upscale(&picture, by(2.0), &mut |_: &Event| {}, &CancelToken::new());
    assert!(matches!(broken, Err(Error::NotFinite)));
}

/// Pictures of the documentation, reduced to a quarter and enlarged again.
#[cfg(feature = "upscaler")]
#[test]
fn the_built_in_network_restores_more_than_resampling() {
    let upscaler = Upscaler::builtin();
    let Upscaler::Network(file) = &upscaler else { panic!("{upscaler:?}") };
    assert_eq!((file.name.as_str(), file.config.scale(), file.container()), ("compact-x4", 4, "safetensors"));
    assert!(file.bytes <= 1_300_000, "{}", file.bytes);
    let engine = UpscaleEngine::open(upscaler.clone(), &options(2)).unwrap();
    for name in ["cat", "tiger"] {
        let picture = flux2::image::open(&fixture("../docs/images").join(format!("{name}.png"))).unwrap();
        let small = resize_lanczos(&picture, 32, 32).unwrap();
        let decibels = |made: &RgbImage| {
            let squares = made.pixels().iter().zip(picture.pixels()).map(|(a, b)| f64::from(a.abs_diff(*b)).powi(2));
            10.0 * (255.0 * 255.0 / (squares.sum::<f64>() / picture.pixels().len() as f64)).log10()
        };
        let network = decibels(&upscale(&engine, &small, by(4.0)).image);
        let resampled = decibels(&resize_lanczos(&small, 128, 128).unwrap());
        assert!(network > resampled + 3.0, "{name}: {network:.1} dB, Lanczos {resampled:.1}");
    }
}

// ---- after drawing ----

fn tiny() -> ModelFiles {
    ModelFiles::open(&ModelPaths { model: fixture("tiny/klein").into(), ..Default::default() }).unwrap()
}

fn request(seed: u64, upscaling: Option<Upscaling>) -> GenerateRequest {
    let (width, height) = (Some(64), Some(96));
    GenerateRequest { width, height, steps: Some(1), seed, upscale: upscaling, ..GenerateRequest::new("a fox") }
}

#[test]
fn a_drawn_picture_is_enlarged_as_if_it_came_from_a_file() {
    let folder = TempDir::new().unwrap();
    let upscaler = upscaler_of("srvgg_x4", &folder);
    let mut engine = engine::open(tiny(), &options(1)).unwrap();
    let plain = engine.generate(&request(7, None)).unwrap();
    assert!(plain.parameters.upscale.is_none() && plain.timings.upscale.is_zero());
    for (upscaler, factor) in [(upscaler.clone(), 4.0), (upscaler, 2.0), (Upscaler::Lanczos, 3.0)] {
        let upscaling = Upscaling { upscaler: upscaler.clone(), size: by(factor) };
        let made = engine.generate(&request(7, Some(upscaling))).unwrap();
        assert!(made.image == upscale(&ready(&upscaler, 1), &plain.image, by(factor)).image, "{factor} times");
        let recorded = made.parameters.upscale.unwrap();
        assert_eq!((recorded.upscaler.as_str(), recorded.by), (upscaler.name(), Some(factor)));
        assert_eq!((made.parameters.width, made.parameters.height), (64, 96), "the size that is drawn");
        assert!(!made.timings.upscale.is_zero());
    }
    // Of a batch, each picture as it asks for.
    let requests = [request(7, None), request(8, Some(Upscaling { upscaler: Upscaler::Lanczos, size: by(2.0) }))];
    let (mut observers, cancel) = ([|_: &Event| {}, |_: &Event| {}], CancelToken::new());
    let members = requests.iter().zip(&mut observers);
    let mut members: Vec<_> =
        members.map(|(request, observer)| BatchMember { request, observer, cancel: &cancel }).collect();
    let made = engine.generate_batch(&mut members, Batching::SameBytes);
    let widths: Vec<u32> = made.into_iter().map(|made| made.unwrap().image.width()).collect();
    assert_eq!(widths, [64, 128]);
}

#[test]
fn a_plan_counts_the_upscaler() {
    let folder = TempDir::new().unwrap();
    let upscaling = |size| Some(Upscaling { upscaler: upscaler_of("srvgg_x4", &folder), size });
    let stage = |upscale: Option<Upscaling>| {
        let plan = plan::of(&tiny(), &options(1), &[request(7, upscale)]).unwrap();
        plan.stages.iter().find(|stage| stage.stage == Phase::Upscale).map(|stage| stage.memory.total())
    };
    assert_eq!(stage(None), None);
    let four = stage(upscaling(by(4.0))).unwrap();
    // At least the maps of 8 channels, and the result.
    assert!(four > 2 * 64 * 96 * 8 * 4 + 64 * 96 * 16 * 3, "{four}");
    let too_large = engine::open(tiny(), &options(1)).unwrap().generate(&request(7, upscaling(by(17.0))));
    assert!(matches!(too_large, Err(Error::UpscaleFactor { .. })));
}
