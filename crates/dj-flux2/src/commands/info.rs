//! `dj-flux2 info`: prints the parameters stored in a picture.

use flux2::image::Parameters;

use crate::args::InfoArgs;
use crate::failure::Result;
use crate::report::{json, print};
use crate::source_picture::read_parameters;

/// Prints the parameters stored in the picture of `args`.
pub fn run(args: &InfoArgs) -> Result<()> {
    let parameters = read_parameters(&args.file)?;
    match args.json {
        true => print(&json(&parameters)),
        false => rows(&parameters).iter().try_for_each(|(name, value)| print(&format!("{name:<11} {}", shown(value)))),
    }
}

fn rows(p: &Parameters) -> Vec<(&'static str, String)> {
    let mut rows = vec![
        ("prompt", p.prompt.clone()),
        ("seed", p.seed.to_string()),
        ("noise", p.noise.clone()),
        ("model", p.model.clone()),
        ("variant", p.variant.clone().unwrap_or_else(|| "unknown".into())),
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
