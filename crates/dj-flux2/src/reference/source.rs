//! Names and documentation of Rust enums, read from their source.

use std::fs;

use super::repository;

/// The variants of `pub enum NAME` in a file, each with its documentation.
pub fn variants(file: &str, name: &str) -> Vec<(String, String)> {
    let source = fs::read_to_string(repository(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
    let head = format!("pub enum {name} {{\n");
    let (_, body) = source.split_once(&head).unwrap_or_else(|| panic!("{file} has no {head}"));
    let (body, _) = body.split_once("\n}").expect("an enum ends");
    let (mut found, mut about) = (Vec::new(), String::new());
    // Fields of a variant are indented more.
    for line in body.lines().filter_map(|line| line.strip_prefix("    ")) {
        if let Some(text) = line.strip_prefix("///") {
            about += text;
        } else if line.starts_with(|c: char| c.is_ascii_uppercase()) {
            let name: String = line.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
            found.push((name, plain(&std::mem::take(&mut about))));
        }
    }
    assert!(!found.is_empty(), "{file}: {name} has no variants");
    found
}

/// Links of rustdoc as plain text: ``[`a`](b)`` and ``[`a`]`` become `` `a` ``.
fn plain(text: &str) -> String {
    let mut parts = text.trim().split("[`");
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (name, rest) = part.split_once("`]").expect("a link ends");
        let rest = match rest.strip_prefix('(') {
            Some(target) => target.split_once(')').expect("a link ends").1,
            None => rest,
        };
        plain += &format!("`{}`{rest}", name.rsplit("::").next().unwrap_or(name));
    }
    plain
}

#[test]
fn links_become_plain_text() {
    assert_eq!(plain(" As [`A`](Self::A), not [`b::C`]."), "As `A`, not `C`.");
}
