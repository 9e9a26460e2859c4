//! `dj-flux2 models`: lists the published models and upscalers and those on this disk, and what the built-in model
//! draws.

use std::path::PathBuf;

use flux2::Variant;
use flux2::find::name_of;
use flux2::hub::{Cache, Cached, RepoId, State, environment};
use flux2::upscale::published::{LICENSE, PUBLISHED, by_name};
use flux2::variant::KLEIN_MINI;
use flux2::vocabulary::Vocabulary;
use flux2::weights::Location;
use serde::Serialize;

use crate::args::ModelsArgs;
use crate::failure::{Failure, Result, code};
use crate::report::{Size, json, print};
use crate::upscalers::published;

/// A model or an upscaler, as `--json` prints it.
#[derive(Serialize)]
struct Row {
    /// Name for `-m`, or for `--upscaler`.
    name: String,
    /// `model` or `upscaler`.
    kind: &'static str,
    /// Hub repository.
    #[serde(skip_serializing_if = "Option::is_none")]
    repo: Option<String>,
    /// `complete`, `incomplete`, `absent` or `built-in`.
    state: &'static str,
    /// Size on this disk.
    bytes: u64,
    /// Approximate size of a download.
    #[serde(skip_serializing_if = "Option::is_none")]
    download_bytes: Option<u64>,
    /// Approximate memory of a small picture.
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_bytes: Option<u64>,
    /// The key keeps the spelling that scripts know.
    #[serde(rename = "licence", skip_serializing_if = "Option::is_none")]
    license: Option<&'static str>,
    /// Whether the hub asks for the license to be accepted first.
    gated: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<PathBuf>,
}

/// A model and what it was trained on, as `--json` prints it.
#[derive(Serialize)]
struct WithVocabulary<'a> {
    #[serde(flatten)]
    row: &'a Row,
    draws: &'a Vocabulary,
}

impl Row {
    /// Whether this is the model that a user calls `name`, as for `-m`, or the upscaler.
    fn is_called(&self, name: &str) -> bool {
        let is = |other: &str| other.eq_ignore_ascii_case(name);
        let is_upscaler = || by_name(name).is_some_and(|upscaler| upscaler.name == self.name);
        is(&self.name) || self.repo.as_deref().is_some_and(is) || is_upscaler()
    }
}

/// Prints the published models, other models of the family in the cache, and the published upscalers; or one of them.
pub fn run(args: &ModelsArgs) -> Result<()> {
    let mut rows = rows()?;
    rows.extend(upscalers());
    if let Some(name) = &args.model {
        rows.retain(|row| row.is_called(name));
        if rows.is_empty() {
            let hint = "run `dj-flux2 models` for all of them, or `dj-flux2 inspect` for a file or folder";
            return Err(Failure::new(code::MODEL_MISSING, format!("no model is called {name:?}"), hint));
        }
    }
    let asked_for = |row: &&Row| args.model.is_some() && row.name == KLEIN_MINI;
    let vocabulary = rows.iter().find(asked_for).and_then(|_| Vocabulary::builtin());
    if args.json {
        if let (Some(draws), [row]) = (&vocabulary, rows.as_slice()) {
            return print(&json(&WithVocabulary { row, draws }));
        }
        return rows.iter().try_for_each(|row| print(&json(row)));
    }
    let name = rows.iter().map(|row| row.name.len()).max().unwrap_or_default();
    print(&format!("{:<name$}  {:>8}  {:>8}  {:<34}  where", "name", "size", "memory", "license"))?;
    for (at, row) in rows.iter().enumerate() {
        if row.kind == UPSCALER && at > 0 && rows[at - 1].kind == MODEL {
            print(&format!("\n{:<name$}  {:>8}  {:>8}  {:<34}  where", "upscaler", "size", "", "license"))?;
        }
        let size = if row.bytes > 0 { row.bytes } else { row.download_bytes.unwrap_or_default() };
        let shown = |bytes: u64| if bytes > 0 { Size(bytes).to_string() } else { String::new() };
        let license = format!("{}{}", row.license.unwrap_or("unknown"), if row.gated { ", gated" } else { "" });
        let place = match (row.state, &row.path) {
            ("built-in", _) => "built in".into(),
            ("absent", _) => "not on this disk".into(),
            ("incomplete", _) => "only partly on this disk".into(),
            (_, path) => path.as_ref().map(|path| path.display().to_string()).unwrap_or_default(),
        };
        let memory = shown(row.memory_bytes.unwrap_or_default());
        print(&format!("{:<name$}  {:>8}  {memory:>8}  {license:<34}  {place}", row.name, shown(size)))?;
    }
    vocabulary.iter().try_for_each(print_vocabulary)
}

/// Prints what a small model was trained on, one kind a paragraph.
fn print_vocabulary(known: &Vocabulary) -> Result<()> {
    let firsts = |lists: &[Vec<String>]| lists.iter().filter_map(|names| names.first().cloned()).collect::<Vec<_>>();
    let sizes: Vec<String> = known
        .sizes
        .iter()
        .filter_map(|names| names.split_first())
        .map(|(name, others)| if others.is_empty() { name.clone() } else { format!("{name} ({})", others.join(", ")) })
        .collect();
    for (title, words) in [
        ("subjects", firsts(&known.subjects)),
        ("shapes", firsts(&known.shapes)),
        ("colors of shapes", known.shape_colors.clone()),
        ("backgrounds", known.colors.clone()),
        ("patterns", known.patterns.clone()),
        ("sizes", sizes),
        ("places", known.places.clone()),
        ("numbers", known.counts.clone()),
        ("edits, with -i", known.edits.clone()),
        ("with two references", known.two_references.clone()),
        ("pictures", vec![known.pictures.to_string()]),
    ] {
        let separator = if words.iter().any(|word| word.contains(", ")) { "; " } else { ", " };
        print(&format!("\n{title}:"))?;
        wrapped(&words, separator).iter().try_for_each(|line| print(&format!("  {line}")))?;
    }
    Ok(())
}

/// `words` in lines of at most 78 characters.
fn wrapped(words: &[String], separator: &str) -> Vec<String> {
    const WIDTH: usize = 78;
    let mut lines = vec![String::new()];
    for (i, word) in words.iter().enumerate() {
        let word = if i + 1 < words.len() { format!("{word}{separator}") } else { word.clone() };
        match lines.last_mut().filter(|line| line.is_empty() || line.len() + word.trim_end().len() <= WIDTH) {
            Some(line) => line.push_str(&word),
            None => lines.push(word),
        }
    }
    lines.iter().map(|line| line.trim_end().to_owned()).collect()
}

/// Kinds of rows.
const MODEL: &str = "model";
const UPSCALER: &str = "upscaler";

/// The published upscalers.
fn upscalers() -> impl Iterator<Item = Row> {
    PUBLISHED.iter().map(|upscaler| {
        let path = published::file_of(upscaler);
        let bytes = upscaler.file.bytes;
        Row {
            name: upscaler.name.into(),
            kind: UPSCALER,
            repo: None,
            state: if path.is_some() { "complete" } else { "absent" },
            bytes: if path.is_some() { bytes } else { 0 },
            download_bytes: Some(bytes),
            memory_bytes: None,
            license: Some(LICENSE),
            gated: false,
            path,
        }
    })
}

fn rows() -> Result<Vec<Row>> {
    let family: Vec<RepoId> = Variant::named().iter().filter_map(|v| v.repo?.parse().ok()).collect();
    let mut cached: Vec<Cached> = match environment::cache_folder(|name| std::env::var_os(name)) {
        Some(folder) => Cache::new(folder).list(&family)?,
        None => vec![],
    };
    let mut rows = Vec::new();
    for variant in Variant::named() {
        let Some(repo) = variant.repo else {
            rows.extend(Location::builtin().map(|_| row(variant, None, "built-in")));
            continue;
        };
        let found = cached
            .iter()
            .position(|cached| cached.repo.to_string().eq_ignore_ascii_case(repo))
            .map(|at| cached.remove(at));
        let state = found.as_ref().map_or("absent", state);
        rows.push(row(variant, found, state));
    }
    rows.extend(cached.into_iter().map(|cached| Row {
        name: name_of(&cached.repo),
        kind: MODEL,
        repo: Some(cached.repo.to_string()),
        state: state(&cached),
        bytes: cached.bytes,
        download_bytes: None,
        memory_bytes: None,
        license: None,
        gated: false,
        path: path(cached),
    }));
    Ok(rows)
}

fn row(variant: &Variant, found: Option<Cached>, state: &'static str) -> Row {
    let known = |bytes: u64| Some(bytes).filter(|bytes| *bytes > 0);
    Row {
        name: variant.name.into(),
        kind: MODEL,
        repo: variant.repo.map(str::to_owned),
        state,
        bytes: found.as_ref().map_or(0, |found| found.bytes),
        download_bytes: known(variant.download_bytes),
        memory_bytes: known(variant.memory_bytes),
        license: Some(variant.license),
        gated: variant.gated,
        path: found.and_then(path),
    }
}

fn state(cached: &Cached) -> &'static str {
    match cached.state {
        State::Complete(_) => "complete",
        State::Incomplete(_) => "incomplete",
    }
}

fn path(cached: Cached) -> Option<PathBuf> {
    match cached.state {
        State::Complete(folder) => Some(folder),
        State::Incomplete(_) => None,
    }
}
