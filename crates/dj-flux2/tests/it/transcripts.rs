//! The examples of the guide: every block marked `console` is run, and must print what stands there.
//!
//! A line `$ COMMAND` is given to a shell in a folder that all blocks of a document share, which is the home folder
//! too. In the lines below it, `[..]` stands for any text in a line and `...` for any number of lines. Warnings and
//! notes of this machine are left out. A block marked `file=NAME` is written to that file first. The commands of a
//! block marked `crontab` are run once.
//!
//! The other commands of the documents are run too, and the pictures that they write are decoded. `NOT_RUN` lists the
//! commands that cannot run here, with the reasons.

use std::collections::BTreeSet;
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

/// Parts of the command lines that are not run, and why. `args::documented` asks clap whether it takes them.
const NOT_RUN: [(&str, &str); 19] = [
    ("dj-flux2 download", "downloads a model"),
    ("dj-flux2 serve", "serves until it is stopped: `it/serve.rs` and `tests/clients` do so"),
    ("dj-flux2 worker", "works until it is stopped: `it/fleet.rs` and `tests/fleet` have some"),
    ("dj-flux2 fleet", "asks a NATS server: `it/fleet.rs` starts one"),
    ("dj-flux2 mcp", "speaks with a client: `it/mcp.rs` is one"),
    ("dj-flux2 session", "asks at a terminal: `it/session` does so"),
    ("dj-flux2 remove klein-4b", "no such model is on this disk"),
    ("dj-flux2 verify", "no model is on this disk"),
    (".safetensors", "no such weights are here"),
    ("x.gguf", "no such weights are here"),
    ("4x-UltraSharp.pth", "no such weights are here"),
    ("taef2_decoder.pth", "no such weights are here"),
    ("realesr-general-x4v3", "it is not downloaded"),
    ("FLUX.2-klein-4B", "it stands for a folder with 16 GB of weights"),
    ("inspect PATH", "PATH stands for a file"),
    ("--c2pa-key", "signing needs a program that is built apart: `.ci/marks` does"),
    ("cuda", "needs a GPU: `tools/gpu` has one"),
    ("upscale *.png", "the same as `upscale photo.jpg`, minutes for all images of a guide in a debug build"),
    ("--to 4096x", "16 million pixels take minutes in a debug build"),
];

/// Weights of 16 GB draw what names them: such a line is run with `--dry-run`, which checks everything else.
const NO_WEIGHTS: &str = "klein-4b";

/// The command in a line of a block: from the name of the program on, behind variables, up to a remark.
fn command_in(line: &str) -> Option<&str> {
    let is_variable = |word: &str| {
        word.split_once('=').is_some_and(|(name, _)| name.chars().all(|c| c.is_ascii_uppercase() || c == '_'))
    };
    let program = line.split(' ').find(|word| !is_variable(word))?;
    let is_command = program == "dj-flux2" || (line.contains("| dj-flux2 ") && program.starts_with("jq"));
    let is_whole = !line.ends_with('\\');
    (is_command && is_whole)
        .then(|| line.split("  #").next().unwrap_or_default().split(" # ").next().unwrap_or_default())
}

/// Files that the output of a command names, each on a line, or behind `saved`.
fn pictures_in<'a>(said: &'a str, home: &'a Path) -> impl Iterator<Item = PathBuf> + 'a {
    let named = said.lines().map(|line| line.strip_prefix("saved ").unwrap_or(line).split(" (").next().unwrap_or(line));
    named.filter(|name| name.ends_with(".png")).map(|name| home.join(name)).filter(|path| path.is_file())
}

/// Every command of a document that can run without a network, a GPU and large weights is run.
#[test]
fn every_other_command_runs() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let pictures = root.join("docs/images");
    let other = Command::new(env!("CARGO_BIN_EXE_dj-flux2")).arg("help").output().unwrap().stdout;
    let other = String::from_utf8(other).unwrap();
    let other: Vec<&str> =
        other.lines().filter_map(|line| line.strip_prefix("  ")?.split_whitespace().next()).collect();
    let (mut run, mut dry, mut used, mut wrong) = (0, 0, BTreeSet::new(), Vec::new());
    for document in guides().into_iter().chain([root.join("README.md"), root.join("docs/mini.md")]) {
        let text = fs::read_to_string(&document).unwrap();
        let home = TempDir::new().unwrap();
        for (name, picture) in INPUTS {
            fs::copy(pictures.join(picture), home.path().join(name)).unwrap();
        }
        fs::create_dir_all(home.path().join("docs/images")).unwrap();
        fs::copy(pictures.join("prompts.txt"), home.path().join("docs/images/prompts.txt")).unwrap();
        for block in blocks(&text).iter().filter(|block| block.info.is_empty()) {
            let mut exported = String::new();
            for (i, line) in block.lines.iter().enumerate() {
                if let Some(variable) = line.strip_prefix("export ") {
                    exported = format!("{} ", variable.split("  #").next().unwrap_or_default().trim());
                }
                let Some(command) = command_in(line) else { continue };
                if let Some((part, _)) = NOT_RUN.iter().find(|(part, _)| command.contains(part)) {
                    used.insert(*part);
                    continue;
                }
                let second = command.split("dj-flux2 ").nth(1).and_then(|rest| rest.split_whitespace().next());
                let draws = second.is_none_or(|second| second == "generate" || !other.contains(&second));
                let is_dry = draws && format!("{exported}{command}").contains(NO_WEIGHTS);
                let end = if is_dry { " --dry-run" } else { "" };
                let output = shell(&format!("export SHELL=/bin/bash; {exported}{command}{end}"), home.path());
                let said = String::from_utf8_lossy(&output.stdout);
                let place = format!("{}:{}: {line}\n{said}", document.display(), block.line + i);
                let made: Vec<PathBuf> = pictures_in(&said, home.path()).collect();
                let is_missing = draws && !is_dry && made.is_empty();
                let is_broken = made.iter().any(|file| flux2::image::open(file).is_err());
                if !output.status.success() || is_missing || is_broken {
                    wrong.push(place);
                }
                *(if is_dry { &mut dry } else { &mut run }) += 1;
            }
        }
        if document.ends_with("README.md") {
            assert!(is_alike(&home.path().join("sheet.png"), &pictures.join("sheet.png")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let unused: Vec<_> = NOT_RUN.iter().filter(|(part, _)| !used.contains(part)).collect();
    assert!(unused.is_empty(), "no command is like {unused:?}");
    assert!(run >= 44 && dry >= 15, "{run} commands were run, {dry} with --dry-run: too few");
}

/// Whether two pictures are the same but for rounding, which processors do in several ways.
fn is_alike(a: &Path, b: &Path) -> bool {
    let [a, b] = [a, b].map(|file| flux2::image::open(file).unwrap());
    let sum: u64 = a.pixels().iter().zip(b.pixels()).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
    (a.width(), a.height()) == (b.width(), b.height()) && (sum as f64) < 2.0 * a.pixels().len() as f64
}

/// The first table of the README: arguments above, the picture that they make below.
#[test]
fn the_readme_shows_what_its_arguments_draw() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let text = fs::read_to_string(root.join("README.md")).unwrap();
    let rows: Vec<Vec<&str>> =
        text.lines().filter(|line| line.starts_with("| ")).take(2).map(|line| line.split(" | ").collect()).collect();
    let home = TempDir::new().unwrap();
    fs::copy(root.join("docs/images/dog.png"), home.path().join("dog.png")).unwrap();
    for (arguments, picture) in rows[0].iter().zip(&rows[1]) {
        let arguments = arguments.trim_matches(['|', ' ', '`']);
        let picture = root.join(picture.split(['(', ')']).nth(1).unwrap());
        let output = shell(&format!("dj-flux2 {arguments} -o made.png"), home.path());
        assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stdout));
        assert!(is_alike(&home.path().join("made.png"), &picture), "{arguments}: {}", picture.display());
    }
    assert_eq!(rows[0].len(), 4);
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
