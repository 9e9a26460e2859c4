//! Hostile GIF, BMP, TIFF and QOI files.

use std::path::Path;

use super::{Files, Rng, bytes};

/// Adds all of them to `files`.
pub(super) fn plain(files: &mut Files, rng: &mut Rng, fixtures: &Path) {
    let read = |name: &str| {
        let path = fixtures.join("images/plain").join(name);
        std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    };
    for name in [
        "animated.gif",
        "interlaced.gif",
        "palette.bmp",
        "top_down_565.bmp",
        "rgb_lzw.tif",
        "rgb_packbits.tif",
        "bilevel_group4.tif",
        "adobe_rgb.tif",
        "rgba.qoi",
    ] {
        let whole = read(name);
        bytes(files, rng, &whole, whole.len(), 20);
        // Most of what can lie is at the start.
        bytes(files, rng, &whole, whole.len().min(64), 20);
        for part in [3, 10, 30, 50, 90] {
            files.add(format!("{name}: {part} % of it"), &whole[..whole.len() * part / 100]);
        }
    }
    gif(files);
    bmp(files);
    tiff(files);
    qoi(files);
}

// ---- GIF ----

/// A GIF of two colors with these blocks.
fn gif_of(width: u16, height: u16, blocks: &[&[u8]]) -> Vec<u8> {
    let screen = [&width.to_le_bytes()[..], &height.to_le_bytes(), &[0x80, 0, 0]].concat();
    [b"GIF89a", &screen[..], &[0, 0, 0, 255, 255, 255], &blocks.concat()].concat()
}

/// A frame with compressed indices of `code_size` bits.
fn frame([x, y, width, height]: [u16; 4], flags: u8, code_size: u8, data: &[u8]) -> Vec<u8> {
    let place = [x, y, width, height].map(u16::to_le_bytes).concat();
    let blocks: Vec<u8> = data.chunks(255).flat_map(|part| [&[part.len() as u8], part].concat()).collect();
    [&[0x2c], &place[..], &[flags, code_size], &blocks, &[0]].concat()
}

fn gif(files: &mut Files) {
    let (end, pixel) = (b";".as_slice(), [0x4c, 1]);
    let one = frame([0, 0, 1, 1], 0, 2, &pixel);
    for (what, file) in [
        ("65535x65535", gif_of(65_535, 65_535, &[&one, end])),
        ("0x0", gif_of(0, 0, &[&one, end])),
        ("no frame", gif_of(1, 1, &[end])),
        ("no end", gif_of(1, 1, &[&one])),
        ("a frame of 65535x65535 in 4x4", gif_of(4, 4, &[&frame([0, 0, 65_535, 65_535], 0, 2, &pixel), end])),
        ("a frame of no pixels", gif_of(4, 4, &[&frame([0, 0, 0, 0], 0, 2, &pixel), end])),
        ("a frame outside", gif_of(4, 4, &[&frame([60_000, 60_000, 4, 4], 0, 2, &pixel), end])),
        ("a frame that ends outside", gif_of(4, 4, &[&frame([3, 3, 4, 4], 0, 2, &pixel), end])),
        ("codes of 0 bits", gif_of(4, 4, &[&frame([0, 0, 4, 4], 0, 0, &pixel), end])),
        ("codes of 13 bits", gif_of(4, 4, &[&frame([0, 0, 4, 4], 0, 13, &pixel), end])),
        ("codes of 255 bits", gif_of(4, 4, &[&frame([0, 0, 4, 4], 0, 255, &pixel), end])),
        ("codes that are not defined", gif_of(64, 64, &[&frame([0, 0, 64, 64], 0, 2, &[0xff; 200]), end])),
        ("more pixels than the frame has", gif_of(1, 1, &[&frame([0, 0, 1, 1], 0, 2, &[0; 4000]), end])),
        ("fewer pixels than the frame has", gif_of(999, 999, &[&frame([0, 0, 999, 999], 0, 2, &pixel), end])),
        ("an index without color", gif_of(4, 4, &[&frame([0, 0, 4, 4], 0, 8, &[0, 0xff, 0xff, 0xff]), end])),
        ("a table of colors that is cut", gif_of(4, 4, &[&frame([0, 0, 4, 4], 0x87, 2, &[])[..12]])),
        ("200000 comments", gif_of(1, 1, &[&b"\x21\xfe\x01x\0".repeat(200_000), &one, end])),
        ("a comment of a megabyte", gif_of(1, 1, &[b"\x21\xfe", &[&[255; 256][..]; 4096].concat(), &[0], &one, end])),
        ("50000 frames", gif_of(1, 1, &[&one.repeat(50_000), end])),
        ("an unknown block", gif_of(1, 1, &[b"\x99\x01\0", &one, end])),
        ("a control block of no bytes", gif_of(1, 1, &[b"\x21\xf9\0", &one, end])),
        ("a control block of 255 bytes", gif_of(1, 1, &[b"\x21\xf9\xff", &[7; 255], b"\0", &one, end])),
        ("only a header", b"GIF89a".to_vec()),
    ] {
        files.add(format!("GIF: {what}"), file);
    }
}

// ---- BMP ----

/// Fields of the second header in order: width, height, bits, compression, bytes of pixels, colors.
fn bmp_of(fields: [i64; 6], offset: u32, rest: &[u8]) -> Vec<u8> {
    let [width, height, bits, compression, bytes, colors] = fields;
    let long = |value: i64| (value as u32).to_le_bytes();
    let header = [
        &long(40)[..],
        &long(width),
        &long(height),
        &1u16.to_le_bytes(),
        &(bits as u16).to_le_bytes(),
        &long(compression),
        &long(bytes),
        &[0; 8],
        &long(colors),
        &[0; 4],
    ];
    [b"BM\0\0\0\0\0\0\0\0", &offset.to_le_bytes()[..], &header.concat(), rest].concat()
}

fn bmp(files: &mut Files) {
    let (min, max) = (i64::from(i32::MIN), i64::from(i32::MAX));
    let pixels = [7; 4096];
    for (what, file) in [
        ("2^31 pixels wide", bmp_of([max, 1, 24, 0, 0, 0], 54, &pixels)),
        ("2^31 pixels high", bmp_of([1, max, 24, 0, 0, 0], 54, &pixels)),
        ("-2^31 pixels high", bmp_of([1, min, 24, 0, 0, 0], 54, &pixels)),
        ("a negative width", bmp_of([-4, 4, 24, 0, 0, 0], 54, &pixels)),
        ("0x0", bmp_of([0, 0, 24, 0, 0, 0], 54, &pixels)),
        ("0 bits", bmp_of([4, 4, 0, 0, 0, 0], 54, &pixels)),
        ("3 bits", bmp_of([4, 4, 3, 0, 0, 0], 54, &pixels)),
        ("65535 bits", bmp_of([4, 4, 65_535, 0, 0, 0], 54, &pixels)),
        ("an unknown compression", bmp_of([4, 4, 24, 99, 0, 0], 54, &pixels)),
        ("a JPEG inside", bmp_of([4, 4, 24, 4, 0, 0], 54, &pixels)),
        ("2^32 colors", bmp_of([4, 4, 8, 0, 0, -1], 54, &pixels)),
        ("300 colors", bmp_of([4, 4, 8, 0, 0, 300], 54, &pixels)),
        ("indices without colors", bmp_of([4, 4, 8, 0, 0, 1], 58, &pixels)),
        ("pixels beyond the end", bmp_of([4, 4, 24, 0, 0, 0], u32::MAX, &pixels)),
        ("pixels in the header", bmp_of([4, 4, 24, 0, 0, 0], 0, &pixels)),
        ("no pixels", bmp_of([640, 480, 24, 0, 0, 0], 54, b"")),
        ("runs that jump", bmp_of([64, 64, 8, 1, 0, 2], 62, &[&[0; 8][..], &[0, 2, 255, 255].repeat(500)].concat())),
        ("runs that do not end", bmp_of([64, 64, 8, 1, 0, 2], 62, &[&[0; 8][..], &[255, 1].repeat(5000)].concat())),
        ("rows that are empty", bmp_of([64, 64, 8, 1, 0, 2], 62, &[&[0; 8][..], &[0, 0].repeat(5000)].concat())),
        ("runs of 4 bits", bmp_of([64, 64, 4, 2, 0, 2], 62, &[&[0; 8][..], &[0, 9, 1].repeat(900)].concat())),
        ("masks of no bits", bmp_of([4, 4, 16, 3, 0, 0], 66, &[0; 64])),
        ("masks that overlap", bmp_of([4, 4, 32, 3, 0, 0], 66, &[0xff; 128])),
        ("masks with holes", bmp_of([4, 4, 16, 3, 0, 0], 66, &[0x55; 64])),
        ("only a header", bmp_of([4, 4, 24, 0, 0, 0], 54, b"")[..30].to_vec()),
    ] {
        files.add(format!("BMP: {what}"), file);
    }
}

// ---- TIFF ----

const LONG: u16 = 4;

/// A little-endian TIFF of one directory; entries are tag, type, count, value.
fn tiff_of(entries: &[(u16, u16, u32, u32)], next: u32, data: &[u8]) -> Vec<u8> {
    let entry = |&(tag, kind, count, value): &(u16, u16, u32, u32)| {
        [&tag.to_le_bytes()[..], &kind.to_le_bytes(), &count.to_le_bytes(), &value.to_le_bytes()].concat()
    };
    let directory: Vec<u8> = entries.iter().flat_map(entry).collect();
    let count = (entries.len() as u16).to_le_bytes();
    [b"II*\0\x08\0\0\0", &count[..], &directory, &next.to_le_bytes(), data].concat()
}

/// A gray picture of 4x4 pixels, with other values for some tags.
fn tiff_with(changes: &[(u16, u32)]) -> Vec<u8> {
    let mut values: Vec<(u16, u32)> =
        vec![(256, 4), (257, 4), (258, 8), (259, 1), (262, 1), (273, 0), (277, 1), (278, 4), (279, 16)];
    for &(tag, value) in changes {
        match values.iter_mut().find(|(known, _)| *known == tag) {
            Some(known) => known.1 = value,
            None => values.push((tag, value)),
        }
    }
    values.sort_unstable();
    let start = (8 + 2 + 12 * values.len() + 4) as u32;
    let is_kept = changes.iter().any(|(tag, _)| *tag == 273);
    let entries: Vec<_> = values
        .into_iter()
        .map(|(tag, value)| (tag, LONG, 1, if tag == 273 && !is_kept { start } else { value }))
        .collect();
    tiff_of(&entries, 0, &[128; 64])
}

fn tiff(files: &mut Files) {
    files.add("TIFF: as it is", tiff_with(&[]));
    for (what, changes) in [
        ("2^32 pixels wide", &[(256, u32::MAX)][..]),
        ("2^32 pixels high", &[(257, u32::MAX)]),
        ("0 pixels wide", &[(256, 0)]),
        ("0 bits", &[(258, 0)]),
        ("64 bits", &[(258, 64)]),
        ("1000 bits", &[(258, 1000)]),
        ("an unknown compression", &[(259, 77)]),
        ("LZW of no codes", &[(259, 5)]),
        ("a JPEG that is none", &[(259, 7)]),
        ("an old JPEG", &[(259, 6)]),
        ("deflate that is none", &[(259, 8)]),
        ("a fax that is none", &[(259, 4), (258, 1)]),
        ("runs that are none", &[(259, 32_773)]),
        ("an unknown kind of color", &[(262, 77)]),
        ("a palette that is missing", &[(262, 3)]),
        ("YCbCr", &[(262, 6), (277, 3)]),
        ("pixels beyond the end", &[(273, u32::MAX)]),
        ("pixels in the header", &[(273, 0)]),
        ("0 samples", &[(277, 0)]),
        ("65535 samples", &[(277, 65_535)]),
        ("0 rows in a strip", &[(278, 0)]),
        ("2^32 rows in a strip", &[(278, u32::MAX)]),
        ("1 row in a strip", &[(278, 1)]),
        ("a strip of 4 GB", &[(279, u32::MAX)]),
        ("a strip of no bytes", &[(279, 0)]),
        ("a predictor that is unknown", &[(317, 9)]),
        ("tiles of no width", &[(322, 0), (323, 0), (324, 8), (325, 16)]),
        ("tiles of 2^32 pixels", &[(322, u32::MAX), (323, u32::MAX), (324, 8), (325, 16)]),
        ("samples of floats", &[(258, 32), (339, 3), (279, 64)]),
        ("samples of an unknown kind", &[(339, 9)]),
        ("planes apart", &[(284, 2), (277, 3)]),
        ("an orientation of 99", &[(274, 99)]),
        ("a thumbnail", &[(254, 1)]),
    ] {
        files.add(format!("TIFF: {what}"), tiff_with(changes));
    }
    for (what, file) in [
        ("no directory", b"II*\0\xff\xff\xff\xff".to_vec()),
        ("a directory in the header", b"II*\0\0\0\0\0".to_vec()),
        ("a directory that follows itself", tiff_of(&[(256, LONG, 1, 4)], 8, b"")),
        ("an empty directory", tiff_of(&[], 0, b"")),
        ("65535 entries that are not there", b"II*\0\x08\0\0\0\xff\xff".to_vec()),
        ("60000 equal entries", tiff_of(&vec![(256, LONG, 1, 4); 60_000], 0, b"")),
        ("2^32 offsets", tiff_of(&[(256, LONG, 1, 4), (257, LONG, 1, 4), (273, LONG, u32::MAX, 8)], 0, b"")),
        ("a profile of 4 GB", [&tiff_with(&[])[..120], &[0; 8]].concat()),
        ("values of an unknown type", tiff_of(&[(256, 99, 1, 4), (257, 99, 1, 4)], 0, b"")),
        ("a width that is a text", tiff_of(&[(256, 2, 4, 0x3433_3231), (257, LONG, 1, 4)], 0, b"")),
        ("Big-endian", b"MM\0*\0\0\0\x08\0\x01\x01\0\0\x04\0\0\0\x01\0\0\0\x04\0\0\0\0".to_vec()),
    ] {
        files.add(format!("TIFF: {what}"), file);
    }
}

// ---- QOI ----

fn qoi_of(width: u32, height: u32, channels: u8, space: u8, data: &[u8]) -> Vec<u8> {
    let size = [width.to_be_bytes(), height.to_be_bytes()].concat();
    [b"qoif", &size[..], &[channels, space], data].concat()
}

fn qoi(files: &mut Files) {
    let end = [0, 0, 0, 0, 0, 0, 0, 1];
    let with_end = |data: &[u8]| [data, &end].concat();
    for (what, file) in [
        ("2^32 pixels wide", qoi_of(u32::MAX, 1, 3, 0, &end)),
        ("2^32 pixels each way", qoi_of(u32::MAX, u32::MAX, 3, 0, &end)),
        ("0x0", qoi_of(0, 0, 3, 0, &end)),
        ("7 channels", qoi_of(4, 4, 7, 0, &end)),
        ("0 channels", qoi_of(4, 4, 0, 0, &end)),
        ("an unknown color space", qoi_of(4, 4, 3, 9, &with_end(&[0xcf]))),
        ("no pixels", qoi_of(4, 4, 3, 0, b"")),
        ("only an end", qoi_of(4, 4, 3, 0, &end)),
        ("no end", qoi_of(4, 4, 3, 0, &[0xcf])),
        ("a run beyond the end", qoi_of(4, 4, 3, 0, &with_end(&[0xfd]))),
        ("runs beyond the end", qoi_of(4, 4, 4, 0, &with_end(&[0xfd; 5000]))),
        ("a pixel that is cut", qoi_of(4, 4, 4, 0, &[0xff, 1, 2])),
        ("a difference that is cut", qoi_of(4, 4, 3, 0, &[0x80])),
        ("colors that were not seen", qoi_of(8, 8, 4, 0, &with_end(&(0..64).collect::<Vec<u8>>()))),
        ("16384x4 of runs", qoi_of(16_384, 4, 3, 0, &with_end(&[0xfd; 1100]))),
        ("one pixel too few", qoi_of(5, 5, 3, 0, &with_end(&[0xd7]))),
        ("the header cut", qoi_of(4, 4, 3, 0, &end)[..9].to_vec()),
        ("differences that wrap", qoi_of(8, 8, 3, 0, &with_end(&[0x40; 64]))),
        ("differences of luma", qoi_of(8, 8, 3, 0, &with_end(&[0x80; 128]))),
        ("all bytes", qoi_of(16, 16, 4, 1, &with_end(&(0..=255).collect::<Vec<u8>>()))),
        ("one row of 16385", qoi_of(16_385, 1, 3, 0, &with_end(&[0xfd; 300]))),
    ] {
        files.add(format!("QOI: {what}"), file);
    }
}
