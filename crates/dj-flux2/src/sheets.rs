//! Sheets of finished pictures: what is written above, beside and below their cells, and the pictures themselves, read
//! one at a time.

use std::path::{Path, PathBuf};

use flux2::image::metadata::{self, SheetCell, SheetParameters};
use flux2::image::{self, Parameters, RgbImage, Stored};
use flux2::marks::Found;
use flux2::sheet::{Axis, Sheet, SheetSpec};

use crate::failure::{Failure, Result};
use crate::settings::grid::{Grid, GridAxis, Setting};
use crate::typed_paths::{name_of, read_picture};

/// What a cell shows.
pub enum Cell {
    /// The picture in a file, what made it if that is known, and the marks beside its pixels.
    Picture { file: PathBuf, stored: Option<Stored>, marks: Found },
    /// Why there is no picture.
    Missing(String),
}

impl Cell {
    /// The cell of a picture that says itself what made it.
    pub fn of_file(file: &Path) -> Result<Self> {
        let bytes = read_picture(file)?;
        // A picture whose parameters are broken can be shown all the same.
        let stored = metadata::read_any(&bytes).ok().flatten();
        Ok(Cell::Picture { file: file.to_owned(), stored, marks: Found::of(&bytes, None) })
    }

    fn stored(&self) -> Option<&Stored> {
        match self {
            Cell::Picture { stored, .. } => stored.as_ref(),
            Cell::Missing(_) => None,
        }
    }

    fn marks(&self) -> Option<&Found> {
        match self {
            Cell::Picture { marks, .. } => Some(marks),
            Cell::Missing(_) => None,
        }
    }
}

/// How a sheet looks.
#[derive(Default)]
pub struct Look<'a> {
    /// The settings along its sides.
    pub grid: Option<&'a Grid>,
    /// Pictures in a row, if no grid says it.
    pub columns: Option<usize>,
    pub dark: bool,
}

/// A sheet that is drawn.
pub struct Drawn {
    pub image: RgbImage,
    /// What made its pictures.
    pub parameters: SheetParameters,
    /// Whether the XMP packet of any of them says that a model drew it.
    pub is_drawn: bool,
    /// How many of them carry Content Credentials.
    pub signed: usize,
    /// By how much they are shrunk; 1 if they are not.
    pub scale: f64,
}

/// Draws a sheet.
pub fn draw(cells: &[Cell], look: &Look) -> Result<Drawn> {
    let mut sheet = Sheet::new(&spec(cells, look, largest(cells)?))?;
    for (number, cell) in cells.iter().enumerate() {
        match cell {
            Cell::Picture { file, .. } => sheet.picture(number, &read(file)?)?,
            Cell::Missing(reason) => sheet.missing(number, reason),
        }
    }
    let columns = sheet.columns();
    let ours = |(number, cell): (usize, &Cell)| match cell.stored() {
        Some(Stored::Ours(made)) => {
            let (column, row) = (number % columns + 1, number / columns + 1);
            Some(SheetCell { column, row, parameters: Parameters::clone(made) })
        }
        _ => None,
    };
    let parameters = SheetParameters {
        columns,
        cells: cells.iter().enumerate().filter_map(ours).collect(),
        software: metadata::SOFTWARE.into(),
        version: env!("CARGO_PKG_VERSION").into(),
    };
    let count = |has: fn(&Found) -> bool| cells.iter().filter(|cell| cell.marks().is_some_and(has)).count();
    let (is_drawn, signed) = (count(Found::says_drawn) > 0, count(|marks| marks.has_credentials));
    Ok(Drawn { scale: sheet.scale(), image: sheet.finish()?, parameters, is_drawn, signed })
}

fn read(file: &Path) -> Result<RgbImage> {
    image::decode(&read_picture(file)?, &name_of(file)).map_err(Failure::image)
}

/// The size that all pictures fit in. A sheet without one has cells of a usual size.
fn largest(cells: &[Cell]) -> Result<[u32; 2]> {
    let mut largest: Option<[u32; 2]> = None;
    for cell in cells {
        if let Cell::Picture { file, .. } = cell {
            let picture = read(file)?;
            let [width, height] = largest.unwrap_or_default();
            largest = Some([width.max(picture.width()), height.max(picture.height())]);
        }
    }
    Ok(largest.unwrap_or([256; 2]))
}

/// Everything about a sheet but its pictures.
fn spec(cells: &[Cell], look: &Look, cell_px: [u32; 2]) -> SheetSpec {
    let by_cell: Vec<Option<Vec<(&str, String)>>> = cells.iter().map(|cell| cell.stored().map(settings_of)).collect();
    let known: Vec<&Vec<(&str, String)>> = by_cell.iter().flatten().collect();
    let is_shared = |setting: &(&str, String)| known.iter().all(|settings| settings.contains(setting));
    let shared: Vec<&(&str, String)> =
        known.first().map_or(vec![], |first| first.iter().filter(|setting| is_shared(setting)).collect());

    let prompt = shared.iter().find(|(name, _)| *name == PROMPT).map(|(_, prompt)| prompt.clone());
    // The first value is what the others replace, so the prompt of its cell is the one that was typed.
    let original =
        || look.grid.filter(|grid| has_axis(grid, &Setting::PromptSr)).and_then(|_| prompt_of(cells.first()?));
    let others: Vec<String> = shared.iter().filter(|(name, _)| *name != PROMPT).map(|it| part(it)).collect();
    let header = prompt.or_else(original).into_iter().chain((!others.is_empty()).then(|| others.join(", ")));

    let axis = |axis: &GridAxis| {
        let value = |value: &String| if value.is_empty() { "(nothing)".into() } else { value.clone() };
        Axis { name: axis.setting.name().to_owned(), values: axis.values.iter().map(value).collect() }
    };
    let differing = |(settings, cell): (&Option<Vec<(&str, String)>>, &Cell)| {
        let parts: Vec<String> = settings.iter().flatten().filter(|setting| !is_shared(setting)).map(part).collect();
        match cell {
            Cell::Picture { file, .. } if parts.is_empty() => vec![file_name(file)],
            _ => parts,
        }
    };
    let labels = match look.grid {
        Some(_) => vec![],
        None => by_cell.iter().zip(cells).map(differing).collect(),
    };
    SheetSpec {
        cells: cells.len(),
        cell_px,
        columns: look.columns,
        header: header.collect(),
        x: look.grid.map(|grid| axis(&grid.x)),
        y: look.grid.and_then(|grid| grid.y.as_ref()).map(axis),
        labels,
        dark: look.dark,
    }
}

fn has_axis(grid: &Grid, setting: &Setting) -> bool {
    grid.x.setting == *setting || grid.y.as_ref().is_some_and(|y| y.setting == *setting)
}

fn prompt_of(cell: &Cell) -> Option<String> {
    match cell.stored()? {
        Stored::Ours(made) => Some(made.prompt.clone()),
        Stored::Other(made) => made.prompt.clone(),
    }
}

fn file_name(file: &Path) -> String {
    file.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

const PROMPT: &str = "prompt";
const SIZE: &str = "size";

/// The settings of a picture by name, in the order in which they are shown.
pub fn settings_of(stored: &Stored) -> Vec<(&'static str, String)> {
    let mut settings = Vec::new();
    let mut add = |name, value: Option<String>| settings.extend(value.map(|value| (name, value)));
    match stored {
        Stored::Ours(made) => {
            add(PROMPT, Some(made.prompt.clone()));
            add("model", Some(made.model.clone()));
            add(SIZE, Some(format!("{}x{}", made.width, made.height)));
            add("steps", Some(made.steps.to_string()));
            add("guidance", made.guidance.map(|guidance| guidance.to_string()));
            add("seed", Some(made.seed.to_string()));
            add("noise", Some(made.noise.clone()));
            add("dtype", Some(made.dtype.clone()));
            made.loras.iter().for_each(|lora| add("lora", Some(format!("{}:{}", lora.name, lora.scale))));
            // The beginning of a digest is enough to tell files apart.
            made.references.iter().for_each(|it| add("reference", Some(it.chars().take(8).collect())));
            if let Some(source) = &made.source {
                add("source", Some(source.sha256.chars().take(8).collect()));
                add("strength", Some(source.strength.to_string()));
            }
            add("background", made.background.clone());
            add("compat", made.compat.clone());
        }
        Stored::Other(made) => {
            add(PROMPT, made.prompt.clone());
            add("model", made.model.clone());
            add(SIZE, made.width.zip(made.height).map(|(width, height)| format!("{width}x{height}")));
            add("steps", made.steps.map(|steps| steps.to_string()));
            add("guidance", made.guidance.map(|guidance| guidance.to_string()));
            add("seed", made.seed.map(|seed| seed.to_string()));
        }
    }
    settings
}

/// A setting as a part of a text.
fn part((name, value): &(&str, String)) -> String {
    match *name {
        PROMPT | SIZE => value.clone(),
        name => format!("{name} {value}"),
    }
}
