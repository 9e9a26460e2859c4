//! Sheets, grids and comparisons.

use flux2::image::{self, RgbImage, metadata};

use crate::cli::{Cli, QUICK};
use crate::snapshot;

/// The tiny model, and two pictures of different seeds.
fn with_pictures() -> Cli {
    let cli = Cli::with_tiny_model();
    cli.fox("a.png", &[]);
    cli.fox("b.png", &["-S", "8"]);
    cli
}

fn open(cli: &Cli, name: &str) -> RgbImage {
    image::open(&cli.path(name)).unwrap()
}

/// The part of a picture that begins at a corner.
fn cut(image: &RgbImage, [x, y]: [u32; 2], [width, height]: [u32; 2]) -> RgbImage {
    let pixels = (y..y + height).flat_map(|y| (x..x + width).flat_map(move |x| image.pixel(x, y))).collect();
    RgbImage::new(width, height, pixels).unwrap()
}

// ---- sheet ----

#[test]
fn a_sheet_holds_its_pictures_and_their_parameters() {
    let cli = with_pictures();
    snapshot!(cli.run(["sheet", "a.png", "b.png", "-o", "sheet.png"]), @"
    exit code: 0
    ----- stdout -----
    sheet.png
    ----- stderr -----
    saved sheet.png
    ");
    let (sheet, a, b) = (open(&cli, "sheet.png"), open(&cli, "a.png"), open(&cli, "b.png"));
    // What is equal is above, the seed below each.
    let top = sheet.height() - (64 + 15 + 4);
    assert!(cut(&sheet, [4, top], [64, 64]) == a && cut(&sheet, [72, top], [64, 64]) == b);
    snapshot!(cli.stdout(["info", "sheet.png"]), @"
    sheet       2 pictures, 2 in a row
    cell 1,1    seed 7, 1 steps, 64x64, a red fox
    cell 2,1    seed 8, 1 steps, 64x64, a red fox
    software    dj-flux2 [VERSION]
    origin      compositeWithTrainedAlgorithmicMedia, by its metadata (XMP)
    watermark   none found: the picture is too small for one
    signed      no Content Credentials (C2PA)
    ");
    let json: serde_json::Value = serde_json::from_str(&cli.stdout(["info", "--json", "sheet.png"])).unwrap();
    assert_eq!((&json["cells"][1]["column"], &json["cells"][1]["parameters"]["seed"]), (&2.into(), &8.into()));
    assert_eq!(json["marks"]["source_type"], "compositeWithTrainedAlgorithmicMedia");
}

#[test]
fn a_sheet_without_a_name_replaces_nothing() {
    let cli = with_pictures();
    cli.write("sheet.png", "precious");
    assert_eq!(cli.stdout(["sheet", "a.png", "b.png"]), "sheet-2.png\n");
    assert_eq!(cli.read("sheet.png"), b"precious");
    // All pictures of the folder again: the sheet is not one of them.
    snapshot!(cli.run(["sheet", "a.png", "b.png", "sheet-2.png"]), @"
    exit code: 0
    ----- stdout -----
    sheet-3.png
    ----- stderr -----
    note: sheet-2.png is a sheet, which is left out; with -o FILE all are taken
    saved sheet-3.png
    ");
    assert_eq!(cli.read("sheet-3.png"), cli.read("sheet-2.png"));
    assert_eq!(cli.stdout(["sheet", "sheet-2.png"]), "sheet-4.png\n");
}

#[test]
fn flags_of_a_sheet_have_an_effect() {
    let cli = with_pictures();
    let sheet = |args: &[&str]| {
        cli.stdout(["sheet", "a.png", "b.png", "-o", "sheet.png"].iter().chain(args));
        (open(&cli, "sheet.png"), metadata::read_sheet(&cli.read("sheet.png")).unwrap())
    };
    let (usual, _) = sheet(&[]);
    let (column, parameters) = sheet(&["--columns", "1"]);
    assert!(column.height() > usual.height() && column.width() < usual.width());
    assert_eq!(parameters.unwrap().columns, 1);
    let (dark, _) = sheet(&["--dark"]);
    assert_eq!((usual.pixel(0, 0), dark.pixel(0, 0)), ([255; 3], [24; 3]));
    assert_eq!(sheet(&["--no-metadata"]).1, None);
    assert_eq!(String::from_utf8(cli.output(["sheet", "a.png", "-o", "q.png", "-q"]).stderr).unwrap(), "");
    for name in ["sheet.jpg", "sheet.webp"] {
        cli.stdout(["sheet", "a.png", "b.png", "-o", name]);
        assert_eq!(metadata::read_sheet(&cli.read(name)).unwrap().unwrap().cells.len(), 2, "{name}");
    }
}

#[test]
fn a_sheet_replaces_none_of_its_pictures() {
    let cli = with_pictures();
    let before = cli.read("a.png");
    snapshot!(cli.run(["sheet", "a.png", "b.png", "-o", "a.png"]), @"
    exit code: 2
    ----- stderr -----
    error: a.png is an input of this run and would be replaced
    hint: choose another name with -o
    ");
    assert_eq!(cli.read("a.png"), before);
    let shown = cli.run(["sheet", "a.png", "nowhere.png", "-o", "sheet.png"]);
    assert!(shown.starts_with("exit code: 6"), "{shown}");
    let shown = cli.run(["sheet", "-", "-o", "sheet.png"]);
    assert!(shown.contains("standard input can be read once"), "{shown}");
    assert!(!cli.path("sheet.png").exists());
}

#[test]
fn pictures_of_other_programs_and_without_parameters_are_shown_too() {
    let cli = with_pictures();
    cli.write("other.png", std::fs::read(crate::cli::fixture("metadata/a1111.png")).unwrap());
    cli.fox("bare.png", &["--no-metadata"]);
    cli.stdout(["sheet", "a.png", "other.png", "bare.png", "-o", "sheet.png"]);
    let sheet = metadata::read_sheet(&cli.read("sheet.png")).unwrap().unwrap();
    assert_eq!(sheet.cells.iter().map(|cell| (cell.column, cell.row)).collect::<Vec<_>>(), [(1, 1)]);
}

#[cfg(unix)]
#[test]
fn a_read_only_file_is_replaced_by_force_only() {
    use std::os::unix::fs::PermissionsExt as _;

    let cli = with_pictures();
    for command in ["sheet", "compare"] {
        cli.write("old.png", "precious");
        std::fs::set_permissions(cli.path("old.png"), std::fs::Permissions::from_mode(0o444)).unwrap();
        let args = [command, "a.png", "b.png", "-o", "old.png"];
        let shown = cli.run(args);
        assert!(shown.starts_with("exit code: 2") && shown.contains("old.png is read-only"), "{shown}");
        assert_eq!(cli.read("old.png"), b"precious");
        cli.stdout(args.iter().chain(&["--force"]));
        assert!(open(&cli, "old.png").width() > 64, "{command}");
        std::fs::remove_file(cli.path("old.png")).unwrap();
    }
}

#[test]
fn a_picture_is_made_again_from_its_cell() {
    let cli = with_pictures();
    cli.stdout(["sheet", "a.png", "b.png", "-o", "sheet.png"]);
    cli.stdout(["--from", "sheet.png", "--cell", "2,1", "-o", "again.png"]);
    assert_eq!(cli.read("again.png"), cli.read("b.png"));
    snapshot!(cli.run(["--from", "sheet.png"]), @"
    exit code: 2
    ----- stderr -----
    error: sheet.png is a sheet of 2 pictures
    hint: choose one with --cell COLUMN,ROW, as in --cell 1,1
    ");
    snapshot!(cli.run(["--from", "sheet.png", "--cell", "3,1"]), @"
    exit code: 2
    ----- stderr -----
    error: sheet.png stores no parameters of a picture in column 3, row 1
    hint: its pictures are 1,1 2,1
    ");
    snapshot!(cli.run(["--from", "a.png", "--cell", "1,1"]), @"
    exit code: 2
    ----- stderr -----
    error: a.png is no sheet, so it has no cells
    hint: leave --cell out, or pass a sheet that stores its parameters
    ");
}

// ---- generate --sheet and --grid ----

#[test]
fn a_run_of_several_pictures_has_a_sheet_if_that_is_asked_for() {
    let cli = Cli::with_tiny_model();
    snapshot!(cli.run(["a red fox", "-n", "3", "-o", "fox.png", "--sheet", "all.png"].iter().chain(&QUICK)), @"
    exit code: 0
    ----- stdout -----
    fox-1.png
    fox-2.png
    fox-3.png
    all.png
    ----- stderr -----
    saved fox-1.png (1 of 3, seed 7, [TIME] for 3 together)
    saved fox-2.png (2 of 3, seed 8, [TIME] for 3 together)
    saved fox-3.png (3 of 3, seed 9, [TIME] for 3 together)
    saved all.png
    ");
    let sheet = metadata::read_sheet(&cli.read("all.png")).unwrap().unwrap();
    assert_eq!(sheet.cells.iter().map(|cell| cell.parameters.seed).collect::<Vec<_>>(), [7, 8, 9]);
    let json = cli.stdout(["a red fox", "--json", "-o", "x.png", "--sheet", "x-all.png"].iter().chain(&QUICK));
    assert_eq!(json.lines().last(), Some(r#"{"sheet":"x-all.png"}"#));
    cli.fox("x.png", &["--sheet", "x-dark.png", "--dark"]);
    assert_eq!(["x-all.png", "x-dark.png"].map(|name| open(&cli, name).pixel(0, 0)), [[255; 3], [24; 3]]);
}

#[test]
fn a_grid_draws_every_pair_of_values() {
    let cli = Cli::with_tiny_model();
    let size = ["--size", "64x64", "-o", "fox.png"];
    let stdout = cli.stdout(["a red fox", "--grid", "steps=1,2 x seed=7-9", "-q"].iter().chain(&size));
    // Pictures of as many steps are drawn together.
    let names = "fox-1.png fox-3.png fox-5.png fox-2.png fox-4.png fox-6.png fox-sheet.png";
    assert_eq!(stdout.split_whitespace().collect::<Vec<_>>().join(" "), names);
    // Each picture is the one that its settings make alone.
    for (name, steps, seed) in [("fox-1.png", "1", "7"), ("fox-2.png", "2", "7"), ("fox-6.png", "2", "9")] {
        cli.stdout(["a red fox", "--size", "64x64", "-o", "alone.png", "-s", steps, "-S", seed]);
        assert_eq!(cli.read("alone.png"), cli.read(name), "{name}");
    }
    let sheet = metadata::read_sheet(&cli.read("fox-sheet.png")).unwrap().unwrap();
    assert_eq!((sheet.columns, sheet.cells.len()), (2, 6));
    let last = &sheet.at(2, 3).unwrap().parameters;
    assert_eq!((last.steps, last.seed), (2, 9));
    cli.stdout(["--from", "fox-sheet.png", "--cell", "2,3", "-o", "again.png"]);
    assert_eq!(cli.read("again.png"), cli.read("fox-6.png"));
}

#[test]
fn axes_may_be_any_setting() {
    let cli = Cli::with_tiny_model();
    let tiny = crate::cli::fixture("tiny/klein");
    let tiny = tiny.to_str().unwrap();
    let made = |grid: &str| {
        cli.stdout(["a red fox", "-o", "out/output.png", "-q", "--grid", grid].iter().chain(&QUICK));
        let parameters = |name: &str| metadata::read(&cli.read(name)).unwrap().unwrap();
        let both = [parameters("out/output-1.png"), parameters("out/output-2.png")];
        std::fs::remove_dir_all(cli.path("out")).unwrap();
        both
    };
    let [first, second] = made("size=64x80,80x64");
    assert_eq!([(first.width, first.height), (second.width, second.height)], [(64, 80), (80, 64)]);
    assert_eq!(made("noise=philox,torch-cpu").map(|made| made.noise), ["philox", "torch-cpu"]);
    assert_eq!(made("prompt-sr=fox,hare").map(|made| made.prompt), ["a red fox", "a red hare"]);
    assert_eq!(made(&format!("model={tiny},{tiny}/")).map(|made| made.model), ["klein", "klein"]);
    let [first, second] = made("seed=5,900");
    assert_eq!([first.seed, second.seed], [5, 900]);
    let lora = crate::cli::fixture("tiny/lora.safetensors");
    let made_with = |flags: &[&str], grid: &str| {
        cli.stdout(["a red fox", "-o", "output.png", "-q", "--grid", grid].iter().chain(&QUICK).chain(flags));
        [cli.read("output-1.png"), cli.read("output-2.png")]
    };
    let pictures = made_with(&["--lora", lora.to_str().unwrap()], "lora-scale=0.25,1");
    let scale = |file: &[u8]| metadata::read(file).unwrap().unwrap().loras[0].scale;
    assert_eq!(pictures.each_ref().map(|file| scale(file)), [0.25, 1.0]);
    assert!(image::decode(&pictures[0], "0.25").unwrap() != image::decode(&pictures[1], "1").unwrap());
    let pictures = made_with(&["--variant", "klein-base"], "guidance=1,3");
    let guidance = |file: &[u8]| metadata::read(file).unwrap().unwrap().guidance;
    assert_eq!(pictures.each_ref().map(|file| guidance(file)), [Some(1.0), Some(3.0)]);
    assert!(image::decode(&pictures[0], "1").unwrap() != image::decode(&pictures[1], "3").unwrap());
    // Without an axis of seeds all cells have the same one.
    let shown = cli.stdout(["a red fox", "-q", "--size", "64x64", "--grid", "steps=1,2", "--json"]);
    let seeds: Vec<serde_json::Value> = shown
        .lines()
        .take(2)
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["seed"].clone())
        .collect();
    assert_eq!(seeds[0], seeds[1]);
}

#[test]
fn any_flag_with_a_value_is_an_axis() {
    let cli = Cli::with_tiny_model();
    // Without the quotes that a shell asks for.
    let grid = ["--grid", "prompt=a red fox,a blue hare", "x", "jpeg-quality=20,95"];
    cli.stdout(grid.iter().chain(&["-q", "-o", "fox.jpg"]).chain(&QUICK));
    for (name, prompt, quality) in [("fox-1.jpg", "a red fox", "20"), ("fox-4.jpg", "a blue hare", "95")] {
        cli.stdout([prompt, "-q", "-o", "alone.jpg", "--jpeg-quality", quality].iter().chain(&QUICK));
        assert_eq!(cli.read("alone.jpg"), cli.read(name), "{name}");
    }
    assert!(cli.read("fox-1.jpg").len() < cli.read("fox-3.jpg").len());
    let sheet = metadata::read_sheet(&cli.read("fox-sheet.png")).unwrap().unwrap();
    assert_eq!((sheet.columns, sheet.cells.len()), (2, 4));
    let shown = cli.run(["a", "--grid", "seed", "x", "steps"]);
    assert!(shown.contains("hint: give each setting its values, as in \"seed=1-4 x steps=2,4,8\""), "{shown}");
}

#[test]
fn cells_that_fail_are_gray_and_the_others_are_made() {
    let cli = Cli::with_tiny_model();
    cli.write("fox-2.png", "precious");
    let args = ["a red fox", "--grid", "seed=1-3", "-o", "fox.png", "--no-clobber"];
    let shown = cli.run(args.iter().chain(&QUICK));
    assert!(shown.contains("fox-2.png exists"), "{shown}");
    // A model that is missing.
    let tiny = crate::cli::fixture("tiny/klein");
    let models = format!("model={},nowhere", tiny.display());
    let output = cli.output(["a red fox", "-o", "m.png", "--grid", &models].iter().chain(&QUICK));
    assert_eq!(output.status.code(), Some(7), "{}", crate::cli::shown(&output));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("error: picture 2 of 2 (seed 7): "), "{said}");
    let sheet = metadata::read_sheet(&cli.read("m-sheet.png")).unwrap().unwrap();
    assert_eq!(sheet.cells.len(), 1);
    let sheet = open(&cli, "m-sheet.png");
    assert_eq!(sheet.pixel(sheet.width() - 10, sheet.height() - 10), [112; 3]);
}

#[test]
fn a_grid_that_makes_no_sense_is_refused_before_any_work() {
    let cli = Cli::with_tiny_model();
    let refused = |args: &[&str]| cli.run(["a red fox"].iter().chain(args));
    snapshot!(refused(&["--grid", "stepz=1,2"]), @r#"
    exit code: 2
    ----- stderr -----
    error: "stepz" is no setting of a grid
    hint: the nearest name is steps; an axis is prompt, prompt-sr, lora-scale, or a flag with a value, as steps or seed
    "#);
    snapshot!(refused(&["--grid", "steps=1,0"]), @"
    exit code: 2
    ----- stderr -----
    error: 0 steps: the schedule needs 1 to 1000
    hint: leave --steps out for the number the model was made for
    ");
    let shown = refused(&["--grid", "steps=1,2", "-n", "2"]);
    assert!(shown.starts_with("exit code: 2") && shown.contains("--grid"), "{shown}");
    snapshot!(refused(&["--grid", "steps=1,2", "-o", "-"]), @"
    exit code: 2
    ----- stderr -----
    error: standard output takes one picture, not 2
    hint: write files, with -o NAME.png, or make one picture
    ");
    snapshot!(refused(&["--sheet", "fox.png", "-o", "fox.png"]), @"
    exit code: 2
    ----- stderr -----
    error: the sheet and picture 1 would both be fox.png
    hint: choose another name for the sheet, with --sheet NAME.png
    ");
    assert!(cli.files().is_empty(), "{:?}", cli.files());
}

#[test]
fn a_grid_is_planned_as_its_largest_picture() {
    let cli = Cli::with_tiny_model();
    let bytes = |args: &[&str]| {
        let plan = cli.stdout(["plan", "a red fox", "--json", "-s", "1"].iter().chain(args));
        serde_json::from_str::<serde_json::Value>(&plan).unwrap()["peak_bytes"].as_u64().unwrap()
    };
    let both = bytes(&["--grid", "size=64x64,256x256"]);
    assert!(both >= bytes(&["--size", "256x256"]) && both > bytes(&["--grid", "size=64x64,80x80"]));
}

// ---- compare ----

#[test]
fn a_comparison_says_what_differs() {
    let cli = with_pictures();
    let shown = cli.stdout(["compare", "a.png", "b.png"]);
    let lines: Vec<&str> = shown.lines().collect();
    let note = "note: -o difference.png writes a picture of the difference, --show shows it here";
    assert!(cli.run(["compare", "a.png", "b.png"]).contains(note));
    assert!(!cli.run(["compare", "a.png", "b.png", "-o", "difference.png"]).contains("note: "));
    assert_eq!(lines[0], "seed        7 -> 8");
    assert!(lines[1].starts_with("difference  ") && lines[1].contains(" of 4096 pixels, "), "{shown}");
    assert!(lines[2].starts_with("largest     ") && lines[3].starts_with("mean        "), "{shown}");
    assert!(lines[4].starts_with("PSNR        ") && lines[4].ends_with(" dB"), "{shown}");
    snapshot!(cli.stdout(["compare", "a.png", "a.png"]), @"
    parameters  equal
    difference  none: all 4096 pixels are equal
    ");
    let json = |b: &str| -> serde_json::Value {
        serde_json::from_str(&cli.stdout(["compare", "--json", "a.png", b])).unwrap()
    };
    let differing = json("b.png");
    assert_eq!(differing["settings"], serde_json::json!([{"setting": "seed", "a": "7", "b": "8"}]));
    assert!(differing["psnr"].as_f64().unwrap() > 3.0 && differing["max"].as_u64().unwrap() > 0);
    let same = json("a.png");
    assert_eq!((&same["psnr"], &same["pixels"], &same["mean"]), (&serde_json::Value::Null, &0.into(), &0.0.into()));
    cli.fox("bare.png", &["--no-metadata"]);
    let shown = cli.stdout(["compare", "a.png", "bare.png"]);
    assert!(shown.starts_with("parameters  not compared: none stored in bare.png\n"), "{shown}");
}

#[test]
fn a_comparison_is_drawn_in_three_ways() {
    let cli = with_pictures();
    let (a, b) = (open(&cli, "a.png"), open(&cli, "b.png"));
    let drawn = |args: &[&str]| {
        cli.stdout(["compare", "a.png", "b.png", "-o", "out.png"].iter().chain(args));
        open(&cli, "out.png")
    };
    let cell = |image: &RgbImage, x: u32| cut(image, [4 + 68 * x, 4], [64, 64]);
    let difference = cell(&drawn(&[]), 0);
    let amplified: Vec<u8> = a.pixels().iter().zip(b.pixels()).map(|(a, b)| a.abs_diff(*b).saturating_mul(4)).collect();
    assert!(difference.pixels() == amplified);
    let wiped = cell(&drawn(&["--wipe"]), 0);
    assert!(cut(&wiped, [0, 0], [31, 64]) == cut(&a, [0, 0], [31, 64]));
    assert!(cut(&wiped, [33, 0], [31, 64]) == cut(&b, [33, 0], [31, 64]));
    let both = drawn(&["--side-by-side", "--dark"]);
    assert!(cell(&both, 0) == a && cell(&both, 1) == b);
    assert_eq!(both.pixel(0, 0), [24; 3]);
    // There is no picture without a name for it.
    assert!(cli.run(["compare", "a.png", "b.png", "--wipe"]).starts_with("exit code: 2"));
}

#[test]
fn pictures_of_two_sizes_are_scaled_and_it_is_said() {
    let cli = with_pictures();
    cli.fox("wide.png", &["-W", "128"]);
    let shown = cli.stdout(["compare", "a.png", "wide.png"]);
    assert!(shown.contains("size        64x64 -> 128x64\n"), "{shown}");
    assert!(shown.contains("pixels      64x64 -> 128x64, scaled to compare\n"), "{shown}");
    assert!(shown.contains(" of 4096 pixels, "), "{shown}");
}

// ---- quality of lossy formats ----

#[test]
fn quality_and_chroma_change_the_file() {
    let cli = Cli::with_tiny_model();
    let length = |name: &str, args: &[&str]| cli.fox(name, args).len();
    let usual = length("a.jpg", &[]);
    assert!(length("b.jpg", &["--jpeg-quality", "40"]) < usual);
    assert!(length("c.jpg", &["--jpeg-chroma", "420"]) < usual);
    assert_eq!(length("d.jpg", &["--jpeg-quality", "95", "--jpeg-chroma", "4:4:4"]), usual);
    // Parameters are inside all of them.
    for name in ["a.jpg", "b.jpg", "c.jpg"] {
        assert_eq!(metadata::read(&cli.read(name)).unwrap().unwrap().seed, 7, "{name}");
    }
    // A WebP is lossless unless it has a quality.
    let pixels = |name: &str, args: &[&str]| image::decode(&cli.fox(name, args), name).unwrap();
    let png = pixels("a.png", &[]);
    assert!(pixels("a.webp", &[]) == png && pixels("b.webp", &["--webp-quality", "90"]) != png);
    assert!(length("c.webp", &["--webp-quality", "10"]) < length("b.webp", &["--webp-quality", "90"]));
    assert_eq!(metadata::read(&cli.read("c.webp")).unwrap().unwrap().seed, 7);
    for (flag, value) in [
        ("--jpeg-quality", "0"),
        ("--jpeg-quality", "101"),
        ("--jpeg-chroma", "422"),
        ("--webp-quality", "0"),
        ("--webp-quality", "101"),
    ] {
        assert!(cli.run(["x", flag, value]).starts_with("exit code: 2"), "{flag} {value}");
    }
}

// ---- compat ----

#[test]
fn a_program_sets_noise_levels_and_rounding_and_is_recorded() {
    let cli = Cli::with_tiny_model();
    let made = |program: &str| cli.fox(&format!("{program}.png"), &["--compat", program, "-s", "2"]);
    let programs = ["diffusers", "bfl", "comfy", "sdcpp"];
    let pictures = programs.map(made);
    for (i, picture) in pictures.iter().enumerate() {
        let parameters = metadata::read(picture).unwrap().unwrap();
        assert_eq!(parameters.compat.as_deref(), Some(programs[i]));
        let noise = ["torch-cpu", "torch-cuda:132x2048", "torch-cpu", "philox"][i];
        assert_eq!(parameters.noise, noise);
        let pixels = |bytes: &[u8]| image::decode(bytes, "x").unwrap();
        assert!(pictures[..i].iter().all(|other| pixels(other) != pixels(picture)), "{}", programs[i]);
        // The same from what is stored.
        let again = format!("again-{}.png", programs[i]);
        cli.stdout(["--from", &format!("{}.png", programs[i]), "-o", &again]);
        assert!(cli.read(&again) == *picture, "{}", programs[i]);
    }
    // djkunkel/dj-flux2 computes as black-forest-labs/flux2.
    let origin = image::decode(&made("dj-flux2"), "x").unwrap();
    assert!(origin == image::decode(&pictures[1], "x").unwrap());
    // A typed kind of noise wins, and a typed program replaces the noise of a picture.
    cli.fox("noise.png", &["--compat", "bfl", "--noise", "torch-cpu"]);
    assert_eq!(metadata::read(&cli.read("noise.png")).unwrap().unwrap().noise, "torch-cpu");
    cli.fox("plain.png", &["-s", "2"]);
    cli.stdout(["--from", "plain.png", "--compat", "comfy", "-o", "comfy-again.png"]);
    assert!(cli.read("comfy-again.png") == pictures[2]);
}

#[test]
fn a_sheet_that_is_there_is_kept_if_that_is_asked_for() {
    let cli = Cli::with_tiny_model();
    cli.write("all.png", "precious");
    let shown = cli.run(["a red fox", "-o", "x.png", "--sheet", "all.png", "--no-clobber"].iter().chain(&QUICK));
    assert!(shown.starts_with("exit code: 2") && shown.contains("all.png exists"), "{shown}");
    assert_eq!((cli.read("all.png"), cli.path("x.png").exists()), (b"precious".to_vec(), false));
    let shown = cli.run(["a red fox", "-o", "x.png", "--sheet", "-"].iter().chain(&QUICK));
    assert!(shown.contains("a sheet is a file, made of files"), "{shown}");
}
