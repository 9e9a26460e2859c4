//! `bench`: that it measures what it says and says it as promised; never how fast anything is.

use crate::cli::Cli;
use crate::snapshot;

/// The quickest there is.
const OPS: [&str; 5] = ["bench", "ops", "--filter", "rms_norm", "--threads=1"];
const GENERATE: [&str; 8] = ["bench", "generate", "-W", "64", "-H", "64", "--steps", "2"];

/// The keys of a line of JSON, in order.
fn keys(line: &str) -> Vec<String> {
    serde_json::from_str::<serde_json::Map<_, _>>(line).unwrap().keys().cloned().collect()
}

fn value(line: &str) -> serde_json::Value {
    serde_json::from_str(line).unwrap()
}

fn run<'a>(command: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    [command, more].concat()
}

#[test]
fn ops_are_lines_of_json_with_these_fields() {
    let stdout = Cli::without_model().stdout(run(&OPS, &["--json", "--dtype", "f32"]));
    let [line] = stdout.lines().collect::<Vec<_>>()[..] else { panic!("{stdout}") };
    assert_eq!(keys(line), ["op", "dtype", "shape", "threads", "median_ms", "gflops", "percent_of_peak"]);
    let value = value(line);
    assert_eq!((&value["op"], &value["dtype"], &value["threads"]), (&"rms_norm".into(), &"f32".into(), &1.into()));
    assert_eq!(value["shape"], serde_json::json!([512, 2560]));
    let [ms, gflops, percent] = ["median_ms", "gflops", "percent_of_peak"].map(|key| value[key].as_f64().unwrap());
    assert!(ms > 0.0 && percent > 0.0, "{line}");
    // The number of operations of this op is known.
    assert!((gflops * ms * 1e6 / (4.0 * 512.0 * 2560.0) - 1.0).abs() < 0.02, "{line}");
}

#[test]
fn ops_are_a_table_for_people() {
    let stdout = Cli::without_model().stdout(run(&OPS, &[]));
    let lines: Vec<&str> = stdout.lines().collect();
    assert!(lines[0].starts_with("device  cpu, ") && lines[1].starts_with("peak    products "), "{stdout}");
    let row: Vec<&str> = lines[4].split_whitespace().collect();
    assert_eq!((lines.len(), row[0], row[1], row[5], row[6]), (5, "rms_norm", "512x2560", "%", "memory"), "{stdout}");
}

#[test]
fn a_picture_is_a_line_of_json_with_these_fields() {
    let cli = Cli::with_tiny_model();
    let stdout = cli.stdout(run(&GENERATE, &["--json", "--threads", "2"]));
    let [line] = stdout.lines().collect::<Vec<_>>()[..] else { panic!("{stdout}") };
    assert_eq!(
        keys(line),
        [
            "model",
            "dtype",
            "width",
            "height",
            "steps",
            "load_s",
            "text_s",
            "reference_s",
            "step_s",
            "idle_s",
            "decode_s",
            "total_s",
            "peak_rss_bytes",
            "gflops",
            "percent_of_roofline",
            "step_percent_of_roofline",
            "joules",
            "batch",
            "s_per_picture",
            "pictures_per_s"
        ]
    );
    let value = value(line);
    assert_eq!((&value["model"], &value["dtype"]), (&"klein".into(), &"bf16".into()));
    assert_eq!([&value["width"], &value["height"], &value["steps"]], [64, 64, 2]);
    let seconds = |key: &str| value[key].as_f64().unwrap();
    let steps: Vec<f64> = value["step_s"].as_array().unwrap().iter().map(|s| s.as_f64().unwrap()).collect();
    assert_eq!((steps.len(), seconds("reference_s")), (2, 0.0));
    let stages = seconds("load_s") + seconds("text_s") + steps.iter().sum::<f64>() + seconds("decode_s");
    assert!(stages > 0.0 && stages < seconds("total_s"), "{line}");
    assert!(seconds("gflops") > 0.0, "{line}");
    if cfg!(target_os = "linux") {
        assert!(value["peak_rss_bytes"].as_u64().unwrap() > 1 << 20, "{line}");
    }
    // No file is written.
    assert_eq!(cli.files(), [""; 0]);
}

#[test]
fn random_weights_need_no_files() {
    let cli = Cli::without_model();
    let stdout = cli.stdout(run(&GENERATE, &["--synthetic", "klein-mini", "--warmup=1", "--runs=2", "--json"]));
    let value = value(&stdout);
    assert_eq!(value["model"], "synthetic klein-mini");
    assert_eq!(value["step_s"].as_array().unwrap().len(), 2);
    assert_eq!(cli.files(), [""; 0]);
}

#[test]
fn pictures_of_a_batch_are_counted_each() {
    let cli = Cli::with_tiny_model();
    for batching in ["same-bytes", "fast"] {
        let more = ["--json", "--resident", "--batch", "3", "--batching", batching, "--warmup=1"];
        let value = value(&cli.stdout(run(&GENERATE, &more)));
        let number = |key: &str| value[key].as_f64().unwrap();
        assert_eq!((number("batch"), value["step_s"].as_array().unwrap().len()), (3.0, 2));
        let working = number("total_s") - number("load_s");
        assert!((number("s_per_picture") * 3.0 - working).abs() < 1e-5, "{value}");
        assert!((number("pictures_per_s") * number("s_per_picture") - 1.0).abs() < 1e-2, "{value}");
    }
    let stdout = cli.stdout(run(&GENERATE, &["--batch", "2", "-q"]));
    assert!(stdout.contains(", 2 steps, 2 pictures together") && stdout.contains("\n2 pictures: "), "{stdout}");
}

#[test]
fn a_reference_is_a_stage() {
    let cli = Cli::with_tiny_model();
    cli.fox("fox.png", &[]);
    let stdout = cli.stdout(run(&GENERATE, &["-i", "fox.png", "--json"]));
    assert!(value(&stdout)["reference_s"].as_f64().unwrap() > 0.0, "{stdout}");
    let stdout = cli.stdout(run(&GENERATE, &["-i", "fox.png", "-q"]));
    let stages: Vec<&str> = stdout.lines().filter_map(|line| line.split("  ").next()).collect();
    for stage in ["load", "text", "references", "step (mean)", "decode", "without load", "total"] {
        assert!(stages.contains(&stage), "{stage}: {stdout}");
    }
}

#[test]
fn runs_are_shown_side_by_side() {
    let cli = Cli::with_tiny_model();
    let ops = cli.stdout(run(&OPS, &["--json"]));
    let picture = cli.stdout(run(&GENERATE, &["--json"]));
    cli.write("ops.json", &ops);
    cli.write("picture.json", &picture);

    let stdout = cli.stdout(run(&OPS, &["--compare", "ops.json"]));
    let row = stdout.lines().last().unwrap();
    assert!(stdout.contains("earlier ms") && row.ends_with('x'), "{stdout}");
    // A different dtype is pointed out.
    let stdout = cli.stdout(run(&OPS, &["--compare", "ops.json", "--dtype", "f32"]));
    assert!(stdout.lines().last().unwrap().ends_with("(earlier: bf16, threads 1)"), "{stdout}");

    let stdout = cli.stdout(run(&GENERATE, &["--compare", "picture.json", "-q"]));
    let row = stdout.lines().find(|line| line.starts_with("without load")).unwrap();
    assert!(stdout.contains("earlier: klein, bf16, 64x64, 2 steps") && row.ends_with('x'), "{stdout}");

    // With --json, the table is on standard error.
    let output = cli.output(run(&OPS, &["--compare", "ops.json", "--json"]));
    assert_eq!(keys(std::str::from_utf8(&output.stdout).unwrap()), keys(&ops));
    assert!(String::from_utf8(output.stderr).unwrap().contains("earlier ms"));
}

#[test]
fn a_file_of_something_else_is_refused_before_anything_is_measured() {
    let cli = Cli::with_tiny_model();
    cli.write("picture.json", cli.stdout(run(&GENERATE, &["--json"])));
    cli.write("empty.json", "\n");
    cli.write("notes.txt", "fast\n");
    cli.write("bytes.json", [0xff, 0xfe]);
    snapshot!(cli.run(run(&OPS, &["--compare", "picture.json"])), @"
    exit code: 2
    ----- stderr -----
    error: picture.json holds results of `bench generate`, not of `bench ops`
    hint: pass what `dj-flux2 bench ops --json` printed
    ");
    snapshot!(cli.run(run(&GENERATE, &["--compare", "notes.txt"])), @"
    exit code: 2
    ----- stderr -----
    error: notes.txt, line 1: not a result of `bench generate`
    hint: pass what `dj-flux2 bench generate --json` printed
    ");
    snapshot!(cli.run(run(&OPS, &["--compare", "empty.json"])), @"
    exit code: 2
    ----- stderr -----
    error: empty.json is empty
    hint: pass what `dj-flux2 bench ops --json` printed
    ");
    snapshot!(cli.run(run(&OPS, &["--compare", "bytes.json"])), @"
    exit code: 2
    ----- stderr -----
    error: bytes.json holds no results of `bench ops`
    hint: pass what `dj-flux2 bench ops --json` printed
    ");
    snapshot!(cli.run(run(&OPS, &["--compare", "nowhere.json"])), @"
    exit code: 1
    ----- stderr -----
    error: nowhere.json: No such file or directory (os error 2)
    hint: correct the path
    ");
}

#[test]
fn what_cannot_be_measured_is_said() {
    let cli = Cli::without_model();
    snapshot!(cli.run(["bench", "ops", "--filter", "matmul"]), @r#"
    exit code: 2
    ----- stderr -----
    error: no op or shape contains "matmul"
    hint: leave --filter out to list all ops, as in `linear 1536x3072x9216`
    "#);
    snapshot!(cli.run(["bench", "generate"]), @"
    exit code: 3
    ----- stderr -----
    error: no model is named
    hint: pass -m PATH with the folder of a model, or --synthetic klein-4b for random weights of its size
    ");
    snapshot!(cli.run(["bench", "generate", "--synthetic", "klein"]), @"
    exit code: 2
    ----- stderr -----
    error: klein has no sizes of its own
    hint: use one of klein-4b, klein-base-4b, klein-9b, klein-base-9b, klein-9b-kv, klein-mini
    ");
    snapshot!(cli.run(["bench", "generate", "--synthetic", "klien-4b"]), @"
    exit code: 2
    ----- stderr -----
    error: unknown variant `klien-4b`
    hint: use klein-4b
    ");
    snapshot!(cli.run(["bench", "generate", "--synthetic", "klein-mini", "-W", "100"]), @"
    exit code: 2
    ----- stderr -----
    error: width 100 is not a multiple of 16
    hint: use --width 96 or --width 112
    ");
    snapshot!(cli.run(["bench", "generate", "-m", "x", "--synthetic", "klein-mini"]), @"
    exit code: 2
    ----- stderr -----
    error: the argument '--model <PATH>' cannot be used with '--synthetic <NAME>'
    hint: run it with --help to see what it takes
    ");
    snapshot!(cli.run(["bench", "generate", "-m", "nowhere"]), @"
    exit code: 3
    ----- stderr -----
    error: no model at nowhere
    hint: pass --model with the folder of a FLUX.2 [klein] model or its transformer as a file
    ");
}
