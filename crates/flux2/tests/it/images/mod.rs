//! The image module: reading compared with Pillow, writing as a round trip, and hostile files.
//!
//! Fixtures and expectations come from `tools/reference/make_images.py`.

mod hostile;
mod parameters;
mod sizes;
mod writing;

use std::fs;
use std::io::Write as _;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use flux2::image::codec::{IfExists, MAX_SIDE, decode_reference, decode_transparent, encode_with, read_file};
use flux2::image::resize::resize_lanczos;
use flux2::image::{
    Chroma, Embedded, ImageFormat, Parameters, Percent, Quality, RgbImage, Transparency, decode, encode,
    from_model_output, metadata, open, prepare_reference, save, to_model_input,
};
use flux2::sheet::Difference;
use flux2::{Error, ErrorKind, GenerateRequest, Reference, ResolvedRequest, Variant};
use proptest::prelude::*;

const ONE: NonZeroUsize = NonZeroUsize::MIN;

fn fixture_path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/images").join(name)
}

fn fixture(name: &str) -> Vec<u8> {
    fs::read(fixture_path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// The same formula as `rough` in the fixture script.
fn rough(width: u32, height: u32) -> RgbImage {
    let pixel = |x: u32, y: u32| [(x ^ y) as u8, (x * 3 + y * 5) as u8, ((x * y) >> 4) as u8];
    let pixels = (0..height).flat_map(|y| (0..width).flat_map(move |x| pixel(x, y))).collect();
    RgbImage::new(width, height, pixels).unwrap()
}

fn parameters(prompt: &str) -> Parameters {
    Parameters {
        prompt: prompt.into(),
        negative_prompt: None,
        template: None,
        seed: 42,
        noise: "philox".into(),
        model: "klein-4b".into(),
        variant: Some("klein".into()),
        dtype: "bf16".into(),
        steps: 4,
        guidance: None,
        width: 512,
        height: 768,
        source: None,
        references: vec![flux2::digest::sha256(b"abc")],
        background: Some("#ffffff".into()),
        compat: None,
        upscale: None,
        loras: vec![],
        software: metadata::SOFTWARE.into(),
        version: "0.1.0".into(),
    }
}

const FORMATS: [ImageFormat; 3] = [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP];

/// Asserts equality within `tolerance` levels; on failure reports the worst byte.
#[track_caller]
fn assert_close(got: &RgbImage, expected: &RgbImage, tolerance: u8, name: &str) {
    assert_eq!((got.width(), got.height()), (expected.width(), expected.height()), "{name}: size");
    let differences = got.pixels().iter().zip(expected.pixels()).map(|(a, b)| a.abs_diff(*b)).enumerate();
    let (at, worst) = differences.max_by_key(|&(_, difference)| difference).unwrap();
    let (a, b) = (got.pixels()[at], expected.pixels()[at]);
    assert!(worst <= tolerance, "{name}: byte {at} is {a}, expected {b} within {tolerance}");
}

#[track_caller]
fn assert_reads_as_pillow(name: &str, tolerance: u8) {
    let expected = open(&fixture_path(&format!("{name}.expected.png"))).unwrap();
    assert_close(&open(&fixture_path(name)).unwrap(), &expected, tolerance, name);
}

fn png_chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let mut chunk = u32::try_from(data.len()).unwrap().to_be_bytes().to_vec();
    chunk.extend_from_slice(kind);
    chunk.extend_from_slice(data);
    let mut crc = flate2::Crc::new();
    crc.update(&chunk[4..]);
    chunk.extend_from_slice(&crc.sum().to_be_bytes());
    chunk
}

fn deflated(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

// ---- reading ----

#[test]
fn a_plain_png_is_its_formula() {
    assert_eq!(decode(&fixture("orientation_1.png"), "x").unwrap(), rough(6, 4));
}

#[test]
fn every_orientation_shows_the_same_picture() {
    for value in 1..=8 {
        let name = format!("orientation_{value}.png");
        assert_close(&open(&fixture_path(&name)).unwrap(), &rough(6, 4), 0, &name);
    }
    assert_reads_as_pillow("orientation_6.webp", 0);
    assert_reads_as_pillow("orientation_6.jpg", 0);
    assert_reads_as_pillow("exif_after_pixels.png", 0);
}

#[test]
fn transparency_shows_the_background() {
    for name in ["rgba.png", "la.png", "palette_trns.png", "rgb_trns.png", "alpha.webp"] {
        assert_reads_as_pillow(name, 0);
        assert!(decode_transparent(&fixture(name), name, Transparency::default()).unwrap().was_transparent, "{name}");
    }
    // Alpha is 0 in column 0 and 255 in column 15.
    let flattened = decode_transparent(&fixture("rgba.png"), "x", Transparency::Over([10, 20, 30])).unwrap();
    assert_eq!(flattened.image.pixel(0, 5), [10, 20, 30]);
    assert_eq!(flattened.image.pixel(15, 5), rough(16, 12).pixel(15, 5));
    let dropped = decode_transparent(&fixture("rgba.png"), "x", Transparency::Dropped).unwrap();
    assert_eq!((dropped.image, dropped.was_transparent), (rough(16, 12), true));
    for name in ["grey.png", "lossless.webp", "cmyk.jpg"] {
        assert!(!decode_transparent(&fixture(name), name, Transparency::default()).unwrap().was_transparent, "{name}");
    }
}

#[test]
fn hidden_colors_stay_hidden() {
    for name in ["hidden_black.png", "hidden_colors.png"] {
        assert_reads_as_pillow(name, 0);
    }
    let shown = |name| open(&fixture_path(name)).unwrap();
    assert_eq!(shown("hidden_black.png"), shown("hidden_colors.png"));
}

/// EXIF that says to turn the picture by `orientation`.
fn tiff(orientation: u8) -> Vec<u8> {
    let head = b"MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0";
    [head.as_slice(), &[orientation, 0, 0, 0, 0, 0, 0]].concat()
}

#[test]
fn orientation_is_found_where_programs_write_it() {
    let turned = open(&fixture_path("orientation_6.png")).unwrap();
    let stored = {
        // The same picture as it lies in the file: without its EXIF.
        let mut png = fixture("orientation_6.png");
        let at = png.windows(4).position(|w| w == b"eXIf").unwrap();
        png[at..at + 4].copy_from_slice(b"exIf");
        let end = at + 4 + u32::from_be_bytes(png[at - 4..at].try_into().unwrap()) as usize;
        let mut crc = flate2::Crc::new();
        crc.update(&png[at..end]);
        png[end..end + 4].copy_from_slice(&crc.sum().to_be_bytes());
        png
    };
    assert_ne!(decode(&stored, "x").unwrap(), turned);
    let with = |kind: &[u8; 4], data: &[u8]| [&stored[..33], &png_chunk(kind, data), &stored[33..]].concat();

    let prefixed = [b"Exif\0\0".as_slice(), &tiff(6)].concat();
    let hex: String = prefixed.iter().map(|byte| format!("{byte:02x}")).collect();
    let hex = format!("{}\n{}", &hex[..20], &hex[20..]);
    let raw = format!("\nexif\n {:7}\n{hex}\n", prefixed.len());
    for (what, png) in [
        ("eXIf", with(b"eXIf", &tiff(6))),
        ("eXIf with the prefix of JPEG", with(b"eXIf", &prefixed)),
        ("zTXt", with(b"zTXt", &[b"Raw profile type exif\0\0".as_slice(), &deflated(raw.as_bytes())].concat())),
        ("zTXt APP1", with(b"zTXt", &[b"Raw profile type APP1\0\0".as_slice(), &deflated(raw.as_bytes())].concat())),
        ("tEXt", with(b"tEXt", &[b"Raw profile type exif\0", raw.as_bytes()].concat())),
    ] {
        assert_eq!(decode(&png, what).unwrap(), turned, "{what}");
    }
    for raw in ["", "\n", "\nexif\n", "\nexif\n 3\n4", "\nexif\n 3\nzz"] {
        let png = with(b"tEXt", &[b"Raw profile type exif\0", raw.as_bytes()].concat());
        assert_eq!(decode(&png, raw).unwrap(), decode(&stored, "x").unwrap(), "{raw:?}");
    }

    let webp = fixture("orientation_6.webp");
    let at = webp.windows(4).position(|w| w == b"EXIF").unwrap();
    let chunk = [b"EXIF".as_slice(), &(prefixed.len() as u32).to_le_bytes(), &prefixed].concat();
    let mut file = [&webp[..at], &chunk].concat();
    let size = (file.len() as u32 - 8).to_le_bytes();
    file[4..8].copy_from_slice(&size);
    assert_eq!(decode(&file, "x").unwrap(), open(&fixture_path("orientation_6.webp")).unwrap());

    // Of two EXIF segments the first that says something counts.
    let jpeg = fixture("orientation_6.jpg");
    let at = jpeg.windows(6).position(|w| w == b"Exif\0\0").unwrap() - 4;
    let length = 2 + usize::from(u16::from_be_bytes([jpeg[at + 2], jpeg[at + 3]]));
    let segment = |data: &[u8]| [b"\xff\xe1".as_slice(), &(data.len() as u16 + 2).to_be_bytes(), data].concat();
    let upright = decode(&jpeg, "x").unwrap();
    for segments in [
        [segment(&prefixed), segment(&[b"Exif\0\0".as_slice(), &tiff(3)].concat())],
        [segment(b"Exif\0\0MM\0\x2a\0\0\0\x08\0\0"), segment(&prefixed)],
    ] {
        let file = [&jpeg[..at], &segments.concat(), &jpeg[at + length..]].concat();
        assert_eq!(decode(&file, "x").unwrap(), upright);
    }
}

#[test]
fn gray_palette_and_deep_pixels() {
    for name in ["grey.png", "bilevel.png", "palette.png", "rgb16.png", "grey16.png"] {
        assert_reads_as_pillow(name, 0);
    }
}

#[test]
fn lossy_files_decode_to_the_bit() {
    // VP8 is bit-exact by definition, JPEG by our choice.
    for name in
        ["lossless.webp", "lossy.webp", "colour_444.jpg", "colour_420.jpg", "progressive.jpg", "grey.jpg", "cmyk.jpg"]
    {
        assert_reads_as_pillow(name, 0);
    }
}

#[test]
fn profiles_are_converted_as_littlecms_does() {
    // Both round intermediate values to 8 to 16 bits, which can change one level.
    for name in ["display_p3.png", "adobe_rgb.png", "adobe_rgb.webp"] {
        assert_reads_as_pillow(name, 1);
    }
    // In deep shadows the sRGB curve is so steep that one step is two levels.
    assert_reads_as_pillow("grey_gamma18.png", 2);
    assert_reads_as_pillow("grey_lab.png", 2);
    let ignored = RgbImage::new(32, 8, (0..=255).flat_map(|v| [v; 3]).collect()).unwrap();
    assert_ne!(open(&fixture_path("grey_lab.png")).unwrap(), ignored, "the profile has an effect");
    assert_reads_as_pillow("display_p3.jpg", 2);
}

/// Files of public bug reports about other programs.
#[test]
fn what_trips_other_decoders() {
    for name in [
        "bilevel_trns.png",           // Pillow 9281: the transparency of one bit is lost
        "cmyk_profile.png",           // sharp 237: inverted colors
        "two_profiles.png",           // image 1825: refused, as iPhones write it
        "srgb_before_gamma.png",      // image-png 340: refused
        "profile_and_srgb.png",       // libjxl 4087: refused
        "wrong_checksum.png",         // sharp 2448: refused for a chunk that is no part of the picture
        "grey_rgb_profile.png",       // w3c/png 478
        "palette_too_short.png",      // libspng 14: refused
        "animation_apart.png",        // image-png 202: refused
        "animation_apart_broken.png", // image-png 654
        "vivid.webp",                 // image-webp 116: pixelated red
        "vivid_alpha.webp",
        "cicp_srgb.png", // the code points count, not the profile
    ] {
        assert_reads_as_pillow(name, 0);
    }
    // thorvg 4536: colors of a cICP chunk are ignored.
    assert_reads_as_pillow("cicp_p3.png", 1);
}

#[test]
fn a_profile_that_is_srgb_changes_nothing() {
    assert_reads_as_pillow("srgb_profile.png", 0);
}

#[test]
fn a_broken_profile_is_passed_over() {
    let good = fixture("display_p3.jpg");
    let at = good.windows(12).position(|w| w == b"ICC_PROFILE\0").unwrap() + 14;
    let mut bad = good.clone();
    bad[at..at + 4].fill(0xff); // its length
    bad[at + 36..at + 40].copy_from_slice(b"nope"); // its signature
    let image = decode(&bad, "x").unwrap();
    assert_ne!(image, decode(&good, "x").unwrap(), "the profile of the fixture has an effect");
}

#[test]
fn a_profile_with_any_byte_wrong_does_no_harm() {
    for name in ["display_p3.jpg", "adobe_rgb.webp"] {
        let good = fixture(name);
        let at = good.windows(4).position(|w| w == b"acsp").unwrap() - 36;
        let length = u32::from_be_bytes(good[at..at + 4].try_into().unwrap()) as usize;
        for i in (0..length.min(600)).chain(length - 20..length) {
            for value in [0, 0x7f, 0xff, good[at + i] ^ 1] {
                let mut bad = good.clone();
                bad[at + i] = value;
                decode(&bad, "x").unwrap();
            }
        }
    }
}

#[test]
fn gif_bmp_tiff_and_qoi_read_as_pillow() {
    let folder = fixture_path("plain");
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    let expected = |name: &String| fixture_path("plain").join(format!("{name}.expected.png")).is_file();
    let names: Vec<String> = names.into_iter().filter(expected).collect();
    assert!(names.len() >= 25, "{names:?}");
    for name in names {
        // The same limit as for the profiles of other formats; channels of 5 and 6 bits are rounded to 8 in two ways.
        let tolerance = if ["adobe_rgb.tif", "top_down_565.bmp"].contains(&name.as_str()) { 1 } else { 0 };
        assert_reads_as_pillow(&format!("plain/{name}"), tolerance);
        if let Ok(prepared) = decode_reference(&fixture(&format!("plain/{name}")), &name, Transparency::default()) {
            let whole = prepare_reference(&open(&fixture_path(&format!("plain/{name}"))).unwrap()).unwrap();
            assert!(prepared.image == whole, "{name}");
        }
    }
}

#[test]
fn the_first_of_several_frames_or_pages_is_taken_and_known() {
    // References have 64 pixels a side at least.
    let large = |name: &str| Reference::from_bytes(&fixture(name), name).unwrap();
    assert!(warnings(&large("plain/large.gif")).is_empty());
    let gif = fixture("plain/large.gif");
    // A frame at 0,0 that is 3000 pixels wide.
    let frame = gif.windows(7).position(|bytes| bytes == [0x2c, 0, 0, 0, 0, 0xb8, 0x0b]).unwrap();
    let twice = [&gif[..gif.len() - 1], &gif[frame..]].concat();
    let several = Reference::from_bytes(&twice, "x").unwrap();
    assert!(several.image() == large("plain/large.gif").image());
    assert_eq!(warnings(&several), ["reference image 1 has several frames or pages: the first one is taken"]);
    let tiff = fixture("plain/two_pages.tif");
    assert_eq!(decode(&tiff, "x").unwrap(), decode(&fixture("plain/rgb_raw.tif"), "x").unwrap());
}

fn warnings(reference: &Reference) -> Vec<String> {
    let request = GenerateRequest { references: vec![reference.clone()], ..GenerateRequest::default() };
    let resolved = ResolvedRequest::new(&request, Variant::by_name("klein-4b").unwrap()).unwrap();
    resolved.warnings.iter().map(ToString::to_string).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_parameters_survive(
        prompt in any::<String>(), seed: u64, steps: u32, width: u32, height: u32, model in any::<String>(),
        guidance in proptest::option::of(-1e30f32..1e30),
    ) {
        let written = Parameters { seed, steps, width, height, model, guidance, ..parameters(&prompt) };
        for format in FORMATS {
            let bytes = encode(&rough(8, 8), format, Some(&written)).unwrap();
            prop_assert_eq!(metadata::read(&bytes).unwrap(), Some(written.clone()));
        }
    }

    #[test]
    fn any_bytes_behind_a_signature_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        for signature in [b"\x89PNG\r\n\x1a\n".as_slice(), b"\xff\xd8\xff", b"RIFF\xff\0\0\0WEBP", b""] {
            let file = [signature, &bytes].concat();
            prop_assert!(decode(&file, "input").is_err());
            let _ = metadata::read(&file);
        }
    }

    #[test]
    fn model_values_round_trip(pixels in proptest::collection::vec(any::<u8>(), 48)) {
        let image = RgbImage::new(4, 4, pixels).unwrap();
        prop_assert_eq!(from_model_output(&to_model_input(&image), 4, 4, ONE).unwrap(), image);
    }
}
