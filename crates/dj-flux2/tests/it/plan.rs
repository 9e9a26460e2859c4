//! `plan` and `--max-memory`.

use crate::cli::Cli;
use crate::snapshot;

#[test]
fn a_plan_lists_the_stages_and_makes_no_picture() {
    let cli = Cli::with_tiny_model();
    let shown = cli.run(["plan", "--json", "-W", "64", "-H", "96", "--threads", "2"]);
    let json = shown.lines().find(|line| line.starts_with('{')).unwrap_or_else(|| panic!("{shown}"));
    let plan: serde_json::Value = serde_json::from_str(json).unwrap();
    let stages: Vec<&str> = plan["stages"].as_array().unwrap().iter().map(|s| s["stage"].as_str().unwrap()).collect();
    assert_eq!(stages, ["text", "denoise", "decode"]);
    assert_eq!((&plan["width"], &plan["height"], &plan["dtype"]), (&64.into(), &96.into(), &"bf16".into()));
    let [peak, least] = ["peak_bytes", "least_bytes"].map(|key| plan[key].as_u64().unwrap());
    assert!(least < peak && least > plan["program_bytes"].as_u64().unwrap(), "{plan}");
    assert_eq!(cli.files(), [""; 0]);
}

#[test]
fn any_command_line_of_generate_can_be_planned() {
    let cli = Cli::with_tiny_model();
    let line = ["a red fox", "-W", "64", "-H", "64", "-n", "3", "-s", "1", "-S", "7", "-o", "fox.png"];
    let shown = cli.stdout(["plan"].iter().chain(&line));
    assert!(shown.starts_with("klein, 64x64, bf16, on cpu, networks kept for the next picture\n"), "{shown}");
    assert_eq!(cli.files(), [""; 0]);
}

#[test]
fn what_does_not_fit_is_refused_before_any_work() {
    let cli = Cli::with_tiny_model();
    let shown = cli.run(["a red fox", "--max-memory", "20MiB"]);
    // Scratch memory depends on the processor.
    let (before, needed) = shown.split_once("at least ").unwrap_or_else(|| panic!("{shown}"));
    let (needed, behind) = needed.split_once(" MiB").unwrap_or_else(|| panic!("{shown}"));
    assert!((60..95).contains(&needed.parse::<u32>().unwrap()), "{shown}");
    snapshot!(format!("{before}at least N MiB{behind}"), @r"
    exit code: 5
    ----- stderr -----
    error: this run needs at least N MiB of memory (decode), and may take 20 MiB
    hint: ask for a smaller picture or fewer reference images, or allow more memory
    ");
    assert_eq!(cli.files(), [""; 0]);
    snapshot!(cli.run(["a red fox", "--max-memory", "much"]), @r"
    exit code: 2
    ----- stderr -----
    error: invalid value 'much' for '--max-memory <SIZE>': the unit is KiB, MiB, GiB, KB, MB or GB, as in 6GiB
    hint: run it with --help to see what it takes
    ");
}

#[test]
fn a_run_says_how_it_keeps_to_its_limit() {
    let cli = Cli::with_tiny_model();
    let shown = cli.run(["a red fox", "-W", "64", "-H", "64", "-S", "1", "-v", "--max-memory", "8GiB"]);
    assert!(shown.contains("memory: at most") && shown.contains("one network at a time"), "{shown}");
    assert_eq!(cli.files(), ["output.png"]);
}

#[test]
fn a_limit_without_a_unit_is_asked_for_one() {
    let cli = Cli::with_tiny_model();
    snapshot!(cli.run(["a red fox", "--max-memory", "3"]), @"
    exit code: 2
    ----- stderr -----
    error: invalid value '3' for '--max-memory <SIZE>': the number needs a unit, as in 6GiB, 800MB or 1000000B
    hint: run it with --help to see what it takes
    ");
}

#[test]
fn a_plan_does_not_offer_a_limit_that_saves_nothing() {
    let cli = Cli::with_tiny_model();
    let lines =
        |args: &[&str]| -> Vec<String> { cli.stdout(["plan"].iter().chain(args)).lines().map(str::to_owned).collect() };
    // The decoder takes most, and no weights are kept for it.
    let alone = lines(&["--size", "512x512"]);
    assert_eq!(alone[alone.len() - 2], "no --max-memory is smaller: this is the least that these pictures take");
    // Networks kept for the next picture can be given up.
    let several = lines(&["-m", "klein-mini", "--size", "64x64", "-n", "2"]);
    let [at_most, last] = [several.len() - 3, several.len() - 2].map(|at| several[at].as_str());
    let number = |line: &str, before: &str| -> u32 {
        let rest = line.split_once(before).unwrap_or_else(|| panic!("{several:?}")).1;
        rest.split(' ').next().unwrap().parse().unwrap()
    };
    assert!(number(last, "the smallest --max-memory is ") < number(at_most, "at most "), "{several:?}");
}

#[test]
fn a_model_that_is_not_here_yet_is_planned_with_its_download() {
    let cli = Cli::without_model();
    let line = ["plan", "-m", "klein-4b", "--size", "256x256", "--device", "cpu"];
    let planned = |args: &[&str]| {
        let output = cli.command(line.iter().chain(args)).env("HF_HUB_CACHE", cli.path("models")).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let shown = planned(&[]);
    assert!(shown.starts_with("klein-4b, 256x256, bf16, on cpu, one network at a time\n"), "{shown}");
    let [get, disk, time] = shown.lines().rev().take(3).collect::<Vec<_>>()[..] else { panic!("{shown}") };
    assert!(time.starts_with("about ") && time.contains(" a picture once the model is loaded"), "{shown}");
    assert!(disk.starts_with("klein-4b is not on this disk, where ") && disk.ends_with(" are free"), "{shown}");
    assert_eq!(get, "download it (16.0 GB) with `dj-flux2 download klein-4b`, or pass its folder with -m PATH");
    let json = planned(&["--json"]);
    let plan: serde_json::Value = serde_json::from_str(json.trim()).unwrap();
    assert_eq!(plan["download_bytes"], 16_000_000_000u64);
    assert!(plan["free_bytes"].as_u64().unwrap() > 0 && plan["seconds"].as_f64().unwrap() > 0.0, "{plan}");
    // Without them there are 7 GiB of weights.
    assert!((7 << 30..9 << 30).contains(&plan["peak_bytes"].as_u64().unwrap()), "{plan}");
    assert_eq!(cli.files(), [""; 0]);
}

#[test]
fn what_plan_names_as_the_smallest_limit_is_kept() {
    let cli = Cli::with_tiny_model();
    let line = ["plan", "-m", "klein-mini", "--size", "64x64", "-n", "2"];
    let shown = cli.stdout(line);
    let limit = shown.split_once("the smallest --max-memory is ").unwrap().1.split_once(':').unwrap().0;
    let limit = limit.replace(' ', "");
    // It is rounded up, so that with it a few weights may be kept: the exact one is in the JSON.
    cli.stdout(line.iter().copied().chain(["--max-memory", &limit]));
    let planned = |limit: Option<u64>| {
        let limit = limit.map(|bytes| format!("--max-memory={bytes}B"));
        let output = cli.command(line.iter().copied().chain(["--json"]).chain(limit.as_deref())).output().unwrap();
        (output.status.code(), serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap_or_default())
    };
    let least = planned(None).1["least_bytes"].as_u64().unwrap();
    let (code, plan) = planned(Some(least));
    assert_eq!((code, plan["peak_bytes"].as_u64()), (Some(0), Some(least)));
    assert_eq!(planned(Some(least - 1)).0, Some(5));
}

#[test]
fn a_reference_that_takes_too_much_is_refused_before_it_is_decoded() {
    let cli = Cli::with_tiny_model();
    let picture = crate::cli::fixture("images/large_progressive.jpg");
    let line = ["a red fox", "-i", picture.to_str().unwrap(), "--device", "cpu", "--size", "64x64", "--max-memory"];
    let shown = cli.run(line.iter().chain(&["60MiB"]));
    assert!(shown.starts_with("exit code: 5") && shown.contains("large_progressive.jpg: this run needs"), "{shown}");
    assert_eq!(cli.files(), [""; 0]);
    let shown = cli.run(line.iter().chain(&["400MiB", "-n", "17", "--steps", "1", "-o", "fox.png"]));
    assert!(shown.starts_with("exit code: 0"), "{shown}");
    let plan = cli.stdout(["plan"].iter().chain(&line).chain(&["400MiB", "-n", "17"]));
    let references = plan.lines().find(|line| line.starts_with("references")).unwrap_or_else(|| panic!("{plan}"));
    // Samples and coefficients of three components, two of them at half the size.
    assert!(references.split_whitespace().nth(1).unwrap().parse::<u32>().unwrap() >= (3 * 3000 * 2000 * 3 / 2) >> 20);
}

/// Where there is a GPU that computes in fp8, there is nothing to refuse.
#[test]
fn fp8_without_a_gpu_says_that_there_is_none() {
    let cli = Cli::with_tiny_model();
    let shown = cli.run(["a red fox", "--dtype", "fp8"].iter().chain(&crate::cli::QUICK));
    assert!(shown.starts_with("exit code: 0") || shown.contains("error: no GPU can be used: "), "{shown}");
}
