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
    assert!((140..170).contains(&needed.parse::<u32>().unwrap()), "{shown}");
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
    assert_eq!(alone.last().unwrap(), "no --max-memory is smaller: this is the least that these pictures take");
    // Networks kept for the next picture can be given up.
    let several = lines(&["--size", "64x64", "-n", "2"]);
    let [at_most, last] = [several.len() - 2, several.len() - 1].map(|at| several[at].as_str());
    let number = |line: &str, before: &str| -> u32 {
        let rest = line.split_once(before).unwrap_or_else(|| panic!("{several:?}")).1;
        rest.split(' ').next().unwrap().parse().unwrap()
    };
    assert!(number(last, "the smallest --max-memory is ") <= number(at_most, "at most "), "{several:?}");
}

/// Where there is a GPU that computes in fp8, there is nothing to refuse.
#[test]
fn fp8_without_a_gpu_says_that_there_is_none() {
    let cli = Cli::with_tiny_model();
    let shown = cli.run(["a red fox", "--dtype", "fp8"].iter().chain(&crate::cli::QUICK));
    assert!(shown.starts_with("exit code: 0") || shown.contains("error: no GPU can be used: "), "{shown}");
}
