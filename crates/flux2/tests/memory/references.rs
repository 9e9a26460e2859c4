//! Reference images: reading them takes what their header says, a run with them what was planned.

use std::io::Write as _;

use flux2::image::{ImageFormat, RgbImage, encode};
use flux2::plan;
use flux2::weights::{ModelFiles, ModelPaths};
use flux2::{EngineOptions, GenerateRequest, Precision, Reference, engine};

use crate::allocator::high_water;

pub fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/../../fixtures/images/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// A file of one color.
pub fn plain(format: ImageFormat, width: u32, height: u32) -> Vec<u8> {
    let pixels = [200, 120, 40].repeat((width * height) as usize);
    encode(&RgbImage::new(width, height, pixels).unwrap(), format, None).unwrap()
}

fn chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let mut crc = flate2::Crc::new();
    crc.update(kind);
    crc.update(data);
    let length = u32::try_from(data.len()).unwrap().to_be_bytes();
    [&length, kind.as_slice(), data, &crc.sum().to_be_bytes()].concat()
}

/// A black PNG in the passes of Adam7.
fn interlaced(width: u32, height: u32) -> Vec<u8> {
    let passes = [(0, 8, 0, 8), (4, 8, 0, 8), (0, 4, 4, 8), (2, 4, 0, 4), (0, 2, 2, 4), (1, 2, 0, 2), (0, 1, 1, 2)];
    let bytes: u32 = passes
        .map(|(x, step_x, y, step_y)| (height - y).div_ceil(step_y) * (1 + 3 * (width - x).div_ceil(step_x)))
        .iter()
        .sum();
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(&vec![0; bytes as usize]).unwrap();
    let header = [&width.to_be_bytes()[..], &height.to_be_bytes(), &[8, 2, 0, 0, 1]].concat();
    let chunks = [chunk(b"IHDR", &header), chunk(b"IDAT", &encoder.finish().unwrap()), chunk(b"IEND", &[])];
    [b"\x89PNG\r\n\x1a\n".as_slice(), &chunks.concat()].concat()
}

/// A gray BMP of 24 bits.
fn bmp(width: u32, height: u32) -> Vec<u8> {
    let offset = 54u32;
    let size = [width, height].map(u32::to_le_bytes).concat();
    let head = [b"BM\0\0\0\0\0\0\0\0", &offset.to_le_bytes()[..], &40u32.to_le_bytes(), &size, &[1, 0, 24, 0]].concat();
    [&head[..], &[0; 24], &vec![99; (width * 3).next_multiple_of(4) as usize * height as usize]].concat()
}

pub fn reading_takes_what_the_header_says() {
    let whole = 3 * 3000 * 2000;
    for (name, file, is_in_rows) in [
        ("PNG", plain(ImageFormat::Png, 3000, 2000), true),
        ("tall PNG", plain(ImageFormat::Png, 1100, 8000), true),
        ("interlaced PNG", interlaced(3000, 2000), false),
        ("JPEG", plain(ImageFormat::Jpeg, 3000, 2000), false),
        ("progressive JPEG", fixture("large_progressive.jpg"), false),
        ("WebP", plain(ImageFormat::WebP, 3000, 2000), false),
        ("lossy WebP", fixture("large_lossy.webp"), false),
        ("lossy WebP with alpha", fixture("large_alpha.webp"), false),
        ("GIF", fixture("plain/large.gif"), false),
        ("TIFF", fixture("plain/large.tif"), false),
        ("QOI", fixture("plain/large.qoi"), false),
        ("BMP", bmp(3000, 2000), false),
    ] {
        let most = Reference::reading_bytes_of(&file, name).unwrap() - file.len();
        let (needed, _) = high_water(|| Reference::from_bytes(&file, name).unwrap());
        assert!(needed <= most, "{name}: {needed} of {most}");
        // A bound that is far too large would refuse what fits.
        assert!(most < 3 * needed + (16 << 20), "{name}: {needed} of {most}");
        assert!(!is_in_rows || needed < whole / 2, "{name}: {needed}");
    }
}

pub fn a_run_with_large_references_keeps_to_its_plan() {
    let files = [
        plain(ImageFormat::Jpeg, 3000, 2000),
        fixture("large_alpha.webp"),
        plain(ImageFormat::Png, 3000, 2000),
        fixture("large_progressive.jpg"),
    ];
    let tiny = format!("{}/../../fixtures/tiny/klein", env!("CARGO_MANIFEST_DIR"));
    let model = ModelFiles::open(&ModelPaths { model: tiny.into(), ..Default::default() }).unwrap();
    let options = EngineOptions { precision: Precision::BF16, device: flux2::Device::Cpu, ..EngineOptions::default() };
    // Images that share their references.
    let requests = || -> Vec<GenerateRequest> {
        let references: Vec<_> = files.iter().map(|file| Reference::from_bytes(file, "x").unwrap()).collect();
        let request =
            GenerateRequest { references, width: Some(64), height: Some(64), steps: Some(1), ..Default::default() };
        (0..5).map(|seed| GenerateRequest { seed, ..request.clone() }).collect()
    };
    let program = plan::program_bytes(&model).unwrap();
    let in_files: usize = files.iter().map(Vec::len).sum();
    let (to_plan, planned) = high_water(|| plan::of(&model, &options, &requests()).unwrap().peak_bytes());
    assert!(to_plan <= planned, "planning took {to_plan} of {planned}");
    let (needed, ()) = high_water(|| {
        let mut engine = engine::open(model.clone(), &options).unwrap();
        crate::run(&mut *engine, &requests());
    });
    // The plan counts one file at a time, as files are read; here all are in memory before.
    assert!(needed <= planned && planned < needed + in_files + program + (24 << 20), "{needed} of {planned}");
}
