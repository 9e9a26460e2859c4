//! Previews: the map to colors against the values of the program it is from, what reaches an observer, and that a
//! picture does not depend on whether somebody watches.

use std::cell::{Cell, RefCell};
use std::fs;
use std::path::Path;
use std::sync::Arc;

use flux2::event::{Observer, Preview, WithPreviews};
use flux2::image::{self, ImageFormat, RgbImage};
use flux2::pipeline::Pipeline;
use flux2::preview::Projection;
use flux2::weights::{Component, Location, ModelFiles, PreviewDecoderFile, VaeConfig, WeightSource as _};
use flux2::{
    BatchMember, Batching, CancelToken, Device, Engine, EngineOptions, Event, GenerateRequest, ModelPaths, Phase,
    Precision, PreviewOptions, Residency, Source, SourceOptions, engine, plan,
};
use flux2_backend::{CpuBackend, CpuOptions, Runtime as _};

use crate::evaluation::{self, psnr};
use crate::golden::fixture;

/// Values that a name determines, in -sqrt(3)..sqrt(3), as the reference scripts make them.
fn filler(name: &str, count: usize) -> Vec<f32> {
    let mut crc = flate2::Crc::new();
    crc.update(name.as_bytes());
    let value = |i: usize| {
        let mut h = crc.sum().wrapping_add((i as u32).wrapping_mul(2_654_435_761));
        h = (h ^ (h >> 16)).wrapping_mul(0x7feb_352d);
        h = (h ^ (h >> 15)).wrapping_mul(0x846c_a68b);
        h ^= h >> 16;
        let s = 2.0 * (f64::from(h) + 0.5) / 4_294_967_296.0 - 1.0;
        (s * 3f64.sqrt()) as f32
    };
    (0..count).map(value).collect()
}

/// The first of the means that the latents of FLUX.2's autoencoder are normalized with.
const FLUX2_MEANS: [f32; 8] = [-0.0676, -0.0715, -0.0753, -0.0745, 0.0223, 0.018, 0.0142, 0.0184];

fn flux2() -> Projection {
    let means: Vec<f32> = FLUX2_MEANS.into_iter().chain(std::iter::repeat(0.0)).take(128).collect();
    Projection::known(&means).expect("FLUX.2 is known")
}

#[test]
fn flux2_s_map_gives_the_values_of_comfyui() {
    // [128, 2, 2] to tokens [4, 128].
    let z = filler("input.z", 128 * 4);
    let tokens: Vec<f32> = (0..4).flat_map(|at| (0..128).map(move |c| (c, at))).map(|(c, at)| z[c * 4 + at]).collect();
    let colors = flux2().colors(&tokens, [2, 2]);
    let expected = [
        [0.29153, 0.442105, 0.260504, 0.534886, 0.462844, 0.373362, 0.224308, 0.215022, -0.103212, -0.484033],
        [-0.3281, -0.440458, -0.661987, -0.154428, -0.431316, -0.348962, 0.051244, -0.396838, -0.324065, 0.21574],
        [-0.186549, 0.133667, 0.119343, -0.038693, 0.058355, -0.144965, -0.161074, 0.137775, 0.12063, -0.120229],
        [0.123506, 0.115684, 0.039689, 0.121831, 0.115534, 0.181903, 0.603569, 0.300362, 0.341127, 0.033874],
    ];
    for (row, expected) in colors.chunks_exact(12).zip(expected) {
        for (found, expected) in row.iter().zip(expected) {
            assert!((found - expected).abs() < 2e-5, "{row:?}, {expected}");
        }
    }
    let picture = flux2().picture(&tokens, [2, 2]);
    assert_eq!([picture.pixel(0, 0), picture.pixel(3, 3)], [[165, 184, 161], [132, 135, 94]]);
}

#[test]
fn autoencoders_are_known_by_their_means() {
    let means = |path: &Path| {
        let vae = Component::<VaeConfig>::open(path).unwrap();
        vae.map().unwrap().tensor("bn.mean").unwrap().to_f32()
    };
    assert_eq!(flux2().channels(), 32);
    let tiny = means(&fixture("tiny/klein/vae"));
    assert_eq!(Projection::known(&tiny), None);
    let mini = means(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../assets/mini/vae")));
    assert_eq!(Projection::known(&mini).map(|known| known.channels()), Some(16));
    assert_eq!(Projection::known(&mini[..60]), None);
}

fn request(seed: u64, steps: u32) -> GenerateRequest {
    let prompt = "a cat on a blue background".into();
    GenerateRequest { prompt, steps: Some(steps), seed, ..Default::default() }
}

fn mini() -> Box<dyn Engine> {
    let options = EngineOptions { device: Device::Cpu, residency: Residency::KeepAll, ..Default::default() };
    engine::load(&evaluation::mini(), &options).unwrap()
}

/// A picture, and its previews.
fn watched(engine: &mut dyn Engine, request: &GenerateRequest) -> (RgbImage, Vec<Preview>) {
    let mut seen = Vec::new();
    let mut observer = WithPreviews(|event: &Event| {
        if let Event::Preview(preview) = event {
            seen.push(preview.clone());
        }
    });
    let made = engine.generate_with(request, &mut observer, &CancelToken::new()).unwrap();
    (made.image, seen)
}

/// The picture as a preview of it would be at best: means of 8x8 pixels.
fn shrunk(image: &RgbImage) -> RgbImage {
    let (w, h) = (image.width() / 8, image.height() / 8);
    let mean = |x: u32, y: u32, k: usize| {
        let sum: u32 = (0..64).map(|i| u32::from(image.pixel(8 * x + i % 8, 8 * y + i / 8)[k])).sum();
        ((sum + 32) / 64) as u8
    };
    let pixels = (0..h).flat_map(|y| (0..w).flat_map(move |x| [0, 1, 2].map(|k| (x, y, k))));
    RgbImage::new(w, h, pixels.map(|(x, y, k)| mean(x, y, k)).collect()).unwrap()
}

#[test]
fn a_picture_comes_nearer_from_step_to_step_and_is_the_same_bytes_unwatched() {
    let mut engine = mini();
    for precision_steps in [4, 8] {
        let request = request(7, precision_steps);
        let unwatched = engine.generate(&request).unwrap().image;
        let (picture, previews) = watched(&mut *engine, &request);
        assert!(picture == unwatched, "watching changes the picture");
        let steps: Vec<_> = previews.iter().map(|preview| (preview.step, preview.steps)).collect();
        assert_eq!(steps, (1..=precision_steps).map(|step| (step, precision_steps)).collect::<Vec<_>>());
        let best = shrunk(&picture);
        let near: Vec<f64> = previews.iter().map(|preview| psnr(&preview.image, &best)).collect();
        assert!(near[0] < near[near.len() - 1] && near[near.len() - 1] > 18.0, "{near:?} dB");
    }
}

#[test]
fn of_a_batch_only_who_asks_gets_previews_and_each_its_own() {
    let mut engine = mini();
    let requests = [request(1, 2), request(2, 2), request(3, 2)];
    let alone: Vec<_> = requests.iter().map(|request| watched(&mut *engine, request)).collect();
    let seen = RefCell::new(vec![Vec::new(); 3]);
    let note = |i: usize| {
        let seen = &seen;
        move |event: &Event| {
            if let Event::Preview(preview) = event {
                seen.borrow_mut()[i].push(preview.clone());
            }
        }
    };
    let (mut first, mut second, mut third) = (WithPreviews(note(0)), note(1), WithPreviews(note(2)));
    let cancel = CancelToken::new();
    let observers: [&mut dyn Observer; 3] = [&mut first, &mut second, &mut third];
    let members = requests.iter().zip(observers);
    let mut members: Vec<_> =
        members.map(|(request, observer)| BatchMember { request, observer, cancel: &cancel }).collect();
    let made = engine.generate_batch(&mut members, Batching::SameBytes);
    for ((made, (image, _)), i) in made.into_iter().zip(&alone).zip(0..) {
        assert!(made.unwrap().image == *image, "picture {i}");
    }
    drop(members);
    let seen = seen.into_inner();
    assert_eq!((&seen[0], &seen[2]), (&alone[0].1, &alone[2].1));
    assert!(seen[1].is_empty());
}

/// An observer that wants a preview if the last step it heard of is the second: steps that were shown, the last step.
struct AfterTwo(Vec<u32>, Cell<u32>);

impl Observer for AfterTwo {
    fn on_event(&mut self, event: &Event) {
        match event {
            Event::Preview(preview) => self.0.push(preview.step),
            Event::Step { step, .. } => self.1.set(*step),
            _ => {}
        }
    }

    fn wants_previews(&self) -> bool {
        self.1.get() == 2
    }
}

#[test]
fn whether_previews_are_wanted_is_asked_at_every_step() {
    for (before, shown) in [(0, &[3][..]), (2, &[1, 3])] {
        let mut observer = AfterTwo(vec![], Cell::new(before));
        mini().generate_with(&request(5, 4), &mut observer, &CancelToken::new()).unwrap();
        assert_eq!(observer.0, shown);
    }
}

/// With guidance, the estimate follows the guided velocity: at the last step it is the finished latents.
#[test]
fn the_last_preview_is_of_the_finished_latents_with_guidance_too() {
    let be = CpuBackend::new(CpuOptions::default()).unwrap();
    let variant = Some(flux2::Variant::by_name("klein-base").unwrap());
    let paths = ModelPaths { model: fixture("tiny/klein").into(), variant, ..Default::default() };
    let mut pipeline = Pipeline::load(be.clone(), &paths, Residency::KeepAll).unwrap();
    let request = GenerateRequest { width: Some(64), height: Some(96), steps: Some(2), ..request(3, 2) };
    let mut seen = Vec::new();
    let mut observer = WithPreviews(|event: &Event| {
        if let Event::Preview(preview) = event {
            seen.push(preview.image.clone());
        }
    });
    let made = pipeline.generate(&request, &mut observer, &CancelToken::new()).unwrap();
    assert_eq!((made.parameters.guidance, seen.len()), (Some(4.0), 2));
    assert_eq!((seen[1].width(), seen[1].height()), (8, 12));
    assert!(seen[0] != seen[1]);
    let _ = be.wait();
}

/// The tiny model's autoencoder has random weights: its map is fitted, kept, and read again.
#[test]
fn an_unknown_autoencoder_is_fitted_and_kept() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("previews");
    let draw = || {
        let previews = PreviewOptions { cache: Some(cache.clone()), ..Default::default() };
        let options = EngineOptions { device: Device::Cpu, precision: Precision::F32, previews, ..Default::default() };
        let mut engine =
            engine::load(&ModelPaths { model: fixture("tiny/klein").into(), ..Default::default() }, &options);
        let request = GenerateRequest { width: Some(64), height: Some(64), ..request(3, 1) };
        watched(&mut **engine.as_mut().unwrap(), &request).1
    };
    let first = draw();
    let entries: Vec<_> = fs::read_dir(&cache).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!((first.len(), entries.len()), (1, 1));
    assert_eq!(draw(), first);
    // What is kept is what is used.
    let black = serde_json::json!({"version": 1, "factors": vec![[0.0; 3]; 8], "bias": [-1.0, -1.0, -1.0]});
    fs::write(&entries[0], black.to_string()).unwrap();
    assert!(draw()[0].image.pixels().iter().all(|byte| *byte == 0));
    // What is damaged is fitted again.
    fs::write(&entries[0], "{").unwrap();
    assert_eq!(draw(), first);
}

// ---- masks ----

/// The whole picture is drawn, the left half of it is let go: what the mask keeps is shown as it will be in the end,
/// from the first step on.
#[test]
fn a_preview_of_a_masked_picture_shows_the_source_outside() {
    let mut engine = mini();
    let source = engine.generate(&request(7, 4)).unwrap().image;
    let (w, h) = (source.width(), source.height());
    let mask = (0..h).flat_map(|_| (0..w).flat_map(|x| [if x < w / 2 { 255 } else { 0 }; 3])).collect();
    let png = |image: &RgbImage| image::encode(image, ImageFormat::Png, None).unwrap();
    let (file, mask) = (png(&source), png(&RgbImage::new(w, h, mask).unwrap()));
    let options = SourceOptions { as_reference: false, ..Default::default() };
    let painted = Source::from_bytes(&file, "source", Some((&mask, "mask")), options).unwrap();
    let other = GenerateRequest { prompt: "a dog on a red background".into(), ..request(8, 4) };
    let masked = GenerateRequest { source: Some(painted), ..other.clone() };
    let right_half = |image: &RgbImage| {
        let (w, h) = (image.width(), image.height());
        let pixels = (0..h).flat_map(|y| (w / 2 + 1..w).flat_map(move |x| image.pixel(x, y))).collect();
        RgbImage::new(w - w / 2 - 1, h, pixels).unwrap()
    };
    let best = right_half(&shrunk(&source));
    let mut near = |request: &GenerateRequest| -> Vec<f64> {
        let (_, previews) = watched(&mut *engine, request);
        previews.iter().map(|preview| psnr(&right_half(&preview.image), &best)).collect()
    };
    let (held, free) = (near(&masked), near(&other));
    assert!(held.iter().all(|db| *db > 18.0 && *db == held[0]), "{held:?} dB");
    assert!(free.iter().all(|db| held[0] > db + 3.0), "{held:?} dB, without the mask {free:?} dB");
}

// ---- decoders ----

fn decoder(name: &str) -> Arc<PreviewDecoderFile> {
    let file = fixture("golden/preview").join(name);
    Arc::new(PreviewDecoderFile::open(&Location::from(file)).unwrap())
}

fn options_with(decoder: Option<Arc<PreviewDecoderFile>>) -> EngineOptions {
    let previews = PreviewOptions { decoder, ..Default::default() };
    EngineOptions { device: Device::Cpu, precision: Precision::F32, previews, ..Default::default() }
}

fn tiny() -> ModelPaths {
    ModelPaths { model: fixture("tiny/klein").into(), ..Default::default() }
}

#[test]
fn a_decoder_shows_the_whole_picture_and_changes_nothing() {
    let request = GenerateRequest { width: Some(64), height: Some(96), ..request(3, 2) };
    let draw = |decoder| watched(&mut *engine::load(&tiny(), &options_with(decoder)).unwrap(), &request);
    let (picture, projected) = draw(None);
    assert_eq!((projected[0].image.width(), projected[0].image.height()), (8, 12));
    let mut seen = Vec::new();
    for name in ["taesd.safetensors", "taef2_decoder.pth"] {
        let (made, previews) = draw(Some(decoder(name)));
        assert!(made == picture, "{name}: watching changes the picture");
        let steps: Vec<_> = previews.iter().map(|preview| (preview.step, preview.steps)).collect();
        assert_eq!(steps, [(1, 2), (2, 2)], "{name}");
        assert!(previews.iter().all(|at| (at.image.width(), at.image.height()) == (64, 96)), "{name}");
        assert!(previews[0].image != previews[1].image, "{name}");
        seen.push(previews);
    }
    assert!(seen[0][1].image != seen[1][1].image, "another decoder, another preview");
}

#[test]
fn a_decoder_for_other_latents_is_left_alone() {
    let previews = PreviewOptions { decoder: Some(decoder("taesd.safetensors")), ..Default::default() };
    let options = EngineOptions { device: Device::Cpu, previews, ..Default::default() };
    let mut engine = engine::load(&evaluation::mini(), &options).unwrap();
    let (picture, previews) = watched(&mut *engine, &request(7, 1));
    assert_eq!(previews[0].image.width(), picture.width() / 8);
}

#[test]
fn a_decoder_counts_in_the_plan() {
    let files = ModelFiles::open(&tiny()).unwrap();
    let request = GenerateRequest { width: Some(512), height: Some(512), ..request(3, 1) };
    let denoise = |decoder, requests: &[GenerateRequest]| {
        let plan = plan::of(&files, &options_with(decoder), requests).unwrap();
        plan.stages.iter().find(|at| at.stage == Phase::Denoise).unwrap().memory.total()
    };
    let one = std::slice::from_ref(&request);
    let (without, with) = (denoise(None, one), denoise(Some(decoder("taef2_decoder.pth")), one));
    // The picture as f32 and as bytes on the host, and a few maps of its size in f32.
    assert!(with > without.max(512 * 512 * (3 * 5 + 3 * 4 * 4)), "{without} and {with} bytes");
    let both = plan::of_batch(&files, &options_with(Some(decoder("taef2_decoder.pth"))), &[request.clone(), request]);
    assert!(both.unwrap().peak_bytes() > 0);
}
