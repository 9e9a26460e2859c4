//! Parameters that other programs stored, in `info` and `--from`.

use std::fs;

use flux2::image::{self, ImageFormat, Parameters};

use crate::cli::{Cli, QUICK, fixture};
use crate::snapshot;

/// The tiny model, and a fixture under its own name.
fn with_picture(name: &str) -> Cli {
    let cli = Cli::with_tiny_model();
    cli.write(name, fs::read(fixture(&format!("metadata/{name}"))).unwrap());
    cli
}

#[test]
fn info_prints_what_another_program_stored() {
    let cli = with_picture("a1111.png");
    snapshot!(cli.stdout(["info", "a1111.png"]), @r"
    made by     AUTOMATIC1111
    prompt      a lighthouse,\n(stormy:1.2) sea
    negative    blurry,\ntext
    seed        965400086
    steps       20
    guidance    6.5
    sampler     DPM++ 2M
    size        512x768
    model       v1, 5: pruned
    other       Model hash: 6ce0161689
    other       Schedule type: Karras
    other       VAE: a\nb
    other       Version: v1.10.1
    origin      not said by its metadata (XMP)
    watermark   none found: the picture is too small for one
    signed      no Content Credentials (C2PA)
    ");
    let json: serde_json::Value = serde_json::from_str(&cli.stdout(["info", "--json", "a1111.png"])).unwrap();
    assert_eq!((&json["program"], &json["seed"]), (&"AUTOMATIC1111".into(), &965_400_086.into()));
    assert_eq!(json["other"]["Schedule type"], "Karras");
}

#[test]
fn our_parameters_are_found_after_other_programs_saved_the_picture() {
    for name in ["ours_compressed.png", "ours_exif.png", "ours_other_software.jpg"] {
        let info = with_picture(name).stdout(["info", name]);
        assert!(info.contains("prompt      a fox, café\nseed        7\n"), "{name}: {info}");
    }
}

#[test]
fn from_takes_what_means_something_here_and_says_what_it_left() {
    let cli = with_picture("comfyui.png");
    snapshot!(cli.run(["--from", "comfyui.png", "-s", "1", "--size", "64x64"]), @"
    exit code: 0
    ----- stdout -----
    output.png
    ----- stderr -----
    note: comfyui.png was made by ComfyUI, so it cannot be made again, only its prompt, seed and size are taken; left out: steps 20, of another model, negative prompt watermark, guidance 8, sampler euler, model v1-5.safetensors, scheduler normal
    saved output.png (seed 156680208700286, [TIME])
    ");
    cli.stdout(["a glass bottle", "-S", "156680208700286", "-s", "1", "--size", "64x64", "-o", "typed.png"]);
    assert_eq!(cli.read("output.png"), cli.read("typed.png"));
    let plan: serde_json::Value =
        serde_json::from_str(&cli.stdout(["plan", "--json", "--from", "comfyui.png"])).unwrap();
    assert_eq!((&plan["width"], &plan["height"]), (&640.into(), &512.into()));
}

#[test]
fn steps_are_taken_of_the_same_family() {
    let cli = with_picture("comfyui_flux2.png");
    let json: serde_json::Value =
        serde_json::from_str(&cli.stdout(["--from", "comfyui_flux2.png", "--json", "--size", "64x64"])).unwrap();
    assert_eq!((&json["steps"], &json["prompt"]), (&4.into(), &"make the sky 紅".into()));
}

#[test]
fn a_picture_of_another_model_needs_one() {
    let cli = Cli::without_model();
    for name in ["comfyui.png", "novelai.png"] {
        cli.write(name, fs::read(fixture(&format!("metadata/{name}"))).unwrap());
    }
    snapshot!(cli.run(["--from", "novelai.png"]), @"
    exit code: 3
    ----- stderr -----
    error: the picture does not say which model made it, and no model is named
    hint: pass -m with the name or folder of a model, or set DJ_FLUX2_MODEL to it
    ");
    assert!(cli.run(["--from", "comfyui.png"]).contains("was made with the model \"v1-5.safetensors\""));
}

#[test]
fn nothing_from_a_file_turns_the_line_or_drives_the_terminal() {
    let cli = Cli::with_tiny_model();
    let hostile = "a\u{202e}b\u{2066}c\u{9b}31m\u{7f}\x1b[2J\u{200f}";
    let parameters = serde_json::json!({
        "prompt": hostile, "seed": 7, "noise": hostile, "model": hostile, "variant": hostile, "dtype": hostile,
        "steps": 1, "width": 64, "height": 64, "references": [hostile], "background": hostile, "compat": hostile,
        "loras": [{"name": hostile, "scale": 1.0, "sha256": hostile}], "software": hostile, "version": hostile,
    });
    let parameters: Parameters = serde_json::from_value(parameters).unwrap();
    let picture = image::open(&fixture("images/grey.png")).unwrap();
    cli.write("x.png", image::encode(&picture, ImageFormat::Png, Some(&parameters)).unwrap());
    let header = serde_json::json!({"__metadata__": {hostile: hostile}}).to_string();
    cli.write("x.safetensors", [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat());
    for args in [&["info", "x.png"][..], &["info", "--json", "x.png"], &["inspect", "x.safetensors"]] {
        let output = cli.run(args);
        let is_unsafe = |c: char| (c.is_control() && c != '\n') || "\u{202e}\u{2066}\u{200f}".contains(c);
        assert!(!output.contains(is_unsafe), "{args:?}: {output:?}");
    }
    assert!(cli.stdout(["info", "x.png"]).contains(r"prompt      a\u{202e}b\u{2066}c\u{9b}31m\u{7f}\u{1b}[2J\u{200f}"));
    let json: serde_json::Value = serde_json::from_str(&cli.stdout(["info", "--json", "x.png"])).unwrap();
    assert_eq!(json["prompt"], hostile);
}

#[test]
fn a_prompt_that_would_not_be_read_again_is_refused_before_the_work() {
    let cli = Cli::with_tiny_model();
    cli.write("long.txt", "fox ".repeat(4_200_000));
    for name in ["fox.png", "fox.webp"] {
        let shown = cli.run(["--prompt-file", "long.txt", "-o", name].iter().chain(&QUICK));
        assert!(shown.starts_with("exit code: 2") && shown.contains("holds 16777216"), "{shown}");
    }
    assert_eq!(cli.files(), ["long.txt"]);
}
