//! The words of klein-mini: the data beside its weights against the tables it was trained with.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use flux2::vocabulary::Vocabulary;
use flux2::weights::Location;

fn repository(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The text of a table in `tools/train/subjects.py`, from its opening to its closing bracket or quotes.
fn table<'a>(source: &'a str, name: &str, open: &str, close: &str) -> &'a str {
    let start = source.find(&format!("\n{name} = {open}")).unwrap_or_else(|| panic!("no table {name}"));
    let body = &source[start + name.len() + 4 + open.len()..];
    &body[..body.find(close).expect("it ends")]
}

/// A table in the notation that Python and JSON share.
fn json<T: serde::de::DeserializeOwned>(source: &str, name: &str, open: &str, close: &str) -> T {
    let body = table(source, name, open, close).trim().trim_end_matches(',');
    serde_json::from_str(&format!("{open}{body}{close}")).unwrap_or_else(|e| panic!("{name}: {e}"))
}

#[test]
fn it_is_what_the_model_was_trained_with() {
    let source = repository("tools/train/subjects.py");
    let known = Vocabulary::builtin().unwrap();
    let renamed: BTreeMap<String, String> = json(&source, "RENAME", "{", "}");
    let plurals: BTreeMap<String, String> = json(&source, "PLURALS", "{", "}");
    let entries = table(&source, "EMOJI", "\"\"\"", "\"\"\"").lines().filter(|line| !line.is_empty());
    let names = entries.flat_map(|line| line.split('|')).map(|entry| entry.rsplit_once(' ').unwrap().0);
    let names: Vec<String> = names.map(|name| renamed.get(name).cloned().unwrap_or(name.into())).collect();
    assert_eq!(known.subjects.iter().map(|names| names[0].clone()).collect::<Vec<_>>(), names);
    assert!(known.subjects.len() > 150);
    for subject in &known.subjects {
        if let Some(plural) = plurals.get(&subject[0]) {
            assert_eq!(&subject[1], plural);
        }
    }
    let shapes: Vec<String> = json(&source, "SHAPES", "[", "]");
    assert_eq!(known.shapes.iter().map(|names| names[0].clone()).collect::<Vec<_>>(), shapes);
    assert_eq!(known.shape_colors, json::<Vec<String>>(&source, "SHAPE_COLORS", "[", "]"));
    assert_eq!(known.patterns, json::<Vec<String>>(&source, "PATTERNS", "[", "]"));
    assert_eq!(known.places.len(), json::<Vec<String>>(&source, "PLACES", "[", "]").len());
    let sizes: Vec<String> = json(&source, "SIZES", "[", "]");
    assert_eq!(known.sizes.iter().map(|names| names[0].clone()).collect::<Vec<_>>(), sizes);
    let colors = table(&source, "COLORS", "{", "}").lines().filter_map(|line| line.split('"').nth(1));
    assert_eq!(known.colors, colors.collect::<Vec<_>>());
}

#[test]
fn it_knows_every_word_of_its_own_lists() {
    let known = Vocabulary::builtin().unwrap();
    for names in known.subjects.iter().chain(&known.shapes) {
        for name in names {
            assert_eq!(known.unknown_words(name, false), None, "{name}");
        }
    }
    for words in [&known.colors, &known.places, &known.counts] {
        for word in words {
            assert_eq!(known.unknown_words(&format!("a cat, {word}"), false), None, "{word}");
        }
    }
    for edit in known.edits.iter().chain(&known.two_references) {
        assert_eq!(known.unknown_words(edit, true), None, "{edit}");
    }
}

#[test]
fn its_document_names_every_color() {
    let document = repository("docs/mini.md");
    for color in Vocabulary::builtin().unwrap().colors {
        assert!(document.contains(&color), "{color}");
    }
}

#[test]
fn a_file_that_is_none_is_no_vocabulary() {
    let folder = tempfile::tempdir().unwrap();
    for bytes in ["", "{}", "[1]", "{\"subjects\": 1}", &"[".repeat(100_000), &format!("\"{}\"", "x".repeat(2 << 20))] {
        let file = folder.path().join("vocabulary.json");
        fs::write(&file, bytes).unwrap();
        assert!(Vocabulary::read(&Location::from(&file)).is_none());
    }
    assert!(Vocabulary::read(&Location::from(folder.path().join("nowhere.json"))).is_none());
}
