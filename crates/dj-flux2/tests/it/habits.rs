//! What users of other programs type.

use crate::cli::{Cli, QUICK, shown};
use crate::snapshot;

fn parameters(cli: &Cli, file: &str) -> serde_json::Value {
    serde_json::from_str(&cli.stdout(["info", "--json", file])).unwrap()
}

#[test]
fn names_of_flags_in_other_programs() {
    let cli = Cli::with_tiny_model();
    let args = ["-p", "a red fox", "--num-inference-steps", "2", "--size", "64x64", "--seed", "-1", "-o", "a.png"];
    cli.stdout(args);
    assert_eq!(parameters(&cli, "a.png")["steps"], 2);
    for flag in ["--guidance-scale", "--cfg-scale"] {
        let output = cli.output(["a red fox", flag, "3", "-o", "a.png", "--size", "64x64", "-s", "1", "-S", "1"]);
        assert!(shown(&output).contains("guidance 3 has no effect"), "{}", shown(&output));
    }
}

#[test]
fn what_has_no_meaning_here_is_refused_in_one_sentence() {
    let cli = Cli::with_tiny_model();
    for (args, sentence) in [
        (
            ["--sampler", "euler"],
            "there is no sampler to choose: FLUX.2 [klein] is a flow model, drawn with Euler steps",
        ),
        (["--sampling-method", "euler"], "there is no sampler to choose"),
        (["--scheduler", "karras"], "there is no scheduler to choose"),
        (["--clip-skip", "2"], "there are no CLIP layers to skip"),
        (["--max-sequence-length", "256"], "the length of prompts is the model's own"),
    ] {
        let shown = cli.run([&["a red fox"], &args[..]].concat());
        assert!(shown.starts_with("exit code: 2") && shown.contains(sentence), "{shown}");
        let plan = cli.run([&["plan", "a red fox"], &args[..]].concat());
        assert!(plan.starts_with("exit code: 2") && plan.contains(sentence), "{plan}");
    }
    snapshot!(cli.run(["a red fox", "--negative-prompt", "blur"].iter().chain(&QUICK)), @"
    exit code: 2
    ----- stderr -----
    error: klein (custom size) takes no negative prompt: it is distilled and runs without guidance
    hint: say in the prompt what the picture shows, or use a base model, as klein-base-4b
    ");
    assert_eq!(cli.files(), [""; 0]);
}

#[test]
fn a_base_model_is_led_away_from_the_negative_prompt() {
    let cli = Cli::with_tiny_model();
    let made = |name: &str, args: &[&str]| cli.fox(name, &[&["--variant", "klein-base"], args].concat());
    let plain = made("plain.png", &["-g", "3"]);
    let negative = made("negative.png", &["-g", "3", "--negative-prompt", "a blue hare"]);
    assert_ne!(plain, negative);
    assert_eq!(parameters(&cli, "negative.png")["negative_prompt"], "a blue hare");
    assert!(cli.stdout(["info", "negative.png"]).contains("a blue hare"));
    // The empty one is that of a run without.
    let empty = cli.stdout(
        ["a red fox", "--variant", "klein-base", "-g", "3", "--negative-prompt", "", "-o", "e.png", "--no-metadata"]
            .iter()
            .chain(&QUICK),
    );
    assert_eq!(empty, "e.png\n");
    cli.fox("p.png", &["--variant", "klein-base", "-g", "3", "--no-metadata"]);
    assert_eq!(cli.read("e.png"), cli.read("p.png"));
    // It is made again from the picture.
    cli.stdout(["generate", "--from", "negative.png", "-o", "again.png"]);
    assert_eq!(cli.read("again.png"), negative);
    let output =
        cli.output(["a fox", "--variant", "klein-base", "-g", "1", "--negative-prompt", "x"].iter().chain(&QUICK));
    assert!(shown(&output).contains("the negative prompt has no effect"), "{}", shown(&output));
}

#[test]
fn sizes_off_the_grid_offer_the_nearest_two() {
    let cli = Cli::with_tiny_model();
    snapshot!(cli.run(["a red fox", "--size", "1000x1000"]), @"
    exit code: 2
    ----- stderr -----
    error: 1000x1000: sides are multiples of 16
    hint: use --size 992x992 or --size 1008x1008
    ");
}

#[test]
fn a_shape_follows_model_references_and_sides() {
    let cli = Cli::with_tiny_model();
    let size = |args: &[&str]| {
        let line = cli.stdout([&["x", "-S", "1", "--dry-run", "--json"], args].concat());
        let row: serde_json::Value = serde_json::from_str(&line).unwrap();
        format!("{}x{}", row["width"], row["height"])
    };
    assert_eq!(size(&["--aspect", "16:9"]), "688x384");
    assert_eq!(size(&["--aspect", "16:9", "--area", "1024x1024"]), "1360x768");
    assert_eq!(size(&["--aspect", "16:9", "-W", "1024"]), "1024x576");
    assert_eq!(size(&["--area", "4x"]), "1024x1024");
    cli.fox("wide.png", &["-W", "128", "-H", "64"]);
    assert_eq!(size(&["-i", "wide.png", "--area", "4x"]), "256x128");
    #[cfg(feature = "mini")]
    assert_eq!(size(&["-m", "klein-mini", "--preset", "wide"]), "176x96");
    let both = cli.run(["x", "--aspect", "16:9", "-W", "64", "-H", "64"]);
    assert!(both.contains("a shape is given, and both width and height"), "{both}");
}

#[test]
fn a_shape_is_what_is_drawn() {
    let cli = Cli::with_tiny_model();
    cli.stdout(["a red fox", "--aspect", "2:1", "--area", "96x96", "-s", "1", "-S", "7", "-o", "fox.png"]);
    let made = parameters(&cli, "fox.png");
    assert_eq!((&made["width"], &made["height"]), (&128.into(), &64.into()));
}

#[test]
fn allowing_to_quantize_needs_a_limit() {
    let cli = Cli::with_tiny_model();
    let shown = cli.run(["a red fox", "--allow-quantize"]);
    assert!(shown.contains("--allow-quantize is for runs with --max-memory"), "{shown}");
}
