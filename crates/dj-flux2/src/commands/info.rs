//! `dj-flux2 info`: prints the parameters stored in a picture, and the marks by which machines can tell where it comes
//! from.

mod marks;

use std::path::Path;

use flux2::Variant;
use flux2::image::metadata::{SheetCell, SheetParameters, read_sheet};
use flux2::image::{OtherParameters, Parameters, SourceParameters, Stored, UpscaleParameters};
use serde::Serialize;

use super::inspect;
use crate::args::{InfoArgs, InspectArgs};
use crate::failure::{Failure, Result, code};
use crate::report::{json, print, shown};
use crate::source_picture::stored_in;
use crate::typed_paths::{name_of, read_picture};
use marks::{Marks, MarksRecord};

/// Prints the parameters stored in the picture of `args`.
///
/// Weights have no such parameters: they are described as `inspect` does.
pub fn run(args: &InfoArgs) -> Result<()> {
    if is_weights(&args.file) {
        return inspect::run(&InspectArgs { path: args.file.clone(), json: args.json });
    }
    print_parameters(&args.file, args.json)
}

/// Prints what is stored in a picture, and its marks.
pub fn print_parameters(file: &Path, as_json: bool) -> Result<()> {
    let bytes = read_picture(file)?;
    let marks = Marks::of(&bytes, &name_of(file));
    if let Some(sheet) = read_sheet(&bytes).map_err(|e| Failure::image(e).of_file(file))? {
        return print_sheet(&sheet, &marks, as_json);
    }
    let stored = stored_in(&bytes, file)?;
    if stored.is_none() && marks.is_none() {
        let message = format!("{} holds neither parameters that are understood nor marks", name_of(file));
        let hint = "pass a picture as its program wrote it: many sites and editors remove them";
        return Err(Failure::new(code::BAD_IMAGE, message, hint));
    }
    if as_json {
        let marks = marks.record();
        return print(&match &stored {
            Some(Stored::Ours(parameters)) => json(&Described { parameters: Some(&**parameters), marks }),
            Some(Stored::Other(parameters)) => json(&Described { parameters: Some(&**parameters), marks }),
            None => json(&Described::<Parameters> { parameters: None, marks }),
        });
    }
    let mut rows = match &stored {
        Some(Stored::Ours(parameters)) => rows(parameters),
        Some(Stored::Other(parameters)) => rows_of_other(parameters),
        None => vec![],
    };
    rows.extend(marks.rows());
    print_rows(&rows)
}

fn print_rows(rows: &[(&'static str, String)]) -> Result<()> {
    rows.iter().try_for_each(|(name, value)| print(&format!("{name:<11} {}", shown(value))))
}

/// Prints what is stored in a sheet: a line for each picture, by its column and row.
fn print_sheet(sheet: &SheetParameters, marks: &Marks, as_json: bool) -> Result<()> {
    if as_json {
        return print(&json(&Described { parameters: Some(sheet), marks: marks.record() }));
    }
    let SheetParameters { columns, cells, software, version } = sheet;
    print(&format!("{:<11} {} pictures, {columns} in a row", "sheet", cells.len()))?;
    for SheetCell { column, row, parameters: p } in cells {
        let what = format!("seed {}, {} steps, {}x{}, {}", p.seed, p.steps, p.width, p.height, p.prompt);
        print(&format!("{:<11} {}", format!("cell {column},{row}"), shown(&what)))?;
    }
    print_rows(&[("software", format!("{software} {version}"))])?;
    print_rows(&marks.rows())
}

/// What `--json` prints.
#[derive(Serialize)]
struct Described<'a, T: Serialize> {
    #[serde(flatten)]
    parameters: Option<&'a T>,
    marks: MarksRecord<'a>,
}

/// Whether `path` is a folder, a file of weights by its name, or the name of a published model.
fn is_weights(path: &Path) -> bool {
    let extension = path.extension().map(|extension| extension.to_string_lossy().to_ascii_lowercase());
    let is_named_so = matches!(extension.as_deref(), Some("gguf" | "safetensors" | "sft" | "pth"));
    let is_model = || !path.exists() && path.to_str().is_some_and(|name| Variant::by_name(name).is_ok());
    is_named_so || path.is_dir() || is_model()
}

fn rows(p: &Parameters) -> Vec<(&'static str, String)> {
    let mut rows = vec![
        ("prompt", p.prompt.clone()),
        ("negative", p.negative_prompt.clone().unwrap_or_default()),
        ("template", p.template.clone().unwrap_or_default()),
        ("seed", p.seed.to_string()),
        ("noise", p.noise.clone()),
        ("model", p.model.clone()),
        ("kind", p.variant.clone().unwrap_or_else(|| "unknown".into())),
        ("dtype", p.dtype.clone()),
        ("steps", p.steps.to_string()),
    ];
    rows.retain(|(name, value)| !(["negative", "template"].contains(name) && value.is_empty()));
    rows.extend(p.guidance.map(|guidance| ("guidance", guidance.to_string())));
    rows.push(("size", format!("{}x{}", p.width, p.height)));
    rows.extend(p.source.iter().flat_map(source_rows));
    rows.extend(p.references.iter().map(|digest| ("reference", digest.clone())));
    rows.extend(p.loras.iter().map(|lora| ("lora", format!("{}, scale {}, {}", lora.name, lora.scale, lora.sha256))));
    rows.extend(p.upscale.iter().map(|upscale| ("upscaled", upscaled(upscale))));
    rows.extend(p.upscale.iter().filter_map(|upscale| Some(("upscaler", upscale.sha256.clone()?))));
    rows.extend(p.background.iter().map(|color| ("background", color.clone())));
    rows.extend(p.compat.iter().map(|reference| ("compat", reference.clone())));
    rows.push(("software", format!("{} {}", p.software, p.version)));
    rows
}

fn upscaled(UpscaleParameters { upscaler, by, width, height, .. }: &UpscaleParameters) -> String {
    let side = |side: &Option<u32>| side.map_or_else(String::new, |side| side.to_string());
    match by {
        Some(by) => format!("{by} times by {upscaler}"),
        None => format!("to {}x{} by {upscaler}", side(width), side(height)),
    }
}

fn rows_of_other(p: &OtherParameters) -> Vec<(&'static str, String)> {
    let mut rows = vec![("made by", p.program.clone())];
    let mut row = |name, value: Option<String>| rows.extend(value.map(|value| (name, value)));
    row("prompt", p.prompt.clone());
    row("negative", p.negative_prompt.clone());
    row("seed", p.seed.map(|seed| seed.to_string()));
    row("steps", p.steps.map(|steps| steps.to_string()));
    row("guidance", p.guidance.map(|guidance| guidance.to_string()));
    row("sampler", p.sampler.clone());
    row("size", p.width.zip(p.height).map(|(width, height)| format!("{width}x{height}")));
    row("model", p.model.clone());
    p.other.iter().for_each(|(name, value)| row("other", Some(format!("{name}: {value}"))));
    rows
}

/// What was painted into, and how.
fn source_rows(source: &SourceParameters) -> Vec<(&'static str, String)> {
    let SourceParameters { sha256, mask, mask_grow, outpaint, outpaint_fill, strength, feather, .. } = source;
    let mut rows = vec![("source", sha256.clone()), ("strength", strength.to_string())];
    rows.extend(mask.iter().map(|digest| ("mask", digest.clone())));
    rows.extend(source.mask_from_alpha.then(|| ("mask", "transparency of the source".into())));
    rows.extend(source.mask_invert.then(|| ("inverted", "yes".into())));
    rows.extend((*mask_grow > 0).then(|| ("mask grown", format!("{mask_grow} px"))));
    rows.extend(feather.map(|feather| ("feather", format!("{feather} px"))));
    if let Some([left, top, right, bottom]) = outpaint {
        let fill = outpaint_fill.as_deref().unwrap_or("edge");
        rows.push(("outpaint", format!("{left},{top},{right},{bottom} px, filled with {fill}")));
    }
    rows.extend((!source.is_reference).then(|| ("source seen", "no".into())));
    let ([left, top, right, bottom], [width, height]) = (source.region, source.drawn);
    rows.push(("drawn", format!("{left},{top} to {right},{bottom} at {width}x{height}")));
    rows.extend(source.rule.iter().map(|rule| ("rules", rule.clone())));
    rows
}
