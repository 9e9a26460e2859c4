//! `dj-flux2 inspect`: describes a file or folder of weights.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use flux2::image::ImageFormat;
use flux2::weights::{InspectedPart, Inspection, Location, inspect};
use serde::Serialize;

use super::info;
use crate::args::InspectArgs;
use crate::failure::Result;
use crate::prepare::find_model;
use crate::report::record::StrengthRecord;
use crate::report::{Size, json, print, shown};
use crate::wording;

/// What was found, as `--json` prints it.
#[derive(Serialize)]
struct Record<'a> {
    path: String,
    /// Whether it is a whole model, a folder or one file.
    is_model: bool,
    /// Whether every part can be loaded.
    is_complete: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    has_tokenizer: Option<bool>,
    parts: Vec<PartRecord<'a>>,
}

#[derive(Serialize)]
struct PartRecord<'a> {
    path: String,
    what: String,
    container: &'a str,
    files: usize,
    /// Files beside them that are not read, as the network is whole without them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    not_read: Vec<String>,
    bytes: u64,
    dtypes: Vec<DtypeRecord<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sizes: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    strength: Option<StrengthRecord>,
    variants: &'a [&'static str],
    metadata: &'a BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

#[derive(Serialize)]
struct DtypeRecord<'a> {
    dtype: &'a str,
    tensors: usize,
    bytes: u64,
}

/// Describes what `args` name. A picture holds no weights: its parameters are printed, as `info` does.
pub fn run(args: &InspectArgs) -> Result<()> {
    if is_picture(&args.path) {
        return info::print_parameters(&args.path, args.json);
    }
    let location = find_model(&Location::from(&args.path))?;
    let found = inspect(&location)?;
    if args.json {
        let record = Record {
            path: location.path().display().to_string(),
            is_model: found.model.is_some(),
            is_complete: found.parts.iter().all(|part| part.problem.is_none()),
            has_tokenizer: found.model.as_ref().map(|model| model.has_tokenizer),
            parts: found.parts.iter().map(record).collect(),
        };
        return print(&json(&record));
    }
    let Inspection { parts, model } = &found;
    for (i, part) in parts.iter().enumerate() {
        let path = part.location.path().display();
        print(&format!("{}{path}", if i > 0 { "\n" } else { "" }))?;
        for (name, value) in rows(part) {
            let lines: Vec<String> = value.split('\n').map(shown).collect();
            print(&format!("  {name:<11} {}", lines.join("\n              ")))?;
        }
    }
    if let Some(model) = model {
        let broken = parts.iter().filter(|part| part.problem.is_some()).count();
        let whole = match broken {
            0 => "complete".to_owned(),
            1 => "1 of 3 parts cannot be loaded".to_owned(),
            n => format!("{n} of 3 parts cannot be loaded"),
        };
        let name = if model.variants.is_empty() { "of no published size".into() } else { model.variants.join(" or ") };
        let tokenizer = if model.has_tokenizer { "its own tokenizer" } else { "the built-in tokenizer" };
        print(&format!("\nmodel: {name}, with {tokenizer}; {whole}"))?;
    }
    Ok(())
}

/// Whether a file begins as a picture does.
fn is_picture(path: &Path) -> bool {
    let mut start = vec![];
    let read = path.is_file().then(|| File::open(path)?.take(16).read_to_end(&mut start));
    matches!(read, Some(Ok(_))) && ImageFormat::of(&start).is_some()
}

fn record(part: &InspectedPart) -> PartRecord<'_> {
    let dtypes =
        part.dtypes.iter().map(|(dtype, tensors, bytes)| DtypeRecord { dtype, tensors: *tensors, bytes: *bytes });
    PartRecord {
        path: part.location.path().display().to_string(),
        what: part.kind.to_string(),
        container: part.container,
        files: part.files,
        not_read: part.passed_over.iter().map(|file| file.path().display().to_string()).collect(),
        bytes: part.bytes,
        dtypes: dtypes.collect(),
        parameters: part.parameters,
        sizes: part.sizes.as_deref(),
        strength: part.strength.as_ref().map(StrengthRecord::new),
        variants: &part.variants,
        metadata: &part.metadata,
        problem: part.problem.as_ref().map(ToString::to_string),
    }
}

fn rows(part: &InspectedPart) -> Vec<(String, String)> {
    let mut rows = vec![];
    let mut row = |name: &str, value: String| rows.push((name.to_owned(), value));
    if part.files > 0 {
        row("what", part.kind.to_string());
        row(
            "container",
            match part.files {
                1 => part.container.to_owned(),
                files => format!("{}, {files} files", part.container),
            },
        );
        for file in &part.passed_over {
            let name = file.path().file_name().unwrap_or_default().display();
            row("not read", name.to_string());
        }
        let dtype = |(dtype, tensors, bytes): &(String, usize, u64)| format!("{dtype} {} in {tensors}", Size(*bytes));
        let dtypes = part.dtypes.iter().map(dtype).collect::<Vec<_>>().join(", ");
        row("tensors", format!("{}: {dtypes}", Size(part.bytes)));
    }
    part.sizes.iter().for_each(|sizes| row("sizes", sizes.clone()));
    part.parameters.iter().for_each(|n| row("parameters", format!("{:.2} million", *n as f64 / 1e6)));
    part.strength.iter().for_each(|strength| row("strength", strength.to_string()));
    if !part.variants.is_empty() {
        row("fits", part.variants.join(", "));
    }
    part.metadata.iter().for_each(|(key, value)| row("says", shown(&format!("{key}: {value}"))));
    if let Some(problem) = &part.problem {
        row("problem", problem.to_string());
        problem.remedy().iter().for_each(|remedy| row("hint", wording::remedy(remedy)));
    }
    rows
}
