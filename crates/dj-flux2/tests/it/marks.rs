//! Marks of pictures, and previews, from the command line.

use std::fs;

use flux2::image::metadata::xmp;
use flux2::image::{ImageFormat, RgbImage, decode, encode};
use flux2::marks::watermark::Watermark;
use serde_json::Value;

use crate::cli::{Cli, QUICK, fixture};
use crate::snapshot;

/// A picture that is large enough for a watermark.
const LARGE: [&str; 6] = ["--size", "256x256", "-s", "1", "-S", "7"];

fn picture(cli: &Cli, name: &str) -> RgbImage {
    decode(&cli.read(name), name).unwrap()
}

// ---- previews ----

#[test]
fn the_preview_is_a_small_picture_that_stays_and_changes_nothing() {
    let cli = Cli::with_tiny_model();
    let large = ["a fox", "--size", "64x96", "-s", "2", "-S", "7"];
    cli.stdout(large.iter().chain(&["-o", "plain.png"]));
    for preview in ["now.png", "now.jpg"] {
        cli.stdout(large.iter().chain(&["-o", "fox.png", "--preview", preview]));
        assert_eq!(cli.read("fox.png"), cli.read("plain.png"), "a watched picture is another one");
        assert_eq!(ImageFormat::of(&cli.read(preview)), ImageFormat::from_path(preview.as_ref()).ok());
        let shown = picture(&cli, preview);
        assert_eq!((shown.width(), shown.height()), (8, 12));
        assert_eq!(xmp::read(&cli.read(preview)), None);
    }
    assert_eq!(cli.files(), ["fox.png", "now.jpg", "now.png", "plain.png"]);
    // The preview of one step is that of the finished latents, so it follows the picture.
    cli.stdout(["a fox", "--preview", "one.png"].iter().chain(&QUICK));
    cli.stdout(["a fox", "--preview", "other.png", "-W", "64", "-H", "64", "-s", "1", "-S", "8"]);
    assert_ne!(cli.read("one.png"), cli.read("other.png"));
}

#[test]
fn a_preview_that_cannot_be_is_refused_before_the_work() {
    let cli = Cli::with_tiny_model();
    cli.write("in.png", fs::read(fixture("golden/references/wide.png")).unwrap());
    let refused = |args: &[&str]| {
        let shown = cli.run(["a fox", "-o", "fox.png"].iter().chain(args).chain(&QUICK));
        assert!(shown.starts_with("exit code: 2"), "{shown}");
        shown
    };
    assert!(refused(&["--preview", "now.webp"]).contains("end the name of --preview in .png or .jpg"));
    assert!(refused(&["--preview", "./fox.png"]).contains("choose another name for --preview"));
    assert!(refused(&["--preview", "in.png", "-i", "in.png"]).contains("choose another name for --preview"));
    fs::create_dir(cli.path("folder.png")).unwrap();
    assert!(refused(&["--preview", "folder.png"]).contains("is a folder"));
    assert!(!cli.run(["a fox", "--preview", "none/now.png"].iter().chain(&QUICK)).starts_with("exit code: 0"));
    assert!(!cli.files().contains(&"fox.png".to_owned()));
}

#[test]
fn a_decoder_makes_previews_of_the_picture_s_size() {
    let cli = Cli::with_tiny_model();
    let decoder = fixture("golden/preview/taef2_decoder.pth").display().to_string();
    let draw = ["a fox", "--size", "64x96", "-s", "2", "-S", "7", "--preview", "now.png"];
    cli.stdout(draw.iter().chain(&["-o", "plain.png"]));
    cli.stdout(draw.iter().chain(&["-o", "fox.png", "--preview-decoder", &decoder]));
    assert_eq!(cli.read("fox.png"), cli.read("plain.png"), "a watched picture is another one");
    let shown = picture(&cli, "now.png");
    assert_eq!((shown.width(), shown.height()), (64, 96));
    // It is planned.
    let peak = |args: &[&str]| -> u64 {
        let plan = ["plan", "a fox", "--json", "--size", "1024x1024", "--preview", "now.png", "--device", "cpu"];
        let plan: Value = serde_json::from_str(&cli.stdout(plan.iter().chain(args))).unwrap();
        let stages = plan["stages"].as_array().unwrap();
        stages.iter().find(|stage| stage["stage"] == "denoise").unwrap()["allocated_bytes"].as_u64().unwrap()
    };
    assert!(peak(&["--preview-decoder", &decoder]) > peak(&[]) + 3 * 5 * (1 << 20));
    let refused = |args: &[&str]| cli.run(["a fox", "-o", "no.png"].iter().chain(args).chain(&QUICK));
    snapshot!(refused(&["--preview-decoder", &decoder]), @"
    exit code: 2
    ----- stderr -----
    error: --preview-decoder says what decodes previews, and nothing shows any
    hint: add --preview NAME.png, the file that previews are written to, or --show-steps
    ");
    let with = |file: &str| refused(&["--preview", "now.png", "--preview-decoder", file]);
    let upscaler = fixture("golden/upscale/srvgg_x4.pth").display().to_string();
    assert!(with(&upscaler).contains("no decoder for previews that is known"), "{}", with(&upscaler));
    assert!(with("none.pth").contains("none.pth"), "{}", with("none.pth"));
    let legacy = fixture("golden/pth/legacy.pth").display().to_string();
    assert!(with(&legacy).contains("PyTorch before version 1.6"), "{}", with(&legacy));
    assert!(!cli.path("no.png").exists());
    #[cfg(feature = "mini")]
    {
        let shown = refused(&["-m", "klein-mini", "--preview", "now.png", "--preview-decoder", &decoder]);
        assert!(shown.contains("decodes latents of 8 channels, and those of klein-mini have 16"), "{shown}");
    }
    snapshot!(cli.run(["inspect", &decoder]), @"
    exit code: 0
    ----- stdout -----
    [FIXTURES]/golden/preview/taef2_decoder.pth
      what        decoder for previews
      container   pth
      tensors     11 kB: f16 11 kB in 79
      sizes       8 latent channels, 4 channels, pools
      parameters  0.01 million
    ");
}

// ---- watermark ----

#[test]
fn a_watermark_is_in_the_pixels_and_info_finds_it() {
    let cli = Cli::with_tiny_model();
    let draw = |name: &str, more: &[&str]| cli.stdout(["a fox", "-o", name].iter().chain(&LARGE).chain(more));
    draw("plain.png", &[]);
    draw("marked.png", &["--watermark"]);
    draw("marked.jpg", &["--watermark", "--no-metadata"]);
    assert_eq!(Watermark::find(&picture(&cli, "plain.png")), None);
    assert_eq!(Watermark::find(&picture(&cli, "marked.png")).map(|found| found.right), Some(46));
    let info = |name: &str| cli.stdout(["info", name]);
    assert!(info("plain.png").contains("watermark   none found: "), "{}", info("plain.png"));
    assert!(info("marked.png").contains("watermark   FLUX, 46 of 46 bits; by chance in one of 7e13"));
    // A file without parameters is told about as well, if it has a mark.
    assert!(info("marked.jpg").starts_with("origin      not said by its metadata (XMP)\nwatermark   FLUX, "));
    let json: Value = serde_json::from_str(&cli.stdout(["info", "--json", "marked.png"])).unwrap();
    assert_eq!((&json["marks"]["watermark"]["right"], &json["seed"]), (&46.into(), &7.into()));
    assert_eq!(json["marks"]["source_type"], "trainedAlgorithmicMedia");
    let json: Value = serde_json::from_str(&cli.stdout(["info", "--json", "plain.png"])).unwrap();
    assert!(json["marks"]["watermark"].is_null() && json["marks"]["credentials"].is_null());
}

#[test]
fn a_small_picture_is_not_watermarked() {
    let cli = Cli::with_tiny_model();
    snapshot!(cli.run(["a fox", "--watermark"].iter().chain(&QUICK)), @"
    exit code: 2
    ----- stderr -----
    error: a picture of 64x64 is too small for the watermark: it needs as many pixels as 256x256
    hint: ask for 256x256 pixels or more, or for no watermark
    ");
    // The size of a reference is known only when it is read.
    cli.write("in.png", fs::read(fixture("golden/references/wide.png")).unwrap());
    let shown = cli.run(["a fox", "-i", "in.png", "-s", "1", "--watermark"]);
    assert!(shown.starts_with("exit code: 2") && shown.contains("96x64 is too small"), "{shown}");
    assert_eq!(cli.files(), ["in.png"]);
}

// ---- XMP ----

#[test]
fn the_source_type_goes_with_the_parameters() {
    let cli = Cli::with_tiny_model();
    for name in ["fox.png", "fox.jpg", "fox.webp"] {
        cli.stdout(["a fox", "-o", name].iter().chain(&QUICK));
        assert_eq!(xmp::read(&cli.read(name)).as_deref(), Some("trainedAlgorithmicMedia"), "{name}");
        assert!(cli.stdout(["info", name]).contains("origin      trainedAlgorithmicMedia, by its metadata (XMP)\n"));
        cli.stdout(["a fox", "--no-metadata", "-o", name].iter().chain(&QUICK));
        assert_eq!(xmp::read(&cli.read(name)), None, "{name}");
    }
    let shown = cli.run(["info", "fox.png"]);
    assert!(shown.starts_with("exit code: 6") && shown.contains("neither parameters that are understood nor marks"));
}

// ---- marks of inputs ----

#[test]
fn marks_of_references_that_are_lost_are_warned_of() {
    let cli = Cli::with_tiny_model();
    let marked = decode(&fs::read(fixture("marks/after.png")).unwrap(), "it").unwrap();
    let png = encode(&marked, ImageFormat::Png, None).unwrap();
    cli.write("mark.png", xmp::embed(png, ImageFormat::Png, &xmp::packet(xmp::SourceType::Drawn)));
    let draw = |more: &[&str]| cli.run(["a fox", "-i", "mark.png", "-o", "fox.png"].iter().chain(&LARGE).chain(more));
    let shown = draw(&[]);
    assert!(shown.contains(
        "warning: reference image 1 carries an invisible watermark, and the picture will not; add --watermark"
    ));
    assert!(!shown.contains("in its metadata"), "{shown}");
    assert!(!draw(&["--watermark"]).contains("warning:"));
    assert!(draw(&["--no-metadata", "--watermark"]).contains("carries a mark in its metadata that a model drew it"));
}

/// Parts of a source may keep their pixels, and with them a part of a watermark.
#[test]
fn marks_of_a_source_that_are_lost_are_warned_of() {
    let cli = Cli::with_tiny_model();
    cli.write("source.png", marked());
    let paint = |more: &[&str]| {
        cli.run(["a fox", "--source", "source.png", "-s", "1", "-S", "7", "-o", "fox.png"].iter().chain(more))
    };
    let shown = paint(&[]);
    assert!(shown.starts_with("exit code: 0"), "{shown}");
    let lost = "warning: the source carries Content Credentials (C2PA), and the picture will not";
    assert!(shown.contains(lost), "{shown}");
    let lost =
        "warning: the source carries an invisible watermark, which is lost where it is repainted; add --watermark";
    assert!(shown.contains(lost) && !shown.contains("in its metadata"), "{shown}");
    let shown = paint(&["--no-metadata", "--watermark"]);
    assert!(shown.contains("the source carries a mark in its metadata that a model drew it"), "{shown}");
    assert!(!shown.contains("watermark"), "{shown}");
}

#[test]
fn an_enlarged_picture_keeps_its_marks_or_a_warning_says_so() {
    let cli = Cli::with_tiny_model();
    cli.write("in.png", marked());
    let upscale = |more: &[&str]| {
        let args = ["upscale", "in.png", "--by", "2", "--upscaler", "lanczos"];
        cli.run(args.iter().chain(&["-o", "large.png"]).chain(more))
    };
    let shown = upscale(&[]);
    let lost = "warning: in.png carries Content Credentials (C2PA), and the enlarged picture does not\n";
    assert!(shown.contains(lost) && shown.matches("warning:").count() == 1, "{shown}");
    assert_eq!(xmp::read(&cli.read("large.png")).as_deref(), Some("trainedAlgorithmicMedia"));
    assert!(Watermark::find(&picture(&cli, "large.png")).is_some_and(|found| found.right > 42));
    let shown = upscale(&["--no-metadata"]);
    assert!(shown.contains("in.png carries a mark in its metadata that a model drew it"), "{shown}");
    assert_eq!(xmp::read(&cli.read("large.png")), None);
}

/// A network invents a part of what it shows; resampling does not.
#[test]
fn a_photograph_that_a_network_enlarged_says_so() {
    let cli = Cli::with_tiny_model();
    cli.write("in.png", fs::read(fixture("golden/references/wide.png")).unwrap());
    let net = fixture("golden/upscale/srvgg_x4.pth").display().to_string();
    let word = |args: &[&str]| {
        cli.stdout(["upscale", "in.png", "-o", "large.jpg", "--upscaler"].iter().chain(args));
        xmp::read(&cli.read("large.jpg"))
    };
    assert_eq!(word(&[&net]).as_deref(), Some("algorithmicallyEnhanced"));
    assert_eq!(word(&[&net, "--no-metadata"]), None);
    assert_eq!(word(&["lanczos"]), None);
}

/// Pictures of other programs too.
#[test]
fn a_sheet_says_that_a_model_drew_its_pictures() {
    let cli = Cli::with_tiny_model();
    cli.write("drawn.png", marked());
    cli.write("photo.png", fs::read(fixture("golden/references/wide.png")).unwrap());
    let word = |args: &[&str]| {
        let shown = cli.run(["sheet", "-o", "sheet.png", "photo.png"].iter().chain(args));
        (xmp::read(&cli.read("sheet.png")), shown.contains("warning: one picture carries Content Credentials (C2PA)"))
    };
    assert_eq!(word(&["drawn.png"]), (Some("compositeWithTrainedAlgorithmicMedia".into()), true));
    assert_eq!(word(&["photo.png"]), (None, false));
    assert_eq!(word(&["drawn.png", "--no-metadata"]), (None, true));
}

/// A PNG of another program with all three marks, not one of them verified.
fn marked() -> Vec<u8> {
    let marked = decode(&fs::read(fixture("marks/after.png")).unwrap(), "it").unwrap();
    let png = encode(&marked, ImageFormat::Png, None).unwrap();
    with_manifest(&xmp::embed(png, ImageFormat::Png, &xmp::packet(xmp::SourceType::Drawn)))
}

// ---- Content Credentials ----

#[test]
fn without_the_program_that_signs_one_sentence_says_how_to_get_it() {
    let cli = Cli::with_tiny_model();
    cli.write("key.pem", "a key");
    cli.write("chain.pem", "a chain");
    let both = ["--c2pa-key", "key.pem", "--c2pa-cert", "chain.pem"];
    snapshot!(cli.run(["a fox"].iter().chain(&both).chain(&QUICK)), @"
    exit code: 2
    ----- stderr -----
    error: the program dj-flux2-c2pa, which signs pictures, is not there
    hint: build it, and put it beside dj-flux2: cargo install --path extras/c2pa
    ");
    assert!(cli.run(["a fox"].iter().chain(&both[..2]).chain(&QUICK)).contains("--c2pa-cert <FILE>"));
    let missing = ["a fox", "--c2pa-key", "none.pem", "--c2pa-cert", "chain.pem"];
    assert!(cli.run(missing.iter().chain(&QUICK)).contains("none.pem"));
    // They are seen and not verified.
    cli.write("signed.png", with_manifest(&fs::read(fixture("marks/trainedAlgorithmicMedia.png")).unwrap()));
    assert!(cli.stdout(["info", "signed.png"]).contains("signed      Content Credentials (C2PA), not verified\n"));
    let json: Value = serde_json::from_str(&cli.stdout(["info", "--json", "signed.png"])).unwrap();
    assert_eq!(json["marks"]["credentials"], serde_json::json!({"state": "not_verified", "ingredients": 0}));
}

/// A PNG with a manifest that is none.
fn with_manifest(png: &[u8]) -> Vec<u8> {
    let chunk = [&4u32.to_be_bytes()[..], b"caBXjumb", &[0; 4]].concat();
    [&png[..33], &chunk, &png[33..]].concat()
}

/// A program in the place of the one that signs: it notes what it is asked, and adds a word to the file.
#[cfg(unix)]
#[test]
fn the_program_that_signs_gets_the_finished_file_the_manifest_and_the_references() {
    use std::os::unix::fs::PermissionsExt as _;

    let cli = Cli::with_tiny_model();
    let script = r#"#!/bin/sh
cat > "$0.$1.json"
case $1 in
    read) echo '{"active_manifest": "a", "validation_state": "Valid", "validation_status": [{"code": "untrusted"}],
        "manifests": {"a": {"claim_generator_info": [{"name": "x", "version": "1"}], "signature_info": {"issuer": "me"},
        "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [{"action": "c2pa.created"}]}}]}}}' ;;
    sign) file=$(sed 's/.*"file":"\([^"]*picture\)".*/\1/' "$0.sign.json"); cat "$file"; printf signed
        ls "$(dirname "$file")" > "$0.files" ;;
esac
[ ! -e refuse ] || { echo "an unfit certificate" >&2; exit 1; }
"#;
    let program = cli.path("bin").join("dj-flux2-c2pa");
    fs::create_dir(cli.path("bin")).unwrap();
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    for name in ["key.pem", "chain.pem"] {
        cli.write(name, name);
    }
    let reference = fs::read(fixture("golden/references/wide.png")).unwrap();
    cli.write("in.png", with_manifest(&reference));
    let path = format!("{}:/usr/bin:/bin", cli.path("bin").display());
    let run = |args: &[&str]| {
        let output = cli.command(args).env("PATH", &path).output().unwrap();
        crate::cli::shown(&output)
    };
    let draw = ["a fox", "-i", "in.png", "-s", "1", "-S", "7", "--size", "64x64"];
    let plain = run(&[&draw[..], &["-o", "plain.png"]].concat());
    assert!(plain.contains("warning: reference image 1 carries Content Credentials (C2PA)"), "{plain}");
    let signed = [&draw[..], &["-o", "fox.png", "--c2pa-key", "key.pem", "--c2pa-cert", "chain.pem"]].concat();
    let shown = run(&signed);
    assert!(shown.starts_with("exit code: 0") && !shown.contains("warning:"), "{shown}");
    assert_eq!(cli.read("fox.png"), [&cli.read("plain.png")[..], b"signed"].concat());
    let request: Value = serde_json::from_slice(&cli.read("bin/dj-flux2-c2pa.sign.json")).unwrap();
    assert_eq!((&request["key"], &request["certificates"]), (&"key.pem".into(), &"chain.pem".into()));
    let action = &request["manifest"]["assertions"][0]["data"]["actions"][0];
    assert_eq!((&action["action"], &action["softwareAgent"]["kind"]), (&"c2pa.created".into(), &"klein".into()));
    assert!(action["digitalSourceType"].as_str().unwrap().ends_with("/trainedAlgorithmicMedia"));
    assert_eq!(action["parameters"]["ingredientIds"], serde_json::json!(["input_1"]));
    assert_eq!(request["ingredients"][0]["of"]["relationship"], "inputTo");
    assert_eq!(cli.read("bin/dj-flux2-c2pa.files"), b"input-1\npicture\n");
    let picture = request["file"].as_str().unwrap();
    assert!(!fs::exists(picture).unwrap(), "{picture} is left behind");
    // A source is the parent, before the references.
    let painted = ["--source", "in.png", "-i", "in.png", "-s", "1", "-o", "painted.png"];
    let keys = ["--c2pa-key", "key.pem", "--c2pa-cert", "chain.pem"];
    let shown = run(&[&["a fox"], &painted[..], &keys].concat());
    assert!(shown.starts_with("exit code: 0"), "{shown}");
    let request: Value = serde_json::from_slice(&cli.read("bin/dj-flux2-c2pa.sign.json")).unwrap();
    let actions = &request["manifest"]["assertions"][0]["data"]["actions"];
    assert_eq!((&actions[0]["action"], &actions[1]["action"]), (&"c2pa.opened".into(), &"c2pa.edited".into()));
    assert_eq!(actions[0]["parameters"]["ingredientIds"], serde_json::json!(["input_1"]));
    assert_eq!(actions[1]["parameters"]["ingredientIds"], serde_json::json!(["input_2"]));
    assert!(actions[1]["digitalSourceType"].as_str().unwrap().ends_with("/compositeWithTrainedAlgorithmicMedia"));
    let of = |i: usize| request["ingredients"][i]["of"]["relationship"].clone();
    assert_eq!((of(0), of(1)), ("parentOf".into(), "inputTo".into()));
    // What the program finds is what `info` says.
    assert!(run(&["info", "in.png"]).contains(
        "signed      Content Credentials (C2PA), valid, by a certificate that is not known to be trusted; signed by me; \
         made by x 1; c2pa.created; untrusted\n"
    ));
    // A key that cannot sign is found before any work.
    cli.write("refuse", "");
    let shown = run(&signed);
    assert!(shown.contains("the Content Credentials cannot be made: an unfit certificate"), "{shown}");
}
