//! Sources that are painted into: reading them takes what their header says, a run with them what was planned.

use flux2::canvas::{Outpaint, Side};
use flux2::image::{ImageFormat, RgbImage, encode};
use flux2::plan;
use flux2::weights::{ModelFiles, ModelPaths};
use flux2::{EngineOptions, GenerateRequest, Precision, Source, SourceOptions, engine};

use crate::allocator::high_water;
use crate::references::{fixture, plain};

/// A mask that repaints a box at the top left.
fn mask(width: u32, height: u32) -> Vec<u8> {
    let pixel = |i: u32| [if i % width < 80 && i / width < 80 { 255 } else { 0 }; 3];
    let image = RgbImage::new(width, height, (0..width * height).flat_map(pixel).collect()).unwrap();
    encode(&image, ImageFormat::Png, None).unwrap()
}

/// Options that draw a small region, and a larger canvas.
fn options() -> [SourceOptions; 2] {
    let region = SourceOptions { area: Some(64 * 64), mask_grow: 8, ..Default::default() };
    let outpaint = Outpaint::new([Side::Px(500), Side::Px(0), Side::Percent(20.0), Side::Px(0)]);
    [region.clone(), SourceOptions { outpaint: Some(outpaint), ..region }]
}

pub fn reading_a_source_takes_what_the_headers_say() {
    for (name, file) in [
        ("PNG", plain(ImageFormat::Png, 3000, 2000)),
        ("JPEG", plain(ImageFormat::Jpeg, 3000, 2000)),
        ("WebP with alpha", fixture("large_alpha.webp")),
    ] {
        let size = flux2::image::decode(&file, name).unwrap();
        let mask = mask(size.width(), size.height());
        for options in options() {
            let given = Some((&mask[..], "mask"));
            let most = Source::reading_bytes_of(&file, name, given, &options).unwrap() - file.len() - mask.len();
            let (needed, _) = high_water(|| Source::from_bytes(&file, name, given, options.clone()).unwrap());
            assert!(needed <= most, "{name}: {needed} of {most}");
            assert!(most < 3 * needed + (16 << 20), "{name}: {needed} of {most}");
        }
    }
}

pub fn a_run_with_a_large_source_keeps_to_its_plan() {
    let (file, mask) = (plain(ImageFormat::Png, 3000, 2000), mask(3000, 2000));
    let tiny = format!("{}/../../fixtures/tiny/klein", env!("CARGO_MANIFEST_DIR"));
    let model = ModelFiles::open(&ModelPaths { model: tiny.into(), ..Default::default() }).unwrap();
    let engine_options =
        EngineOptions { precision: Precision::BF16, device: flux2::Device::Cpu, ..EngineOptions::default() };
    let program = plan::program_bytes(&model).unwrap();
    for options in options() {
        let request = || {
            let source = Source::from_bytes(&file, "source", Some((&mask, "mask")), options.clone()).unwrap();
            GenerateRequest { source: Some(source), steps: Some(1), ..Default::default() }
        };
        let (to_plan, planned) = high_water(|| plan::of(&model, &engine_options, &[request()]).unwrap().peak_bytes());
        assert!(to_plan <= planned, "planning took {to_plan} of {planned}");
        let (needed, ()) = high_water(|| {
            let mut engine = engine::open(model.clone(), &engine_options).unwrap();
            crate::run(&mut *engine, &[request()]);
        });
        assert!(needed <= planned && planned < 2 * needed + program, "{needed} of {planned}");
    }
}
