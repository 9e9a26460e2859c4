//! The whole recipe against diffusers, stage by stage, on tiny checkpoints with every parameter randomized.
//!
//! Tolerances for f32 (see docs/parity.md): the error of the reference against f64 is about 1e-6, and the order of sums
//! differs here. A wrong token row changes the result by 3e-3, a wrong pad row by 1e-4.

use std::num::NonZeroUsize;

use flux2::image::RgbImage;
use flux2::models::vae;
use flux2::pipeline::{DenoiseInputs, Denoised, Pipeline, ReferenceTokens, Residency, StepState};
use flux2::text::Tokenizer;
use flux2::weights::{LoraPath, ModelFiles};
use flux2::{CancelToken, Event, GenerateRequest, ModelPaths, NoiseKind, Reference, ResolvedRequest, Variant};
#[cfg(all(feature = "cuda", target_os = "linux"))]
use flux2_backend::testing::on_cuda;
use flux2_backend::{Backend, Compute, CpuBackend, CpuOptions, Runtime};

use safetensors::SafeTensors;

use crate::evaluation;
use crate::golden::{Golden, assert_absolute, assert_relative, f32_backend, fixture};
use crate::lora::f32_transformer;

/// Relative L2 error of a block or network, f32.
const NETWORK: f64 = 3e-6;
/// Relative L2 error of latents after several steps, f32: errors accumulate.
const LATENTS: f64 = 2e-5;
/// Error of the worst element of a velocity or of latents, relative to the largest: detects a single wrong row.
const WORST: f32 = 2e-5;
/// Relative L2 error of the tokens of reference images, f32. The golden values differ from an f64 run by up to 4.6e-6
/// (PyTorch with two threads instead of one: 0.9e-6); ours are closer.
const REFERENCE_TOKENS: f64 = 1e-5;
/// Absolute error of decoded pixels, f32, nominally in -1..=1.
const PIXELS: f32 = 5e-5;

/// Two threads, so that work is split.
fn backend(compute: Compute) -> CpuBackend {
    CpuBackend::new(CpuOptions { compute, threads: NonZeroUsize::new(2), ..Default::default() }).unwrap()
}

impl Golden {
    /// Whether the file has a tensor of that name.
    fn has(&self, name: &str) -> bool {
        SafeTensors::deserialize(&self.bytes).unwrap().tensor(name).is_ok()
    }

    /// The request given to the reference.
    fn request(&self) -> GenerateRequest {
        let (_, header) = SafeTensors::read_metadata(&self.bytes).unwrap();
        let metadata = header.metadata().clone().unwrap();
        let json: serde_json::Value = serde_json::from_str(&metadata["request"]).unwrap();
        let number = |key: &str| json[key].as_u64().map(|n| n as u32);
        let references = json["references"].as_array().unwrap().iter().map(|file| {
            let bytes = std::fs::read(fixture("golden/references").join(file.as_str().unwrap())).unwrap();
            Reference::from_bytes(&bytes, "reference").unwrap()
        });
        GenerateRequest {
            prompt: json["prompt"].as_str().unwrap().into(),
            references: references.collect(),
            width: number("width"),
            height: number("height"),
            steps: number("steps"),
            guidance: (json["guidance"] != 1.0).then(|| json["guidance"].as_f64().unwrap() as f32),
            seed: json["seed"].as_u64().unwrap(),
            noise: NoiseKind::TorchCpu,
            ..GenerateRequest::default()
        }
    }
}

fn folder() -> ModelPaths {
    ModelPaths { model: fixture("tiny/klein").into(), ..Default::default() }
}

fn single_files() -> ModelPaths {
    let file = |name| fixture("tiny/klein-bfl").join(name).into();
    ModelPaths {
        model: file("transformer.safetensors"),
        text_encoder: Some(file("text_encoder.safetensors")),
        vae: Some(file("ae.safetensors")),
        ..Default::default()
    }
}

fn as_variant(name: &str) -> ModelPaths {
    ModelPaths { variant: Some(Variant::by_name(name).unwrap()), ..folder() }
}

fn ignore(_: &Event) {}

/// Compare every stage of a golden request with the reference, on the CPU and on a GPU.
fn check(case: &str, paths: &ModelPaths) {
    check_on(&backend(Compute::F32), case, paths);
    #[cfg(all(feature = "cuda", target_os = "linux"))]
    on_cuda(Compute::F32, |be| -> Result<(), ()> {
        check_on(be, case, paths);
        Ok(())
    });
}

/// Run a golden request stage by stage and compare every stage with the reference.
fn check_on<B: Backend>(be: &B, case: &str, paths: &ModelPaths) {
    let golden = Golden::open(case);
    let mut pipeline = Pipeline::load(be.clone(), paths, Residency::KeepAll).unwrap();
    let request = ResolvedRequest::new(&golden.request(), pipeline.variant()).unwrap();
    let cancel = CancelToken::new();

    let tokenizer = Tokenizer::from_file(fixture("tiny/klein/tokenizer/tokenizer.json")).unwrap();
    let tokens = tokenizer.encode_prompt(&request.prompt, 512);
    assert_eq!(tokens.ids.iter().map(|id| *id as f32).collect::<Vec<_>>(), golden.values("token_ids"));
    let mask: Vec<f32> = (0..512).map(|i| if i < tokens.valid { 1.0 } else { 0.0 }).collect();
    assert_eq!(mask, golden.values("attention_mask"));
    let text = pipeline.encode_prompt(&request.prompt, &mut ignore, &cancel).unwrap();
    assert_eq!(text.warning.is_some(), tokens.valid == 512 && case == "t2i_long_prompt");
    if golden.has("text_embedding") {
        let rows = pipeline.backend().download(&text.rows).unwrap();
        assert_relative("text embedding", &rows, &golden.values("text_embedding"), NETWORK);
    }
    let uncond = request.guidance.map(|_| pipeline.encode_prompt("", &mut ignore, &cancel).unwrap());
    let references = pipeline.encode_references(&request.references, &mut ignore, &cancel).unwrap();
    if golden.has("reference_tokens") {
        assert_relative("reference tokens", &references.tokens, &golden.values("reference_tokens"), REFERENCE_TOKENS);
        let ids: Vec<f32> = references.ids.iter().flatten().map(|id| *id as f32).collect();
        assert_eq!(ids, golden.values("reference_ids"));
    }

    let latents = request.initial_latents(32, NonZeroUsize::MIN);
    assert_eq!(latents, golden.values("noise"));
    let sigmas = flux2::sampler::sigmas(request.steps, request.grid().iter().product()).unwrap();
    assert_absolute("sigmas", &sigmas, &golden.values("sigmas"), 2e-7);
    let mut inspect = |state: &StepState<B>| {
        let i = state.step;
        let hold = |name: &str, got, tolerance| {
            let name = format!("{name}_{i}");
            let (got, expected) = (be.download(got).unwrap(), golden.values(&name));
            assert_relative(&name, &got, &expected, tolerance);
            let largest = expected.iter().fold(0f32, |m, v| m.max(v.abs()));
            assert_absolute(&name, &got, &expected, WORST * largest);
        };
        // The first velocity has only the network's error, later ones also that of the latents.
        hold("velocity", state.velocity, if i == 0 { NETWORK } else { LATENTS });
        if let Some(uncond) = state.velocity_uncond {
            hold("velocity_uncond", uncond, if i == 0 { NETWORK } else { LATENTS });
        }
        hold("latents", state.latents, LATENTS);
    };
    let inputs = DenoiseInputs {
        request: &request,
        latents: &latents,
        text: &text,
        guided: uncond.as_ref().zip(request.guidance),
        references: &references,
    };
    let Denoised { latents, .. } = pipeline.denoise(&inputs, &mut inspect, &mut ignore, &cancel).unwrap();

    if golden.has("decoded") {
        let part = ModelFiles::open(paths).unwrap().vae;
        let decoder = vae::Decoder::load(be, &part.config, &part.map().unwrap()).unwrap();
        let pixels = decoder.forward(&latents, request.grid(), &mut || Ok(())).unwrap();
        assert_absolute("decoded", &pixels, &golden.channels_last("decoded"), PIXELS);
    }
    let image = pipeline.decode(&latents, &request, &mut ignore, &cancel).unwrap();
    hold_picture(&golden, &image);

    // The same by `generate`.
    let whole = pipeline.generate(&golden.request(), &mut ignore, &cancel).unwrap();
    assert_eq!(whole.image, image);
}

/// Asserts that bytes differ by at most one level, and at most one in a thousand differs.
fn hold_picture(golden: &Golden, image: &RgbImage) {
    let expected = golden.values("image");
    assert_eq!(golden.shape("image"), [image.height() as usize, image.width() as usize, 3]);
    let different = image.pixels().iter().zip(&expected).filter(|(got, e)| f32::from(**got) != **e).count();
    let bytes: Vec<f32> = image.pixels().iter().map(|b| f32::from(*b)).collect();
    assert_absolute("picture bytes", &bytes, &expected, 1.0);
    assert!(different * 1000 <= expected.len(), "{different} of {} bytes differ", expected.len());
}

/// klein-mini as shipped, against diffusers' own pipeline: the same noise, the same picture.
fn check_mini(case: &str) {
    check_mini_on(&backend(Compute::F32), case);
    #[cfg(all(feature = "cuda", target_os = "linux"))]
    on_cuda(Compute::F32, |be| -> Result<(), ()> {
        check_mini_on(be, case);
        Ok(())
    });
}

fn check_mini_on<B: Backend>(be: &B, case: &str) {
    let golden = Golden::open(case);
    let mut pipeline = Pipeline::load(be.clone(), &evaluation::mini(), Residency::KeepAll).unwrap();
    let request = golden.request();
    let image = pipeline.generate(&request, &mut ignore, &CancelToken::new()).unwrap().image;
    hold_picture(&golden, &image);
}

#[test]
fn klein_mini_text_to_image() {
    check_mini("mini_t2i");
}

#[test]
fn klein_mini_edit() {
    check_mini("mini_edit");
}

#[test]
fn klein_mini_two_references() {
    check_mini("mini_two_references");
}

#[test]
fn text_to_image() {
    check("t2i", &folder());
}

#[test]
fn text_to_image_from_single_files() {
    check("t2i", &single_files());
}

#[test]
fn empty_prompt() {
    check("t2i_empty_prompt", &folder());
}

#[test]
fn over_long_prompt() {
    check("t2i_long_prompt", &folder());
}

#[test]
fn eight_steps() {
    check("t2i_8_steps", &folder());
}

#[test]
fn one_reference() {
    check("edit_one_reference", &folder());
}

#[test]
fn one_reference_with_single_files() {
    check("edit_one_reference", &single_files());
}

#[test]
fn two_references() {
    check("edit_two_references", &folder());
}

#[test]
fn size_from_the_reference() {
    check("edit_size_from_reference", &folder());
}

#[test]
fn base_with_guidance() {
    check("base_guidance", &as_variant("klein-base"));
}

#[test]
fn base_with_guidance_and_a_reference() {
    check("base_guidance_edit", &as_variant("klein-base"));
}

#[test]
fn kv_with_one_reference() {
    check("kv_one_reference", &as_variant("klein-kv"));
}

#[test]
fn kv_with_two_references() {
    check("kv_two_references", &as_variant("klein-kv"));
}

#[test]
fn kv_without_references_is_the_ordinary_model() {
    check("t2i", &as_variant("klein-kv"));
}

/// diffusers adds the products of a LoRA to each product; here they are merged into the weights. The checkpoint is f32,
/// so that merging does not round.
#[test]
fn lora() {
    let temp = tempfile::tempdir().unwrap();
    let model = f32_transformer(temp.path()).into();
    let lora = LoraPath { location: fixture("tiny/lora.safetensors").into(), scale: 0.7 };
    check("lora", &ModelPaths { model, loras: vec![lora], ..single_files() });
}

#[test]
fn bf16_stays_near_f32() {
    bf16_stays_near_f32_on(&backend(Compute::Bf16));
    #[cfg(all(feature = "cuda", target_os = "linux"))]
    on_cuda(Compute::Bf16, |be| -> Result<(), ()> {
        bf16_stays_near_f32_on(be);
        Ok(())
    });
}

fn bf16_stays_near_f32_on<B: Backend>(be: &B) {
    let golden = Golden::open("t2i");
    let mut pipeline = Pipeline::load(be.clone(), &folder(), Residency::KeepAll).unwrap();
    let cancel = CancelToken::new();
    let request = ResolvedRequest::new(&golden.request(), pipeline.variant()).unwrap();
    let text = pipeline.encode_prompt(&request.prompt, &mut ignore, &cancel).unwrap();
    let rows = pipeline.backend().download(&text.rows).unwrap();
    assert_relative("text embedding", &rows, &golden.values("text_embedding"), 2e-2);
    let mut inspect = |state: &StepState<B>| {
        let name = format!("velocity_{}", state.step);
        // The error of a random network of this family in bf16 against f64 is 3e-2.
        assert_relative(&name, &be.download(state.velocity).unwrap(), &golden.values(&name), 4e-2);
    };
    let none = ReferenceTokens::default();
    let latents = request.initial_latents(32, NonZeroUsize::MIN);
    let inputs = DenoiseInputs { request: &request, latents: &latents, text: &text, guided: None, references: &none };
    pipeline.denoise(&inputs, &mut inspect, &mut ignore, &cancel).unwrap();
}

#[test]
fn vae_encode_and_decode() {
    let golden = Golden::open("seams");
    let be = f32_backend();
    let files = ModelFiles::open(&folder()).unwrap();
    let weights = files.vae.map().unwrap();
    let encoder = vae::Encoder::load(&be, &files.vae.config, &weights).unwrap();
    let tokens = encoder.forward(&golden.channels_last("vae.encode.in"), [64, 96], &mut || Ok(())).unwrap();
    assert_absolute("tokens", &tokens, &golden.values("vae.encode.out"), 1e-5);

    let decoder = vae::Decoder::load(&be, &files.vae.config, &weights).unwrap();
    let tokens = be.upload(&golden.shape("vae.decode.in"), &golden.values("vae.decode.in")).unwrap();
    let pixels = decoder.forward(&tokens, [4, 6], &mut || Ok(())).unwrap();
    assert_absolute("pixels", &pixels, &golden.channels_last("vae.decode.out"), PIXELS);
}

#[test]
fn slimmer_decoder() {
    let golden = Golden::open("vae_small_decoder");
    let be = f32_backend();
    let paths = ModelPaths { vae: Some(fixture("tiny/vae_small_decoder").into()), ..folder() };
    let part = ModelFiles::open(&paths).unwrap().vae;
    let decoder = vae::Decoder::load(&be, &part.config, &part.map().unwrap()).unwrap();
    let tokens = be.upload(&golden.shape("tokens"), &golden.values("tokens")).unwrap();
    let pixels = decoder.forward(&tokens, [2, 3], &mut || Ok(())).unwrap();
    assert_absolute("pixels", &pixels, &golden.channels_last("decoded"), PIXELS);
}
