//! The rules of other programs, against tables that `tools/reference/compat_tables.py` makes with the operations of
//! those programs.

use std::num::NonZeroUsize;

use flux2::compat::round_to_bf16;
use flux2::image::{ImageFormat, RgbImage, encode, from_model_output_by};
use flux2::sampler::{Schedule, noise, sigmas, sigmas_by};
use flux2::{Compat, GenerateRequest, NoiseKind, Reference, ResolvedRequest, Variant};
use serde_json::Value;

fn table() -> Value {
    let table = std::fs::read(crate::golden::fixture("golden/compat.json")).unwrap();
    serde_json::from_slice(&table).unwrap()
}

fn numbers(row: &Value) -> Vec<u64> {
    row.as_array().unwrap().iter().map(|number| number.as_u64().unwrap()).collect()
}

/// The formula of `rough` in the script.
fn rough(width: u32, height: u32) -> RgbImage {
    let pixel = |x: u32, y: u32| [(x ^ y) as u8, (x * 3 + y * 5) as u8, ((x * y) >> 4) as u8];
    let pixels = (0..height).flat_map(|y| (0..width).flat_map(move |x| pixel(x, y))).collect();
    RgbImage::new(width, height, pixels).unwrap()
}

#[test]
fn noise_levels_are_those_of_each_program_to_the_bit() {
    let table = table();
    let rows = table["levels"].as_array().unwrap();
    assert!(rows.len() >= 60);
    for row in rows {
        let (steps, tokens) = (row["steps"].as_u64().unwrap() as u32, row["image_tokens"].as_u64().unwrap() as usize);
        for (name, schedule) in [("linspace", Schedule::Linspace), ("discrete", Schedule::Discrete)] {
            let levels = sigmas_by(schedule, steps, tokens).unwrap();
            let bits: Vec<u64> = levels.iter().map(|level| level.to_bits().into()).collect();
            assert_eq!(bits, numbers(&row[name]), "{name}, {steps} steps, {tokens} tokens: {levels:?}");
        }
        assert_eq!(sigmas_by(Schedule::Diffusers, steps, tokens).unwrap(), sigmas(steps, tokens).unwrap());
    }
    assert!(sigmas_by(Schedule::Discrete, 0, 16).is_err());
}

#[test]
fn a_request_has_the_levels_and_the_rounding_of_its_program() {
    let of = |compat| {
        let request = GenerateRequest { compat, width: Some(256), height: Some(128), ..GenerateRequest::default() };
        ResolvedRequest::new(&request, Variant::by_name("klein-4b").unwrap()).unwrap()
    };
    let tokens = 16 * 8;
    for compat in Compat::ALL {
        let resolved = of(Some(compat));
        assert_eq!(resolved.sigmas().unwrap(), sigmas_by(compat.schedule(), 4, tokens).unwrap(), "{compat}");
        assert_eq!(resolved.rounding(), compat.rounding());
        assert_eq!(compat.name().parse(), Ok(compat));
    }
    assert_eq!(of(None).sigmas().unwrap(), sigmas(4, tokens).unwrap());
    assert_ne!(of(Some(Compat::StableDiffusionCpp)).sigmas().unwrap(), sigmas(4, tokens).unwrap());
    assert!("sd.cpp".parse::<Compat>().unwrap_err().to_string().contains("sdcpp"));
}

#[test]
fn noise_is_that_of_each_program() {
    let table = std::fs::read(crate::golden::fixture("golden/noise.json")).unwrap();
    let table: Vec<Value> = serde_json::from_slice(&table).unwrap();
    let digest = |values: &[f32], as_bf16: bool| {
        let bytes: Vec<u8> = match as_bf16 {
            true => values.iter().flat_map(|v| ((v.to_bits() >> 16) as u16).to_le_bytes()).collect(),
            false => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        };
        flux2::digest::sha256(&bytes)
    };
    // Latents have a multiple of 16 values.
    for row in table.iter().filter(|row| row["n"].as_u64().unwrap() % 16 == 0) {
        let (seed, n) = (row["seed"].as_u64().unwrap(), row["n"].as_u64().unwrap() as usize);
        for (compat, computes_in_f32, format) in [
            (Compat::Diffusers, false, "bf16"),
            (Compat::Diffusers, true, "f32"),
            (Compat::Comfy, false, "f32"),
            (Compat::Comfy, true, "f32"),
        ] {
            let mut values = noise(compat.noise(), seed, n);
            if compat.rounds_noise(computes_in_f32) {
                round_to_bf16(&mut values);
            }
            assert_eq!(digest(&values, format == "bf16"), row[format]["sha256"], "{compat}, {seed}, {n}");
        }
    }
    for compat in [Compat::Bfl, Compat::DjFlux2] {
        assert_eq!(compat.noise(), "torch-cuda:132x2048".parse::<NoiseKind>().unwrap());
        assert!(compat.rounds_noise(true) && compat.rounds_noise(false));
    }
    assert_eq!(Compat::StableDiffusionCpp.noise(), NoiseKind::Philox);
    assert!(!Compat::StableDiffusionCpp.rounds_noise(false));
}

#[test]
fn rounding_to_bf16_is_that_of_the_type() {
    let mut values: Vec<f32> = (0..200_000u32).map(|i| f32::from_bits(i.wrapping_mul(0x9e37_79b9))).collect();
    values.retain(|value| value.is_finite());
    let expected: Vec<u32> = values.iter().map(|v| half::bf16::from_f32(*v).to_f32().to_bits()).collect();
    round_to_bf16(&mut values);
    assert_eq!(values.iter().map(|v| v.to_bits()).collect::<Vec<_>>(), expected);
}

#[test]
fn references_have_the_sizes_of_each_program() {
    let table = table();
    for row in table["sizes"].as_array().unwrap() {
        let from = numbers(&row["from"]);
        // Black pictures compress well; only their size counts.
        let black = RgbImage::new(from[0] as u32, from[1] as u32, vec![0; (3 * from[0] * from[1]) as usize]).unwrap();
        let file = encode(&black, ImageFormat::Png, None).unwrap();
        for (compat, count, column) in [
            (Compat::Bfl, 1, "alone"),
            (Compat::DjFlux2, 1, "alone"),
            (Compat::Bfl, 2, "several"),
            (Compat::Diffusers, 1, "several"),
            (Compat::Comfy, 1, "whole"),
        ] {
            let prepared = Reference::prepared(&file, "x", &compat.preparation(count)).unwrap();
            let size = [prepared.image().width(), prepared.image().height()].map(u64::from);
            assert_eq!(size.to_vec(), numbers(&row[column]), "{compat}, {count}, {from:?}");
        }
    }
}

#[test]
fn references_have_the_pixels_of_each_program() {
    let table = table();
    for row in table["pixels"].as_array().unwrap() {
        let from = numbers(&row["from"]);
        let file = encode(&rough(from[0] as u32, from[1] as u32), ImageFormat::Png, None).unwrap();
        for (compat, count, column) in
            [(Compat::Bfl, 1, "alone"), (Compat::Diffusers, 1, "several"), (Compat::Comfy, 3, "whole")]
        {
            let prepared = Reference::prepared(&file, "x", &compat.preparation(count)).unwrap();
            assert_eq!(flux2::digest::sha256(prepared.image().pixels()), row[column], "{compat}, {from:?}");
        }
    }
}

/// No other program applies color profiles, all drop the alpha channel, and some do not turn pictures.
#[test]
fn references_are_read_as_each_program_does() {
    let read = |name: &str| std::fs::read(crate::golden::fixture(&format!("images/{name}"))).unwrap();
    let pixels = |file: &[u8], compat: Option<Compat>| {
        let preparation = compat.map_or_else(Default::default, |compat| compat.preparation(1));
        Reference::prepared(file, "x", &preparation).map(|reference| reference.image().clone())
    };
    let hidden = read("hidden_colors.png");
    for compat in Compat::ALL {
        assert!(pixels(&hidden, Some(compat)).unwrap() != pixels(&hidden, None).unwrap(), "{compat}");
    }
    let turned = |orientation: u8| {
        let png = encode(&rough(96, 64), ImageFormat::Png, None).unwrap();
        let tiff = [&b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0"[..], &[orientation, 0, 0, 0, 0, 0, 0]].concat();
        let mut crc = flate2::Crc::new();
        crc.update(b"eXIf");
        crc.update(&tiff);
        let length = (tiff.len() as u32).to_be_bytes();
        let chunk = [&length[..], b"eXIf", &tiff, &crc.sum().to_be_bytes()].concat();
        [&png[..33], &chunk, &png[33..]].concat()
    };
    let size = |compat| {
        let image = pixels(&turned(6), compat).unwrap();
        (image.width(), image.height())
    };
    assert_eq!(size(None), (64, 96));
    for (compat, is_turned) in [
        (Compat::Diffusers, true),
        (Compat::Comfy, true),
        (Compat::Bfl, false),
        (Compat::DjFlux2, false),
        (Compat::StableDiffusionCpp, false),
    ] {
        assert_eq!(size(Some(compat)), if is_turned { (64, 96) } else { (96, 64) }, "{compat}");
    }
    // The same pixels with a profile and without: a program that ignores it sees no difference.
    let plain = encode(&rough(96, 64), ImageFormat::Png, None).unwrap();
    let profile = {
        let file = read("adobe_rgb.png");
        let at = file.windows(4).position(|kind| kind == b"iCCP").unwrap() - 4;
        let length = u32::from_be_bytes(file[at..at + 4].try_into().unwrap()) as usize;
        file[at..at + 12 + length].to_vec()
    };
    let without_srgb = plain
        .windows(4)
        .position(|kind| kind == b"sRGB")
        .map_or(plain.clone(), |at| [&plain[..at - 4], &plain[at + 9..]].concat());
    let profiled = [&without_srgb[..33], &profile, &without_srgb[33..]].concat();
    assert!(pixels(&profiled, None).unwrap() != pixels(&plain, None).unwrap(), "the profile has an effect");
    for compat in Compat::ALL {
        assert!(pixels(&profiled, Some(compat)).unwrap() == pixels(&plain, Some(compat)).unwrap(), "{compat}");
    }
}

#[test]
fn bytes_are_those_of_each_program() {
    let table = table();
    let bytes = &table["bytes"];
    let mut values: Vec<f32> = numbers(&bytes["values"]).into_iter().map(|bits| f32::from_bits(bits as u32)).collect();
    let count = values.len();
    assert!(count > 1000);
    values.resize(count.next_multiple_of(3), 0.0);
    let width = values.len() as u32 / 3;
    let mut different = 0;
    let rounded = |compat: Compat| {
        let image = from_model_output_by(compat.rounding(), &values, width, 1, NonZeroUsize::MIN).unwrap();
        image.into_pixels()[..count].to_vec()
    };
    for compat in Compat::ALL {
        let name = if compat == Compat::DjFlux2 { "bfl" } else { compat.name() };
        let expected: Vec<u8> = numbers(&bytes[name]).into_iter().map(|byte| byte as u8).collect();
        assert_eq!(rounded(compat), expected, "{compat}");
        different += usize::from(rounded(compat) != rounded(Compat::Diffusers));
    }
    assert!(different >= 3, "the programs differ");
    // What no program defines.
    let nan = from_model_output_by(Compat::Bfl.rounding(), &[f32::NAN; 3], 1, 1, NonZeroUsize::MIN).unwrap();
    assert_eq!(nan.pixels(), [0; 3]);
}
