//! `--lora`: what it takes, what the picture remembers, and what `--from` makes of that.

use crate::cli::{Cli, fixture};
use crate::snapshot;

fn with_lora() -> Cli {
    let cli = Cli::with_tiny_model();
    cli.write("style.safetensors", std::fs::read(fixture("tiny/lora.safetensors")).unwrap());
    cli
}

#[test]
fn a_scale_stands_behind_a_colon_and_is_1_without() {
    let cli = with_lora();
    let without = cli.fox("without.png", &[]);
    let whole = cli.fox("whole.png", &["--lora", "style.safetensors"]);
    assert_ne!(whole, without);
    assert_eq!(whole, cli.fox("one.png", &["--lora", "style.safetensors:1"]));
    assert_ne!(whole, cli.fox("half.png", &["--lora", "style.safetensors:0.5"]));
    assert_ne!(whole, cli.fox("twice.png", &["--lora", "style.safetensors", "--lora", "style.safetensors"]));
}

#[test]
fn the_picture_and_the_report_say_which_and_how_much() {
    let cli = with_lora();
    let args = ["a red fox", "-v", "--lora", "style.safetensors:0.7", "--lora", "style.safetensors:-0.1"];
    let shown = cli.run(args.iter().chain(&crate::cli::QUICK));
    let strength = "alpha / rank 0.25 to 2.5, from its metadata";
    for scale in ["0.7", "-0.1"] {
        assert!(shown.contains(&format!("\nLoRA style, scale {scale}, {strength}, 31 matrices\n")), "{shown}");
    }
    let json = cli.stdout(
        ["a red fox", "--json", "-o", "json.png", "--lora", "style.safetensors"].iter().chain(&crate::cli::QUICK),
    );
    let record: serde_json::Value = serde_json::from_str(json.lines().last().unwrap()).unwrap();
    let expected = serde_json::json!(
        [{"alpha_by_rank": [0.25, 2.5], "alpha_from": "its metadata", "matrices_without_alpha": 0}]
    );
    assert_eq!(record["lora_strengths"], expected);
    let info = cli.stdout(["info", "output.png"]);
    let lines: Vec<&str> = info.lines().filter(|line| line.starts_with("lora")).collect();
    snapshot!(lines.join("\n"), @"
    lora        style, scale 0.7, [SHA-256]
    lora        style, scale -0.1, [SHA-256]
    ");
    let json: serde_json::Value = serde_json::from_str(&cli.stdout(["info", "--json", "output.png"])).unwrap();
    assert_eq!(json["loras"][1]["scale"].to_string(), "-0.1");
}

#[test]
fn from_uses_the_loras_again() {
    let cli = with_lora();
    let made = cli.fox("fox.png", &["--lora", "style.safetensors:0.7"]);
    cli.stdout(["--from", "fox.png"]);
    assert_eq!(cli.read("output.png"), made);
    // Found beside the picture.
    std::fs::create_dir(cli.path("away")).unwrap();
    for file in ["fox.png", "style.safetensors"] {
        std::fs::rename(cli.path(file), cli.path("away").join(file)).unwrap();
    }
    cli.stdout(["--from", "away/fox.png"]);
    assert_eq!(cli.read("output.png"), made);
    // Not found; then named by a flag.
    std::fs::rename(cli.path("away/style.safetensors"), cli.path("renamed.safetensors")).unwrap();
    snapshot!(cli.run(["--from", "away/fox.png", "-o", "again.png"]), @r#"
    exit code: 3
    ----- stderr -----
    error: away/fox.png was made with the LoRA "style", which is neither here nor beside it
    hint: pass the LoRAs it was made with, this one with --lora FILE:0.7
    "#);
    cli.stdout(["--from", "away/fox.png", "--lora", "renamed.safetensors:0.7", "-o", "renamed.png"]);
    // A different file of the same name.
    let mut other = cli.read("renamed.safetensors");
    *other.last_mut().unwrap() ^= 1;
    cli.write("style.safetensors", other);
    snapshot!(cli.run(["--from", "away/fox.png", "-o", "again.png"]), @"
    exit code: 2
    ----- stderr -----
    error: style.safetensors is not the LoRA of that name that away/fox.png was made with
    hint: pass the LoRAs it was made with, this one with --lora FILE:0.7
    ");
    assert!(!cli.path("again.png").exists());
    let typed = cli.run(["--from", "away/fox.png", "-o", "again.png", "--lora", "style.safetensors:0.7"]);
    assert!(typed.contains("warning: style.safetensors is not the LoRA of that name that away/fox.png"), "{typed}");
}

#[test]
fn a_file_that_does_not_fit_is_an_error_that_says_why() {
    let cli = Cli::with_tiny_model();
    let fox = |lora: &str| cli.run(["a red fox", "--lora", lora]);
    snapshot!(fox("nowhere.safetensors:2"), @"
    exit code: 1
    ----- stderr -----
    error: nowhere.safetensors: No such file or directory (os error 2)
    hint: correct the path
    ");
    snapshot!(fox("style.safetensors:nan"), @"
    exit code: 2
    ----- stderr -----
    error: a LoRA cannot be scaled by NaN
    hint: use a finite number, as in FILE:0.8
    ");
    let header = r#"{"lora_unet_img_in.oft_blocks":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}"#;
    cli.write("oft.safetensors", [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0; 4]].concat());
    snapshot!(fox("oft.safetensors"), @"
    exit code: 1
    ----- stderr -----
    error: oft.safetensors: `lora_unet_img_in.oft_blocks` belongs to an OFT, which is not supported
    hint: pass a LoRA, LoHa or LoKr of the transformer
    ");
    let name = "transformer.transformer_blocks.0.attn.to_qq.lora_A.weight";
    let header = serde_json::json!({name: {"dtype": "F32", "shape": [1, 1], "data_offsets": [0, 4]}}).to_string();
    cli.write("odd.safetensors", [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0; 4]].concat());
    snapshot!(fox("odd.safetensors"), @"
    exit code: 1
    ----- stderr -----
    error: odd.safetensors: 1 not used:
      `transformer.transformer_blocks.0.attn.to_qq.lora_A.weight` (nearest: transformer.transformer_blocks.0.attn.to_q.lora_A.weight)
    hint: pass a LoRA made for this model, in f32, f16, bf16 or f8_e4m3
    ");
}

#[test]
fn a_lora_needs_a_model_that_is_named() {
    snapshot!(Cli::without_model().run(["a red fox", "--lora", "style.safetensors"]), @"
    exit code: 3
    ----- stderr -----
    error: no model is named
    hint: pass -m PATH with the folder of a FLUX.2 [klein] model, or set DJ_FLUX2_MODEL to it
    ");
}
