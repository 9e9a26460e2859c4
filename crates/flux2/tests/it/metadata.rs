//! Parameters in pictures: ours after other programs saved the picture again, and those of other programs.
//!
//! Fixtures come from `tools/reference/make_metadata.py`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use flux2::image::codec::encode;
use flux2::image::metadata::{self, check_prompt};
use flux2::image::{ImageFormat, OtherParameters, Parameters, RgbImage, Stored};
use flux2::{Error, ErrorKind};

fn fixture(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/metadata").join(name);
    fs::read(&path).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn ours(prompt: &str, model: &str) -> Parameters {
    Parameters {
        prompt: prompt.into(),
        negative_prompt: None,
        template: None,
        seed: 7,
        noise: "philox".into(),
        model: model.into(),
        variant: Some("klein".into()),
        dtype: "bf16".into(),
        steps: 4,
        guidance: None,
        width: 512,
        height: 768,
        source: None,
        references: vec![],
        background: None,
        compat: None,
        upscale: None,
        loras: vec![],
        software: metadata::SOFTWARE.into(),
        version: "0.1.0".into(),
    }
}

fn other(name: &str) -> OtherParameters {
    match metadata::read_any(&fixture(name)).unwrap() {
        Some(Stored::Other(parameters)) => *parameters,
        found => panic!("{name}: {found:?}"),
    }
}

fn texts<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<String, String> {
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
}

// ---- ours ----

#[test]
fn our_parameters_are_read_wherever_other_programs_put_them() {
    for name in [
        "ours_text.png",
        "ours_compressed.png",
        "ours_compressed_utf8.png",
        "ours_utf8_text.png",
        "ours_exif.png",
        "ours_other_software.jpg",
    ] {
        let expected = ours("a fox, café", "klein-4b");
        assert_eq!(metadata::read(&fixture(name)).unwrap().as_ref(), Some(&expected), "{name}");
        assert_eq!(metadata::read_any(&fixture(name)).unwrap(), Some(Stored::Ours(expected.into())), "{name}");
    }
}

#[test]
fn our_line_alone_says_a_part() {
    assert_eq!(metadata::read(&fixture("ours_line.png")).unwrap(), None);
    let found = other("ours_line.png");
    assert_eq!((found.program.as_str(), found.prompt.as_deref()), ("dj-flux2 0.1.0", Some("a fox, café")));
    assert_eq!((found.seed, found.steps, found.width, found.height), (Some(7), Some(4), Some(512), Some(768)));
}

#[test]
fn names_that_would_split_the_line_are_quoted() {
    let picture = RgbImage::new(1, 1, vec![0; 3]).unwrap();
    for name in ["a, b", "C:\\models\\x", "two\nlines", "quote\", Seed: 3", "back\\slash, tab\t"] {
        let written = ours("a fox", name);
        assert!(written.line().contains(&format!("Model: {}, Version", serde_json::json!(name))), "{}", written.line());
        for format in [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP] {
            let bytes = encode(&picture, format, Some(&written)).unwrap();
            assert_eq!(metadata::read(&bytes).unwrap().as_ref(), Some(&written), "{name:?}");
        }
    }
    assert!(ours("a fox", "klein (4b)").line().contains("Model: klein (4b), Version"));
}

#[test]
fn what_our_reader_would_refuse_is_not_written() {
    let picture = RgbImage::new(1, 1, vec![0; 3]).unwrap();
    let refused = |prompt: &str, format| {
        let error = encode(&picture, format, Some(&ours(prompt, "m"))).unwrap_err();
        assert!(matches!(error, Error::ImageParametersTooLong { .. }), "{error}");
        assert_eq!(error.kind(), ErrorKind::Usage);
        assert_eq!(check_prompt(prompt, format).unwrap_err().kind(), ErrorKind::Usage);
        error.to_string()
    };
    let long = "fox ".repeat(4 << 20);
    assert!(refused(&long, ImageFormat::Png).ends_with("a PNG holds 16777216"));
    assert!(refused(&long, ImageFormat::WebP).ends_with("a WebP holds 16777216"));
    // In EXIF a character beyond ASCII takes six bytes, in a PNG three.
    let long = "狐".repeat(3 << 20);
    refused(&long, ImageFormat::WebP);
    assert!(check_prompt(&long, ImageFormat::Png).is_ok());
    let bytes = encode(&picture, ImageFormat::Png, Some(&ours(&long, "m"))).unwrap();
    assert_eq!(metadata::read(&bytes).unwrap().unwrap().prompt, long);
    refused(&"fox ".repeat(20_000), ImageFormat::Jpeg);
}

// ---- of other programs ----

#[test]
fn the_text_of_automatic1111_is_read_in_every_place() {
    let expected = OtherParameters {
        program: "AUTOMATIC1111".into(),
        prompt: Some("a lighthouse,\n(stormy:1.2) sea".into()),
        negative_prompt: Some("blurry,\ntext".into()),
        seed: Some(965_400_086),
        steps: Some(20),
        guidance: Some(6.5),
        sampler: Some("DPM++ 2M".into()),
        width: Some(512),
        height: Some(768),
        model: Some("v1, 5: pruned".into()),
        other: texts([
            ("Schedule type", "Karras"),
            ("Model hash", "6ce0161689"),
            ("VAE", "a\nb"),
            ("Version", "v1.10.1"),
        ]),
    };
    for name in [
        "a1111.png",
        "a1111.jpg",
        "a1111.webp",
        "a1111_little_endian.jpg",
        "a1111_ascii.jpg",
        "a1111_comment.jpg",
        "a1111_misplaced.jpg",
    ] {
        assert_eq!(other(name), expected, "{name}");
    }
    assert_eq!(other("a1111_prompt_only.png").prompt.as_deref(), Some("just a lighthouse"));
}

#[test]
fn stable_diffusion_cpp_forge_fooocus_and_swarmui_share_its_place() {
    let found = other("sdcpp.png");
    assert_eq!((found.program.as_str(), found.model.as_deref()), ("stable-diffusion.cpp", Some("flux.gguf")));
    assert_eq!((found.seed, found.steps, found.guidance), (Some(197_583_933), Some(30), Some(5.0)));
    assert_eq!((found.other["RNG"].as_str(), found.other["Guidance"].as_str()), ("cuda", "3.500000"));
    assert_eq!(found.other["SDCPP"], r#"{"seed":1,"steps":[1,2]}"#);
    let found = other("forge.png");
    assert_eq!((found.program.as_str(), found.width, found.height), ("Forge", Some(896), Some(1152)));
    let found = other("fooocus.png");
    assert_eq!((found.program.as_str(), found.prompt.as_deref()), ("Fooocus", Some("a mill")));
    assert_eq!((found.seed, found.width, found.height), (Some(123_456), Some(1152), Some(896)));
    assert_eq!((found.guidance, found.model.as_deref()), (Some(4.0), Some("juggernautXL")));
    let found = other("swarmui.png");
    assert_eq!((found.program.as_str(), found.prompt.as_deref()), ("SwarmUI", Some("a tower")));
    assert_eq!((found.width, found.height, found.negative_prompt), (Some(1024), Some(1024), None));
}

#[test]
fn the_graph_of_comfyui_is_followed_from_its_sampler() {
    let classic = OtherParameters {
        program: "ComfyUI".into(),
        prompt: Some("a glass bottle".into()),
        negative_prompt: Some("watermark".into()),
        seed: Some(156_680_208_700_286),
        steps: Some(20),
        guidance: Some(8.0),
        sampler: Some("euler".into()),
        width: Some(640),
        height: Some(512),
        model: Some("v1-5.safetensors".into()),
        other: texts([("scheduler", "normal")]),
    };
    for name in ["comfyui.png", "comfyui.webp", "comfyui_nan.png"] {
        assert_eq!(other(name), classic, "{name}");
    }
    let two_passes = OtherParameters { seed: Some(77), prompt: Some("a tea pot".into()), ..classic };
    assert_eq!(other("comfyui_two_passes.png"), two_passes, "the first pass counts");
    assert_eq!(
        other("comfyui_flux2.png"),
        OtherParameters {
            program: "ComfyUI".into(),
            prompt: Some("make the sky 紅".into()),
            seed: Some(432_262_096_973_502),
            steps: Some(4),
            guidance: Some(1.0),
            sampler: Some("euler".into()),
            width: Some(1024),
            height: Some(768),
            model: Some("flux-2-klein-4b.safetensors".into()),
            ..Default::default()
        }
    );
    let edited = other("comfyui_workflow.png");
    assert_eq!((edited.prompt.as_deref(), edited.negative_prompt.as_deref()), (Some("a paper boat"), Some("rain")));
    assert_eq!((edited.seed, edited.steps, edited.width, edited.height), (Some(42), Some(4), Some(512), Some(256)));
    assert_eq!(edited.model.as_deref(), Some("klein.safetensors"));
}

#[test]
fn json_of_invokeai_novelai_mflux_and_easy_diffusion() {
    let said = |name: &str| {
        let OtherParameters { program, prompt, negative_prompt, seed, steps, guidance, width, model, .. } = other(name);
        format!("{program}: {prompt:?} {negative_prompt:?} {seed:?} {steps:?} {guidance:?} {width:?} {model:?}")
    };
    let shown = ["invokeai", "invokeai_2", "novelai", "novelai_v4", "mflux"].map(|name| said(&format!("{name}.png")));
    insta::assert_snapshot!(shown.join("\n"), @r#"
    InvokeAI: Some("a barn owl") None Some(1234567890) Some(30) Some(1.0) Some(1024) Some("FLUX Dev")
    InvokeAI: Some("a barn") None Some(99) Some(50) Some(7.5) Some(512) Some("sd-1.5")
    NovelAI: Some("1girl, lake") Some("bad") Some(3511258223) Some(28) Some(5.0) Some(832) None
    NovelAI: Some("a lake") Some("blurry") Some(3511258223) Some(28) Some(5.0) Some(832) None
    mflux: Some("a puffin é") None Some(2) Some(4) None Some(1024) Some("schnell")
    "#);
    let astronaut =
        "Easy Diffusion: Some(\"an astronaut\") None Some(0) Some(25) Some(7.5) Some(512) Some(\"sd-v1-5\")";
    assert_eq!(said("easy_diffusion.jpg"), astronaut);
    assert_eq!(other("mflux.png").other["lora_paths"], r#"["a.safetensors"]"#);
}

#[test]
fn other_texts_are_no_parameters() {
    for name in ["camera.jpg", "text.png"] {
        assert_eq!(metadata::read_any(&fixture(name)).unwrap(), None, "{name}");
    }
}
