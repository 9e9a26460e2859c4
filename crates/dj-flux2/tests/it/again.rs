//! `--from`: the same picture from what is stored in it.

use crate::cli::{Cli, QUICK, fixture};
use crate::snapshot;

#[test]
fn from_gives_the_same_bytes() {
    let cli = Cli::with_tiny_model();
    for name in ["a.png", "a.jpg", "a.webp"] {
        let made = cli.fox(name, &["--dtype", "f32", "--noise", "torch-cpu", "-W", "80", "-s", "2"]);
        let again = format!("again-{name}");
        cli.stdout(["generate", "--from", name, "-o", &again]);
        assert_eq!(cli.read(&again), made, "{name}");
    }
}

#[test]
fn from_runs_as_the_variant_the_picture_was_made_as() {
    let cli = Cli::with_tiny_model();
    let made = cli.fox("a.png", &["--variant", "klein-base", "-g", "1.7"]);
    let again = cli.run(["--from", "a.png"]);
    assert!(again.contains("warning: the picture was made as klein-base, so this one is too"), "{again}");
    assert_eq!(cli.read("output.png"), made);

    cli.fox("one.png", &[]);
    let made = cli.fox("kv.png", &["--variant", "klein-kv", "-i", "one.png"]);
    cli.stdout(["--from", "kv.png", "-i", "one.png", "-o", "output.png"]);
    assert_eq!(cli.read("output.png"), made);
    // A flag wins.
    cli.stdout(["--from", "kv.png", "-i", "one.png", "--variant", "klein", "-o", "output.png"]);
    assert_ne!(cli.read("output.png"), made);
}

#[test]
fn flags_override_what_is_stored() {
    let cli = Cli::with_tiny_model();
    cli.fox("a.png", &[]);
    cli.stdout(["--from", "a.png", "-S", "8"]);
    assert_eq!(cli.read("output.png"), cli.fox("8.png", &["-S", "8"]));
    cli.stdout(["a blue hare", "--from", "a.png", "-o", "output.png"]);
    cli.stdout(["a blue hare", "-o", "hare.png"].iter().chain(&QUICK));
    assert_eq!(cli.read("output.png"), cli.read("hare.png"));
}

#[test]
fn references_are_needed_again_in_order() {
    let cli = Cli::with_tiny_model();
    cli.fox("one.png", &[]);
    cli.fox("two.png", &["-S", "8"]);
    let made = cli.fox("a.png", &["-i", "one.png", "-i", "two.png"]);
    snapshot!(cli.run(["--from", "a.png"]), @"
    exit code: 2
    ----- stderr -----
    error: a.png was made with 2 reference images, 0 given
    hint: pass the files it was made with, in their order, each with -i
    ");
    snapshot!(cli.run(["--from", "a.png", "-i", "one.png"]), @"
    exit code: 2
    ----- stderr -----
    error: a.png was made with 2 reference images, 1 given
    hint: pass the files it was made with, in their order, each with -i
    ");
    snapshot!(cli.run(["--from", "a.png", "-i", "two.png", "-i", "one.png"]), @"
    exit code: 2
    ----- stderr -----
    error: two.png is not reference image 1 of a.png
    hint: pass the files it was made with, in their order, each with -i
    ");
    assert!(!cli.path("output.png").exists());
    cli.stdout(["--from", "a.png", "-i", "one.png", "-i", "two.png"]);
    assert_eq!(cli.read("output.png"), made);
}

#[test]
fn a_picture_without_parameters_cannot_be_made_again() {
    let cli = Cli::with_tiny_model();
    cli.fox("a.png", &["--no-metadata"]);
    snapshot!(cli.run(["--from", "a.png"]), @"
    exit code: 6
    ----- stderr -----
    error: a.png holds no parameters that are understood
    hint: pass a picture as its program wrote it: many sites and editors remove the parameters
    ");
    snapshot!(cli.run(["--from", "nowhere.png"]), @"
    exit code: 6
    ----- stderr -----
    error: nowhere.png: No such file or directory (os error 2)
    hint: correct the path
    ");
}

#[test]
fn another_model_or_version_is_warned_of() {
    let cli = Cli::with_tiny_model();
    let picture = flux2::image::open(&fixture("images/colour_444.jpg")).unwrap();
    let parameters = serde_json::from_str(
        r#"{"prompt": "a red fox", "seed": 7, "noise": "philox", "model": "klein-4b", "dtype": "f32", "steps": 1,
            "width": 64, "height": 64, "software": "dj-flux2", "version": "0.0.1"}"#,
    );
    let bytes = flux2::image::encode(&picture, flux2::image::ImageFormat::Png, Some(&parameters.unwrap())).unwrap();
    cli.write("old.png", bytes);
    snapshot!(cli.run(["--from", "old.png"]), @r#"
    exit code: 0
    ----- stdout -----
    output.png
    ----- stderr -----
    warning: old.png was made with the model "klein-4b", this is "klein"
    warning: old.png was made by version "0.0.1", this is [VERSION]; the picture may differ
    saved output.png (seed 7, [TIME])
    "#);
}
