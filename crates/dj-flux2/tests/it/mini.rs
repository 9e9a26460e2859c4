//! klein-mini, the model that is built in: drawn with where none is named, and never where one is.

use flux2::image;

use crate::cli::{Cli, QUICK, fixture};
use crate::snapshot;

const CAT: &str = "a cat on a blue background";

#[test]
fn without_a_model_the_built_in_one_draws() {
    let cli = Cli::without_model();
    snapshot!(cli.run([CAT, "-S", "7"]), @"
    exit code: 0
    ----- stdout -----
    output.png
    ----- stderr -----
    note: no model is set, so the built-in klein-mini draws (128x128, emoji-like); for FLUX.2 [klein] run `dj-flux2 download klein-4b` and add -m klein-4b
    saved output.png (seed 7, [TIME])
    ");
    let picture = image::open(&cli.path("output.png")).unwrap();
    assert_eq!((picture.width(), picture.height()), (128, 128));
    snapshot!(cli.stdout(["info", "output.png"]), @"
    prompt      a cat on a blue background
    seed        7
    noise       philox
    model       klein-mini
    kind        klein
    dtype       bf16
    steps       4
    size        128x128
    software    dj-flux2 [VERSION]
    origin      trainedAlgorithmicMedia, by its metadata (XMP)
    watermark   none found: the picture is too small for one
    signed      no Content Credentials (C2PA)
    ");
    // Naming it, or its folder among the sources, gives the same picture.
    for (file, model) in [("named.png", "klein-mini"), ("upper.png", "KLEIN-MINI")] {
        let shown = cli.run([CAT, "-S", "7", "-m", model, "-o", file]);
        assert!(shown.starts_with("exit code: 0") && !shown.contains("note:"), "{shown}");
        assert_eq!(cli.read(file), cli.read("output.png"));
    }
    let folder = fixture("../assets/mini");
    cli.stdout([CAT, "-S", "7", "-o", "folder.png", "-m", folder.to_str().unwrap()]);
    assert_eq!(cli.read("folder.png"), cli.read("output.png"));
}

#[test]
fn quiet_says_no_word_of_it() {
    let cli = Cli::without_model();
    snapshot!(cli.run([CAT, "-q", "-S", "7"]), @"
    exit code: 0
    ----- stdout -----
    output.png
    ");
}

#[test]
fn json_stays_json() {
    let cli = Cli::without_model();
    let output = cli.output([CAT, "--json", "-n", "2"].iter().chain(&QUICK));
    let lines = String::from_utf8(output.stdout).unwrap();
    let records: Vec<serde_json::Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(records.len(), 2);
    assert_eq!((&records[1]["model"], &records[1]["variant"]), (&"klein-mini".into(), &"klein".into()));
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(said.lines().filter(|line| line.starts_with("note:")).count(), 1, "{said}");
}

#[test]
fn sixteen_pictures_of_one_prompt_encode_it_once() {
    let cli = Cli::without_model();
    let output = cli.output([CAT, "-v", "--json", "-n", "16"].iter().chain(&QUICK));
    let said = String::from_utf8(output.stderr).unwrap();
    for once in ["load text encoder ", "text ", "load transformer ", "load VAE "] {
        assert_eq!(said.lines().filter(|line| line.starts_with(once)).count(), 1, "{once}: {said}");
    }
    assert_eq!(said.lines().filter(|line| line.starts_with("decode ")).count(), 16, "{said}");
    assert_eq!(String::from_utf8(output.stdout).unwrap().lines().count(), 16);
}

#[test]
fn an_edit_needs_no_model_either() {
    let cli = Cli::without_model();
    cli.stdout([CAT, "-S", "7", "-o", "cat.png"]);
    cli.stdout(["make the background red", "-i", "cat.png", "-S", "7"]);
    assert_eq!(image::open(&cli.path("output.png")).unwrap().width(), 128);
    assert_ne!(cli.read("output.png"), cli.read("cat.png"));
}

#[test]
fn sizes_it_was_not_trained_on_are_made_with_a_warning() {
    let cli = Cli::without_model();
    let sized = |size| cli.run([CAT, "--size", size, "-m", "klein-mini", "-s", "1", "-S", "7", "-o", "output.png"]);
    assert!(!sized("192x192").contains("warning") && sized("192x128").contains("warning"));
    snapshot!(sized("272x128"), @"
    exit code: 0
    ----- stdout -----
    output.png
    ----- stderr -----
    warning: klein-mini was trained on squares of 128 to 256 pixels a side: a picture of 272x128 will be poor
    saved output.png (seed 7, [TIME])
    ");
    let picture = image::open(&cli.path("output.png")).unwrap();
    assert_eq!((picture.width(), picture.height()), (272, 128));
}

#[test]
fn a_prompt_it_cannot_know_is_pointed_out_before_it_is_drawn() {
    let cli = Cli::without_model();
    let drawn = |prompt: &str| cli.run([prompt, "-m", "klein-mini", "-o", "output.png", "-S", "7"]);
    snapshot!(drawn("a lighthouse"), @"
    exit code: 0
    ----- stdout -----
    output.png
    ----- stderr -----
    warning: klein-mini knows no subject of the prompt (unknown: lighthouse), near is: house, traffic light, light bulb; `dj-flux2 models klein-mini` lists what it draws
    saved output.png (seed 7, [TIME])
    ");
    assert!(drawn("coffee").contains("near is: cup of coffee;"));
    assert!(drawn("eine Katze auf blauem Grund").contains("(unknown: auf, blauem, eine, grund, katze)"));
    assert!(!drawn(CAT).contains("warning"));
    // The folder among the sources says the same as the built-in model.
    let folder = fixture("../assets/mini");
    let shown = cli.run(["coffee", "-o", "output.png", "-m", folder.to_str().unwrap()]);
    assert!(shown.contains("warning: klein-mini knows no subject of the prompt"), "{shown}");
}

#[cfg(feature = "hub")]
#[test]
fn models_lists_what_it_draws() {
    let cli = Cli::without_model();
    let listed = cli.stdout(["models", "klein-mini"]);
    for line in ["subjects:", "backgrounds:", "sizes:", "places:", "edits, with -i:"] {
        assert!(listed.contains(&format!("\n{line}\n  ")), "{line}: {listed}");
    }
    assert!(listed.contains("\n  cat, dog, mouse, ") && listed.contains("at the bottom right"), "{listed}");
    assert!(listed.contains("squares of 128 to 256 pixels a side"), "{listed}");
    assert!(listed.lines().skip(2).all(|line| line.chars().count() <= 80), "{listed}");
    let json: serde_json::Value = serde_json::from_str(&cli.stdout(["models", "klein-mini", "--json"])).unwrap();
    assert_eq!((&json["name"], &json["draws"]["subjects"][0][0]), (&"klein-mini".into(), &"cat".into()));
    assert_eq!(cli.stdout(["models", "klein-4b"]).lines().count(), 2);
    snapshot!(cli.run(["models", "klein-5b"]), @r#"
    exit code: 3
    ----- stderr -----
    error: no model is called "klein-5b"
    hint: run `dj-flux2 models` for all of them, or `dj-flux2 inspect` for a file or folder
    "#);
}

#[test]
fn a_model_that_is_named_is_never_replaced() {
    let cli = Cli::without_model();
    for args in [
        &["-m", "nowhere"][..],
        &["-m", "."],
        &["-m", "klein-4b"],
        &["--variant", "klein-mini"],
        &["--vae", "nowhere"],
        &["--text-encoder", "nowhere"],
    ] {
        let shown = cli.run([CAT].iter().chain(args));
        assert!(shown.starts_with("exit code: 3"), "{args:?}: {shown}");
    }
    let mut command = cli.command([CAT]);
    let status = command.env("DJ_FLUX2_MODEL", "nowhere").output().unwrap().status;
    assert_eq!(status.code(), Some(3));
    assert_eq!(cli.files(), [""; 0]);
}

#[test]
fn the_environment_may_name_it() {
    let cli = Cli::without_model();
    let output = cli.command([CAT].iter().chain(&QUICK)).env("DJ_FLUX2_MODEL", "klein-mini").output().unwrap();
    assert!(output.status.success() && !String::from_utf8_lossy(&output.stderr).contains("note:"));
}

#[test]
fn a_file_of_its_name_wins() {
    let cli = Cli::without_model();
    cli.write("klein-mini", "not a model");
    snapshot!(cli.run([CAT, "-m", "klein-mini"]), @"
    exit code: 1
    ----- stderr -----
    error: klein-mini: not a file of tensors but text: not a model
    hint: pass a .safetensors or .gguf file; if this one was downloaded, the text is the server's answer in its place
    ");
}

#[test]
fn its_pictures_are_made_again_without_a_model() {
    let cli = Cli::without_model();
    cli.stdout([CAT, "-o", "cat.png"]);
    let shown = cli.run(["--from", "cat.png"]);
    assert!(shown.starts_with("exit code: 0") && !shown.contains("note:"), "{shown}");
    assert_eq!(cli.read("output.png"), cli.read("cat.png"));
}

#[test]
fn pictures_of_other_models_are_not() {
    let cli = Cli::without_model();
    let tiny = fixture("tiny/klein");
    cli.fox("fox.png", &["-m", tiny.to_str().unwrap()]);
    snapshot!(cli.run(["--from", "fox.png"]), @r#"
    exit code: 3
    ----- stderr -----
    error: the picture was made with the model "klein", and no model is named
    hint: pass -m with the name or folder of a model, or set DJ_FLUX2_MODEL to it
    "#);
    // If it is named it is used, with a warning, as any other model.
    let shown = cli.run(["--from", "fox.png", "-m", "klein-mini"]);
    assert!(shown.contains(r#"fox.png was made with the model "klein", this is "klein-mini""#), "{shown}");
}
