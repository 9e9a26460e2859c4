//! Parameters stored in images.

use super::*;

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
