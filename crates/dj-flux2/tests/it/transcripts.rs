//! The examples of the guide: every block marked `console` is run, and must print what stands there.
//!
//! A line `$ COMMAND` is given to a shell in a folder that all blocks of a document share, which is the home folder
//! too. In the lines below it, `[..]` stands for any text in a line and `...` for any number of lines. Warnings and notes of
//! this machine are left out.

use std::process::Command;

use tempfile::TempDir;

/// A command and the lines that it prints.
struct Example {
    line: usize,
    command: String,
    expected: Vec<String>,
}

fn examples(text: &str) -> Vec<Example> {
    let (mut examples, mut inside) = (Vec::<Example>::new(), false);
    for (number, line) in text.lines().enumerate() {
        match (inside, line.strip_prefix("$ ")) {
            (false, _) => inside = line == "```console",
            (true, _) if line == "```" => inside = false,
            (true, Some(command)) => {
                examples.push(Example { line: number + 1, command: command.to_owned(), expected: vec![] });
            }
            (true, None) => examples.last_mut().expect("a command comes first").expected.push(line.to_owned()),
        }
    }
    examples
}

/// Whether the lines are those expected.
fn matches(expected: &[String], found: &[String]) -> bool {
    match expected.split_first() {
        None => found.is_empty(),
        Some((any, rest)) if any == "..." => (0..=found.len()).any(|skip| matches(rest, &found[skip..])),
        Some((line, rest)) => {
            found.split_first().is_some_and(|(first, others)| is_like(line, first) && matches(rest, others))
        }
    }
}

fn is_like(pattern: &str, line: &str) -> bool {
    let mut parts = pattern.split("[..]");
    let Some(mut rest) = line.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    true
}

#[test]
fn every_example_prints_what_the_guide_says() {
    let binary = std::path::Path::new(env!("CARGO_BIN_EXE_dj-flux2"));
    for document in ["config.md", "prompts.md", "session.md"] {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/guide/").to_owned() + document;
        let found = examples(&std::fs::read_to_string(&path).unwrap());
        assert!(found.len() > 5, "{document}: {} examples", found.len());
        let home = TempDir::new().unwrap();
        for Example { line, command, expected } in found {
            let mut shell = Command::new("sh");
            let path = format!("{}:/usr/bin:/bin", binary.parent().unwrap().display());
            shell.args(["-c", &format!("exec 2>&1\n{command}")]).current_dir(home.path());
            shell.env_clear().env("HOME", home.path()).env("PATH", path);
            let output = shell.output().unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            let home = format!("{}/", home.path().display());
            let lines = text.lines().map(|line| line.replace(&home, ""));
            let lines: Vec<String> =
                lines.filter(|line| !line.starts_with("note: ") && !line.starts_with("warning: ")).collect();
            assert!(matches(&expected, &lines), "{document}:{line}: {command}\n{}", lines.join("\n"));
        }
    }
}

#[test]
fn examples_are_compared_line_by_line() {
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    for (expected, found, same) in [
        ("a\nb", "a\nb", true),
        ("a\n...", "a\nb\nc", true),
        ("...\nc", "a\nb\nc", true),
        ("a [..] c", "a b c", true),
        ("[..]: x", "y: x", true),
        ("a[..]b[..]c", "a1b2c", true),
        ("a", "a\nb", false),
        ("a\n...\nd", "a\nb\nc", false),
        ("a [..] c", "a b d", false),
        ("a", "ab", false),
    ] {
        assert_eq!(matches(&lines(expected), &lines(found)), same, "{expected:?} {found:?}");
    }
}
