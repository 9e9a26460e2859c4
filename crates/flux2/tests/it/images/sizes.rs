//! Resizing, preparing references, and values of pixels.

use super::*;

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
