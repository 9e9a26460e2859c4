//! Encoding and saving.

use super::*;

#[test]
fn quality_decides_how_far_a_lossy_file_is_from_the_picture() {
    let smooth = fixture("colour_444.jpg.expected.png");
    let picture = decode(&smooth, "x").unwrap();
    let percent = |percent| Percent::new(percent).unwrap();
    let file_of = |picture: &RgbImage, format, quality: &Quality| {
        let embedded = Some(parameters("Füchse"));
        let bytes = encode_with(picture, format, quality, embedded.as_ref().map(Embedded::Picture)).unwrap();
        assert_eq!(metadata::read(&bytes).unwrap(), embedded, "{format:?} {quality:?}");
        let apart = Difference::between(picture, &decode(&bytes, "x").unwrap()).unwrap();
        (bytes.len(), apart.psnr.unwrap_or(f64::INFINITY))
    };
    let file = |format, quality: &Quality| file_of(&picture, format, quality);
    let usual = Quality::default();
    // Colors that differ from pixel to pixel.
    let colorful = rough(64, 48);
    for quality in [20, 60, 95] {
        let jpeg = |chroma| file_of(&colorful, ImageFormat::Jpeg, &Quality { jpeg: percent(quality), chroma, ..usual });
        let (full, quarter) = (jpeg(Chroma::Full), jpeg(Chroma::Quarter));
        assert!(quarter.0 < full.0 && full.1 > quarter.1, "{quality}: {full:?} {quarter:?}");
    }
    let jpeg = |quality| file(ImageFormat::Jpeg, &Quality { jpeg: percent(quality), ..usual });
    assert!(jpeg(20).0 < jpeg(80).0 && jpeg(80).1 > jpeg(20).1 && jpeg(95).1 > 38.0, "{:?}", jpeg(95));
    let webp = |webp| file(ImageFormat::WebP, &Quality { webp, ..usual });
    assert!(webp(None).1.is_infinite());
    let (low, high) = (webp(Some(percent(20))), webp(Some(percent(95))));
    assert!(low.0 < high.0 && high.1 > low.1 && high.1 > 34.0 && low.1 > 20.0, "{low:?} {high:?}");
    // Without parameters it is a plain file.
    let quality = Quality { webp: Some(percent(80)), ..usual };
    let plain = encode_with(&picture, ImageFormat::WebP, &quality, None).unwrap();
    assert_eq!(&plain[12..16], b"VP8 ");
    assert!(Percent::new(0).is_none() && Percent::new(101).is_none());
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
