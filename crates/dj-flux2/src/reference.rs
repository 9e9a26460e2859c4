//! The generated pages of the reference: docs/reference/generated. A test holds them to the code; `just docs`, which
//! sets `DJ_FLUX2_WRITE_DOCS=1`, writes them.

mod flags;
mod http;
mod source;
mod values;

use std::fs;
use std::path::{Path, PathBuf};

/// A path of the repository.
fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

const WHO: &str = "<!-- Generated from the code by `just docs`: change it there. -->\n\n";

/// A text for a cell of a table: one line, and no markup but code between backquotes.
fn cell(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|");
    let parts = line.split('`').enumerate();
    let escaped = |part: &str| part.replace('<', "&lt;").replace("__", "\\_\\_").replace('*', "\\*");
    parts.map(|(i, part)| if i % 2 == 0 { escaped(part) } else { part.to_owned() }).collect::<Vec<_>>().join("`")
}

/// A table with a heading for each column; cells are as they are to be written.
fn table<const N: usize>(heads: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut text = format!("| {} |\n|{}\n", heads.join(" | "), "---|".repeat(N));
    for row in rows {
        text += &format!("| {} |\n", row.join(" | "));
    }
    text + "\n"
}

#[test]
fn generated_pages_are_current() {
    let pages = [
        ("flags.md", flags::flags()),
        ("config.md", flags::config()),
        ("http.md", http::http()),
        ("formats.md", values::formats()),
    ];
    let folder = repository("docs/reference/generated");
    for (name, text) in pages {
        let path = folder.join(name);
        let text = format!("{WHO}{}\n", text.trim_end());
        if std::env::var_os("DJ_FLUX2_WRITE_DOCS").is_some() {
            fs::create_dir_all(&folder).unwrap();
            fs::write(&path, text).unwrap();
            continue;
        }
        let there = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}; run `just docs`", path.display()));
        let differs = there.lines().zip(text.lines()).position(|(a, b)| a != b);
        assert!(there == text, "{} is old from line {differs:?} on: run `just docs`", path.display());
    }
}

#[test]
fn cells_have_one_line_and_no_markup() {
    assert_eq!(cell("a|b\n  <c> __d__ `<__e__>`"), "a\\|b &lt;c> \\_\\_d\\_\\_ `<__e__>`");
    assert_eq!(table(["a", "b"], [["1".to_owned(), "2".to_owned()]]), "| a | b |\n|---|---|\n| 1 | 2 |\n\n");
}
