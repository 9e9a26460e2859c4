//! The image module: reading compared with Pillow, writing as a round trip, and hostile files.
//!
//! Fixtures and expectations come from `tools/reference/make_images.py`.

use std::fs;
use std::io::Write as _;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use flux2::image::codec::{IfExists, MAX_SIDE, decode_reference, decode_transparent, read_file};
use flux2::image::resize::resize_lanczos;
use flux2::image::{
    ImageFormat, Parameters, RgbImage, Transparency, decode, encode, from_model_output, metadata, open,
    prepare_reference, save, to_model_input,
};
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
        references: vec![flux2::digest::sha256(b"abc")],
        background: Some("#ffffff".into()),
        compat: None,
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

// ---- hostile files ----

#[track_caller]
fn refused(bytes: &[u8]) -> (String, String) {
    let error = decode(bytes, "input").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BadImage, "{error}");
    (error.to_string(), error.remedy().expect("a bad image has a way out").to_string())
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

/// A PNG with `chunk` inserted after its header.
fn png_with(chunk: &[u8]) -> Vec<u8> {
    let png = encode(&rough(4, 4), ImageFormat::Png, None).unwrap();
    [&png[..33], chunk, &png[33..]].concat()
}

fn deflated(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
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
        // The same limit as for the profiles of other formats.
        let tolerance = if name == "adobe_rgb.tif" { 1 } else { 0 };
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
    let frame = gif.iter().rposition(|byte| *byte == 0x2c).unwrap();
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

#[test]
fn raw_photographs_are_not_taken_for_their_thumbnails() {
    let mut tiff = fixture("plain/rgb_raw.tif");
    assert!(decode(&tiff, "x").is_ok());
    // NewSubfileType in place of the first tag, ImageWidth, of the little-endian directory.
    let directory = u32::from_le_bytes(tiff[4..8].try_into().unwrap()) as usize;
    let entries = usize::from(u16::from_le_bytes(tiff[directory..][..2].try_into().unwrap()));
    let tags: Vec<u8> = tiff[directory + 2..][..12 * entries].to_vec();
    let moved = tiff.len() as u32;
    tiff[4..8].copy_from_slice(&moved.to_le_bytes());
    tiff.extend((entries as u16 + 1).to_le_bytes());
    tiff.extend([254u16.to_le_bytes(), 4u16.to_le_bytes()].concat());
    tiff.extend([1u32.to_le_bytes(), 1u32.to_le_bytes()].concat());
    tiff.extend(tags);
    tiff.extend([0; 4]);
    let (message, _) = refused(&tiff);
    assert!(message.contains("thumbnail, as in a raw photograph"), "{message}");
}

#[test]
fn empty_file() {
    assert_eq!(refused(b"").0, "input is empty, not a PNG, JPEG, WebP, GIF, BMP, TIFF or QOI picture");
}

#[test]
fn html_named_png() {
    let (message, hint) = refused(b"\n<!DOCTYPE html><title>403</title>");
    assert_eq!(message, "input is a web page, not a PNG, JPEG, WebP, GIF, BMP, TIFF or QOI picture");
    assert_eq!(hint, "download the picture that it shows");
}

#[test]
fn other_formats_are_named() {
    assert!(refused(b"\0\0\0\x1cftypheic").0.contains("HEIC"));
    assert!(refused(b"\0\0\0\x1cftypavif").0.contains("AVIF"));
    assert!(refused(b"\0").0.contains("of an unknown format"));
}

#[test]
fn png_claims_a_gigapixel() {
    let mut header = [0; 13];
    header[8..].copy_from_slice(&[8, 2, 0, 0, 0]);
    for (width, height) in [(32_768u32, 32_768u32), (MAX_SIDE + 1, 1), (MAX_SIDE, MAX_SIDE), (u32::MAX >> 1, 7)] {
        header[..4].copy_from_slice(&width.to_be_bytes());
        header[4..8].copy_from_slice(&height.to_be_bytes());
        let png = [b"\x89PNG\r\n\x1a\n".as_slice(), &png_chunk(b"IHDR", &header), &png_chunk(b"IDAT", &[])].concat();
        let (message, _) = refused(&png);
        assert!(message.starts_with(&format!("input is {width}x{height} pixels; at most 16384 a side")), "{message}");
    }
}

#[test]
fn jpeg_claims_a_gigapixel() {
    let mut jpeg = fixture("colour_444.jpg");
    let at = jpeg.windows(2).position(|w| w == [0xff, 0xc0]).unwrap();
    jpeg[at + 5..at + 9].fill(0x7f);
    assert!(refused(&jpeg).0.starts_with("input is 32639x32639 pixels"));
}

#[test]
fn webp_claims_a_gigapixel() {
    let mut webp = fixture("orientation_6.webp");
    webp[24..30].fill(0x7f); // the canvas of the VP8X chunk
    refused(&webp);
}

#[test]
fn truncated_jpeg() {
    let jpeg = fixture("colour_444.jpg");
    for kept in [4, 100, jpeg.len() / 2, jpeg.len() * 9 / 10] {
        let (message, _) = refused(&jpeg[..kept]);
        assert_eq!(message, "input: cannot decode the JPEG: it is cut short", "{kept} bytes");
    }
}

#[test]
fn truncated_anything() {
    for name in ["rgb16.png", "palette.png", "lossless.webp", "lossy.webp", "orientation_6.webp", "display_p3.jpg"] {
        let bytes = fixture(name);
        // A PNG is complete once its pixels are: 4 bytes of checksum and 12 bytes of IEND after them may be missing.
        for kept in 0..bytes.len() - 20 {
            refused(&bytes[..kept]);
        }
    }
}

#[test]
fn a_png_is_whole_once_its_pixels_are() {
    for name in ["rgb16.png", "palette.png", "rgba.png", "grey.png", "bilevel.png"] {
        let png = fixture(name);
        let whole = decode(&png, name).unwrap();
        // Up to 12 bytes of IEND, then up to 4 of the checksum of the pixels.
        for cut in 1..=16 {
            assert_eq!(decode(&png[..png.len() - cut], name).unwrap(), whole, "{name} without {cut} bytes");
        }
        let text = [&png[..png.len() - 12], &png_chunk(b"tEXt", b"Comment\0cut")[..14]].concat();
        assert_eq!(decode(&text, name).unwrap(), whole, "{name} with half a text behind its pixels");
    }
}

#[test]
fn half_a_png_that_ends_is_not_a_picture() {
    let png = encode(&rough(61, 47), ImageFormat::Png, None).unwrap();
    let at = png.windows(4).position(|w| w == b"IDAT").unwrap();
    let length = u32::from_be_bytes(png[at - 4..at].try_into().unwrap()) as usize;
    let pixels = &png[at + 4..at + 4 + length];
    let iend = png_chunk(b"IEND", b"");
    for kept in [1, 2, length / 2, length * 9 / 10] {
        let half = [&png[..at - 4], &png_chunk(b"IDAT", &pixels[..kept])].concat();
        refused(&half);
        refused(&[&half, iend.as_slice()].concat());
    }
    refused(&[&png[..at - 4], iend.as_slice()].concat());
    let two = [&png[..at - 4], &png_chunk(b"IDAT", &pixels[..100]), &png_chunk(b"IDAT", &pixels[100..])].concat();
    assert_eq!(decode(&two, "x").unwrap(), rough(61, 47));
}

#[test]
fn webp_flags_may_lie() {
    let webp = fixture("lossless.webp");
    let (width, height) = (16u32 - 1, 12u32 - 1);
    for flags in [0x08, 0x04, 0x0c, 0x2c] {
        let canvas = [&width.to_le_bytes()[..3], &height.to_le_bytes()[..3]].concat();
        let vp8x = [b"VP8X\x0a\0\0\0".as_slice(), &[flags, 0, 0, 0], &canvas].concat();
        let body = [b"WEBP".as_slice(), &vp8x, &webp[12..]].concat();
        let file = [b"RIFF".as_slice(), &(body.len() as u32).to_le_bytes(), &body].concat();
        assert_eq!(decode(&file, "x").unwrap(), decode(&webp, "x").unwrap(), "flags {flags:#x}");
    }
}

#[test]
fn an_animation_of_one_frame_is_a_picture() {
    assert_reads_as_pillow("one_frame.webp", 0);
}

#[test]
fn any_byte_wrong_does_no_harm() {
    for name in ["rgba.png", "palette_trns.png", "lossless.webp", "lossy.webp", "colour_420.jpg", "progressive.jpg"] {
        let good = fixture(name);
        for i in 0..good.len() {
            for value in [0, 0xff, good[i] ^ 0x10] {
                let mut bad = good.clone();
                bad[i] = value;
                let _ = decode(&bad, "input");
                let _ = metadata::read(&bad);
            }
        }
    }
}

#[test]
fn webp_chunk_larger_than_the_file() {
    let mut webp = fixture("orientation_6.webp");
    let at = webp.windows(4).position(|w| w == b"EXIF").unwrap();
    webp[at + 4..at + 8].copy_from_slice(&0xffff_fff0u32.to_le_bytes());
    webp[4..8].copy_from_slice(&0xffff_fff8u32.to_le_bytes());
    assert!(refused(&webp).0.contains("cut short"));
    assert!(metadata::read(&webp).unwrap().is_none());
}

#[test]
fn animations_are_refused() {
    assert_eq!(refused(&fixture("animated.png")).0, "input is an animated PNG");
    assert_eq!(refused(&fixture("animated.webp")).0, "input is an animated WebP");
}

#[test]
fn zip_bomb_profile() {
    let bomb = [b"bomb\0\0".as_slice(), &deflated(&vec![0; 200 << 20])].concat();
    let image = decode(&png_with(&png_chunk(b"iCCP", &bomb)), "input").unwrap();
    assert_eq!(image, rough(4, 4), "the decoder's limit stops it, and the pixels do not depend on it");
}

#[test]
fn zip_bomb_text_chunk() {
    let zeros = deflated(&vec![b' '; 64 << 20]);
    let text = [b"dj-flux2\0\x01\0\0\0".as_slice(), &zeros].concat();
    let png = png_with(&png_chunk(b"iTXt", &text));
    let error = metadata::read(&png).unwrap_err();
    assert_eq!(error.to_string(), "the parameters stored in the picture cannot be read: they are over 16 MB long");
    assert!(decode(&png, "input").is_ok(), "the pixels do not depend on it");

    let foreign = [b"Comment\0\0".as_slice(), &zeros].concat();
    assert!(metadata::read(&png_with(&png_chunk(b"zTXt", &foreign))).unwrap().is_none());
}

#[test]
fn stored_parameters_that_lie() {
    let json = serde_json::to_string(&parameters("a fox")).unwrap();
    for bad in [
        "".into(),
        "{".into(),
        "[1]".into(),
        "\u{0}".into(),
        "[".repeat(100_000),
        json.replace("\"seed\":42", "\"seed\":18446744073709551616"),
        json.replace("\"seed\":42", "\"seed\":-1"),
        json.replace("\"steps\":4", "\"steps\":4294967296"),
        json.replace("\"prompt\":\"a fox\"", "\"prompt\":\"\\ud800\""),
        json.replace("\"seed\":42,", ""),
    ] {
        let text = [b"dj-flux2\0\0\0\0\0".as_slice(), bad.as_bytes()].concat();
        let error = metadata::read(&png_with(&png_chunk(b"iTXt", &text))).unwrap_err();
        assert!(matches!(error, Error::ImageParameters { .. }), "{error}");
    }
    for bad in [
        b"dj-flux2\0".as_slice(),
        b"dj-flux2\0\0",
        b"dj-flux2\0\x01\x07\0\0x",
        b"dj-flux2\0\0\0\0\0{\"prompt\":\"\xff\"}",
    ] {
        assert!(metadata::read(&png_with(&png_chunk(b"iTXt", bad))).is_err());
    }
}

// ---- writing ----

#[test]
fn lossless_formats_keep_every_byte() {
    for format in [ImageFormat::Png, ImageFormat::WebP] {
        let bytes = encode(&rough(61, 47), format, Some(&parameters("a fox"))).unwrap();
        assert_eq!(ImageFormat::of(&bytes), Some(format));
        assert_close(&decode(&bytes, "x").unwrap(), &rough(61, 47), 0, format.name());
    }
}

#[test]
fn jpeg_keeps_color_edges() {
    // One red column on blue: chroma subsampling would blur it into its neighbors.
    let pixels = (0..16 * 16).flat_map(|i| if i % 16 == 7 { [200, 30, 30] } else { [30, 30, 200] }).collect();
    let image = RgbImage::new(16, 16, pixels).unwrap();
    let decoded = decode(&encode(&image, ImageFormat::Jpeg, None).unwrap(), "x").unwrap();
    assert_close(&decoded, &image, 12, "quality 95");
}

#[test]
fn extension_decides_the_format() {
    let format = |name: &str| ImageFormat::from_path(Path::new(name));
    assert_eq!(format("a.PNG").unwrap(), ImageFormat::Png);
    assert_eq!(format("b.c/a.jpeg").unwrap(), ImageFormat::Jpeg);
    assert_eq!(format("a.jpg").unwrap(), ImageFormat::Jpeg);
    assert_eq!(format("a.webp").unwrap(), ImageFormat::WebP);
    let error = format("out/a.gif").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage);
    assert_eq!(error.to_string(), "out/a.gif: no picture format is called `gif`");
    assert_eq!(format("png").unwrap_err().to_string(), "png: the name has no extension");
}

fn names_in(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn save_replaces_only_when_told_to() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.png");
    save(&path, b"one", IfExists::Fail).unwrap();
    let error = save(&path, b"two", IfExists::Fail).unwrap_err();
    assert!(matches!(error, Error::OutputExists { .. }) && error.kind() == ErrorKind::Usage, "{error}");
    assert_eq!(fs::read(&path).unwrap(), b"one");
    save(&path, b"three", IfExists::Replace).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"three");
    assert_eq!(names_in(folder.path()), ["a.png"], "no temporary file is left");
}

#[test]
fn save_into_nothing_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let error = save(&folder.path().join("missing/a.png"), b"x", IfExists::Replace).unwrap_err();
    assert!(matches!(error, Error::Io { .. }) && error.to_string().contains("missing/a.png"), "{error}");
    let error = save(folder.path(), b"x", IfExists::Replace).unwrap_err();
    assert!(error.to_string().ends_with("not an ordinary file"), "{error}");
    assert!(names_in(folder.path()).is_empty());
}

#[cfg(unix)]
#[test]
fn save_gives_an_ordinary_mode_and_follows_links() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let folder = tempfile::tempdir().unwrap();
    let (ordinary, saved, link) = (folder.path().join("o"), folder.path().join("a.png"), folder.path().join("l.png"));
    fs::write(&ordinary, b"x").unwrap();
    save(&saved, b"one", IfExists::Fail).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode(&saved), mode(&ordinary));
    symlink(&saved, &link).unwrap();
    save(&link, b"two", IfExists::Replace).unwrap();
    assert_eq!(fs::read(&saved).unwrap(), b"two");
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
}

#[test]
fn a_missing_file_is_named() {
    let error = open(Path::new("/nowhere/a.png")).unwrap_err();
    assert!(error.to_string().starts_with("/nowhere/a.png: "), "{error}");
    assert_eq!(read_file(&fixture_path("grey.png")).unwrap(), fixture("grey.png"));
}

// ---- parameters ----

#[test]
fn parameters_survive_every_format() {
    let mut written = parameters("a red fox,\n\"quoted\" \\ and \u{0} — 狐 🦊\t\u{7f}\u{85}");
    written.seed = u64::MAX;
    written.guidance = Some(3.7);
    for format in FORMATS {
        let bytes = encode(&rough(16, 16), format, Some(&written)).unwrap();
        assert_eq!(metadata::read(&bytes).unwrap().as_ref(), Some(&written), "{}", format.name());
        assert!(decode(&bytes, "x").is_ok());
    }
}

#[test]
fn foreign_pictures_hold_no_parameters() {
    for name in ["rgba.png", "orientation_6.png", "orientation_6.jpg", "orientation_6.webp", "cmyk.jpg"] {
        assert_eq!(metadata::read(&fixture(name)).unwrap(), None, "{name}");
    }
    assert_eq!(metadata::read(b"").unwrap(), None);
    assert_eq!(metadata::read(b"GIF89a").unwrap(), None);
    for format in FORMATS {
        assert_eq!(metadata::read(&encode(&rough(8, 8), format, None).unwrap()).unwrap(), None);
    }
}

#[test]
fn other_tools_find_their_line() {
    assert_eq!(
        parameters("a fox").line(),
        "a fox\nSteps: 4, Sampler: Euler, CFG scale: 1, Seed: 42, Size: 512x768, Model: klein-4b, \
         Version: dj-flux2 0.1.0"
    );
    let holds = |prompt: &str, text: &[u8]| {
        let png = encode(&rough(4, 4), ImageFormat::Png, Some(&parameters(prompt))).unwrap();
        png.windows(text.len()).any(|window| window == text)
    };
    assert!(holds("caf\u{e9}", b"tEXtparameters\0caf\xe9\nSteps: 4"), "Latin-1 fits tEXt");
    assert!(holds("\u{72d0}", "iTXtparameters\0\0\0\0\0\u{72d0}\nSteps: 4".as_bytes()), "beyond it takes iTXt");
}

#[test]
fn a_prompt_too_long_for_jpeg_fits_the_others() {
    let long = parameters(&"fox ".repeat(10_000));
    let jpeg = encode(&rough(8, 8), ImageFormat::Jpeg, Some(&long)).unwrap();
    assert_eq!(metadata::read(&jpeg).unwrap(), Some(long), "40 kB fit once the line for other tools gives way");

    let longer = parameters(&"fox ".repeat(20_000));
    let error = encode(&rough(8, 8), ImageFormat::Jpeg, Some(&longer)).unwrap_err();
    assert!(matches!(error, Error::ImageParametersTooLong { .. }), "{error}");
    for format in [ImageFormat::Png, ImageFormat::WebP] {
        let bytes = encode(&rough(8, 8), format, Some(&longer)).unwrap();
        assert_eq!(metadata::read(&bytes).unwrap().as_ref(), Some(&longer));
    }
}

#[test]
fn digest_is_sha256() {
    assert_eq!(flux2::digest::sha256(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
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

// ---- sizes and values ----

#[test]
fn lanczos_is_pillows_to_the_bit() {
    // The last three are around the point where Pillow runs the vertical pass first.
    for (width, height) in [(23, 31), (97, 120), (61, 20), (30, 47), (7, 3), (150, 9), (56, 37), (56, 36), (62, 46)] {
        let name = format!("lanczos_{width}x{height}.png");
        let expected = open(&fixture_path(&name)).unwrap();
        assert_close(&resize_lanczos(&rough(61, 47), width, height).unwrap(), &expected, 0, &name);
    }
    assert_eq!(resize_lanczos(&rough(61, 47), 61, 47).unwrap(), rough(61, 47));
    assert!(resize_lanczos(&rough(61, 47), 0, 47).is_err());
}

#[test]
fn references_are_prepared_as_diffusers_does() {
    #[derive(serde::Deserialize)]
    struct Case {
        from: (u32, u32),
        to: (u32, u32),
        sha256: String,
    }
    let cases: Vec<Case> = serde_json::from_slice(&fixture("prepared.json")).unwrap();
    assert!(cases.iter().any(|case| case.from.1 > 2 * case.from.0), "a tall one, which goes vertically first");
    for case in cases {
        let image = prepare_reference(&rough(case.from.0, case.from.1)).unwrap();
        assert_eq!((image.width(), image.height()), case.to, "from {:?}", case.from);
        assert_eq!(flux2::digest::sha256(image.pixels()), case.sha256, "from {:?}", case.from);
    }
}

/// A PNG of `rough` that is to be turned by `orientation`.
fn turned_png(width: u32, height: u32, orientation: u8) -> Vec<u8> {
    let png = encode(&rough(width, height), ImageFormat::Png, None).unwrap();
    [&png[..33], &png_chunk(b"eXIf", &tiff(orientation)), &png[33..]].concat()
}

#[track_caller]
fn assert_shrinks_while_decoded(name: &str, file: &[u8]) {
    let whole = decode(file, name).unwrap();
    let shrunk = decode_reference(file, name, Transparency::default()).unwrap();
    assert_eq!(shrunk.source_px, [whole.width(), whole.height()], "{name}");
    assert!(shrunk.image == prepare_reference(&whole).unwrap(), "{name}");
}

#[test]
fn a_reference_shrunk_while_it_is_decoded_has_the_same_pixels() {
    // Shrunk, either pass first; small, off the grid.
    for (width, height) in [(1100, 1060), (500, 2500), (205, 103)] {
        for orientation in 1..=8 {
            let name = format!("{width}x{height}, {orientation}");
            assert_shrinks_while_decoded(&name, &turned_png(width, height, orientation));
        }
        for format in [ImageFormat::Jpeg, ImageFormat::WebP] {
            let file = encode(&rough(width, height), format, None).unwrap();
            assert_shrinks_while_decoded(&format!("{width}x{height}, {format:?}"), &file);
        }
    }
    // With a color profile, whose conversion takes many rows at a time.
    let p3 = fixture("display_p3.jpg");
    let at = p3.windows(12).position(|w| w == b"ICC_PROFILE\0").unwrap() - 4;
    let length = 2 + usize::from(u16::from_be_bytes([p3[at + 2], p3[at + 3]]));
    let plain = encode(&rough(1101, 1060), ImageFormat::Jpeg, None).unwrap();
    let profiled = [&plain[..2], &p3[at..at + length], &plain[2..]].concat();
    assert_ne!(decode(&profiled, "x").unwrap(), decode(&plain, "x").unwrap(), "the profile has an effect");
    assert_shrinks_while_decoded("profile", &profiled);
    for name in ["large_progressive.jpg", "large_lossy.webp", "large_alpha.webp"] {
        assert_shrinks_while_decoded(name, &fixture(name));
    }
}

#[test]
fn references_too_small_or_too_long_are_refused() {
    let error = prepare_reference(&rough(63, 64)).unwrap_err();
    assert_eq!(error.to_string(), "a reference image is 63x64 pixels; both sides must be at least 64");
    let error = prepare_reference(&rough(64, 513)).unwrap_err();
    assert_eq!(error.to_string(), "a reference image is 64x513 pixels; one side may be at most 8 times the other");
    assert_eq!(error.kind(), ErrorKind::BadImage);
    let small = encode(&rough(63, 64), ImageFormat::Png, None).unwrap();
    assert!(matches!(
        decode_reference(&small, "x", Transparency::default()),
        Err(Error::ImageTooSmall { width: 63, .. })
    ));
    assert_eq!(prepare_reference(&rough(64, 512)).unwrap(), rough(64, 512), "the limits themselves are allowed");
}

#[test]
fn model_input_spans_minus_one_to_one() {
    let image = RgbImage::new(1, 1, vec![0, 255, 51]).unwrap();
    assert_eq!(to_model_input(&image), [-1.0, 1.0, 2.0 * (51.0f32 / 255.0) - 1.0]);
}

#[test]
fn model_output_rounds_halves_to_even_and_nan_is_black() {
    let bytes = |values: &[f32]| from_model_output(values, 1, 1, ONE).unwrap().into_pixels();
    assert_eq!(bytes(&[-2.0, 1.5, f32::NAN]), [0, 255, 0]);
    assert_eq!(bytes(&[f32::NEG_INFINITY, f32::INFINITY, 0.0]), [0, 255, 128], "127.5 goes to 128");
    assert_eq!(bytes(&[-0.5, 0.1, 0.5]), [64, 140, 191], "63.75, 140.25 and 191.25, not their floors");
    assert!(from_model_output(&[0.0; 5], 1, 2, ONE).is_err());
}

#[test]
fn pixels_must_fill_the_picture() {
    assert!(RgbImage::new(2, 2, vec![0; 12]).is_ok());
    for (width, height, len) in [(2, 2, 11), (0, 2, 0), (u32::MAX, u32::MAX, 3)] {
        assert!(matches!(RgbImage::new(width, height, vec![0; len]), Err(Error::ImageBuffer { .. })));
    }
}
