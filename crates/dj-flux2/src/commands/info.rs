//! `dj-flux2 info`: prints the parameters stored in a picture.

use std::path::Path;

use flux2::Variant;
use flux2::image::Parameters;

use super::inspect;
use crate::args::{InfoArgs, InspectArgs};
use crate::failure::Result;
use crate::report::{json, print};
use crate::source_picture::read_parameters;

/// Prints the parameters stored in the picture of `args`.
///
/// Weights have no such parameters: they are described as `inspect` does.
pub fn run(args: &InfoArgs) -> Result<()> {
    if is_weights(&args.file) {
        return inspect::run(&InspectArgs { path: args.file.clone(), json: args.json });
    }
    print_parameters(&args.file, args.json)
}

/// Prints what is stored in a picture.
pub fn print_parameters(file: &Path, as_json: bool) -> Result<()> {
    let parameters = read_parameters(file)?;
    match as_json {
        true => print(&json(&parameters)),
        false => rows(&parameters).iter().try_for_each(|(name, value)| print(&format!("{name:<11} {}", shown(value)))),
    }
}

/// Whether `path` is a folder, a file of weights by its name, or the name of a published model.
fn is_weights(path: &Path) -> bool {
    let extension = path.extension().map(|extension| extension.to_string_lossy().to_ascii_lowercase());
    let is_named_so = matches!(extension.as_deref(), Some("gguf" | "safetensors" | "sft"));
    let is_model = || !path.exists() && path.to_str().is_some_and(|name| Variant::by_name(name).is_ok());
    is_named_so || path.is_dir() || is_model()
}

fn rows(p: &Parameters) -> Vec<(&'static str, String)> {
    let mut rows = vec![
        ("prompt", p.prompt.clone()),
        ("seed", p.seed.to_string()),
        ("noise", p.noise.clone()),
        ("model", p.model.clone()),
        ("kind", p.variant.clone().unwrap_or_else(|| "unknown".into())),
        ("dtype", p.dtype.clone()),
        ("steps", p.steps.to_string()),
    ];
    rows.extend(p.guidance.map(|guidance| ("guidance", guidance.to_string())));
    rows.push(("size", format!("{}x{}", p.width, p.height)));
    rows.extend(p.references.iter().map(|digest| ("reference", digest.clone())));
    rows.extend(p.loras.iter().map(|lora| ("lora", format!("{}, scale {}, {}", lora.name, lora.scale, lora.sha256))));
    rows.push(("software", format!("{} {}", p.software, p.version)));
    rows
}

/// Escapes control characters, so that no value can break the line or drive the terminal.
fn shown(value: &str) -> String {
    value.chars().fold(String::with_capacity(value.len()), |mut line, c| {
        if c.is_control() {
            line.extend(c.escape_default())
        } else {
            line.push(c)
        }
        line
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_cannot_drive_the_terminal() {
        assert_eq!(shown("Füchse\n\x1b[2J\u{9b}5m"), "Füchse\\n\\u{1b}[2J\\u{9b}5m");
    }
}
