//! Sources, masks and larger canvases: what is kept, what is refused, what a run with them takes.

use std::sync::Arc;

use flux2::canvas::{Fill, Outpaint, Placed, Rule, Side, SourceOptions};
use flux2::image::codec::{self, Transparency};
use flux2::image::{Attached, ImageFormat, Original, Quality, RgbImage, encode_attached, metadata};
use flux2::pipeline::BatchKey;
use flux2::weights::ModelFiles;
use flux2::{
    Device, EngineOptions, Error, ErrorKind, GenerateRequest, ModelPaths, Phase, Precision, Reference, Residency,
    ResolvedRequest, Source, Variant, Warning, engine, plan,
};
use moxcms::ColorProfile;
use proptest::prelude::*;

use crate::golden::fixture;

/// Bytes without a pattern.
fn noise(seed: u64, n: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    std::iter::repeat_with(next).take(n).collect()
}

fn image(seed: u64, width: u32, height: u32) -> RgbImage {
    RgbImage::new(width, height, noise(seed, 3 * width as usize * height as usize)).unwrap()
}

fn png(image: &RgbImage) -> Vec<u8> {
    encode_attached(image, &Attached::default(), ImageFormat::Png, &Quality::default(), None).unwrap()
}

/// A gray mask as a PNG.
fn mask_png(width: u32, height: u32, bytes: &[u8]) -> Vec<u8> {
    let pixels = bytes.iter().flat_map(|&byte| [byte; 3]).collect();
    png(&RgbImage::new(width, height, pixels).unwrap())
}

fn profile(number: usize) -> Option<Arc<[u8]>> {
    let profile = match number {
        0 => return None,
        1 => ColorProfile::new_srgb(),
        2 => ColorProfile::new_display_p3(),
        3 => ColorProfile::new_adobe_rgb(),
        _ => ColorProfile::new_pro_photo_rgb(),
    };
    Some(profile.encode().unwrap().into())
}

fn place(source: &Source) -> Placed {
    source.place(1024 * 1024)
}

/// The file of a finished picture, as another program reads it.
fn finished(placed: &Placed, seed: u64, format: ImageFormat) -> Original {
    let [width, height] = placed.region().drawn;
    let (picture, attached) = placed.paste(image(seed, width, height)).unwrap();
    let file = encode_attached(&picture, &attached, format, &Quality::default(), None).unwrap();
    codec::decode_original(&file, "the result").unwrap()
}

fn opacity(original: &Original, i: usize) -> u8 {
    original.attached.alpha.as_ref().map_or(255, |alpha| alpha[i])
}

proptest! {
    /// The promise: whatever the source, its profile, the mask and the options are, pixels that the mask keeps are the
    /// bytes of the source in the file of the result.
    #[test]
    fn every_pixel_that_the_mask_keeps_keeps_its_bytes(
        (width, height) in (16u32..90, 16u32..90), seed in any::<u64>(), number in 0usize..5,
        is_transparent in any::<bool>(), (feather, area) in (0u32..12, 600u64..9000), inverts in any::<bool>(),
        is_webp in any::<bool>(), (x, y) in (0u32..90, 0u32..90), radius in 0u32..40, is_soft in any::<bool>(),
    ) {
        let n = (width * height) as usize;
        let alpha = is_transparent.then(|| noise(seed ^ 7, n));
        let attached = Attached { alpha, profile: profile(number) };
        let file = encode_attached(&image(seed, width, height), &attached, ImageFormat::Png, &Quality::default(), None).unwrap();
        let value = |i: u32| {
            let distance = f64::from(i % width).hypot(f64::from(i / width)) - f64::from(x).hypot(f64::from(y));
            match is_soft {
                true => ((f64::from(radius) - distance.abs()) * 20.0).clamp(0.0, 255.0) as u8,
                false => u8::from((i % width).abs_diff(x) < radius && (i / width).abs_diff(y) < radius) * 255,
            }
        };
        let mask: Vec<u8> = (0..width * height).map(value).collect();
        let options = SourceOptions {
            mask_invert: inverts, feather: Some(feather), area: Some(area), context: 16, ..Default::default()
        };
        let source = Source::from_bytes(&file, "s", Some((&mask_png(width, height, &mask), "m")), options);
        let kept: Vec<bool> = mask.iter().map(|byte| if inverts { 255 - byte } else { *byte } < 8).collect();
        let Ok(source) = source else {
            prop_assert!(kept.iter().all(|kept| *kept));
            return Ok(());
        };
        let before = codec::decode_original(&file, "s").unwrap();
        let after = finished(&place(&source), seed ^ 1, if is_webp { ImageFormat::WebP } else { ImageFormat::Png });
        prop_assert_eq!([after.image.width(), after.image.height()], [width, height]);
        prop_assert_eq!(&after.attached.profile, &before.attached.profile);
        for (i, _) in kept.iter().enumerate().filter(|(_, kept)| **kept) {
            let at = (i as u32 % width, i as u32 / width);
            prop_assert_eq!(after.image.pixel(at.0, at.1), before.image.pixel(at.0, at.1), "{:?}", at);
            prop_assert_eq!(opacity(&after, i), opacity(&before, i), "{:?}", at);
        }
        if feather == 0 && kept.iter().zip(&mask).any(|(kept, byte)| !kept && matches!(byte, 0 | 255)) {
            prop_assert!(after.image != before.image, "something is painted");
        }
    }
}

/// A white box in a black mask.
fn box_mask(size: [u32; 2], [left, top, right, bottom]: [u32; 4]) -> Vec<u8> {
    let is_inside = |i: u32| (left..right).contains(&(i % size[0])) && (top..bottom).contains(&(i / size[0]));
    let bytes: Vec<u8> = (0..size[0] * size[1]).map(|i| u8::from(is_inside(i)) * 255).collect();
    mask_png(size[0], size[1], &bytes)
}

fn painted(source: &[u8], mask: Option<&[u8]>, options: SourceOptions) -> flux2::Result<Source> {
    Source::from_bytes(source, "source", mask.map(|mask| (mask, "mask")), options)
}

/// What the model drew has the colors that it has in sRGB, whatever the profile of the source is.
#[test]
fn what_is_painted_is_converted_to_the_profile_of_the_source() {
    let gray = RgbImage::new(64, 64, vec![128; 3 * 64 * 64]).unwrap();
    let drawn = RgbImage::new(64, 64, [200, 60, 40].repeat(64 * 64)).unwrap();
    for number in 2..5 {
        let attached = Attached { alpha: None, profile: profile(number) };
        let file = encode_attached(&gray, &attached, ImageFormat::Png, &Quality::default(), None).unwrap();
        let options = SourceOptions { feather: Some(0), ..Default::default() };
        let source = painted(&file, Some(&box_mask([64, 64], [16, 16, 48, 48])), options).unwrap();
        let (picture, attached) = place(&source).paste(drawn.clone()).unwrap();
        assert_eq!((picture.pixel(0, 0), attached.profile.is_some()), ([128; 3], true));
        assert!(picture.pixel(32, 32) != [200, 60, 40], "profile {number} has other numbers for it");
        let seen = codec::decode(
            &encode_attached(&picture, &attached, ImageFormat::Png, &Quality::default(), None).unwrap(),
            "it",
        )
        .unwrap();
        let near = seen.pixel(32, 32).iter().zip([200u8, 60, 40]).all(|(a, b)| a.abs_diff(b) <= 2);
        assert!(near, "profile {number}: {:?}", seen.pixel(32, 32));
    }
}

#[test]
fn files_of_every_kind_keep_their_bytes() {
    let folder = fixture("images");
    let mut tried = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let Some(bytes) = path.is_file().then(|| std::fs::read(&path).unwrap()) else { continue };
        let Ok(before) = codec::decode_original(&bytes, &name) else { continue };
        let size = [before.image.width(), before.image.height()];
        if size[0].min(size[1]) < 16 || size[0] * size[1] > 1 << 20 {
            continue;
        }
        let mask = box_mask(size, [4, 4, 12, 12]);
        let source = painted(&bytes, Some(&mask), SourceOptions::default()).unwrap_or_else(|e| panic!("{name}: {e}"));
        let after = finished(&place(&source), 1, ImageFormat::Png);
        assert_eq!(after.attached.profile, before.attached.profile, "{name}");
        let is_kept = |i: &u32| !((4..12).contains(&(i % size[0])) && (4..12).contains(&(i / size[0])));
        for i in (0..size[0] * size[1]).filter(is_kept) {
            let (x, y) = (i % size[0], i / size[0]);
            assert_eq!(after.image.pixel(x, y), before.image.pixel(x, y), "{name}: {x},{y}");
            assert_eq!(opacity(&after, i as usize), opacity(&before, i as usize), "{name}: {x},{y}");
        }
        // Without a profile the colors are those that any viewer shows.
        if before.attached.profile.is_none() && before.attached.alpha.is_none() {
            assert_eq!(before.image, codec::decode(&bytes, &name).unwrap(), "{name}");
        }
        tried += 1;
    }
    assert!(tried > 30, "{tried} files");
}

#[test]
fn a_mask_is_transparency_or_white() {
    let source = png(&image(1, 32, 32));
    let tokens =
        |mask: &[u8], options| place(&painted(&source, Some(mask), options).unwrap()).work().unwrap().tokens.values;
    let white = box_mask([32, 32], [0, 0, 8, 8]);
    assert_eq!(tokens(&white, SourceOptions::default()), [1.0, 0.0, 0.0, 0.0]);
    // The same bytes of gray, with an alpha channel that repaints the other corner.
    let alpha: Vec<u8> = (0..32 * 32).map(|i| if i % 32 >= 24 && i / 32 >= 24 { 0 } else { 255 }).collect();
    let gray = codec::decode(&white, "mask").unwrap();
    let attached = Attached { alpha: Some(alpha.clone()), profile: None };
    let transparent = encode_attached(&gray, &attached, ImageFormat::Png, &Quality::default(), None).unwrap();
    assert_eq!(tokens(&transparent, SourceOptions::default()), [0.0, 0.0, 0.0, 1.0]);
    let inverted = SourceOptions { mask_invert: true, ..Default::default() };
    assert_eq!(tokens(&box_mask([32, 32], [0, 0, 16, 16]), inverted), [0.0, 1.0, 1.0, 1.0]);
    let grown = |mask_grow| tokens(&white, SourceOptions { mask_grow, ..Default::default() });
    assert_eq!([grown(8), grown(9), grown(13)], [[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 0.0], [1.0; 4]]);
    // Of the source's own transparency.
    let source = encode_attached(&image(1, 32, 32), &attached, ImageFormat::Png, &Quality::default(), None).unwrap();
    let of_alpha = SourceOptions { mask_from_alpha: true, ..Default::default() };
    let source = painted(&source, None, of_alpha).unwrap();
    assert_eq!(place(&source).work().unwrap().tokens.values, [0.0, 0.0, 0.0, 1.0]);
    // What was transparent is opaque once it is painted.
    let after = finished(&place(&source), 2, ImageFormat::Png);
    assert_eq!((opacity(&after, 32 * 32 - 1), opacity(&after, 0)), (255, 255));
}

#[test]
fn a_mask_of_another_size_is_scaled_and_one_of_another_shape_refused() {
    let source = png(&image(1, 100, 75));
    for size in [[50, 38], [200, 150], [400, 300], [25, 19]] {
        let mask = box_mask(size, [0, 0, size[0] / 2, size[1]]);
        let values =
            place(&painted(&source, Some(&mask), SourceOptions::default()).unwrap()).work().unwrap().tokens.values;
        assert_eq!((values[0], values[6]), (1.0, 0.0), "{size:?}");
    }
    let mask = box_mask([75, 100], [0, 0, 9, 9]);
    let error = painted(&source, Some(&mask), SourceOptions::default()).unwrap_err();
    assert!(matches!(error, Error::MaskSize { mask: [75, 100], expected: [100, 75] }), "{error}");
}

#[test]
fn what_makes_no_sense_is_refused() {
    let source = png(&image(1, 32, 32));
    let black = box_mask([32, 32], [0; 4]);
    let refused = |mask: Option<&[u8]>, options| {
        let error = painted(&source, mask, options).unwrap_err();
        assert!(error.remedy().is_some(), "{error}");
        error
    };
    let with = |change: fn(&mut SourceOptions)| {
        let mut options = SourceOptions::default();
        change(&mut options);
        options
    };
    assert!(matches!(refused(Some(&black), with(|_| ())), Error::NothingToRepaint));
    assert!(matches!(refused(None, with(|o| o.mask_from_alpha = true)), Error::NoTransparency));
    for strength in [0.0, -1.0, 1.5, f64::NAN, f64::INFINITY] {
        let error = refused(None, SourceOptions { strength, ..Default::default() });
        assert!(matches!(error, Error::Strength { .. }), "{strength}: {error}");
    }
    assert!(matches!(refused(None, with(|o| o.mask_grow = 129)), Error::MaskRange { pixels: 129, max: 128, .. }));
    assert!(matches!(refused(None, with(|o| o.feather = Some(257))), Error::MaskRange { pixels: 257, .. }));
    let none = Outpaint::new([Side::Px(0); 4]);
    let nothing = SourceOptions { outpaint: Some(none), ..Default::default() };
    assert!(matches!(refused(None, nothing), Error::NothingToRepaint));
    let huge = Outpaint::new([Side::Px(20_000), Side::Px(0), Side::Px(0), Side::Px(0)]);
    let huge = SourceOptions { outpaint: Some(huge), ..Default::default() };
    assert!(matches!(refused(None, huge), Error::CanvasTooLarge { width: 20_032, .. }));
    let diffusers = SourceOptions { rule: Rule::Diffusers, feather: Some(3), ..Default::default() };
    assert!(matches!(refused(None, diffusers), Error::NotInDiffusers { what: "feather" }));

    let error = painted(&png(&image(1, 15, 40)), None, SourceOptions::default()).unwrap_err();
    assert!(matches!(error, Error::SourceTooSmall { width: 15, height: 40, min: 16 }), "{error}");
    assert_eq!(error.kind(), ErrorKind::BadImage);
    let error = painted(b"no image", None, SourceOptions::default()).unwrap_err();
    assert!(matches!(error, Error::ImageFormat { .. }), "{error}");
}

fn request(source: Source) -> GenerateRequest {
    GenerateRequest { prompt: "a red fox".into(), source: Some(source), ..Default::default() }
}

#[test]
fn the_source_gives_the_size_and_warns_of_what_it_does() {
    let mini = Variant::by_name("klein-mini").unwrap();
    let source = png(&image(1, 300, 260));
    let resolve = |source: Source| ResolvedRequest::new(&request(source), mini).unwrap();
    // klein-mini draws up to 256x256 well.
    let region =
        resolve(painted(&source, Some(&box_mask([300, 260], [100, 100, 140, 140])), Default::default()).unwrap());
    assert_eq!((region.picture_px(), region.warnings.len()), ([300, 260], 0));
    assert!(region.width * region.height <= 256 * 256 && region.width.is_multiple_of(16), "{}", region.width);
    let all = resolve(painted(&source, None, Default::default()).unwrap());
    assert!(matches!(all.warnings[..], [Warning::RegionReduced { region: [300, 260], .. }]), "{:?}", all.warnings);
    let full = painted(&png(&image(1, 64, 64)), Some(&box_mask([64, 64], [0, 0, 64, 64])), Default::default()).unwrap();
    assert_eq!(resolve(full.clone()).warnings, [Warning::FullMask]);
    let sized = GenerateRequest { width: Some(64), ..request(full.clone()) };
    assert!(matches!(ResolvedRequest::new(&sized, mini), Err(Error::SizeOfSource { axis: "width", px: 64 })));

    let references = vec![Reference::from_image(image(2, 64, 64))];
    let both = ResolvedRequest::new(&GenerateRequest { references, ..request(full) }, mini).unwrap();
    assert_eq!(both.reference_px().collect::<Vec<_>>(), [[64, 64], [64, 64]]);
    assert!(BatchKey::of(&both) == BatchKey::of(&both));
}

#[test]
fn the_model_sees_transparency_over_the_background() {
    let attached = Attached { alpha: Some(vec![0; 32 * 32]), profile: None };
    let black = RgbImage::new(32, 32, vec![0; 3 * 32 * 32]).unwrap();
    let file = encode_attached(&black, &attached, ImageFormat::Png, &Quality::default(), None).unwrap();
    let seen = |transparency| {
        let source = painted(&file, None, SourceOptions { transparency, ..Default::default() }).unwrap();
        place(&source).work().unwrap().image.pixel(3, 3)
    };
    assert_eq!(seen(Transparency::default()), [255; 3]);
    assert_eq!(seen(Transparency::Over([1, 2, 3])), [1, 2, 3]);
    assert_eq!(seen(Transparency::Dropped), [0; 3]);
}

#[test]
fn a_larger_canvas_keeps_the_source_where_its_ramp_ends() {
    let source = image(3, 64, 48);
    let outpaint = Outpaint {
        fill: Fill::Color([0, 255, 0]),
        ..Outpaint::new([Side::Px(20), Side::Percent(50.0), Side::Px(0), Side::Px(0)])
    };
    let options = SourceOptions { outpaint: Some(outpaint), ..Default::default() };
    let placed = place(&painted(&png(&source), None, options).unwrap());
    assert_eq!(placed.source().canvas_px(), [84, 72]);
    assert_eq!(placed.source().outpainted(), Some([20, 24, 0, 0]));
    assert_eq!(placed.work().unwrap().image.pixel(0, 0), [0, 255, 0]);
    let after = finished(&placed, 4, ImageFormat::Png);
    for (x, y) in (24..64).flat_map(|x| (24..48).map(move |y| (x, y))) {
        assert_eq!(after.image.pixel(20 + x, 24 + y), source.pixel(x, y), "{x},{y}");
    }
    assert!((0..64).any(|x| after.image.pixel(20 + x, 24) != source.pixel(x, 0)), "the ramp is painted");
}

fn tiny() -> ModelFiles {
    ModelFiles::open(&ModelPaths { model: fixture("tiny/klein").into(), ..Default::default() }).unwrap()
}

fn options(residency: Residency) -> EngineOptions {
    EngineOptions { device: Device::Cpu, residency, precision: Precision::F32, ..Default::default() }
}

#[test]
fn strength_and_a_mask_change_the_steps_and_the_picture() {
    let mut engine = engine::open(tiny(), &options(Residency::KeepAll)).unwrap();
    let file = png(&image(5, 64, 64));
    let mut draw = |options: SourceOptions, mask: Option<&[u8]>| {
        let source = painted(&file, mask, options).unwrap();
        let made = engine.generate(&GenerateRequest { steps: Some(4), seed: 1, ..request(source) }).unwrap();
        (made.timings.steps.len(), made.image)
    };
    let with = |strength| SourceOptions { strength, ..Default::default() };
    let [full, weak] = [1.0, 0.3].map(|strength| draw(with(strength), None));
    assert_eq!((full.0, weak.0), (4, 4), "every strength takes all steps");
    assert!(full.1 != weak.1);
    let compat = |strength| SourceOptions { rule: Rule::Diffusers, strength, ..Default::default() };
    assert_eq!([1.0, 0.8, 0.5, 0.25].map(|strength| draw(compat(strength), None).0), [4, 4, 2, 1]);
    let unseen = draw(SourceOptions { as_reference: false, ..Default::default() }, None);
    assert!(unseen.1 != full.1, "the model sees the source unless it is told not to");
    // A mask that is nowhere stronger than half starts half of the steps later.
    let half = mask_png(64, 64, &[127; 64 * 64]);
    assert_eq!(draw(with(1.0), Some(&half)).0, 2);
}

#[test]
fn the_bytes_do_not_depend_on_threads_and_the_parameters_are_recorded() {
    let file = png(&image(6, 70, 66));
    let mask = box_mask([70, 66], [10, 20, 50, 60]);
    let made = [1, 3].map(|threads| {
        let options = EngineOptions { threads: std::num::NonZero::new(threads), ..options(Residency::KeepAll) };
        let mut engine = engine::open(tiny(), &options).unwrap();
        let source = painted(&file, Some(&mask), SourceOptions { strength: 0.7, ..Default::default() }).unwrap();
        engine.generate(&GenerateRequest { steps: Some(2), ..request(source) }).unwrap()
    });
    assert!(made[0].image == made[1].image);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("it.png");
    made[0].save(&path).unwrap();
    let stored = metadata::read(&std::fs::read(path).unwrap()).unwrap().unwrap();
    let source = stored.source.clone().unwrap();
    assert_eq!([stored.width, stored.height], [70, 66]);
    assert_eq!((source.region, source.drawn), ([0, 0, 70, 66], [80, 80]));
    assert_eq!((source.strength, source.feather, source.is_reference), (0.7, Some(8), true));
    assert_eq!(source.sha256, flux2::digest::sha256(&file));
    assert_eq!(source.mask, Some(flux2::digest::sha256(&mask)));
    assert_eq!(stored, made[0].parameters);
}

/// Both are in memory at full size, from before they are decoded to when the result is put together.
#[test]
fn a_plan_counts_source_mask_and_result() {
    let plan_of = |side: u32| {
        let source = png(&RgbImage::new(side, side, vec![90; 3 * (side * side) as usize]).unwrap());
        let mask = box_mask([side, side], [8, 8, 40, 40]);
        let options = SourceOptions { area: Some(64 * 64), ..Default::default() };
        let source = painted(&source, Some(&mask), options).unwrap();
        let peaks = plan::of(&tiny(), &self::options(Residency::OneAtATime), &[request(source)]).unwrap();
        let of = |stage| peaks.stages.iter().find(|at| at.stage == stage).unwrap().memory.total();
        (of(Phase::Text), of(Phase::References), of(Phase::Decode))
    };
    let (small, large) = (plan_of(1024), plan_of(4096));
    let more = 4096 * 4096 - 1024 * 1024;
    assert_eq!(large.0 - small.0, 4 * more, "the source and its mask");
    assert!(large.1 - small.1 >= 7 * more, "while it is decoded");
    assert_eq!(large.2 - small.2, (4 + 6) * more, "and the result, beside what was drawn enlarged");
}

#[test]
fn a_source_that_is_too_large_is_known_from_its_header() {
    let side = 2000;
    let file = png(&RgbImage::new(side, side, vec![90; 3 * (side * side) as usize]).unwrap());
    let bytes = Source::reading_bytes_of(&file[..200], "s", None, &SourceOptions::default()).unwrap();
    assert!(bytes >= 7 * (side * side) as usize, "{bytes}");
    let check = |limit| plan::check_reading(limit, &tiny(), &options(Residency::Smallest), &[], bytes);
    assert!(matches!(check(bytes), Err(Error::MemoryLimit { .. })));
    check(bytes + (64 << 20)).unwrap();
    let outpaint = Outpaint::new([Side::Px(2000), Side::Px(0), Side::Px(0), Side::Px(0)]);
    let options = SourceOptions { outpaint: Some(outpaint), ..Default::default() };
    let more = Source::reading_bytes_of(&file[..200], "s", None, &options).unwrap();
    assert!(more >= 15 * (side * side) as usize, "{more}");
}

#[test]
fn pictures_with_sources_are_drawn_alone_and_others_together() {
    use flux2::{BatchMember, Batching, CancelToken, Event};
    let mut engine = engine::open(tiny(), &options(Residency::KeepAll)).unwrap();
    let file = png(&image(7, 64, 64));
    let with = |strength, seed| {
        let source = painted(&file, None, SourceOptions { strength, ..Default::default() }).unwrap();
        GenerateRequest { steps: Some(2), seed, ..request(source) }
    };
    let plain = |seed| GenerateRequest {
        steps: Some(2),
        seed,
        width: Some(64),
        height: Some(64),
        source: None,
        ..with(1.0, seed)
    };
    let requests = [with(1.0, 1), plain(1), with(0.4, 1), plain(2), with(1.0, 1)];
    let alone: Vec<RgbImage> = requests.iter().map(|request| engine.generate(request).unwrap().image).collect();
    let cancel = CancelToken::new();
    let mut observers: Vec<_> = requests.iter().map(|_| |_: &Event| {}).collect();
    let members = requests.iter().zip(&mut observers);
    let mut members: Vec<BatchMember> =
        members.map(|(request, observer)| BatchMember { request, observer, cancel: &cancel }).collect();
    let together = engine.generate_batch(&mut members, Batching::SameBytes);
    for (i, (together, alone)) in together.into_iter().zip(alone).enumerate() {
        assert!(together.unwrap().image == alone, "picture {i}");
    }
}
