//! Picture files that go in and come out: bad ones, and what is stored in good ones.

use std::fs;

use crate::cli::{Cli, QUICK, fixture, shown};
use crate::snapshot;

/// Header of a PNG of 32768 x 32768 pixels: a gigapixel, 3 GB once decoded.
const GIGAPIXEL: [u8; 33] = *b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\0\0\x80\0\0\0\x80\0\x08\x02\0\0\0\x4b\x1e\x34\x28";

fn refused(bytes: &[u8]) -> String {
    let cli = Cli::with_tiny_model();
    cli.write("photo.png", bytes);
    let shown = cli.run(["make it blue", "-i", "photo.png"].iter().chain(&QUICK));
    assert_eq!(cli.files(), ["photo.png"], "{shown}");
    shown
}

#[test]
fn a_reference_that_is_not_there() {
    let cli = Cli::with_tiny_model();
    snapshot!(cli.run(["make it blue", "-i", "nowhere.png"]), @"
    exit code: 6
    ----- stderr -----
    error: nowhere.png: No such file or directory (os error 2)
    hint: correct the path
    ");
}

#[test]
fn a_transparent_reference_is_shown_over_white() {
    let cli = Cli::with_tiny_model();
    let edit = |name: &str, picture: &str| {
        cli.write(name, fs::read(fixture(&format!("images/{picture}"))).unwrap());
        let made = cli.output(["make it blue", "-i", name, "-o", "out.png", "--no-metadata"].iter().chain(&QUICK));
        assert!(made.status.success(), "{}", shown(&made));
        (String::from_utf8(made.stderr).unwrap(), cli.read("out.png"))
    };
    let (warned, black) = edit("black.png", "hidden_black.png");
    let warning = "warning: black.png is transparent: the model sees it over white, without its hidden colors\n";
    assert!(warned.contains(warning), "{warned}");
    let (_, colors) = edit("colors.png", "hidden_colors.png");
    assert_eq!(black, colors, "what is hidden makes no difference");
    let (silent, white) = edit("white.png", "hidden_black.png.expected.png");
    assert!(!silent.contains("transparent"), "{silent}");
    assert_eq!(black, white);
}

#[test]
fn another_background_or_the_way_of_diffusers_is_recorded_and_used_again() {
    let cli = Cli::with_tiny_model();
    for (name, picture) in [("black.png", "hidden_black.png"), ("colors.png", "hidden_colors.png")] {
        cli.write(name, fs::read(fixture(&format!("images/{picture}"))).unwrap());
    }
    let edit = |input: &str, args: &[&str]| {
        let made = cli.output(["blue", "-i", input, "-o", "out.png"].iter().chain(&QUICK).chain(args));
        assert!(made.status.success(), "{}", shown(&made));
        (String::from_utf8(made.stderr).unwrap(), flux2::image::open(&cli.path("out.png")).unwrap())
    };
    let (_, white) = edit("black.png", &[]);
    assert!(cli.stdout(["info", "out.png"]).contains("background  #ffffff\n"));
    let (warned, red) = edit("black.png", &["--background", "Crimson"]);
    assert!(warned.contains("black.png is transparent: the model sees it over #dc143c,"), "{warned}");
    assert_ne!(red, white);
    assert_eq!(red, edit("colors.png", &["--background", "#dc143c"]).1);
    let both = ["--background", "#dc143c", "--compat", "diffusers"];
    assert_eq!(edit("black.png", &both).1, edit("colors.png", &both).1, "the color wins");
    assert!(cli.stdout(["info", "out.png"]).contains("background  #dc143c\n"));
    cli.stdout(["--from", "out.png", "-i", "colors.png", "-o", "again.png"]);
    assert_eq!(cli.read("again.png"), cli.read("out.png"));

    // Without alpha, what is hidden reaches the model.
    let (warned, black) = edit("black.png", &["--compat", "diffusers"]);
    assert!(warned.contains("without its alpha channel, with its hidden colors"), "{warned}");
    let (_, colors) = edit("colors.png", &["--compat", "diffusers"]);
    assert_ne!(black, colors);
    assert!(cli.stdout(["info", "out.png"]).contains("compat      diffusers\n"));
    cli.stdout(["--from", "out.png", "-i", "colors.png", "-o", "again.png"]);
    assert_eq!(cli.read("again.png"), cli.read("out.png"));

    let opaque = edit("again.png", &["--background", "red"]).0;
    assert!(!opaque.contains("transparent"), "{opaque}");
    assert!(!cli.stdout(["info", "out.png"]).contains("background"));
    snapshot!(cli.run(["blue", "--background", "redd"]), @"
    exit code: 2
    ----- stderr -----
    error: invalid value 'redd' for '--background <COLOR>': a color is a name, as white, or #RRGGBB, as #ff8800
    hint: run it with --help to see what it takes
    ");
}

#[test]
fn a_reference_that_is_no_picture() {
    snapshot!(refused(b""), @"
    exit code: 6
    ----- stderr -----
    error: photo.png is empty, not a PNG, JPEG, WebP, GIF, BMP, TIFF or QOI picture
    hint: convert it to PNG or JPEG
    ");
    snapshot!(refused(b"\0\0\0\x1cftypheic"), @"
    exit code: 6
    ----- stderr -----
    error: photo.png is a HEIC, not a PNG, JPEG, WebP, GIF, BMP, TIFF or QOI picture
    hint: convert it with `heif-convert`, which comes with libheif, to a JPEG; or let the phone export JPEG
    ");
    snapshot!(refused(b"<!DOCTYPE html>"), @"
    exit code: 6
    ----- stderr -----
    error: photo.png is a web page, not a PNG, JPEG, WebP, GIF, BMP, TIFF or QOI picture
    hint: download the picture that it shows
    ");
}

#[test]
fn a_reference_that_claims_a_gigapixel() {
    snapshot!(refused(&GIGAPIXEL), @"
    exit code: 6
    ----- stderr -----
    error: photo.png is 32768x32768 pixels; at most 16384 a side and 128000000 in all are read
    hint: shrink it: the model sees about a million pixels of a reference image
    ");
}

#[test]
fn a_reference_that_is_cut_short() {
    let whole = std::fs::read(fixture("images/colour_420.jpg")).unwrap();
    snapshot!(refused(&whole[..whole.len() / 2]), @"
    exit code: 6
    ----- stderr -----
    error: photo.png: cannot decode the JPEG: it is cut short
    hint: open it in an image editor and save it again, as PNG
    ");
}

#[test]
fn a_reference_that_is_too_small() {
    let small = std::fs::read(fixture("images/palette.png")).unwrap();
    snapshot!(refused(&small), @"
    exit code: 6
    ----- stderr -----
    error: photo.png: a reference image is 16x12 pixels; both sides must be at least 64
    hint: enlarge it to at least 64 pixels a side
    ");
}

/// The kinds of chunks in a PNG, in order.
fn chunks(png: &[u8]) -> String {
    let (mut kinds, mut rest) = (vec![], &png[8..]);
    while let [a, b, c, d, kind @ ..] = rest {
        let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
        kinds.push(String::from_utf8(kind[..4].to_vec()).unwrap());
        rest = &rest[length + 12..];
    }
    kinds.join(" ")
}

#[test]
fn without_metadata_a_png_is_nothing_but_pixels() {
    let cli = Cli::with_tiny_model();
    snapshot!(chunks(&cli.fox("with.png", &[])), @"IHDR iTXt sRGB tEXt iTXt IDAT IEND");
    snapshot!(chunks(&cli.fox("without.png", &["--no-metadata"])), @"IHDR sRGB IDAT IEND");
    snapshot!(cli.run(["info", "without.png"]), @"
    exit code: 6
    ----- stderr -----
    error: without.png holds neither parameters that are understood nor marks
    hint: pass a picture as its program wrote it: many sites and editors remove them
    ");
}

#[test]
fn info_reads_all_three_formats() {
    let cli = Cli::with_tiny_model();
    cli.fox("fox.png", &[]);
    let info = ["fox.png", "fox.jpg", "fox.webp"].map(|name| {
        cli.stdout(["Füchse 🦊", "-i", "fox.png", "-o", &format!("of-{name}")].iter().chain(&QUICK));
        cli.stdout(["info", &format!("of-{name}")])
    });
    assert_eq!(info[0], info[1]);
    assert_eq!(info[0], info[2]);
    snapshot!(info[0], @"
    prompt      Füchse 🦊
    seed        7
    noise       philox
    model       klein
    kind        klein
    dtype       bf16
    steps       1
    size        64x64
    reference   [SHA-256]
    software    dj-flux2 [VERSION]
    origin      trainedAlgorithmicMedia, by its metadata (XMP)
    watermark   none found: the picture is too small for one
    signed      no Content Credentials (C2PA)
    ");
    let json: serde_json::Value = serde_json::from_str(&cli.stdout(["info", "--json", "of-fox.jpg"])).unwrap();
    assert_eq!((&json["prompt"], &json["seed"]), (&"Füchse 🦊".into(), &7.into()));
}

#[test]
fn info_on_what_others_made() {
    let cli = Cli::with_tiny_model();
    cli.write("foreign.png", std::fs::read(fixture("images/rgba.png")).unwrap());
    cli.write("foreign.txt", "not a picture");
    snapshot!(cli.run(["info", "foreign.png"]), @"
    exit code: 6
    ----- stderr -----
    error: foreign.png holds neither parameters that are understood nor marks
    hint: pass a picture as its program wrote it: many sites and editors remove them
    ");
    snapshot!(cli.run(["info", "foreign.txt"]), @"
    exit code: 6
    ----- stderr -----
    error: foreign.txt holds neither parameters that are understood nor marks
    hint: pass a picture as its program wrote it: many sites and editors remove them
    ");
    snapshot!(cli.run(["info", "nowhere.png"]), @"
    exit code: 6
    ----- stderr -----
    error: nowhere.png: No such file or directory (os error 2)
    hint: correct the path
    ");
}

#[test]
fn nothing_local_is_stored() {
    let cli = Cli::with_tiny_model();
    cli.fox("secret-name.png", &[]);
    for name in ["fox.png", "fox.jpg", "fox.webp"] {
        let file = cli.fox(name, &["-i", "secret-name.png"]);
        let file = String::from_utf8_lossy(&file).into_owned();
        for local in ["secret-name", "tiny", "fixtures", cli.path("").to_str().unwrap()] {
            assert!(!file.contains(local), "{name} holds {local}");
        }
    }
}

#[test]
fn a_prompt_too_long_for_a_jpeg_is_told_before_any_work() {
    let cli = Cli::with_tiny_model();
    std::fs::write(cli.path("long.txt"), "ä fox ".repeat(10_000)).unwrap();
    snapshot!(cli.run(["--prompt-file", "long.txt", "-o", "a.jpg"]), @"
    exit code: 2
    ----- stderr -----
    error: the prompt and parameters take 114096 bytes; a JPEG holds 65527
    hint: shorten it, write a .png, which holds more than a .jpg, or use --no-metadata
    ");
    assert_eq!(cli.files(), ["long.txt"]);
}

#[cfg(unix)]
#[test]
fn links_are_followed_and_devices_are_not_replaced() {
    let cli = Cli::with_tiny_model();
    std::os::unix::fs::symlink("target.png", cli.path("dangling.png")).unwrap();
    cli.fox("dangling.png", &[]);
    assert!(cli.path("dangling.png").is_symlink() && cli.path("target.png").is_file());
    std::os::unix::fs::symlink("/dev/null", cli.path("null.png")).unwrap();
    snapshot!(cli.run(["a red fox", "-o", "null.png"]), @"
    exit code: 1
    ----- stderr -----
    error: null.png: not an ordinary file
    hint: name a file, not a device or a pipe
    ");
    std::os::unix::fs::symlink("nowhere.png", cli.path("other.png")).unwrap();
    snapshot!(cli.run(["a red fox", "-o", "other.png", "--no-clobber"]), @"
    exit code: 2
    ----- stderr -----
    error: other.png exists
    hint: choose another name, or leave --no-clobber out
    ");
}

#[cfg(unix)]
#[test]
fn a_pipe_nobody_writes_to_is_no_picture() {
    let cli = Cli::with_tiny_model();
    let made = std::process::Command::new("mkfifo").arg(cli.path("pipe.png")).status().unwrap();
    assert!(made.success());
    snapshot!(cli.run(["a red fox", "-i", "pipe.png"]), @"
    exit code: 6
    ----- stderr -----
    error: pipe.png: not an ordinary file
    hint: name a file, not a device or a pipe
    ");
}

#[test]
fn a_picture_may_come_from_standard_input() {
    let cli = Cli::with_tiny_model();
    let fox = cli.fox("fox.png", &[]);
    let expected = cli.fox("file.png", &["-i", "fox.png"]);
    let run = |args: &[&str], input: &[u8]| crate::cli::shown(&cli.output_with_input(args, input));
    let args = [&["a red fox", "-o", "piped.png", "-q", "-i", "-"][..], &QUICK].concat();
    assert_eq!(run(&args, &fox), "exit code: 0\n----- stdout -----\npiped.png\n");
    assert_eq!(cli.read("piped.png"), expected);
    assert!(run(&["info", "-"], &fox).contains("a red fox"));
    assert!(run(&["--from", "-", "-o", "again.png"], &fox).starts_with("exit code: 0"));
    assert_eq!(cli.read("again.png"), fox);
    snapshot!(run(&args, b""), @"
    exit code: 6
    ----- stderr -----
    error: standard input is empty, not a PNG, JPEG, WebP, GIF, BMP, TIFF or QOI picture
    hint: convert it to PNG or JPEG
    ");
    snapshot!(run(&["-", "-i", "-"], &fox), @"
    exit code: 2
    ----- stderr -----
    error: the prompt and -i both read standard input
    hint: pass a file in place of one of the dashes
    ");
}

#[test]
fn nothing_is_fetched_from_an_address() {
    let cli = Cli::with_tiny_model();
    snapshot!(cli.run(["make it blue", "-i", "https://example.com/fox.png"]), @"
    exit code: 6
    ----- stderr -----
    error: https://example.com/fox.png is an address, and nothing is fetched from it
    hint: download it and pass the file
    ");
    snapshot!(cli.run(["a fox", "-m", "https://huggingface.co/black-forest-labs/FLUX.2-klein-4B"]), @"
    exit code: 3
    ----- stderr -----
    error: https://huggingface.co/black-forest-labs/FLUX.2-klein-4B is an address, and nothing is fetched from it
    hint: pass a folder, a file, or a repository of the hub as owner/name
    ");
    let shown = cli.run(["a fox", "--lora", "https://example.com/style.safetensors:0.5"]);
    assert!(shown.starts_with("exit code: 3") && shown.contains("is an address"), "{shown}");
    assert_eq!(cli.files(), [""; 0]);
}

#[test]
fn the_index_of_a_model_stands_for_its_folder_and_a_folder_for_its_networks() {
    let cli = Cli::without_model();
    let folder = fixture("tiny/klein").display().to_string();
    let index = format!("{folder}/model_index.json");
    let expected = cli.fox("folder.png", &["-m", &folder]);
    assert_eq!(cli.fox("index.png", &["-m", &index]), expected);
    let networks = ["--transformer", &folder, "--text-encoder", &folder, "--vae", &index].map(str::to_owned).to_vec();
    let networks: Vec<&str> = networks.iter().map(String::as_str).collect();
    assert_eq!(cli.fox("networks.png", &[&["-m", &folder][..], &networks].concat()), expected);
}
