//! What is made and what is said while it is.

use flux2::image::{self, ImageFormat};

use crate::cli::{Cli, QUICK, shown};
use crate::snapshot;

#[test]
fn a_picture() {
    let cli = Cli::with_tiny_model();
    snapshot!(cli.run(["a red fox", "-W", "64", "-H", "64", "-S", "42"]), @"
    exit code: 0
    ----- stdout -----
    output.png
    ----- stderr -----
    saved output.png (seed 42, [TIME])
    ");
    let picture = image::open(&cli.path("output.png")).unwrap();
    assert_eq!((picture.width(), picture.height()), (64, 64));
    assert_eq!(cli.files(), ["output.png"]);
}

#[test]
fn verbose_names_model_device_and_stages() {
    let cli = Cli::with_tiny_model();
    snapshot!(cli.run(["generate", "a red fox", "-v", "-o", "fox.webp"].iter().chain(&QUICK)), @r"
    exit code: 0
    ----- stdout -----
    fox.webp
    ----- stderr -----
    model klein, variant klein (custom size)
    device cpu, [SIMD], bf16
    load text encoder [TIME]
    text [TIME]
    load transformer [TIME]
    step 1/1 [TIME]
    denoise [TIME]
    load VAE [TIME]
    decode [TIME]
    ran 233 linear of bf16 weights in [KERNEL]
    ran 33 attention in [KERNEL]
    ran 37 conv2d of bf16 weights in [KERNEL]
    saved fox.webp (seed 7, [TIME])
    ");
}

#[test]
fn quiet_says_nothing_but_the_result() {
    let cli = Cli::with_tiny_model();
    snapshot!(cli.run(["a red fox", "-q", "-g", "3", "-o", "fox.jpg"].iter().chain(&QUICK)), @"
    exit code: 0
    ----- stdout -----
    fox.jpg
    ");
}

#[test]
fn a_random_seed_is_printed_even_when_quiet() {
    let cli = Cli::with_tiny_model();
    let made = |name: &str| {
        let output = cli.output(["a red fox", "-q", "--size", "64x64", "-s", "1", "-o", name]);
        let said = String::from_utf8(output.stderr).unwrap();
        said.trim_end().strip_prefix("seed ").unwrap_or_else(|| panic!("{said}")).to_owned()
    };
    let (first, second) = (made("first.png"), made("second.png"));
    assert_ne!(first, second);
    assert_eq!(cli.fox("again.png", &["-S", &first]), cli.read("first.png"));
    assert!(first.parse::<u64>().unwrap() < 1 << 53, "JSON readers with floating-point numbers would change it");
}

#[test]
fn a_seed_of_minus_one_is_random() {
    let cli = Cli::with_tiny_model();
    let seed = |args: &[&str]| {
        let lines = cli.stdout(["a red fox", "--json", "--size", "64x64", "-s1"].iter().chain(args));
        serde_json::from_str::<serde_json::Value>(&lines).unwrap()["seed"].as_u64().unwrap()
    };
    assert_ne!(seed(&["--seed", "-1"]), seed(&["-S-1"]));
    // It is a choice, so that it replaces what a picture stores.
    cli.fox("fox.png", &["-S", "7"]);
    assert_eq!(seed(&["--from", "fox.png"]), 7);
    assert_ne!(seed(&["--from", "fox.png", "-S", "-1"]), 7);
}

#[test]
fn the_default_size_is_512() {
    let cli = Cli::with_tiny_model();
    cli.stdout(["a red fox", "-s", "1", "-S", "1"]);
    let picture = image::open(&cli.path("output.png")).unwrap();
    assert_eq!((picture.width(), picture.height()), (512, 512));
}

#[test]
fn the_size_is_that_of_the_first_prepared_reference() {
    let cli = Cli::with_tiny_model();
    cli.fox("fox.png", &["-W", "96"]);
    cli.fox("hare.png", &[]);
    let size = |args: &[&str]| {
        cli.stdout(["make it blue", "-s", "1", "-o", "output.png"].iter().chain(args));
        let picture = image::open(&cli.path("output.png")).unwrap();
        (picture.width(), picture.height())
    };
    assert_eq!(size(&["-i", "fox.png", "-i", "hare.png"]), (96, 64));
    assert_eq!(size(&["--image", "hare.png", "--ref-image", "fox.png"]), (64, 64));
    assert_eq!(size(&["-i", "fox.png", "--size", "128x80"]), (128, 80));
}

#[test]
fn references_change_the_picture() {
    let cli = Cli::with_tiny_model();
    let fox = cli.fox("fox.png", &["--no-metadata"]);
    cli.fox("hare.png", &["-S", "8"]);
    let of_fox = cli.fox("1.png", &["-i", "fox.png", "--no-metadata"]);
    let of_both = cli.fox("2.png", &["-i", "fox.png", "-i", "hare.png", "--no-metadata"]);
    assert_ne!(fox, of_fox);
    assert_ne!(of_fox, of_both);
}

#[test]
fn thread_counts_do_not_change_a_byte() {
    let cli = Cli::with_tiny_model();
    for dtype in ["f32", "bf16"] {
        let [one, two] = ["1", "2"].map(|threads| cli.fox("fox.png", &["--dtype", dtype, "--threads", threads]));
        assert_eq!(one, two, "{dtype}");
    }
}

#[test]
fn dtype_and_noise_change_the_picture() {
    let cli = Cli::with_tiny_model();
    let pixels = |args: &[&str]| cli.fox("fox.png", &[&["--no-metadata", "-s", "4"], args].concat());
    // For small pictures, PyTorch's noise on a GPU is that of philox.
    let [f32, bf16, torch_cpu, torch_cuda] =
        [&["--dtype", "f32"][..], &[], &["--noise", "torch-cpu"], &["--noise", "torch-cuda:46x1536"]].map(pixels);
    assert!(f32 != bf16 && bf16 != torch_cpu);
    assert_eq!(bf16, torch_cuda);
}

#[test]
fn several_pictures_have_the_next_seeds() {
    let cli = Cli::with_tiny_model();
    snapshot!(cli.run(["a red fox", "-n", "2", "-o", "{seed}-{index}.png"].iter().chain(&QUICK)), @"
    exit code: 0
    ----- stdout -----
    7-1.png
    8-2.png
    ----- stderr -----
    saved 7-1.png (1 of 2, seed 7, [TIME] for 2 together)
    saved 8-2.png (2 of 2, seed 8, [TIME] for 2 together)
    ");
    assert_eq!(cli.files(), ["7-1.png", "8-2.png"]);
    assert_eq!(cli.fox("alone.png", &["-S", "8"]), cli.read("8-2.png"));
}

#[test]
fn pictures_of_a_run_are_drawn_together_and_are_those_of_single_runs() {
    let cli = Cli::with_tiny_model();
    cli.write("prompts.txt", "a red fox\na blue hare\n");
    let records = |args: &[&str]| -> Vec<serde_json::Value> {
        let lines = cli.stdout(args.iter().chain(&["--json", "-q", "-o", "{seed}.png"]).chain(&QUICK));
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let batches = |records: &[serde_json::Value]| -> Vec<u64> {
        records.iter().map(|record| record["batch"].as_u64().unwrap()).collect()
    };
    let together = records(&["generate", "a red fox", "-n", "4"]);
    assert_eq!(batches(&together), [4; 4]);
    let files = |seeds: std::ops::Range<u64>| seeds.map(|seed| cli.read(&format!("{seed}.png"))).collect::<Vec<_>>();
    let made = files(7..11);
    for (seed, made) in (7..).zip(&made) {
        assert!(cli.fox("alone.png", &["-S", &seed.to_string()]) == *made, "seed {seed}");
    }
    // Within a memory limit too.
    assert_eq!(batches(&records(&["generate", "a red fox", "-n", "4", "--max-memory", "1GiB"])), [4; 4]);
    assert!(files(7..11) == made);
    // Other prompts, in one pass.
    let prompts = records(&["generate", "--prompt-file", "prompts.txt", "-n", "2"]);
    assert_eq!(batches(&prompts), [4; 4]);
    let first: Vec<&str> = prompts.iter().map(|record| record["prompt"].as_str().unwrap()).collect();
    assert_eq!(first, ["a red fox", "a red fox", "a blue hare", "a blue hare"]);
    assert!(files(7..9) == made[..2] && files(9..11) != made[2..]);
}

#[test]
fn stages_that_pictures_share_are_told_once() {
    let cli = Cli::with_tiny_model();
    let said = cli.run(["generate", "a red fox", "-v", "-n", "3"].iter().chain(&QUICK));
    let count = |line: &str| said.lines().filter(|said| said.starts_with(line)).count();
    assert_eq!((count("step 1/1 "), count("denoise "), count("decode "), count("saved ")), (1, 1, 3, 3), "{said}");
    assert!(said.contains(" for 3 together)"), "{said}");
}

#[test]
fn several_pictures_in_one_name_are_numbered() {
    let cli = Cli::with_tiny_model();
    assert_eq!(cli.stdout(["a red fox", "-n", "2"].iter().chain(&QUICK)), "output-1.png\noutput-2.png\n");
    assert_eq!(cli.files(), ["output-1.png", "output-2.png"]);
}

#[test]
fn a_picture_on_standard_output() {
    let cli = Cli::with_tiny_model();
    let output = cli.output(["a red fox", "-o", "-"].iter().chain(&QUICK));
    assert!(output.status.success(), "{}", shown(&output));
    assert_eq!(ImageFormat::of(&output.stdout), Some(ImageFormat::Png));
    assert_eq!(cli.files(), [""; 0]);
    assert_eq!(cli.fox("fox.png", &[]), output.stdout);
    snapshot!(String::from_utf8(output.stderr).unwrap(), @"saved to standard output (seed 7, [TIME])");
}

#[test]
fn a_reader_that_has_gone_does_not_stop_the_pictures() {
    let cli = Cli::with_tiny_model();
    let mut command = cli.command(["a red fox", "-n", "2", "-q"].iter().chain(&QUICK));
    let mut child = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert!(child.wait().unwrap().success());
    assert_eq!(cli.files(), ["output-1.png", "output-2.png"]);
}

#[test]
fn json_is_one_object_a_picture() {
    let cli = Cli::with_tiny_model();
    cli.fox("ref.png", &[]);
    let args = ["a red fox", "--json", "-n", "2", "-i", "ref.png"];
    let lines = cli.stdout(args.iter().chain(&QUICK));
    let records: Vec<serde_json::Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(records.len(), 2);
    let fields = |value: &serde_json::Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" ");
    snapshot!(fields(&records[0]), @"path index prompt seed noise model variant dtype steps width height references software version device batch timings kernels rescues");
    snapshot!(fields(&records[0]["timings"]), @"text references steps decode total");
    for (i, record) in records.iter().enumerate() {
        assert_eq!(record["path"], format!("output-{}.png", i + 1));
        assert_eq!(record["index"], i + 1);
        assert_eq!(record["seed"], i + 7);
        assert_eq!(record["references"].as_array().unwrap().len(), 1);
        let timings = &record["timings"];
        assert_eq!(timings["steps"].as_array().unwrap().len(), 1);
        assert!(timings["total"].as_f64().unwrap() >= timings["decode"].as_f64().unwrap());
    }
}

#[test]
fn guidance_on_a_distilled_model_is_warned_of_once() {
    let cli = Cli::with_tiny_model();
    snapshot!(cli.run(["a red fox", "-g", "3", "-n", "2"].iter().chain(&QUICK)), @"
    exit code: 0
    ----- stdout -----
    output-1.png
    output-2.png
    ----- stderr -----
    warning: guidance 3 has no effect: klein (custom size) is distilled and runs without guidance
    saved output-1.png (1 of 2, seed 7, [TIME] for 2 together)
    saved output-2.png (2 of 2, seed 8, [TIME] for 2 together)
    ");
    let without = cli.fox("without.png", &[]);
    assert_eq!(cli.fox("with.png", &["-g", "3"]), without);
}

#[test]
fn a_seed_given_as_steps_is_pointed_out() {
    let cli = Cli::with_tiny_model();
    let output = cli.output(["a red fox", "--size", "64x64", "-s", "42", "-S", "1"]);
    snapshot!(String::from_utf8(output.stderr).unwrap().lines().next().unwrap(), @"warning: 42 steps on a model made for 4; if you meant the seed, use -S 42");
}

#[test]
fn without_a_terminal_there_is_no_color_and_no_bar() {
    let cli = Cli::with_tiny_model();
    let output = cli.output(["a red fox", "-g", "3", "-n", "2"].iter().chain(&QUICK));
    assert!(!output.stderr.contains(&0x1b) && !output.stderr.contains(&b'\r'));
}

#[test]
fn a_run_says_which_kernels_and_weights_it_multiplied() {
    let cli = Cli::with_tiny_model();
    let said = |args: &[&str]| {
        let line = cli.stdout(["a red fox", "--json"].iter().chain(&QUICK).chain(args));
        let record: serde_json::Value = serde_json::from_str(&line).unwrap();
        let text = |kernel: &serde_json::Value, key: &str| kernel[key].as_str().unwrap_or_default().to_owned();
        let kernels = record["kernels"].as_array().unwrap().iter();
        kernels.map(|k| (text(k, "op"), text(k, "weights"), text(k, "kernel"))).collect::<Vec<_>>()
    };
    let has =
        |said: &[(String, String, String)], weights: &str| said.iter().any(|(op, w, _)| op == "linear" && w == weights);
    let int8 = said(&["--dtype", "int8"]);
    assert!(has(&int8, "i8") && int8.iter().any(|(_, _, kernel)| kernel.ends_with(" int8")), "{int8:?}");
    let q8_0 = said(&["--quantize", "q8_0"]);
    assert!(has(&q8_0, "q8_0") && !has(&q8_0, "i8"), "{q8_0:?}");
    let f32 = said(&["--dtype", "f32"]);
    assert!(f32.iter().all(|(_, _, kernel)| kernel.ends_with(" f32")), "{f32:?}");
    let verbose = cli.run(["a red fox", "-v"].iter().chain(&QUICK));
    assert!(verbose.contains("linear of bf16 weights in "), "{verbose}");
}
