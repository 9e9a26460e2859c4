//! Images that are cut off, lie about their size, or are no images.

use super::*;

#[track_caller]
fn refused(bytes: &[u8]) -> (String, String) {
    let error = decode(bytes, "input").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BadImage, "{error}");
    (error.to_string(), error.remedy().expect("a bad image has a way out").to_string())
}

/// A PNG with `chunk` inserted after its header.
fn png_with(chunk: &[u8]) -> Vec<u8> {
    let png = encode(&rough(4, 4), ImageFormat::Png, None).unwrap();
    [&png[..33], chunk, &png[33..]].concat()
}

#[test]
fn a_tiff_with_a_palette_is_refused() {
    assert!(refused(&fixture("plain/palette.tif")).0.contains("cannot decode the TIFF: "));
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
