//! Marks of pictures: the watermark and the XMP packet against what the reference programs make, and hostile files.
//!
//! Fixtures come from `tools/reference/make_marks.py`.

use std::fs;
use std::path::Path;

use flux2::image::metadata::xmp::{self, SourceType};
use flux2::image::{ImageFormat, Parameters, RgbImage, decode, encode, metadata};
use flux2::marks::watermark::{self, FLUX, SDXL, Watermark};
use flux2::marks::{Found, credentials};
use flux2::{Error, ErrorKind, Reference};

fn fixture(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/marks").join(name);
    fs::read(&path).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn picture(name: &str) -> RgbImage {
    decode(&fixture(name), name).unwrap()
}

fn parameters() -> Parameters {
    let json = serde_json::json!({
        "prompt": "a fox", "seed": 7, "noise": "philox", "model": "klein-4b", "dtype": "bf16", "steps": 4,
        "width": 48, "height": 32, "software": "dj-flux2", "version": "0.1.0",
    });
    serde_json::from_value(json).unwrap()
}

// ---- watermark ----

#[test]
fn the_watermark_is_that_of_the_reference_byte_for_byte() {
    let marked = watermark::embed(&picture("before.png")).unwrap();
    let expected = picture("after.png");
    let different = marked.pixels().iter().zip(expected.pixels()).filter(|(a, b)| a != b).count();
    assert_eq!(different, 0, "of {} bytes", expected.pixels().len());
}

#[test]
fn a_watermark_is_found_and_none_where_there_is_none() {
    let found = Watermark::find(&picture("after.png")).unwrap();
    assert_eq!((found.message, found.right), (FLUX, 46));
    assert!(found.chance < 1e-13);
    assert_eq!(Watermark::find(&picture("before.png")), None);
    assert!(watermark::read(&picture("before.png"), SDXL).unwrap().right < 40);
    // Files keep it that keep the pixels, or nearly.
    let marked = picture("after.png");
    for format in [ImageFormat::Png, ImageFormat::WebP, ImageFormat::Jpeg] {
        let again = decode(&encode(&marked, format, None).unwrap(), "it").unwrap();
        assert!(Watermark::find(&again).is_some(), "{format:?}");
    }
}

#[test]
fn odd_sizes_and_even_colors_are_marked_and_small_ones_refused() {
    for (width, height) in [(256, 256), (259, 301), (1024, 64), (65_536, 1)] {
        let pixels = (0..width * height * 3).map(|i| (40 + i / 3 % width * 7 % 90) as u8).collect();
        let image = RgbImage::new(width, height, pixels).unwrap();
        let marked = watermark::embed(&image).unwrap();
        assert_eq!((marked.width(), marked.height()), (width, height));
        assert_eq!(Watermark::find(&marked).is_some(), height > 1, "{width}x{height}");
    }
    let gray = RgbImage::new(256, 256, vec![120; 256 * 256 * 3]).unwrap();
    assert_eq!(Watermark::find(&gray), None);
    assert_eq!(Watermark::find(&watermark::embed(&gray).unwrap()).map(|found| found.right), Some(46));
    let small = RgbImage::new(255, 256, vec![0; 255 * 256 * 3]).unwrap();
    let error = watermark::embed(&small).unwrap_err();
    assert!(matches!(error, Error::WatermarkTooSmall { width: 255, height: 256 }) && error.kind() == ErrorKind::Usage);
    assert!(error.to_string().contains("255x256") && error.remedy().is_some());
    assert_eq!((watermark::read(&small, FLUX), Watermark::find(&small)), (None, None));
}

// ---- XMP ----

/// The packet in a file, wherever it is.
fn packet_in(file: &[u8]) -> Vec<u8> {
    let find = |text: &[u8]| file.windows(text.len()).position(|window| window == text);
    let (start, end) = (find(b"<?xpacket begin").unwrap(), find(b"<?xpacket end=\"r\"?>").unwrap());
    file[start..end + b"<?xpacket end=\"r\"?>".len()].to_vec()
}

const KINDS: [(SourceType, &str); 2] =
    [(SourceType::Drawn, "trainedAlgorithmicMedia"), (SourceType::Composite, "compositeWithTrainedAlgorithmicMedia")];

#[test]
fn packets_are_those_that_exiftool_reads_but_for_the_version() {
    for (kind, word) in KINDS {
        let expected = String::from_utf8(packet_in(&fixture(&format!("{word}.png")))).unwrap();
        let expected = expected.replace("dj-flux2 0.1.0", &format!("dj-flux2 {}", env!("CARGO_PKG_VERSION")));
        assert_eq!(xmp::packet(kind), expected);
    }
}

#[test]
fn packets_are_where_the_reference_puts_them() {
    for (kind, word) in KINDS {
        for (extension, format) in [("png", ImageFormat::Png), ("jpg", ImageFormat::Jpeg), ("webp", ImageFormat::WebP)]
        {
            let name = format!("{word}.{extension}");
            let expected = fixture(&name);
            assert_eq!(xmp::read(&expected).as_deref(), Some(word), "{name}");
            // The reference's file without the packet, and put in again.
            let plain = without_packet(&expected, format);
            assert_eq!(xmp::read(&plain), None, "{name}");
            let packet = String::from_utf8(packet_in(&expected)).unwrap();
            assert!(xmp::embed(plain, format, &packet) == expected, "{name}");
            assert_eq!(Found::of(&expected, None).source_type.as_deref(), Some(kind.word()));
        }
    }
}

/// A file of the reference without its packet: of the WebP only the pixels' chunk.
fn without_packet(file: &[u8], format: ImageFormat) -> Vec<u8> {
    let packet = packet_in(file).len();
    match format {
        ImageFormat::Png => [&file[..33], &file[33 + 12 + 22 + packet..]].concat(),
        ImageFormat::Jpeg => {
            let name = b"http://ns.adobe.com/xap/1.0/\0";
            let at = file.windows(name.len()).position(|window| window == name).unwrap() - 4;
            [&file[..at], &file[at + 4 + name.len() + packet..]].concat()
        }
        ImageFormat::WebP => {
            let pixels = &file[30..file.len() - 8 - packet.next_multiple_of(2)];
            let size = (4 + pixels.len() as u32).to_le_bytes();
            [b"RIFF", &size[..], b"WEBP", pixels].concat()
        }
    }
}

#[test]
fn the_packet_goes_with_the_parameters() {
    let image = RgbImage::new(48, 32, vec![90; 48 * 32 * 3]).unwrap();
    for format in [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP] {
        let with = encode(&image, format, Some(&parameters())).unwrap();
        let without = encode(&image, format, None).unwrap();
        assert_eq!(xmp::read(&with).as_deref(), Some("trainedAlgorithmicMedia"), "{format:?}");
        assert_eq!((xmp::read(&without), Found::of(&without, None)), (None, Found::default()), "{format:?}");
        // Neither the pixels nor the parameters suffer.
        assert_eq!(metadata::read(&with).unwrap(), Some(parameters()), "{format:?}");
        assert_eq!(decode(&with, "it").unwrap(), decode(&without, "it").unwrap(), "{format:?}");
        let marks = Reference::from_bytes(&with, "it").map(|reference| reference.marks().clone());
        assert!(marks.is_ok_and(|marks| marks.says_drawn()) || image.height() < 64);
    }
}

#[test]
fn the_kind_is_read_as_other_programs_write_it() {
    let address = "http://cv.iptc.org/newscodes/digitalsourcetype/";
    for (packet, word) in [
        (format!("<rdf:Description Iptc4xmpExt:DigitalSourceType='{address}digitalCapture'/>"), Some("digitalCapture")),
        (format!("<a:DigitalSourceType>{address}print</a:DigitalSourceType>"), Some("print")),
        (format!("<a:DigitalSourceType rdf:resource=\"{address}humanEdits\" />"), Some("humanEdits")),
        (format!("<a:DigitalSourceType>{address}<b>"), None),
        (format!("<a:DigitalSourceType>{address}{}", "x".repeat(1000)), Some(&*"x".repeat(64))),
        (format!("<a:DigitalSourceType>{address}a\u{202e}b\x1b[2J"), Some("a")),
        ("<a:DigitalSourceType>http://example.org/x".into(), None),
        (format!("{address}print"), None),
        (String::new(), None),
    ] {
        let png = encode(&RgbImage::new(1, 1, vec![0; 3]).unwrap(), ImageFormat::Png, None).unwrap();
        let file = xmp::embed(png, ImageFormat::Png, &packet);
        assert_eq!(xmp::read(&file).as_deref(), word, "{packet}");
    }
}

// ---- hostile files ----

/// Every prefix of a file, and every byte of its first part changed, is read without a panic; and what is put into such
/// a file leaves it a file of its format, or as it was.
#[test]
fn cut_and_changed_files_are_read() {
    for (name, format) in [
        ("compositeWithTrainedAlgorithmicMedia.png", ImageFormat::Png),
        ("compositeWithTrainedAlgorithmicMedia.jpg", ImageFormat::Jpeg),
        ("compositeWithTrainedAlgorithmicMedia.webp", ImageFormat::WebP),
    ] {
        let whole = fixture(name);
        let check = |file: Vec<u8>| {
            let _ = (Found::of(&file, None), credentials::are_in(&file));
            let embedded = xmp::embed(file.clone(), format, "<x/>");
            assert!(embedded == file || embedded.len() + 800 > file.len(), "{name}");
        };
        (0..whole.len()).for_each(|length| check(whole[..length].to_vec()));
        for at in 0..whole.len() {
            for value in [0, 0xff, whole[at] ^ 1] {
                let mut changed = whole.clone();
                changed[at] = value;
                check(changed);
            }
        }
    }
}

#[test]
fn credentials_are_seen_where_they_are() {
    let png = fixture("trainedAlgorithmicMedia.png");
    let chunk = |kind: &[u8; 4], data: &[u8]| {
        let mut crc = flate2::Crc::new();
        crc.update(kind);
        crc.update(data);
        [&(data.len() as u32).to_be_bytes()[..], kind, data, &crc.sum().to_be_bytes()].concat()
    };
    let with = |kind: &[u8; 4]| [&png[..33], &chunk(kind, b"jumb"), &png[33..]].concat();
    assert!(credentials::are_in(&with(b"caBX")) && !credentials::are_in(&with(b"caBY")));
    let jpeg = fixture("trainedAlgorithmicMedia.jpg");
    let with =
        |data: &[u8]| [&jpeg[..2], &[0xff, 0xeb], &(data.len() as u16 + 2).to_be_bytes(), data, &jpeg[2..]].concat();
    assert!(credentials::are_in(&with(b"JP\0\x01\0\0\0\x01\0\0\0\x20jumb..c2pa")));
    assert!(!credentials::are_in(&with(b"JP\0\x01 another box")) && !credentials::are_in(&with(b"c2pa")));
    let webp = fixture("trainedAlgorithmicMedia.webp");
    let mut with = [&webp[..], b"C2PA\x02\0\0\0xx"].concat();
    let size = (with.len() as u32 - 8).to_le_bytes();
    with[4..8].copy_from_slice(&size);
    assert!(credentials::are_in(&with) && !credentials::are_in(&webp));
}

#[test]
fn a_reference_says_what_it_carries() {
    let marked = encode(&picture("after.png"), ImageFormat::Png, Some(&parameters())).unwrap();
    let reference = Reference::from_bytes(&marked, "it").unwrap();
    assert!(reference.marks().says_drawn() && !reference.marks().has_credentials);
    assert_eq!(reference.marks().watermark.map(|found| found.right), Some(46));
    let plain = Reference::from_bytes(&encode(&picture("before.png"), ImageFormat::Png, None).unwrap(), "it").unwrap();
    assert_eq!(*plain.marks(), Found::default());
}
