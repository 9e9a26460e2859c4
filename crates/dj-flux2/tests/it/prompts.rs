//! Where prompts come from, and how long they may be.

use crate::cli::{Cli, QUICK, shown};
use crate::snapshot;

/// The prompts stored in `output-1.png` and so on, after a run with `input` as standard input.
fn prompts(cli: &Cli, args: &[&str], input: &str) -> Vec<String> {
    let output = cli.output_with_input(&[args, &QUICK, &["--json"]].concat(), input);
    assert!(output.status.success(), "{}", shown(&output));
    let lines = String::from_utf8(output.stdout).unwrap();
    let records = lines.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    records.map(|record| record["prompt"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_prompt_file_has_one_prompt_a_line() {
    let cli = Cli::with_tiny_model();
    cli.write("prompts.txt", "\u{feff}a red fox\r\n\n  a blue hare\n   \nFüchse");
    let made = prompts(&cli, &["--prompt-file", "prompts.txt"], "");
    assert_eq!(made, ["a red fox", "  a blue hare", "Füchse"]);
    assert_eq!(cli.files(), ["output-1.png", "output-2.png", "output-3.png", "prompts.txt"]);
    assert_eq!(cli.fox("alone.png", &[]), cli.read("output-1.png"));
}

#[test]
fn the_index_and_the_seed_run_over_all_prompts() {
    let cli = Cli::with_tiny_model();
    let args = ["--prompt-file", "-", "-n", "2", "-o", "{index}-{seed}.png"];
    assert_eq!(prompts(&cli, &args, "a\nb\n"), ["a", "a", "b", "b"]);
    assert_eq!(cli.files(), ["1-7.png", "2-8.png", "3-9.png", "4-10.png"]);
}

#[test]
fn more_prompts_than_are_encoded_at_once() {
    let cli = Cli::with_tiny_model();
    let lines: Vec<String> = (1..=18).map(|i| format!("fox {i}")).collect();
    assert_eq!(prompts(&cli, &["--prompt-file", "-"], &lines.join("\n")), lines);
    cli.stdout(["fox 18", "-S", "24", "-o", "alone.png", "--size", "64x64", "-s", "1"]);
    assert_eq!(cli.read("alone.png"), cli.read("output-18.png"));
}

#[test]
fn a_dash_reads_one_prompt_from_standard_input() {
    let cli = Cli::with_tiny_model();
    assert_eq!(prompts(&cli, &["-"], "a red fox\r\n"), ["a red fox"]);
    assert_eq!(prompts(&cli, &["-"], "\u{feff}a red fox\r\n"), ["a red fox"], "without the byte order mark");
    assert_eq!(prompts(&cli, &["--prompt-file", "-"], "\u{feff}a red fox\n"), ["a red fox"]);
    assert_eq!(prompts(&cli, &["generate", "-"], "a red fox\nin the snow\n\n"), ["a red fox\nin the snow\n"]);
}

#[test]
fn a_prompt_may_look_like_a_subcommand_or_a_flag() {
    let cli = Cli::with_tiny_model();
    assert_eq!(prompts(&cli, &["generate", "info"], ""), ["info"]);
    assert_eq!(prompts(&cli, &["-q", "-o", "x.png", "a red fox"], ""), ["a red fox"]);
    assert_eq!(
        cli.run(["--no-metadata", "-q", "--size", "64x64", "-s1", "-S1", "--", "--help"]).lines().next(),
        Some("exit code: 0")
    );
}

#[test]
fn an_empty_prompt_is_a_prompt() {
    let cli = Cli::with_tiny_model();
    assert_eq!(prompts(&cli, &[""], ""), [""]);
    assert_eq!(prompts(&cli, &["-"], "\n"), [""]);
}

#[test]
fn a_standard_input_without_a_byte_is_no_prompt() {
    let cli = Cli::with_tiny_model();
    snapshot!(shown(&cli.output_with_input(&["-"], "")), @r#"
    exit code: 2
    ----- stderr -----
    error: standard input is empty or closed
    hint: write the prompt to it; for an empty prompt, pass ""
    "#);
    assert_eq!(cli.files(), [""; 0]);
}

#[test]
fn a_prompt_may_be_passed_with_its_flag() {
    let cli = Cli::with_tiny_model();
    assert_eq!(prompts(&cli, &["-p", "a red fox"], ""), ["a red fox"]);
    assert_eq!(prompts(&cli, &["generate", "--prompt", "ls"], ""), ["ls"]);
    assert_eq!(prompts(&cli, &["-p", "-"], "a blue hare"), ["a blue hare"]);
    snapshot!(cli.run(["-p", "a", "b"]), @"
    exit code: 2
    ----- stderr -----
    error: the argument '--prompt <PROMPT>' cannot be used with '[PROMPT]...'
    hint: run it with --help to see what it takes
    ");
}

#[test]
fn an_over_long_prompt_is_cut_and_the_warning_says_how_much() {
    let cli = Cli::with_tiny_model();
    let prompt = "a red fox in the snow, ".repeat(100);
    let output = cli.output(["generate", &prompt].iter().chain(&QUICK));
    let said = String::from_utf8(output.stderr).unwrap();
    snapshot!(said.lines().find(|line| line.starts_with("warning")).unwrap(), @r#"warning: the prompt is 713 tokens long with its template and the text encoder reads 512: 201 are cut, from "snow, a red fox in the snow, a red fox" on"#);
    assert!(output.status.success());
}

#[test]
fn prompt_files_that_hold_no_prompt() {
    let cli = Cli::with_tiny_model();
    cli.write("empty.txt", "\n  \n");
    cli.write("latin1.txt", b"F\xfcchse");
    snapshot!(cli.run(["--prompt-file", "empty.txt"]), @"
    exit code: 2
    ----- stderr -----
    error: empty.txt holds no prompt
    hint: write one prompt per line
    ");
    snapshot!(cli.run(["--prompt-file", "latin1.txt"]), @"
    exit code: 2
    ----- stderr -----
    error: latin1.txt is not UTF-8
    hint: save it as UTF-8
    ");
    snapshot!(cli.run(["--prompt-file", "nowhere.txt"]), @"
    exit code: 1
    ----- stderr -----
    error: nowhere.txt: No such file or directory (os error 2)
    hint: correct the path
    ");
}
