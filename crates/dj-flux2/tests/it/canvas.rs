//! Pictures that are painted into, from the command line.

use flux2::image::metadata::xmp;
use flux2::image::resize::resize_lanczos;
use flux2::image::{self, Attached, ImageFormat, Quality, RgbImage, metadata};
use serde_json::Value;

use crate::cli::Cli;
use crate::snapshot;

const QUICK: [&str; 4] = ["-s", "2", "-S", "7"];

/// A source of 80x64 pixels and a mask of its left half, in files.
fn cli() -> Cli {
    let cli = Cli::with_tiny_model();
    cli.write("source.png", png(80, 64, |x, y| [x as u8 * 3, y as u8 * 3, 99]));
    cli.write("mask.png", png(80, 64, |x, _| [if x < 40 { 255 } else { 0 }; 3]));
    cli
}

fn png(width: u32, height: u32, pixel: impl Fn(u32, u32) -> [u8; 3]) -> Vec<u8> {
    image::encode(&picture(width, height, pixel), ImageFormat::Png, None).unwrap()
}

fn picture(width: u32, height: u32, pixel: impl Fn(u32, u32) -> [u8; 3]) -> RgbImage {
    let pixels = (0..height).flat_map(|y| (0..width).map(move |x| (x, y))).flat_map(|(x, y)| pixel(x, y)).collect();
    RgbImage::new(width, height, pixels).unwrap()
}

/// Paints into the source, and returns the picture.
fn paint(cli: &Cli, args: &[&str]) -> RgbImage {
    let all = ["a red fox", "-q", "--source", "source.png", "-o", "out.png"];
    cli.stdout(all.iter().chain(&QUICK).chain(args));
    image::open(&cli.path("out.png")).unwrap()
}

fn source(cli: &Cli) -> RgbImage {
    image::open(&cli.path("source.png")).unwrap()
}

/// Columns in which the picture differs from the source.
fn changed_columns(cli: &Cli, made: &RgbImage) -> Vec<u32> {
    let source = source(cli);
    assert_eq!((made.width(), made.height()), (80, 64));
    (0..80).filter(|&x| (0..64).any(|y| made.pixel(x, y) != source.pixel(x, y))).collect()
}

#[test]
fn a_mask_keeps_the_rest_to_the_byte() {
    let cli = cli();
    let columns = |args: &[&str]| {
        let columns = changed_columns(&cli, &paint(&cli, args));
        (columns[0], columns[columns.len() - 1])
    };
    assert_eq!(columns(&["--mask", "mask.png"]), (0, 39));
    assert_eq!(columns(&["--mask", "mask.png", "--mask-invert"]), (40, 79));
    assert_eq!(columns(&["--mask", "mask.png", "--mask-grow", "10"]), (0, 49));
    assert_eq!(columns(&[]), (0, 79));
    let alpha = Some((0..80 * 64).map(|i| if i % 80 < 16 { 0 } else { 255 }).collect());
    let transparent = image::encode_attached(
        &source(&cli),
        &Attached { alpha, profile: None },
        ImageFormat::Png,
        &Quality::default(),
        None,
    );
    cli.write("source.png", transparent.unwrap());
    let made = paint(&cli, &["--mask-from-alpha"]);
    let before = image::codec::decode_original(&cli.read("source.png"), "source").unwrap().image;
    assert!((16..80).all(|x| (0..64).all(|y| made.pixel(x, y) == before.pixel(x, y))));
}

#[test]
fn settings_in_a_file_wait_for_what_they_are_about() {
    let cli = cli();
    let config = |text: &str, args: &[&str]| {
        cli.write("settings.toml", text);
        paint(&cli, &[&["--config", "settings.toml"], args].concat())
    };
    assert!(config("strength = 0.4", &[]) == paint(&cli, &["--strength", "0.4"]));
    assert!(config("strength = 0.4", &["--strength", "1"]) == paint(&cli, &[]));
    // A mask has a source, which has no mask.
    assert!(config("mask-grow = 4\nmask-invert = true\nfeather = 2", &[]) == paint(&cli, &[]));
    let mask = ["--mask", "mask.png"];
    assert!(config("mask-grow = 4", &mask) == paint(&cli, &[&mask[..], &["--mask-grow", "4"]].concat()));
    // Without a source the others are drawn as ever, but what is asked for in this run is refused.
    cli.write("settings.toml", "strength = 0.4\nsize = '64x64'");
    let plain = ["a red fox", "-q", "--config", "settings.toml", "-o", "plain.png", "-s", "1", "-S", "1"];
    assert_eq!(cli.stdout(plain), "plain.png\n");
    cli.write("jobs.jsonl", "{\"prompt\": \"a\", \"strength\": 0.4}");
    let shown = cli.run(["--batch", "jobs.jsonl"]);
    assert!(shown.contains("strength is about a picture that is painted into, and there is none"), "{shown}");
}

/// No flag is without an effect.
#[test]
fn every_flag_changes_the_picture() {
    let cli = cli();
    cli.write("ref.png", png(64, 64, |x, _| [x as u8, 200, 0]));
    let usual = paint(&cli, &["--mask", "mask.png"]);
    for args in [
        &["--feather", "0"][..],
        &["--mask-grow", "4"],
        &["--mask-invert"],
        &["--no-source-reference"],
        &["--strength", "0.4"],
        &["--compat", "diffusers"],
        &["-i", "ref.png"],
    ] {
        let made = paint(&cli, &[&["--mask", "mask.png"], args].concat());
        assert!(made != usual, "{args:?}");
    }
    let made = paint(&cli, &["--mask", "mask.png", "--feather", "8", "--strength", "1"]);
    assert!(made == usual, "these are the defaults");
    assert!(paint(&cli, &["--strength", "0.4"]) != paint(&cli, &[]), "without a mask too");
    let wide = paint(&cli, &["--outpaint", "16,0,25%,0"]);
    assert_eq!((wide.width(), wide.height()), (80 + 16 + 20, 64));
    assert!((24..56).all(|x| wide.pixel(16 + x, 30) == source(&cli).pixel(x, 30)));
    assert!(paint(&cli, &["--outpaint", "16,0,25%,0", "--outpaint-fill", "#00ff00"]) != wide);
    let squeezed = paint(&cli, &["--compat", "diffusers", "--strength", "0.5"]);
    assert_eq!((squeezed.width(), squeezed.height()), (80, 64));
}

#[test]
fn parameters_are_recorded_and_taken_again() {
    let cli = cli();
    let args =
        ["--mask", "mask.png", "--strength", "0.5", "--feather", "3", "--mask-grow", "2", "--outpaint", "16,0,0,0"];
    let first = paint(&cli, &args);
    let stored = metadata::read(&cli.read("out.png")).unwrap().unwrap();
    let source = stored.source.unwrap();
    assert_eq!((source.strength, source.feather, source.mask_grow), (0.5, Some(3), 2));
    assert_eq!(source.outpaint, Some([16, 0, 0, 0]));
    std::fs::rename(cli.path("out.png"), cli.path("first.png")).unwrap();
    let again = ["--from", "first.png", "-q", "-o", "again.png", "--source", "source.png", "--mask", "mask.png"];
    cli.stdout(again);
    assert_eq!(image::open(&cli.path("again.png")).unwrap(), first);
    // With less strength, which a flag says.
    cli.stdout([&again[..], &["--strength", "0.2"]].concat());
    assert!(image::open(&cli.path("again.png")).unwrap() != first);
    let lines = cli.stdout(["info", "first.png"]);
    for line in ["strength    0.5", "mask grown  2 px", "feather     3 px", "outpaint    16,0,0,0 px, filled with edge"]
    {
        assert!(lines.contains(line), "{line} in {lines}");
    }
    snapshot!(cli.run(["generate", "--from", "first.png", "-o", "again.png"]), @"
    exit code: 2
    ----- stderr -----
    error: the picture of --from was painted into another one, which is not given
    hint: pass the files it was made with, --source and, if it had one, --mask
    ");
    cli.write("other.png", png(80, 64, |x, _| [if x < 20 { 255 } else { 0 }; 3]));
    let output =
        cli.output(["generate", "--from", "first.png", "-o", "b.png", "--source", "source.png", "--mask", "other.png"]);
    assert!(output.status.success());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("the mask is not the one that first.png was made with"), "{said}");
}

#[test]
fn what_makes_no_sense_is_refused() {
    let cli = cli();
    let run = |args: &[&str]| cli.run(["generate", "a red fox", "-o", "out.png"].iter().chain(args));
    snapshot!(run(&["--mask", "mask.png"]), @"
    exit code: 2
    ----- stderr -----
    error: the following required arguments were not provided: --source <FILE>
    hint: run it with --help to see what it takes
    ");
    snapshot!(run(&["--source", "source.png", "-W", "64"]), @"
    exit code: 2
    ----- stderr -----
    error: the argument '--source <FILE>' cannot be used with '--width <PX>'
    hint: run it with --help to see what it takes
    ");
    snapshot!(run(&["--source", "source.png", "--strength", "0"]), @"
    exit code: 2
    ----- stderr -----
    error: invalid value '0' for '--strength <STRENGTH>': a strength is over 0 and at most 1: 1 starts from noise, less keeps more of the source
    hint: run it with --help to see what it takes
    ");
    snapshot!(run(&["--source", "source.png", "--mask-grow", "3"]), @"
    exit code: 2
    ----- stderr -----
    error: --mask-grow has no effect without a mask
    hint: add --mask FILE
    ");
    snapshot!(run(&["--source", "source.png", "--mask-from-alpha"]), @"
    exit code: 2
    ----- stderr -----
    error: source.png: the source is transparent nowhere, so its transparency is no mask
    hint: give a mask, or a source with an alpha channel
    ");
    snapshot!(run(&["--source", "source.png", "--outpaint", "1,2,3"]), @"
    exit code: 2
    ----- stderr -----
    error: invalid value '1,2,3' for '--outpaint <L,T,R,B>': 3 of the 4 sides left,top,right,bottom, as in 64,0,25%,0
    hint: run it with --help to see what it takes
    ");
    snapshot!(run(&["--source", "source.png", "--mask", "mask.png", "--feather", "300"]), @"
    exit code: 2
    ----- stderr -----
    error: a feather of 300 pixels; at most 256 are allowed
    hint: use at most 256
    ");
    snapshot!(run(&["--source", "source.png", "--compat", "diffusers", "--outpaint", "1,1,1,1"]), @"
    exit code: 2
    ----- stderr -----
    error: diffusers has no larger canvas
    hint: leave it out, or do not ask for the rules of diffusers
    ");
    cli.write("black.png", png(80, 64, |_, _| [0; 3]));
    snapshot!(run(&["--source", "source.png", "--mask", "black.png"]), @"
    exit code: 6
    ----- stderr -----
    error: there is nothing to repaint: the mask keeps every pixel
    hint: paint what is to change white, or transparent, in the mask
    ");
    cli.write("tall.png", png(64, 80, |_, _| [255; 3]));
    snapshot!(run(&["--source", "source.png", "--mask", "tall.png"]), @"
    exit code: 6
    ----- stderr -----
    error: the mask is 64x80 pixels, the source 80x64
    hint: make the mask as large as the source, or of the same shape
    ");
    cli.write("tiny.png", png(15, 64, |_, _| [255; 3]));
    snapshot!(run(&["--source", "tiny.png"]), @"
    exit code: 6
    ----- stderr -----
    error: tiny.png: the source is 15x64 pixels; both sides must be at least 16
    hint: enlarge it to at least 16 pixels a side, or give it as a reference image
    ");
    snapshot!(run(&["--source", "out.png"]), @"
    exit code: 6
    ----- stderr -----
    error: out.png: No such file or directory (os error 2)
    hint: correct the path
    ");
    assert_eq!(cli.files().iter().filter(|name| *name == "out.png").count(), 0);
}

/// The source would be replaced by the result.
#[test]
fn an_input_is_not_written_over() {
    let cli = cli();
    snapshot!(cli.run(["a red fox", "--source", "source.png", "--mask", "mask.png", "-o", "mask.png"]), @"
    exit code: 2
    ----- stderr -----
    error: mask.png is an input of this run and would be replaced
    hint: choose another name with -o
    ");
}

#[test]
fn what_changes_kept_pixels_is_warned_of() {
    let cli = cli();
    let args = ["a red fox", "--source", "source.png", "--mask", "mask.png", "-o", "out.jpg"];
    snapshot!(cli.run(args.iter().chain(&QUICK)), @"
    exit code: 0
    ----- stdout -----
    out.jpg
    ----- stderr -----
    warning: a JPEG changes pixels that the mask keeps: write a .png or .webp to keep them exactly
    saved out.jpg (seed 7, [TIME])
    ");
    let shown = cli.run(args[..6].iter().chain(&["out.webp", "--webp-quality", "90"]).chain(&QUICK));
    assert!(shown.contains("warning: --webp-quality changes pixels that the mask keeps"), "{shown}");
    cli.write("source.png", png(256, 256, |x, y| [x as u8, y as u8, 99]));
    cli.write("mask.png", png(256, 256, |x, _| [if x < 40 { 255 } else { 0 }; 3]));
    let shown = cli.run(args[..6].iter().chain(&["out.png", "--watermark"]).chain(&QUICK));
    assert!(shown.contains("warning: the watermark changes pixels that the mask keeps"), "{shown}");
    let shown = cli.run(args[..6].iter().chain(&["out.webp"]).chain(&QUICK));
    assert!(!shown.contains("warning:"), "{shown}");
}

#[test]
fn a_plan_counts_the_source_and_a_limit_refuses_it_before_it_is_decoded() {
    let cli = cli();
    cli.write("large.png", png(2000, 1500, |x, _| [x as u8; 3]));
    cli.write("box.png", png(2000, 1500, |x, y| [if x < 50 && y < 50 { 255 } else { 0 }; 3]));
    let plan = |source: &str, mask: &str| -> Value {
        serde_json::from_str(&cli.stdout(["plan", "--json", "--source", source, "--mask", mask])).unwrap()
    };
    let (small, large) = (plan("source.png", "mask.png"), plan("large.png", "box.png"));
    assert_eq!((&large["width"], &large["height"], &small["drawn"][0]), (&2000.into(), &1500.into(), &80.into()));
    assert!(large["drawn"][0].as_u64().unwrap() < 1100, "{large}");
    let bytes = |plan: &Value| plan["peak_bytes"].as_u64().unwrap();
    assert!(bytes(&large) > bytes(&small) + 4 * 2000 * 1500);
    let refused = cli.output(["a red fox", "--source", "large.png", "--mask", "box.png", "--max-memory", "40MB"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("large.png: this run needs at least"), "{said}");
}

#[test]
fn several_pictures_share_a_source() {
    let cli = cli();
    let args = ["a red fox", "-q", "-n", "2", "--source", "source.png", "--mask", "mask.png", "-o", "{seed}.png"];
    cli.stdout(args.iter().chain(&QUICK));
    let [first, second] = ["7.png", "8.png"].map(|name| image::open(&cli.path(name)).unwrap());
    assert!(first != second);
    assert_eq!(first, paint(&cli, &["--mask", "mask.png"]));
}

/// Of a picture that is painted into, as of one with a larger canvas, a part is drawn. All of an edit is.
#[test]
fn the_source_type_of_a_painted_picture_is_composite() {
    let cli = cli();
    let word = |args: &[&str]| {
        paint(&cli, args);
        xmp::read(&cli.read("out.png")).unwrap()
    };
    let composite = "compositeWithTrainedAlgorithmicMedia";
    assert_eq!(word(&["--mask", "mask.png"]), composite);
    assert_eq!(word(&["--outpaint", "16,0,0,0"]), composite);
    assert_eq!(word(&["--strength", "0.5"]), composite);
    assert!(cli.stdout(["info", "out.png"]).contains(&format!("origin      {composite}, by its metadata (XMP)\n")));
    for name in ["out.jpg", "out.webp"] {
        let args = ["a red fox", "-q", "--source", "source.png", "--mask", "mask.png", "-o", name];
        cli.stdout(args.iter().chain(&QUICK));
        assert_eq!(xmp::read(&cli.read(name)).as_deref(), Some(composite), "{name}");
    }
    cli.stdout(["a red fox", "-q", "-i", "source.png", "-o", "edit.png"].iter().chain(&QUICK));
    assert_eq!(xmp::read(&cli.read("edit.png")).as_deref(), Some("trainedAlgorithmicMedia"));
}

#[test]
fn a_painted_picture_is_enlarged_as_a_whole() {
    let cli = cli();
    let small = paint(&cli, &["--mask", "mask.png"]);
    let large = paint(&cli, &["--mask", "mask.png", "--upscale", "2", "--upscaler", "lanczos"]);
    assert!(large == resize_lanczos(&small, 160, 128).unwrap());
    let stored = metadata::read(&cli.read("out.png")).unwrap().unwrap();
    assert_eq!((stored.width, stored.height, stored.upscale.unwrap().by), (80, 64, Some(2.0)));
    // Transparency is enlarged with it.
    let alpha = Some((0..80 * 64).map(|i| if i % 80 < 60 { 255 } else { 100 }).collect());
    let attached = Attached { alpha, profile: None };
    let file = image::encode_attached(&source(&cli), &attached, ImageFormat::Png, &Quality::default(), None);
    cli.write("source.png", file.unwrap());
    paint(&cli, &["--mask", "mask.png", "--upscale", "2", "--upscaler", "lanczos"]);
    let made = image::codec::decode_original(&cli.read("out.png"), "out").unwrap();
    assert_eq!(made.attached.alpha.map(|alpha| (alpha.len(), alpha[100], alpha[159])), Some((160 * 128, 255, 100)));
}

#[test]
fn strengths_are_an_axis_of_a_grid() {
    let cli = cli();
    let args = ["a red fox", "-q", "-s", "2", "--source", "source.png", "--mask", "mask.png", "-o", "fox.png"];
    cli.stdout(args.iter().chain(&["--grid", "strength=0.3,1 x seed=7,8"]));
    for (name, strength, seed) in [("fox-1.png", "0.3", "7"), ("fox-2.png", "1", "7"), ("fox-4.png", "1", "8")] {
        let alone = ["-o", "alone.png", "--strength", strength, "-S", seed];
        cli.stdout(args[..8].iter().chain(&alone));
        assert_eq!(cli.read("alone.png"), cli.read(name), "{name}");
    }
    assert!(cli.read("fox-1.png") != cli.read("fox-2.png"));
    let sheet = metadata::read_sheet(&cli.read("fox-sheet.png")).unwrap().unwrap();
    let strengths = [(1, 1), (2, 1), (2, 2)].map(|(x, y)| sheet.at(x, y).unwrap().parameters.source.clone().unwrap());
    assert_eq!(strengths.map(|source| source.strength), [0.3, 1.0, 1.0]);
    assert_eq!(xmp::read(&cli.read("fox-sheet.png")).as_deref(), Some("compositeWithTrainedAlgorithmicMedia"));
    snapshot!(cli.run(["a red fox", "--grid", "strength=0.3,1"]), @"
    exit code: 2
    ----- stderr -----
    error: strength is about a picture that is painted into, and there is none
    hint: add the picture with --source FILE
    ");
}
