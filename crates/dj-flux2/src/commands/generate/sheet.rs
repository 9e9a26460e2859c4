//! The sheet of a run: all its pictures with labels, or those of a grid between its axes.

use std::path::{Path, PathBuf};

use flux2::image::Stored;
use flux2::marks::Found;

use super::outcomes::Outcomes;
use crate::args::GenerateArgs;
use crate::commands::sheet::SheetFile;
use crate::failure::{Failure, Result};
use crate::output::{Existing, Output};
use crate::report::Report;
use crate::settings::Settings;
use crate::settings::grid::Grid;
use crate::sheets::{Cell, Look, draw};

/// A sheet to be drawn when the pictures are made.
pub struct SheetOfRun<'a> {
    file: SheetFile,
    look: Look<'a>,
}

impl<'a> SheetOfRun<'a> {
    /// The sheet that was asked for; `None` if there is none. Its name is checked before any work.
    pub fn new(
        args: &GenerateArgs,
        grid: Option<&'a Grid>,
        runs: &[Settings],
        inputs: &[PathBuf],
    ) -> Result<Option<Self>> {
        let path = match (&args.sheets.sheet, grid) {
            (Some(path), _) => path.clone(),
            (None, Some(_)) => name_beside(&runs[0].output, Path::exists),
            (None, None) => return Ok(None),
        };
        if runs[0].output == Output::Stdout || path == Path::new("-") {
            let hint = "write both to files, with -o NAME.png and --sheet NAME.png";
            return Err(Failure::usage("a sheet is a file, made of files", hint));
        }
        let existing = match (args.no_clobber, args.force) {
            (true, _) => Existing::Keep,
            (_, true) => Existing::ReplaceReadOnly,
            _ => Existing::Replace,
        };
        let file = SheetFile::new(&path, existing, inputs)?;
        if let Some(job) =
            runs.iter().flat_map(Settings::jobs).find(|job| job.path.as_deref().is_some_and(|p| file.is(p)))
        {
            let message = format!("the sheet and picture {} would both be {}", job.index, path.display());
            return Err(Failure::usage(message, "choose another name for the sheet, with --sheet NAME.png"));
        }
        Ok(Some(SheetOfRun { file, look: Look { grid, columns: None, dark: args.sheets.dark } }))
    }

    /// Draws and writes the sheet. What made its pictures is stored in it if `with_parameters`.
    pub fn write(&self, outcomes: &Outcomes, whole: u64, with_parameters: bool, report: &Report) -> Result<()> {
        let cell = |place: u64| {
            let made = outcomes.made.iter().find(|(at, _)| *at == place).map(|(_, made)| made);
            if let Some((file, made)) = made.and_then(|made| Some((made.path.clone()?, made))) {
                let stored = Some(Stored::Ours(Box::new(made.parameters.clone())));
                return Cell::Picture { file, stored, marks: Found::default() };
            }
            let failed = outcomes.failed.iter().find(|(at, _)| *at == place);
            Cell::Missing(failed.map_or_else(|| "not made".into(), |(_, failure)| failure.message.clone()))
        };
        let cells: Vec<Cell> = (0..whole).map(cell).collect();
        self.file.write(&draw(&cells, &self.look)?, with_parameters, report).map(drop)
    }
}

/// The name of a sheet that nobody named: that of the pictures with `-sheet` behind it. Where pictures get names that
/// no file has, so does the sheet.
fn name_beside(output: &Output, exists: fn(&Path) -> bool) -> PathBuf {
    let named = |stem: &str, number: u64| match number {
        1 => format!("{stem}-sheet.png"),
        number => format!("{stem}-sheet-{number}.png"),
    };
    match output {
        Output::Files { template, .. } => {
            // Placeholders are about single pictures.
            let plain: String = template.split(['{', '}']).step_by(2).collect();
            let path = Path::new(&plain);
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            // Of a name that is a placeholder only the extension is left.
            let stem = name.rsplit_once('.').map_or(&*name, |(stem, _)| stem);
            let stem = Some(stem.trim_matches(['-', '_', '.', ' '])).filter(|stem| !stem.is_empty());
            path.with_file_name(named(stem.unwrap_or("output"), 1))
        }
        Output::New { folder, .. } => {
            let folder = Path::new(folder);
            let free = (1..).map(|number| folder.join(named("output", number))).find(|path| !exists(path));
            free.expect("a folder does not hold 2^64 files")
        }
        Output::Stdout => named("output", 1).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sheet_that_nobody_named_has_the_name_of_its_pictures() {
        let name = |output: &str| {
            let output = Output::new(Some(Path::new(output)), 4, Existing::Replace, |_| false).unwrap();
            name_beside(&output, |path| path == Path::new("out/output-sheet.png")).display().to_string()
        };
        assert_eq!(name("fox.png"), "fox-sheet.png");
        assert_eq!(name("a/{seed}-fox-{index}.jpg"), "a/fox-sheet.png");
        assert_eq!(name("{seed}.png"), "output-sheet.png");
        assert_eq!(name("out/"), "out/output-sheet-2.png");
    }
}
