//! Pictures that are painted into, against diffusers, stage by stage, on a tiny checkpoint; tolerances are those of
//! [`parity`](crate::parity).
//!
//! `inpaint_*` are diffusers' own pipeline, `sdedit_*` and `ours_*` its networks driven by `tools/reference/inpaint.py`.

use std::num::NonZeroUsize;

use flux2::canvas::{Outpaint, Rule, Side, Work};
use flux2::image::RgbImage;
use flux2::pipeline::{DenoiseInputs, Denoised, Pipeline, Residency, StepState};
use flux2::{CancelToken, GenerateRequest, NoiseKind, Reference, ResolvedRequest, Source, SourceOptions};
#[cfg(all(feature = "cuda", target_os = "linux"))]
use flux2_backend::testing::on_cuda;
use flux2_backend::{Backend, Compute};
use safetensors::SafeTensors;
use serde_json::Value;

use crate::golden::{Golden, assert_absolute, assert_relative, fixture};
use crate::parity::{LATENTS, NETWORK, REFERENCE_TOKENS, WORST, backend, folder, hold_picture, ignore};

/// The request given to the reference.
fn parameters(golden: &Golden) -> Value {
    let (_, header) = SafeTensors::read_metadata(&golden.bytes).unwrap();
    serde_json::from_str(&header.metadata().clone().unwrap()["request"]).unwrap()
}

fn file(name: &Value) -> Vec<u8> {
    let name = name.as_str().unwrap();
    let folders = ["golden/references", "golden/inpaint"];
    let path = folders.map(|folder| fixture(folder).join(name)).into_iter().find(|path| path.is_file());
    std::fs::read(path.unwrap_or_else(|| panic!("{name}"))).unwrap()
}

/// The same request here.
fn request(golden: &Golden) -> GenerateRequest {
    let json = parameters(golden);
    let number = |key: &str| json[key].as_u64().unwrap() as u32;
    let is_diffusers = matches!(json["rule"].as_str().unwrap(), "diffusers" | "index");
    let outpaint = json["outpaint"].as_array().map(|sides| {
        let side = |i: usize| Side::Px(sides[i].as_u64().unwrap() as u32);
        Outpaint { overlap: number("overlap"), ..Outpaint::new([0, 1, 2, 3].map(side)) }
    });
    let options = SourceOptions {
        outpaint,
        strength: json["strength"].as_f64().unwrap(),
        feather: (!is_diffusers).then(|| number("feather")),
        as_reference: json["source_reference"].as_bool().unwrap(),
        rule: if is_diffusers { Rule::Diffusers } else { Rule::Own },
        area: json["area"].as_u64(),
        context: number("context"),
        ..Default::default()
    };
    let mask = (!json["mask"].is_null()).then(|| file(&json["mask"]));
    let mask = mask.as_deref().map(|mask| (mask, "mask"));
    let references = json["references"].as_array().unwrap().iter();
    GenerateRequest {
        prompt: json["prompt"].as_str().unwrap().into(),
        references: references.map(|name| Reference::from_bytes(&file(name), "reference").unwrap()).collect(),
        source: Some(Source::from_bytes(&file(&json["source"]), "source", mask, options).unwrap()),
        steps: Some(number("steps")),
        seed: json["seed"].as_u64().unwrap(),
        noise: NoiseKind::TorchCpu,
        ..Default::default()
    }
}

/// What is prepared on the host: exact.
fn check_preparation(golden: &Golden, request: &ResolvedRequest) {
    let placed = request.source.as_ref().unwrap();
    let Work { tokens, .. } = placed.work().unwrap();
    if golden.has("mask_tokens") {
        let values: Vec<f32> = tokens.values.iter().map(|value| *value as f32).collect();
        assert_eq!(values, golden.values("mask_tokens"));
    }
    if golden.has("start_step") {
        let starts: Vec<f32> = tokens.starts(request.steps).iter().map(|start| *start as f32).collect();
        assert_eq!(starts, golden.values("start_step"));
        assert_eq!(placed.region().edges.map(|edge| edge as f32).to_vec(), golden.values("box"));
        // Pasting what the reference drew gives what the reference pasted.
        let (shape, bytes) = (golden.shape("generated"), golden.values("generated"));
        let drawn = bytes.iter().map(|byte| *byte as u8).collect();
        let drawn = RgbImage::new(shape[1] as u32, shape[0] as u32, drawn).unwrap();
        let (pasted, attached) = placed.paste(drawn).unwrap();
        let expected: Vec<u8> = golden.values("image").iter().map(|byte| *byte as u8).collect();
        assert!(pasted.pixels() == expected, "the pasted picture differs");
        assert_eq!(attached, Default::default());
    }
}

fn check(case: &str) {
    check_on(&backend(Compute::F32), case);
    #[cfg(all(feature = "cuda", target_os = "linux"))]
    on_cuda(Compute::F32, |be| -> Result<(), ()> {
        check_on(be, case);
        Ok(())
    });
}

fn check_on<B: Backend>(be: &B, case: &str) {
    let golden = Golden::open(&format!("inpaint/{case}"));
    let mut pipeline = Pipeline::load(be.clone(), &folder(), Residency::KeepAll).unwrap();
    let given = request(&golden);
    let request = ResolvedRequest::new(&given, pipeline.variant()).unwrap();
    check_preparation(&golden, &request);

    let cancel = CancelToken::new();
    let text = pipeline.encode_prompt(&request.prompt, &mut ignore, &cancel).unwrap();
    let noise = request.initial_latents(32, NonZeroUsize::MIN);
    assert_eq!(noise, golden.values("noise"));
    let start = pipeline.start(&request, noise, &mut ignore, &cancel).unwrap();
    let sigmas = golden.values("sigmas");
    assert_absolute("sigmas", &start.sigmas, &sigmas[sigmas.len() - start.sigmas.len()..], 2e-7);
    assert_relative("latents_start", &start.latents, &golden.values("latents_start"), REFERENCE_TOKENS);
    if golden.has("reference_tokens") {
        let expected = golden.values("reference_tokens");
        assert_relative("reference tokens", &start.references.tokens, &expected, REFERENCE_TOKENS);
        let ids: Vec<f32> = start.references.ids.iter().flatten().map(|id| *id as f32).collect();
        assert_eq!(ids, golden.values("reference_ids"));
    }

    let mut steps = 0;
    let mut inspect = |state: &StepState<B>| {
        let i = state.step;
        steps = i + 1;
        for (name, got) in [("velocity", state.velocity), ("latents", state.latents)] {
            let (name, tolerance) =
                (format!("{name}_{i}"), if i == 0 && name == "velocity" { NETWORK } else { LATENTS });
            let (got, expected) = (be.download(got).unwrap(), golden.values(&name));
            assert_relative(&name, &got, &expected, tolerance);
            let largest = expected.iter().fold(0f32, |m, v| m.max(v.abs()));
            assert_absolute(&name, &got, &expected, WORST * largest);
        }
    };
    let inputs = DenoiseInputs {
        request: &request,
        latents: &start.latents,
        sigmas: &start.sigmas,
        held: start.held.as_ref(),
        text: &text,
        guided: None,
        references: &start.references,
    };
    let Denoised { latents, .. } = pipeline.denoise(&inputs, &mut inspect, &mut ignore, &cancel).unwrap();
    assert!(!golden.has(&format!("latents_{steps}")), "{case} has more steps than {steps}");
    let drawn = pipeline.decode(&latents, &request, &mut ignore, &cancel).unwrap();
    let (picture, _) = request.source.as_ref().unwrap().paste(drawn).unwrap();
    hold_picture(&golden, &picture);

    // The same by `generate`.
    let whole = pipeline.generate(&given, &mut ignore, &cancel).unwrap();
    assert_eq!(whole.image, picture);
    assert_eq!([whole.parameters.width, whole.parameters.height], [picture.width(), picture.height()]);
}

macro_rules! cases {
    ($($case:ident),+) => { $( #[test] fn $case() { check(stringify!($case)); } )+ };
}

cases!(
    inpaint_hard,
    inpaint_soft_blur,
    inpaint_reference,
    sdedit_index,
    sdedit_level,
    ours_hard,
    ours_soft_reference,
    ours_strength,
    ours_outpaint,
    ours_region,
    ours_region_reduced
);
