//! `upscale`, and `--upscale` of `generate`.

use std::fs;

use flux2::image::resize::resize_lanczos;
use flux2::image::{self, RgbImage, codec};

use crate::cli::{Cli, QUICK, fixture, shown};
use crate::snapshot;

fn open(cli: &Cli, name: &str) -> RgbImage {
    image::open(&cli.path(name)).unwrap()
}

/// A folder with a picture and a network, whose file is `net.pth`.
fn with_network() -> Cli {
    let cli = Cli::with_tiny_model();
    cli.write("net.pth", fs::read(fixture("golden/upscale/srvgg_x4.pth")).unwrap());
    let pixels = (0..20 * 12 * 3).map(|i| (i * 37 % 251) as u8).collect();
    let picture = RgbImage::new(20, 12, pixels).unwrap();
    cli.write("in.png", image::encode(&picture, image::ImageFormat::Png, None).unwrap());
    cli
}

#[test]
fn a_picture_by_a_factor_or_to_a_size() {
    let cli = with_network();
    let source = open(&cli, "in.png");
    for (args, [w, h]) in [
        (&["--by", "3"][..], [60, 36]),
        (&["--to", "50x"], [50, 30]),
        (&["--to", "x30"], [50, 30]),
        (&["--to", "9x31"], [9, 31]),
        (&[], [40, 24]),
    ] {
        cli.stdout(["upscale", "in.png", "-o", "out.png", "--upscaler", "lanczos"].iter().chain(args));
        assert!(open(&cli, "out.png") == resize_lanczos(&source, w, h).unwrap(), "{args:?}");
    }
    // The scale of a network is its default.
    cli.stdout(["upscale", "in.png", "--upscaler", "net.pth"]);
    let four = open(&cli, "in-upscaled.png");
    assert_eq!((four.width(), four.height()), (80, 48));
    cli.stdout(["upscale", "in.png", "-o", "two.png", "--by", "2", "--upscaler", "net.pth"]);
    assert!(open(&cli, "two.png") == resize_lanczos(&four, 40, 24).unwrap());
    cli.stdout(["upscale", "in.png", "-o", "f32.png", "--upscaler", "net.pth", "--dtype", "f32"]);
    assert!(cli.read("f32.png") != cli.read("in-upscaled.png"), "the number format counts");
}

/// Its bytes are those of the file that it was embedded from, under `--dtype` too.
#[cfg(feature = "upscaler")]
#[test]
fn a_network_is_the_default() {
    let cli = with_network();
    cli.stdout(["upscale", "in.png"]);
    let made = open(&cli, "in-upscaled.png");
    assert_eq!((made.width(), made.height()), (80, 48));
    let file = fixture("../assets/upscaler/compact-x4.safetensors");
    cli.stdout(["upscale", "in.png", "-o", "file.png", "--upscaler", file.to_str().unwrap()]);
    cli.stdout(["upscale", "in.png", "-o", "name.png", "--upscaler", "Compact-x4", "--by", "4"]);
    assert!(open(&cli, "file.png") == made && open(&cli, "name.png") == made);
    cli.fox("fox.png", &["--upscale", "2"]);
    assert!(cli.stdout(["info", "fox.png"]).contains("upscaled    2 times by compact-x4\n"));
}

#[test]
fn what_is_printed() {
    let cli = with_network();
    snapshot!(cli.run(["upscale", "in.png", "-o", "out.png", "--upscaler", "net.pth", "-v", "--device", "cpu"]), @"
    exit code: 0
    ----- stderr -----
    upscaler net, device cpu, [SIMD], bf16
    upscale [TIME]
    upscaled by net, whole
    saved out.png (80x48, [TIME])
    ");
    let record: serde_json::Value =
        serde_json::from_str(&cli.stdout(["upscale", "in.png", "--upscaler", "net.pth", "--json"])).unwrap();
    let parts = (&record["path"], &record["width"], &record["upscaler"], &record["tiles"], &record["is_exact"]);
    assert_eq!(parts, (&"in-upscaled.png".into(), &80.into(), &"net".into(), &1.into(), &true.into()));
}

#[test]
fn flags_about_files_and_the_run_have_an_effect() {
    let cli = with_network();
    let upscale = |args: &[&str]| {
        let always = ["upscale", "in.png", "-o", "out.png", "--upscaler", "net.pth", "--device", "cpu"];
        cli.run(always.iter().chain(args))
    };
    assert!(upscale(&[]).contains("saved out.png"));
    assert_eq!(upscale(&["-q"]), "exit code: 0\n");
    let usual = cli.read("out.png");
    for threads in ["1", "2"] {
        let shown = upscale(&["-v", "--threads", threads]);
        assert!(shown.contains(&format!(", {threads} thread")), "{shown}");
        assert!(cli.read("out.png") == usual, "{threads} threads");
    }
    cli.write("out.png", "precious");
    let shown = upscale(&["--no-clobber"]);
    assert!(shown.starts_with("exit code: 2") && shown.contains("out.png exists"), "{shown}");
    let mut mode = fs::metadata(cli.path("out.png")).unwrap().permissions();
    mode.set_readonly(true);
    fs::set_permissions(cli.path("out.png"), mode).unwrap();
    let shown = upscale(&[]);
    assert!(shown.starts_with("exit code: 2") && shown.contains("out.png is read-only"), "{shown}");
    assert_eq!(cli.read("out.png"), b"precious");
    assert!(upscale(&["--force"]).starts_with("exit code: 0"));
    assert!(cli.read("out.png") == usual);
}

#[test]
fn a_format_that_is_only_read_becomes_a_png() {
    let cli = Cli::without_model();
    cli.write("a.GIF", fs::read(fixture("images/plain/palette.gif")).unwrap());
    cli.stdout(["upscale", "a.GIF", "--upscaler", "lanczos"]);
    cli.stdout(["upscale", "a.GIF", "-o", "large/", "--upscaler", "lanczos"]);
    assert_eq!(cli.files(), ["a-upscaled.png", "a.GIF", "large"]);
    assert!(open(&cli, "large/a.png").width() == 32 && cli.read("large/a.png") == cli.read("a-upscaled.png"));
    let shown = cli.run(["upscale", "a.GIF", "-o", "b.gif", "--upscaler", "lanczos"]);
    assert!(shown.starts_with("exit code: 2"), "{shown}");
}

/// The tiles of an SRVGGNetCompact are exact.
#[test]
fn a_limit_of_memory_makes_more_tiles_of_the_same_bytes() {
    let cli = with_network();
    let pixels = (0..600 * 400 * 3u32).map(|i| (i * 37 % 251) as u8).collect();
    let large = RgbImage::new(600, 400, pixels).unwrap();
    cli.write("large.png", image::encode(&large, image::ImageFormat::Png, None).unwrap());
    let tiles = |limit: &[&str]| {
        let args = ["upscale", "large.png", "-o", "out.png", "--upscaler", "net.pth", "--device", "cpu", "--json"];
        let record: serde_json::Value = serde_json::from_str(&cli.stdout(args.iter().chain(limit))).unwrap();
        (record["tiles"].as_u64().unwrap(), cli.read("out.png"))
    };
    let (few, usual) = tiles(&[]);
    let (many, limited) = tiles(&["--max-memory", "60MiB"]);
    assert!(many > few && limited == usual, "{few} and {many} tiles");
}

#[test]
fn several_pictures_go_to_a_folder() {
    let cli = with_network();
    cli.write("b.png", cli.read("in.png"));
    cli.stdout(["upscale", "in.png", "b.png", "-o", "large/", "--upscaler", "lanczos"]);
    assert_eq!(open(&cli, "large/in.png").width(), 40);
    assert_eq!(cli.read("large/in.png"), cli.read("large/b.png"));
    snapshot!(cli.run(["upscale", "in.png", "b.png", "-o", "one.png"]), @"
    exit code: 2
    ----- stderr -----
    error: 2 pictures and one output file
    hint: pass a folder with -o, ending in a slash if it is not there yet
    ");
    snapshot!(cli.run(["upscale", "in.png", "-o", "in.png"]), @"
    exit code: 2
    ----- stderr -----
    error: in.png is an input of this run and would be replaced
    hint: choose another name with -o
    ");
    snapshot!(cli.run(["upscale", "in.png", "large/in.png", "-o", "other/"]), @"
    exit code: 2
    ----- stderr -----
    error: in.png and large/in.png would both be other/in.png
    hint: enlarge them one by one, each with -o
    ");
}

#[test]
fn what_cannot_be_done_says_why() {
    let cli = with_network();
    for args in [
        &["nowhere.png"][..],
        &["in.png", "--upscaler", "nothing"],
        &["in.png", "--upscaler", "in.png"],
        &["in.png", "--by", "17"],
        &["in.png", "--to", "20000x"],
        &["in.png", "--by", "2", "--to", "9x"],
        &["in.png", "--dtype", "int8"],
        &["in.png", "-o", "out.gif"],
        &["in.png", "--upscaler", "net.pth", "--max-memory", "1MiB", "--device", "cpu"],
    ] {
        let output = cli.output(["upscale"].iter().chain(args));
        assert!(!output.status.success(), "{args:?}: {}", shown(&output));
    }
    snapshot!(cli.run(["upscale", "in.png", "--to", "20000x", "--upscaler", "lanczos"]), @"
    exit code: 2
    ----- stderr -----
    error: 20000x12000 is no size for an enlarged picture: at most 16384 pixels a side and 128000000 in all
    hint: ask for a smaller result
    ");
    let unknown = cli.run(["upscale", "in.png", "--upscaler", "nothing"]);
    let names = if cfg!(feature = "upscaler") { "lanczos, compact-x4, " } else { "lanczos, " };
    assert!(unknown.contains(&format!("no upscaler is called nothing\nhint: pass {names}")), "{unknown}");
    #[cfg(feature = "hub")]
    snapshot!(cli.run(["upscale", "in.png", "--upscaler", "realesrgan-x4plus"]), @"
    exit code: 3
    ----- stderr -----
    error: realesrgan-x4plus is not on this disk
    hint: run `dj-flux2 download realesrgan-x4plus`
    ");
}

#[test]
fn alpha_profile_and_orientation_are_kept() {
    let cli = Cli::without_model();
    for (name, copy) in [("rgba.png", "a.png"), ("adobe_rgb.png", "b.png"), ("orientation_6.jpg", "c.png")] {
        let bytes = fs::read(fixture(&format!("images/{name}"))).unwrap();
        let source = codec::decode_original(&bytes, name).unwrap();
        cli.write(name, &bytes);
        cli.stdout(["upscale", name, "-o", copy, "--by", "2", "--upscaler", "lanczos"]);
        let made = codec::decode_original(&cli.read(copy), copy).unwrap();
        let [w, h] = [source.image.width(), source.image.height()];
        assert!(made.image == resize_lanczos(&source.image, 2 * w, 2 * h).unwrap(), "{name}");
        assert_eq!(made.attached.profile, source.attached.profile, "{name}");
        assert_eq!(made.attached.alpha.is_some(), source.attached.alpha.is_some(), "{name}");
        if let (Some(alpha), Some(before)) = (made.attached.alpha, source.attached.alpha) {
            assert_eq!(alpha.len(), 4 * before.len());
            // In a flat region the channel is what it was.
            assert_eq!((alpha.iter().min(), alpha.iter().max()), (before.iter().min(), before.iter().max()));
        }
    }
}

#[test]
fn parameters_stay_with_how_it_was_enlarged() {
    let cli = with_network();
    cli.fox("fox.png", &[]);
    cli.stdout(["upscale", "fox.png", "-o", "large.png", "--to", "100x", "--upscaler", "net.pth"]);
    let info = cli.stdout(["info", "large.png"]);
    assert!(info.contains("prompt      a red fox\n") && info.contains("upscaled    to 100x by net\n"), "{info}");
    // The file of the network is recorded, and another one of its name noticed.
    let digest = flux2::digest::sha256(&cli.read("net.pth"));
    assert!(info.contains(&format!("upscaler    {digest}\n")), "{info}");
    cli.fox("two.png", &["--upscale", "2", "--upscaler", "net.pth"]);
    let again = ["--from", "two.png", "-o", "again.png", "--upscaler", "net.pth"];
    assert!(!cli.run(again).contains("warning:"));
    assert_eq!(cli.read("again.png"), cli.read("two.png"));
    cli.write("net.pth", fs::read(fixture("golden/upscale/rrdb_x4_first_names.pth")).unwrap());
    let shown = cli.run(again);
    assert!(shown.contains("warning: net is not the upscaler of that name that two.png was made with"), "{shown}");
    cli.fox("lanczos.png", &["--upscale", "2", "--upscaler", "lanczos"]);
    assert!(!cli.stdout(["info", "lanczos.png"]).contains("upscaler "));
    cli.stdout(["upscale", "fox.png", "-o", "bare.png", "--no-metadata"]);
    assert_eq!(cli.output(["info", "bare.png"]).status.code(), Some(6));
}

// ---- after drawing ----

#[test]
fn generate_enlarges_what_it_draws() {
    let cli = with_network();
    cli.fox("fox.png", &[]);
    cli.stdout(["upscale", "fox.png", "-o", "alone.png", "--by", "2", "--upscaler", "net.pth"]);
    cli.fox("large.png", &["--upscale", "2", "--upscaler", "net.pth"]);
    assert!(open(&cli, "large.png") == open(&cli, "alone.png"));
    let info = cli.stdout(["info", "large.png"]);
    assert!(info.contains("size        64x64\n") && info.contains("upscaled    2 times by net\n"), "{info}");
    // Of several pictures each, with their seconds in the record.
    let args = ["a red fox", "-n", "2", "--upscale", "3", "--upscaler", "lanczos", "--json", "-o", "many.png"];
    let records = cli.stdout(args.iter().chain(&QUICK));
    for line in records.lines() {
        let record: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!((&record["upscale"]["by"], &record["width"]), (&3.0.into(), &64.into()));
        assert!(record["timings"]["upscale"].as_f64() > Some(0.0));
    }
    assert_eq!([open(&cli, "many-1.png").width(), open(&cli, "many-2.png").width()], [192, 192]);
}

#[test]
fn a_picture_that_was_enlarged_is_made_again() {
    let cli = with_network();
    let first = cli.fox("large.png", &["--upscale", "2", "--upscaler", "lanczos"]);
    cli.stdout(["--from", "large.png", "-o", "again.png"]);
    assert!(cli.read("again.png") == first);
    cli.stdout(["--from", "large.png", "-o", "plain.png", "--upscale", "1"]);
    assert_eq!(open(&cli, "plain.png").width(), 64);
    cli.stdout(["--from", "large.png", "-o", "net.png", "--upscaler", "net.pth"]);
    assert!(cli.stdout(["info", "net.png"]).contains("upscaled    2 times by net\n"));
    snapshot!(cli.run(["a fox", "--upscaler", "lanczos"]), @"
    exit code: 2
    ----- stderr -----
    error: --upscaler says with what pictures are enlarged, and nothing says how far
    hint: add --upscale 2 or --upscale 4, or use `dj-flux2 upscale` for a picture that is there
    ");
}

#[test]
fn a_plan_counts_it() {
    let cli = with_network();
    let peak = |args: &[&str]| {
        let plan = cli.stdout(["plan", "a fox", "--json", "--device", "cpu"].iter().chain(&QUICK).chain(args));
        let plan: serde_json::Value = serde_json::from_str(&plan).unwrap();
        plan["stages"].as_array().unwrap().iter().any(|stage| stage["stage"] == "upscale")
    };
    assert!(!peak(&[]) && peak(&["--upscale", "4", "--upscaler", "net.pth"]));
}

#[test]
fn inspect_knows_an_upscaler() {
    let cli = with_network();
    snapshot!(cli.run(["inspect", "net.pth"]), @"
    exit code: 0
    ----- stdout -----
    net.pth
      what        upscaler, 4x
      container   pth
      tensors     22 kB: f32 22 kB in 14
      sizes       SRVGGNetCompact 4x, 3 convolutions, 8 channels
      parameters  0.01 million
    ");
    cli.write("old.pth", fs::read(fixture("golden/pth/legacy.pth")).unwrap());
    snapshot!(cli.run(["inspect", "old.pth"]), @"
    exit code: 1
    ----- stderr -----
    error: old.pth: a PyTorch file in an old format, that of PyTorch before version 1.6, which is not read
    hint: load it in Python with torch.load(path, weights_only=True) and save its tensors as safetensors
    ");
}
