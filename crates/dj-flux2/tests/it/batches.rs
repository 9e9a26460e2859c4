//! Batches: runs from a file with one JSON object a line.

use crate::cli::{Cli, QUICK, shown};

const LINES: &str = r#"{"prompt": "a red fox", "seed": 7, "output": "fox.png"}
{"prompt": "a blue hare", "seed": [3, 5], "steps": 2}

{"prompt": "a {cat|dog}", "seed": 9, "expand": true, "all": true, "output": "{index}.webp", "no_metadata": true}
"#;

/// What `--json` prints for a batch.
fn results(cli: &Cli, args: &[&str], input: &str) -> Vec<serde_json::Value> {
    let quick = ["--size", "64x64", "-s", "1", "--json"];
    let output = cli.output_with_input(&[&["--batch"], args, &quick].concat(), input);
    assert!(output.status.success(), "{}", shown(&output));
    let lines = String::from_utf8(output.stdout).unwrap();
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn paths(results: &[serde_json::Value]) -> Vec<&str> {
    let mut paths: Vec<&str> = results.iter().map(|result| result["path"].as_str().unwrap()).collect();
    paths.sort();
    paths
}

#[test]
fn every_line_is_drawn_as_it_says() {
    let cli = Cli::with_tiny_model();
    cli.write("jobs.jsonl", LINES);
    let made = results(&cli, &["jobs.jsonl"], "");
    assert_eq!(paths(&made), ["1.webp", "2.webp", "fox.png", "jobs-2-1.png", "jobs-2-2.png"]);
    let of = |path: &str| made.iter().find(|result| result["path"] == path).unwrap();
    assert_eq!((&of("jobs-2-2.png")["seed"], &of("jobs-2-2.png")["steps"]), (&5.into(), &2.into()));
    assert_eq!((&of("jobs-2-2.png")["line"], &of("jobs-2-2.png")["index"]), (&2.into(), &3.into()));
    assert_eq!((&of("2.webp")["prompt"], &of("2.webp")["line"]), (&"a dog".into(), &4.into()));
    // The same bytes as a run of its own.
    assert_eq!(cli.fox("alone.png", &[]), cli.read("fox.png"));
}

#[test]
fn what_is_there_is_not_drawn_again() {
    let cli = Cli::with_tiny_model();
    cli.write("jobs.jsonl", LINES);
    results(&cli, &["jobs.jsonl"], "");
    let again = results(&cli, &["jobs.jsonl"], "");
    assert_eq!(again.len(), 5);
    assert!(again.iter().all(|result| result["skipped"] == true), "{again:?}");
    // Another prompt, another seed and a missing file are drawn; the rest is not.
    std::fs::remove_file(cli.path("1.webp")).unwrap();
    let changed = LINES.replace("a red fox", "a green fox").replace("[3, 5]", "[3, 6]");
    cli.write("jobs.jsonl", changed);
    let made = results(&cli, &["jobs.jsonl"], "");
    let drawn: Vec<_> = made.iter().filter(|result| result["skipped"].is_null()).cloned().collect();
    assert_eq!(paths(&drawn), ["1.webp", "fox.png", "jobs-2-2.png"]);
    let output = cli.output(["--batch", "jobs.jsonl", "--size", "64x64", "-s", "1"]);
    assert!(shown(&output).contains("note: 5 pictures of the batch are there already"), "{}", shown(&output));
    assert!(output.status.success() && output.stdout.is_empty());
}

#[test]
fn standard_input_folders_and_names() {
    let cli = Cli::with_tiny_model();
    let lines = "{\"prompt\": \"a\", \"seed\": 1}\n{\"prompt\": \"b\", \"seed\": 2}\n";
    assert_eq!(paths(&results(&cli, &["-"], lines)), ["batch-1.png", "batch-2.png"]);
    assert_eq!(paths(&results(&cli, &["-", "-o", "out/"], lines)), ["out/batch-1.png", "out/batch-2.png"]);
    assert_eq!(paths(&results(&cli, &["-", "-o", "x{index}.webp"], lines)), ["x1.webp", "x2.webp"]);
    assert_eq!(paths(&results(&cli, &["-", "-o", "x.png"], lines)), ["x-1.png", "x-2.png"]);
    assert_eq!(paths(&results(&cli, &["-", "-o", "{seed}.png"], lines)), ["1.png", "2.png"]);
}

#[test]
fn a_line_may_choose_a_preset() {
    let cli = Cli::with_tiny_model();
    let input =
        "{\"prompt\": \"a\", \"seed\": 1, \"preset\": \"draft,wide\"}\n{\"prompt\": \"a\", \"preset\": \"hihg\"}\n";
    let lines: Vec<&str> = input.lines().collect();
    let output = cli.output_with_input(&["--batch", "-", "--dry-run"], lines[0]);
    assert!(shown(&output).contains("batch-1.png: 336x192, 4 steps, seed 1: a"), "{}", shown(&output));
    let refused = shown(&cli.output_with_input(&["--batch", "-", "--dry-run"], input));
    assert!(refused.contains("standard input:2: no preset is called hihg"), "{refused}");
}

#[test]
fn lines_have_references_and_models_of_their_own() {
    let cli = Cli::with_tiny_model();
    let fox = cli.fox("a.png", &[]);
    cli.fox("b.png", &["-S", "8"]);
    let lines = r#"{"prompt": "make it blue", "input": "a.png", "seed": 1, "output": "1.png"}
{"prompt": "make it blue", "input": ["b.png", "a.png"], "seed": 1, "output": "2.png"}
{"prompt": "a red fox", "seed": 7, "output": "3.png", "dtype": "f32"}
{"prompt": "a red fox", "seed": 7, "output": "4.png"}
"#;
    results(&cli, &["-"], lines);
    let quick = ["--size", "64x64", "-s", "1", "-S", "1", "-q", "-o", "alone.png"];
    cli.stdout(["make it blue", "-i", "b.png", "-i", "a.png"].iter().chain(&quick));
    assert_eq!(cli.read("alone.png"), cli.read("2.png"));
    cli.stdout(["make it blue", "-i", "a.png"].iter().chain(&quick));
    assert_eq!(cli.read("alone.png"), cli.read("1.png"));
    assert_eq!(cli.read("4.png"), fox);
    assert_ne!(cli.read("3.png"), fox);
}

#[test]
fn a_wrong_line_is_named_before_anything_is_drawn() {
    let cli = Cli::with_tiny_model();
    for (line, message) in [
        (r#"{"prompt": "a", "stpes": 1}"#, "standard input:2: there is no setting stpes"),
        (r#"{"seed": 1}"#, ":2: there is no prompt"),
        (r#"{"prompt": "a", "width": 100}"#, ":2: width 100 is not a multiple of 16"),
        (r#"{"prompt": "a", "output": "-"}"#, "standard output takes no batch"),
        ("a fox", ":2: no JSON object"),
    ] {
        let input = format!("{{\"prompt\": \"a\", \"seed\": 1}}\n{line}\n");
        let shown = shown(&cli.output_with_input(&["--batch", "-"], input));
        assert!(shown.starts_with("exit code: 2") && shown.contains(message), "{line}: {shown}");
    }
    assert_eq!(cli.files(), [""; 0]);
    let both = cli.run(["a fox", "--batch", "x.jsonl"]);
    assert!(both.contains("cannot be used with"), "{both}");
    let twice = r#"{"prompt": "a", "seed": 1, "output": "x.png"}"#;
    let shown = shown(&cli.output_with_input(&[&["--batch", "-"], &QUICK[..]].concat(), format!("{twice}\n{twice}")));
    assert!(shown.contains("are the same file"), "{shown}");
}

#[test]
fn a_picture_that_fails_does_not_end_the_batch() {
    let cli = Cli::with_tiny_model();
    let lines = "{\"prompt\": \"a\", \"seed\": 1, \"output\": \"a.png\", \"model\": \"/such/model\"}\n\
                 {\"prompt\": \"b\", \"seed\": 2, \"output\": \"b.png\"}\n";
    let output = cli.output_with_input(&[&["--batch", "-", "--json"], &QUICK[..4], &["-s", "1"]].concat(), lines);
    assert_eq!(output.status.code(), Some(7), "{}", shown(&output));
    assert_eq!(cli.files(), ["b.png"]);
    let first: serde_json::Value =
        serde_json::from_slice(output.stdout.split(|byte| *byte == b'\n').next().unwrap()).unwrap();
    assert_eq!((&first["line"], &first["error"]["code"]), (&1.into(), &3.into()));
}

#[cfg(target_os = "linux")]
#[test]
fn finished_pictures_are_opened() {
    use std::os::unix::fs::PermissionsExt as _;

    let cli = Cli::with_tiny_model();
    cli.write("xdg-open", "#!/bin/sh\necho \"$1\" >> opened\n");
    std::fs::set_permissions(cli.path("xdg-open"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:/usr/bin:/bin", cli.path("").display());
    let args = ["a red fox", "--open", "-n", "2", "-o", "fox.png"].into_iter().chain(QUICK);
    let output = cli.command(args).env("PATH", path).output().unwrap();
    assert!(output.status.success(), "{}", shown(&output));
    let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
    let opened = || std::fs::read_to_string(cli.path("opened")).unwrap_or_default();
    while opened().lines().count() < 2 && std::time::Instant::now() < end {
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    assert!(opened().contains("fox-1.png") && opened().contains("fox-2.png"), "{:?}", opened());
}

#[test]
fn a_line_may_paint_into_a_source_or_enlarge() {
    let cli = Cli::with_tiny_model();
    cli.fox("fox.png", &[]);
    let line = |rest: &str| format!("{{\"prompt\": \"a hat\", \"seed\": 7, \"steps\": 1, {rest}}}\n");
    let small = "\"size\": \"64x64\"";
    let lines = [
        line(&format!("{small}, \"output\": \"plain.png\"")),
        line("\"source\": \"fox.png\", \"strength\": 0.5, \"output\": \"half.png\""),
        line("\"source\": \"fox.png\", \"output\": \"whole.png\""),
        line(&format!("{small}, \"upscale\": 2, \"upscaler\": \"lanczos\", \"output\": \"large.png\"")),
    ];
    cli.write("jobs.jsonl", lines.concat());
    let batch = ["--batch", "jobs.jsonl", "-q"];
    assert_eq!(cli.stdout(batch).lines().count(), 4);
    let sides = |name: &str| {
        let picture = flux2::image::open(&cli.path(name)).unwrap();
        [picture.width(), picture.height()]
    };
    assert_eq!(["plain.png", "half.png", "large.png"].map(sides), [[64, 64], [64, 64], [128, 128]]);
    let alone = ["a hat", "-S", "7", "-s", "1", "--source", "fox.png", "--strength", "0.5", "-o", "alone.png"];
    cli.stdout(alone);
    assert_eq!(cli.read("half.png"), cli.read("alone.png"));
    assert_ne!(cli.read("half.png"), cli.read("whole.png"));
    // All are there; another source is another picture.
    assert_eq!(cli.stdout(batch), "");
    cli.fox("fox.png", &["--no-metadata"]);
    assert_eq!(cli.stdout(batch), "half.png\nwhole.png\n");
    assert!(cli.run(["a hat", "--batch", "x"]).starts_with("exit code: 2"));
    cli.write("wrong.jsonl", "{\"prompt\": \"a\", \"mask\": \"fox.png\"}\n");
    assert!(cli.run(["--batch", "wrong.jsonl"]).contains("--source"), "{}", cli.run(["--batch", "wrong.jsonl"]));
}
