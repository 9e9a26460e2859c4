//! The examples of the guide: every block marked `console` is run, and must print what stands there.
//!
//! A line `$ COMMAND` is given to a shell in a folder that all blocks of a document share, which is the home folder
//! too. In the lines below it, `[..]` stands for any text in a line and `...` for any number of lines. Warnings and
//! notes of this machine are left out. A block marked `file=NAME` is written to that file first. The commands of a
//! block marked `crontab` are run once.
//!
//! Other command lines that draw are run with `--dry-run`, which checks everything but the model.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

/// A command and the lines that it prints; `None` where they do not matter.
struct Example {
    line: usize,
    command: String,
    expected: Option<Vec<String>>,
}

/// A block of code: the number of its first line, what is behind its three marks, and its lines.
struct Block<'a> {
    line: usize,
    info: &'a str,
    lines: Vec<&'a str>,
}

fn blocks(text: &str) -> Vec<Block<'_>> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut inside = false;
    for (number, line) in text.lines().enumerate() {
        match (inside, line.strip_prefix("```")) {
            (false, Some(info)) => {
                blocks.push(Block { line: number + 2, info, lines: Vec::new() });
                inside = true;
            }
            (true, Some("")) => inside = false,
            (true, _) => blocks.last_mut().expect("it has begun").lines.push(line),
            (false, None) => {}
        }
    }
    blocks
}

/// What is run for a block, in order.
fn examples(block: &Block) -> Vec<Example> {
    let mut examples = Vec::<Example>::new();
    for (i, text) in block.lines.iter().enumerate() {
        let line = block.line + i;
        match (block.info, text.strip_prefix("$ ")) {
            ("console", Some(command)) => {
                examples.push(Example { line, command: command.to_owned(), expected: Some(vec![]) });
            }
            ("console", None) => {
                let last = examples.last_mut().expect("a command comes first");
                last.expected.as_mut().expect("it has lines").push((*text).to_owned());
            }
            ("crontab", _) if text.contains(" * ") => {
                let command = text.split_whitespace().skip(5).collect::<Vec<_>>().join(" ");
                examples.push(Example { line, command, expected: None });
            }
            _ => {}
        }
    }
    examples
}

/// Runs a line in a shell.
fn shell(line: &str, home: &Path) -> Output {
    let binary = Path::new(env!("CARGO_BIN_EXE_dj-flux2"));
    let path = format!("{}:/usr/local/bin:/usr/bin:/bin", binary.parent().unwrap().display());
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("exec 2>&1\n{line}")]).current_dir(home);
    shell.env_clear().env("HOME", home).env("PATH", path).output().unwrap()
}

fn guides() -> Vec<PathBuf> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/guide");
    let mut guides: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    guides.sort();
    guides
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
    let mut count = 0;
    for document in guides() {
        let text = fs::read_to_string(&document).unwrap();
        let home = TempDir::new().unwrap();
        for block in blocks(&text) {
            if let Some((_, name)) = block.info.split_once("file=") {
                let file = home.path().join(name);
                fs::create_dir_all(file.parent().unwrap()).unwrap();
                fs::write(file, block.lines.join("\n") + "\n").unwrap();
            }
            for Example { line, command, expected } in examples(&block) {
                let output = shell(&command, home.path());
                let text = String::from_utf8(output.stdout).unwrap();
                let home = format!("{}/", home.path().display());
                let lines = text.lines().map(|line| line.replace(&home, ""));
                let lines: Vec<String> =
                    lines.filter(|line| !line.starts_with("note: ") && !line.starts_with("warning: ")).collect();
                let is_right = match &expected {
                    Some(expected) => matches(expected, &lines),
                    None => output.status.success(),
                };
                assert!(is_right, "{}:{line}: {command}\n{}", document.display(), lines.join("\n"));
                count += 1;
            }
        }
    }
    assert!(count > 40, "{count} examples are too few");
}

/// Files that the examples read, and pictures that they stand for.
const INPUTS: [(&str, &str); 14] = [
    ("fox.png", "cat.png"),
    ("cat.png", "cat.png"),
    ("dog.png", "dog.png"),
    ("room.jpg", "dog.png"),
    ("portrait.jpg", "cat.png"),
    ("photo.jpg", "cat.png"),
    ("sea.jpg", "dog.png"),
    ("beach.jpg", "dog.png"),
    ("person.jpg", "cat.png"),
    ("coat.png", "dog.png"),
    ("mask.png", "cat.png"),
    ("from-comfyui.png", "cat.png"),
    ("a.png", "cat.png"),
    ("b.png", "dog.png"),
];

/// Files of models that nobody has here, a sheet that is made by an example before, and programs that are built apart.
const NOT_HERE: [&str; 7] =
    ["safetensors", "x.gguf", "FLUX.2-klein-4B", "fox-sheet.png", "--c2pa-key", "--device cuda", "DIR"];

#[test]
fn every_other_command_that_draws_could_draw() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let home = TempDir::new().unwrap();
    let pictures = root.join("docs/images");
    for (name, picture) in INPUTS {
        fs::copy(pictures.join(picture), home.path().join(name)).unwrap();
    }
    fs::create_dir_all(home.path().join("docs/images")).unwrap();
    fs::copy(pictures.join("prompts.txt"), home.path().join("docs/images/prompts.txt")).unwrap();
    let listed = String::from_utf8(shell("dj-flux2 help", home.path()).stdout).unwrap();
    let names = listed.lines().filter_map(|line| line.strip_prefix("  ")?.split_whitespace().next());
    let others: Vec<String> = names.filter(|name| *name != "generate").map(str::to_owned).collect();
    let mut count = 0;
    for document in guides().into_iter().chain([root.join("README.md"), root.join("docs/mini.md")]) {
        let text = fs::read_to_string(&document).unwrap();
        for block in blocks(&text).iter().filter(|block| block.info.is_empty()) {
            for (i, line) in block.lines.iter().enumerate() {
                let Some(rest) = line.strip_prefix("dj-flux2 ") else { continue };
                let first = rest.split_whitespace().next().unwrap_or_default();
                let is_whole = !line.contains('|') && !line.ends_with('\\');
                let is_here = !NOT_HERE.iter().any(|part| line.contains(part));
                if others.iter().any(|name| name == first) || !is_whole || !is_here {
                    continue;
                }
                let arguments = rest.split("  #").next().unwrap_or_default().split(" # ").next().unwrap_or_default();
                let output = shell(&format!("dj-flux2 {arguments} --dry-run"), home.path());
                let said = String::from_utf8_lossy(&output.stdout);
                assert!(output.status.success(), "{}:{}: {line}\n{said}", document.display(), block.line + i);
                count += 1;
            }
        }
    }
    assert!(count > 30, "{count} commands are too few");
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
