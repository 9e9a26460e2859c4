//! The JPEG decoder: libjpeg-turbo's pixels for every kind of file, and nothing for a part of one.
//!
//! Fixtures and digests come from `tools/reference/make_jpegs.py`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use flux2::digest::sha256;
use flux2::image::decode;
use flux2::{ErrorKind, image};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/images/jpeg")
}

fn fixture(name: &str) -> Vec<u8> {
    let path = folder().join(format!("{name}.jpg"));
    fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Name, bytes and expected pixels of every fixture.
fn fixtures() -> impl Iterator<Item = (String, Vec<u8>, (u32, u32, String))> {
    let digests = fs::read_to_string(folder().join("digests.json")).unwrap();
    let digests: BTreeMap<String, (u32, u32, String)> = serde_json::from_str(&digests).unwrap();
    digests.into_iter().map(|(name, digest)| (name.clone(), fixture(&name), digest))
}

fn digest(image: &image::RgbImage) -> (u32, u32, String) {
    (image.width(), image.height(), sha256(image.pixels()))
}

#[track_caller]
fn refused(jpeg: &[u8], reason: &str) {
    let error = decode(jpeg, "input").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BadImage, "{error}");
    assert_eq!(error.to_string(), format!("input: cannot decode the JPEG: {reason}"));
}

const CUT_SHORT: &str = "it is cut short";

#[test]
fn every_kind_has_the_pixels_of_libjpeg_turbo() {
    let mut count = 0;
    for (name, jpeg, expected) in fixtures() {
        let image = decode(&jpeg, &name).unwrap();
        assert_eq!(digest(&image), expected, "{name}");
        count += 1;
    }
    let files = fs::read_dir(folder()).unwrap().count() - 1;
    assert!(count == files && count > 300, "{count} digests of {files} files");
}

#[test]
fn a_picture_without_its_end_marker_is_whole() {
    for (name, jpeg, expected) in fixtures() {
        let Some(whole) = jpeg.strip_suffix(b"\xff\xd9") else { continue };
        assert_eq!(digest(&decode(whole, &name).unwrap()), expected, "{name}");
        let trailer = [whole, b"\0\0SEFH\x64\0\0\0"].concat();
        assert_eq!(digest(&decode(&trailer, &name).unwrap()), expected, "{name}");
    }
}

#[test]
fn half_a_picture_is_not_a_picture() {
    for (name, jpeg, _) in fixtures() {
        let scan = jpeg.windows(2).position(|pair| pair == b"\xff\xda").unwrap() + 2;
        let data = scan + usize::from(u16::from_be_bytes([jpeg[scan], jpeg[scan + 1]]));
        // Cut anywhere in the data, with and without an end marker, and before a whole picture.
        for tenths in 0..10 {
            let mut half = jpeg[..data + (jpeg.len() - 2 - data) * tenths / 10].to_vec();
            // Half a marker would join what follows.
            while half.last() == Some(&0xff) {
                half.pop();
            }
            for end in [b"".as_slice(), b"\xff\xd9", &jpeg] {
                let file = [&half, end].concat();
                let error = decode(&file, &name).err().filter(|error| error.kind() == ErrorKind::BadImage);
                // The trailer of a fixture may be all that is cut.
                assert!(error.is_some() || name.starts_with("trailer"), "{name}: {tenths} tenths");
            }
        }
    }
}

#[test]
fn a_cut_is_called_a_cut() {
    let jpeg = fixture("2x2,1x1,1x1_plain");
    let half = &jpeg[..jpeg.len() * 3 / 4];
    refused(half, CUT_SHORT);
    refused(&[half, b"\xff\xd9"].concat(), CUT_SHORT);
    refused(&[half, &jpeg].concat(), CUT_SHORT);
    refused(&jpeg[..100], CUT_SHORT);
    refused(&jpeg[..4], CUT_SHORT);
}

#[test]
fn scans_that_are_missing_are_missed() {
    // Of a progressive file, the end marker after any scan but the last; of a sequential one, after any component.
    for name in ["2x2,1x1,1x1_progressive", "2x2,1x1,1x1_three_scans", "2x2,1x1,1x1_progressive_restart"] {
        let jpeg = fixture(name);
        let scans: Vec<usize> = (0..jpeg.len() - 1).filter(|&i| jpeg[i..i + 2] == [0xff, 0xda]).collect();
        assert!(scans.len() >= 3, "{name}");
        for &scan in &scans {
            refused(&[&jpeg[..scan], b"\xff\xd9"].concat(), CUT_SHORT);
            refused(&jpeg[..scan], CUT_SHORT);
        }
    }
}

#[test]
fn kinds_that_are_not_covered_are_named() {
    let jpeg = fixture("1x1,1x1,1x1_plain");
    let frame = jpeg.windows(2).position(|pair| pair == b"\xff\xc0").unwrap();
    let with = |offset: usize, value: u8| {
        let mut changed = jpeg.clone();
        changed[frame + offset] = value;
        changed
    };
    let unsupported = "it is of a kind that is not supported: ";
    refused(&with(1, 0xc3), &format!("{unsupported}lossless coding"));
    refused(&with(1, 0xc9), &format!("{unsupported}arithmetic coding"));
    refused(&with(1, 0xca), &format!("{unsupported}arithmetic coding"));
    refused(&with(1, 0xc5), &format!("{unsupported}hierarchical coding"));
    refused(&with(4, 12), &format!("{unsupported}its samples have more than 8 bits"));
    let mut ratio = with(11, 0x31); // luma 3x1, chroma 2x1
    ratio[frame + 14] = 0x21;
    refused(&ratio, &format!("{unsupported}a sampling ratio is not a whole number"));
}

#[test]
fn a_small_file_cannot_ask_for_much_memory() {
    let mut jpeg = fixture("2x2,1x1,1x1_plain");
    let frame = jpeg.windows(2).position(|pair| pair == b"\xff\xc0").unwrap();
    jpeg[frame + 5..frame + 9].copy_from_slice(&[0x20, 0, 0x20, 0]); // 8192x8192
    refused(&jpeg, CUT_SHORT);
}

#[test]
fn any_byte_wrong_does_no_harm() {
    for name in ["2x2,1x1,1x1_progressive_restart", "1x1,2x2,2x2_backwards_restart", "ycck_24_1", "2x2_13x17"] {
        let good = fixture(name);
        for i in 0..good.len() {
            for value in [0, 0xff, good[i] ^ 0x10, good[i] ^ 1] {
                let mut bad = good.clone();
                bad[i] = value;
                let _ = decode(&bad, "input");
            }
        }
    }
}
