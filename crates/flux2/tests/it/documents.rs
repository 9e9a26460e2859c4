//! What the documents name exists: files, folders and tests.

use std::fs;
use std::path::{Path, PathBuf};

/// The folder of the workspace.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// Files below `folder` whose names end in `.EXTENSION`.
fn files(folder: &str, extension: &str) -> Vec<PathBuf> {
    let (mut found, mut folders) = (Vec::new(), vec![root().join(folder)]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == extension) {
                found.push(path);
            }
        }
    }
    found
}

/// The texts between backquotes, code blocks left out.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split("```").step_by(2).flat_map(|prose| prose.split('`').skip(1).step_by(2))
}

/// `a/{b,c}.rs` as `a/b.rs` and `a/c.rs`.
fn expanded(path: &str) -> Vec<String> {
    let Some((before, (choices, after))) =
        path.split_once('{').and_then(|(before, rest)| Some((before, rest.split_once('}')?)))
    else {
        return vec![path.to_owned()];
    };
    choices.split(',').map(|choice| format!("{before}{choice}{after}")).collect()
}

#[test]
fn links_lead_to_files() {
    let mut documents = files("docs", "md");
    documents.extend(["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"].map(|name| root().join(name)));
    let mut count = 0;
    for document in documents {
        let text = fs::read_to_string(&document).unwrap();
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for target in targets.filter(|target| !target.contains("://") && !target.starts_with('#')) {
            let file = document.with_file_name(target.split('#').next().unwrap_or_default());
            assert!(file.exists(), "{}: {target}", document.display());
            count += 1;
        }
    }
    assert!(count > 50, "{count} links are too few");
}

#[test]
fn paths_for_contributors_exist() {
    // A path is written below the folder that its paragraph is about.
    let bases = ["", "crates", "crates/flux2", "crates/flux2/tests", "crates/dj-flux2", "crates/flux2-backend"];
    let sources = bases.map(|base| format!("{base}/src"));
    let weights = "crates/flux2-weights/src".to_owned();
    let bases: Vec<PathBuf> =
        bases.map(str::to_owned).into_iter().chain(sources).chain([weights]).map(|base| root().join(base)).collect();
    let mut count = 0;
    for document in ["ARCHITECTURE.md", "CONTRIBUTING.md"] {
        let text = read(document);
        let is_path = |text: &&str| text.contains('/') && !text.contains([' ', '<', '$', ':']);
        // Capitals stand for a name that the reader chooses.
        let is_example = |text: &&str| ["NAME", "ARCHITECTURE."].iter().any(|word| text.contains(word));
        for path in quoted(&text).filter(is_path).filter(|path| !is_example(path)).flat_map(expanded) {
            let exists = match path.split_once("/*") {
                Some((folder, _)) => bases.iter().any(|base| base.join(folder).is_dir()),
                None => bases.iter().any(|base| base.join(&path).exists()),
            };
            assert!(exists, "{document}: there is no {path}");
            count += 1;
        }
    }
    assert!(count > 60, "{count} paths are too few");
}

#[test]
fn tests_of_the_pitfalls_exist() {
    let code: String = files("crates", "rs").iter().map(|file| fs::read_to_string(file).unwrap()).collect();
    let words: std::collections::HashSet<&str> = code.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').collect();
    let text = read("docs/parity.md");
    let is_name = |text: &&str| text.contains('_') && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    let names: Vec<&str> = quoted(&text).filter(is_name).collect();
    assert!(names.len() > 40, "{names:?}");
    for name in names {
        assert!(words.contains(name), "docs/parity.md names {name}, which no source has");
    }
}

/// Lines without their indentation; empty ones left out.
fn trimmed(text: &str) -> Vec<&str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect()
}

#[test]
fn quoted_lines_are_in_the_code() {
    let text = read("docs/how-it-works.md");
    let (mut source, mut count) = (String::new(), 0);
    for (i, part) in text.split("```").enumerate() {
        let code = part.strip_prefix("rust\n").filter(|_| i % 2 == 1);
        match code {
            // The file is the last one that the text names.
            None => source = quoted(part).filter(|path| path.ends_with(".rs")).last().map_or(source, str::to_owned),
            Some(code) => {
                let (code, file) = (trimmed(code), read(&source));
                let is_there = trimmed(&file).windows(code.len()).any(|lines| lines == code);
                assert!(is_there, "docs/how-it-works.md: {source} has no longer these lines:\n{}", code.join("\n"));
                count += 1;
            }
        }
    }
    assert!(count >= 10, "{count} quotations are too few");
}
