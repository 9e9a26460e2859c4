//! Prompts from templates, and what would be drawn.

use crate::cli::{Cli, QUICK, shown};
use crate::snapshot;

/// The prompts of a dry run, and the templates.
fn planned(cli: &Cli, args: &[&str]) -> Vec<(String, Option<String>)> {
    let lines = cli.stdout(args.iter().chain(&["--dry-run", "--json"]));
    let rows = lines.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    rows.map(|row| (row["prompt"].as_str().unwrap().to_owned(), row["template"].as_str().map(str::to_owned))).collect()
}

fn prompts(cli: &Cli, args: &[&str]) -> Vec<String> {
    planned(cli, args).into_iter().map(|(prompt, _)| prompt).collect()
}

fn parameters(cli: &Cli, file: &str) -> serde_json::Value {
    serde_json::from_str(&cli.stdout(["info", "--json", file])).unwrap()
}

#[test]
fn the_picture_stores_prompt_and_template() {
    let cli = Cli::with_tiny_model();
    let template = "a {red|green|blue} {subject}, {light=at noon}";
    cli.stdout(["fox", "-t", template, "-n", "2", "-o", "fox.png"].iter().chain(&QUICK));
    let planned = planned(&cli, &["fox", "-t", template, "-n", "2", "-S", "7"]);
    for (i, (prompt, _)) in planned.iter().enumerate() {
        let made = parameters(&cli, &format!("fox-{}.png", i + 1));
        assert_eq!(made["prompt"], prompt.as_str());
        assert_eq!(made["template"], "a {red|green|blue} fox, {light=at noon}");
    }
    // The stored prompt is drawn again, and its template is not expanded again.
    cli.stdout(["generate", "--from", "fox-1.png", "-o", "again.png", "-S", "7"]);
    assert_eq!(parameters(&cli, "again.png")["prompt"], planned[0].0.as_str());
    let direct = cli.stdout([&[planned[0].0.as_str(), "-o", "direct.png"], &QUICK[..]].concat());
    assert_eq!(direct, "direct.png\n");
    assert_eq!(parameters(&cli, "direct.png")["template"], serde_json::Value::Null);
}

#[test]
fn a_prompt_is_drawn_as_it_is_written_unless_it_is_to_be_expanded() {
    let cli = Cli::with_tiny_model();
    let json = "{\"subject\": \"a {red|blue} fox\", \"style\": \"__x__\"}";
    assert_eq!(planned(&cli, &[json]), [(json.to_owned(), None)]);
    let output = cli.output([&["a {red|blue} fox"], &QUICK[..]].concat());
    assert!(
        shown(&output).contains("note: the prompt is drawn as it is written; --expand reads"),
        "{}",
        shown(&output)
    );
    assert!(!shown(&cli.output([&["a {fox}"], &QUICK[..]].concat())).contains("--expand"));
    // A template does not expand the prompt that it is given.
    assert_eq!(prompts(&cli, &["{x|y}", "-t", "a {subject}"]), ["a {x|y}"]);
    assert_eq!(prompts(&cli, &["{x|y}", "-t", "a {subject}", "--all"]), ["a x", "a y"]);
}

#[test]
fn variables_wildcards_and_combinations() {
    let cli = Cli::with_tiny_model();
    cli.write("animal.txt", "cat\nfox\n# no\n\n");
    assert_eq!(prompts(&cli, &["a {color} fox", "--var", "color={blue}"]), ["a {blue} fox"]);
    let wild = ["--wildcards", "."];
    assert_eq!(prompts(&cli, &[&["__animal__", "--all"], &wild[..]].concat()), ["cat", "fox"]);
    let with_count = [&["__animal__", "--all", "-n", "2", "-S", "3"], &wild[..]].concat();
    assert_eq!(prompts(&cli, &with_count), ["cat", "cat", "fox", "fox"]);
    // Every line of a prompt file.
    cli.write("prompts.txt", "{a|b} __animal__\nc\n");
    let of_file = [&["--prompt-file", "prompts.txt", "--all"], &wild[..]].concat();
    assert_eq!(prompts(&cli, &of_file), ["a cat", "a fox", "b cat", "b fox", "c"]);
    // Different seeds choose differently.
    let many = prompts(&cli, &["{a|b|c|d|e|f|g|h}", "--expand", "-n", "30", "-S", "1"]);
    assert!(many.iter().collect::<std::collections::BTreeSet<_>>().len() > 4, "{many:?}");
    assert_eq!(prompts(&cli, &["{a|b|c|d|e|f|g|h}", "--expand", "-S", "30"]), many[29..]);
}

#[test]
fn what_cannot_be_expanded_is_refused() {
    let cli = Cli::with_tiny_model();
    for (args, message) in [
        (&["x", "-t", "watercolour"][..], "no template is called watercolour\nhint: the nearest name is watercolor"),
        (&["x", "-t", "a {fox"], "template a {fox: the brace at character 3 of the template has no partner"),
        (&["x", "-t", "a {fox}"], "the template a {fox} has no {subject}, so the prompt would not be drawn"),
        (
            &["a {light} fox", "--expand"],
            "the template has a variable {light}, which has no value\nhint: give it one with --var light=TEXT",
        ),
        (&["a fox", "--var", "light=x"], "the template has no variable {light}"),
        (&["__x__", "--expand"], "there is no wildcard __x__"),
        (&["__x__", "--wildcards", "such"], "there is no wildcard __x__\nhint: put x.txt into such, or name a folder"),
        (
            &["{a|b}{a|b}{a|b}{a|b}{a|b}{a|b}{a|b}{a|b}{a|b}{a|b}{a|b}{a|b}{a|b}{a|b}{a|b}{a|b}{a|b}", "--all"],
            "the template stands for more than 100000 prompts\nhint: leave --all out",
        ),
        (&["a fox", "--var", "1=x"], "a name and its value are needed, as in light=dusk"),
    ] {
        let shown = cli.run(args);
        assert!(shown.starts_with("exit code: 2") && shown.contains(message), "{args:?}: {shown}");
    }
    assert_eq!(cli.files(), [""; 0]);
}

#[test]
fn a_dry_run_draws_nothing_and_needs_no_model() {
    let cli = Cli::with_tiny_model();
    snapshot!(cli.run(["a red fox", "-m", "klein-base-4b", "-n", "2", "-S", "7", "--aspect", "16:9", "--dry-run"]), @"
    exit code: 0
    ----- stdout -----
    output-1.png: 688x384, 50 steps, guidance 4, seed 7: a red fox
    output-2.png: 688x384, 50 steps, guidance 4, seed 8: a red fox
    ");
    assert_eq!(cli.files(), [""; 0]);
}

#[test]
fn templates_are_listed() {
    let cli = Cli::with_tiny_model();
    let list = cli.stdout(["templates"]);
    assert!(list.lines().count() >= 20 && list.contains("watercolor  watercolor on paper\n"), "{list}");
    assert!(cli.stdout(["templates", "emoji"]).starts_with("{subject} on a"));
    let row: serde_json::Value = serde_json::from_str(&cli.stdout(["templates", "ink", "--json"])).unwrap();
    assert_eq!(row["name"], "ink");
    assert!(cli.run(["templates", "inc"]).contains("the nearest name is ink"));
    // Each is in the guide.
    let guide = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/guide/prompts.md");
    let guide = std::fs::read_to_string(guide).unwrap();
    for line in list.lines() {
        let name = line.split_whitespace().next().unwrap();
        assert!(guide.contains(&format!("`{name}`")), "{name}");
    }
}

#[test]
fn a_list_of_seeds_draws_each_prompt_with_each() {
    let cli = Cli::with_tiny_model();
    cli.write("prompts.txt", "a\nb\n");
    let quick = ["-W", "64", "-H", "64", "-s", "1"];
    let args = ["--prompt-file", "prompts.txt", "-S", "9,3-4", "-o", "{index}-{seed}.png"];
    cli.stdout(args.iter().chain(&quick));
    let names = ["1-9.png", "2-3.png", "3-4.png", "4-9.png", "5-3.png", "6-4.png", "prompts.txt"];
    assert_eq!(cli.files(), names);
    cli.stdout(["b", "-S", "3", "-o", "alone.png"].iter().chain(&quick));
    assert_eq!(cli.read("alone.png"), cli.read("5-3.png"));
    let shown = cli.run(["a", "-S", "1,2", "-n", "2"]);
    assert!(shown.contains("a list of seeds is given, and 2 pictures for each prompt"), "{shown}");
}
