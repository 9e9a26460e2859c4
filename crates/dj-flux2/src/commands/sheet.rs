//! `dj-flux2 sheet`: finished pictures on one sheet, with what differs between them.

use std::fs;
use std::path::{Path, PathBuf};

use flux2::image::codec::encode_sheet;
use flux2::image::metadata::{self, xmp};

use crate::args::SheetArgs;
use crate::failure::{Failure, Result};
use crate::output::{Existing, Output};
use crate::report::Report;
use crate::settings::Detail;
use crate::sheets::{Cell, Drawn, Look, draw};

/// Name of a sheet, before a number and the extension, if nobody says otherwise.
const STEM: &str = "sheet";

/// Puts the pictures of `args` on a sheet.
pub fn run(args: &SheetArgs) -> Result<()> {
    let SheetArgs { files, output, columns, dark, show, no_metadata, force, quiet } = args;
    if files.iter().any(|file| file.as_path() == Path::new("-")) {
        return Err(Failure::usage("a sheet reads its pictures twice, standard input can be read once", "pass files"));
    }
    let mut report = Report::new(if *quiet { Detail::Quiet } else { Detail::Normal }, false);
    let existing = if *force { Existing::ReplaceReadOnly } else { Existing::Replace };
    let target = match output {
        Some(path) => SheetFile::new(path, existing, files)?,
        None => SheetFile::unnamed()?,
    };
    let (earlier, files): (Vec<_>, Vec<_>) = files.iter().partition(|file| output.is_none() && is_earlier_sheet(file));
    if let (Some(sheet), false) = (earlier.first(), files.is_empty()) {
        let more = if earlier.len() > 1 { " and others are sheets, which are" } else { " is a sheet, which is" };
        report.note(format_args!("{}{more} left out; with -o FILE all are taken", sheet.display()));
    }
    let files = if files.is_empty() { earlier } else { files };
    let cells = files.iter().map(|file| Cell::of_file(file)).collect::<Result<Vec<_>>>()?;
    let look = Look { columns: columns.map(|columns| columns as usize), dark: *dark, ..Look::default() };
    let drawn = draw(&cells, &look)?;
    if *show {
        report.show_pictures(true);
    }
    target.write(&drawn, !no_metadata, &report).map(drop)
}

/// Whether a file is a sheet that got its name from this command: `sheet *.png` in the same folder finds it again.
fn is_earlier_sheet(file: &Path) -> bool {
    let name = file.file_stem().unwrap_or_default().to_string_lossy();
    let number = name.strip_prefix(STEM).map(|rest| rest.strip_prefix('-').unwrap_or(rest));
    let is_numbered = number.is_some_and(|number| number.chars().all(|c| c.is_ascii_digit()));
    is_numbered && fs::read(file).is_ok_and(|bytes| matches!(metadata::read_sheet(&bytes), Ok(Some(_))))
}

/// Where a sheet is written.
pub struct SheetFile {
    output: Output,
}

impl SheetFile {
    /// Checks, before any work, that a sheet can be written to `path` and would replace none of `inputs`.
    pub fn new(path: &Path, existing: Existing, inputs: &[PathBuf]) -> Result<Self> {
        let output = Output::new(Some(path), 1, existing, Path::is_dir)?;
        output.check(output.path(1, 0).into_iter(), inputs)?;
        Ok(SheetFile { output })
    }

    /// A sheet with a name that no other file has.
    fn unnamed() -> Result<Self> {
        let output = Output::new_file(STEM);
        output.check(output.path(1, 0).into_iter(), &[])?;
        Ok(SheetFile { output })
    }

    /// Whether the sheet would be written to `path`.
    pub fn is(&self, path: &Path) -> bool {
        let place = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        self.output.path(1, 0).is_some_and(|own| place(&own) == place(path))
    }

    /// Writes the sheet, with what made its pictures if `with_metadata`, and prints where it is.
    pub fn write(&self, drawn: &Drawn, with_metadata: bool, report: &Report) -> Result<Option<PathBuf>> {
        if drawn.scale < 1.0 {
            let percent = (drawn.scale * 100.0).round().max(1.0);
            report.note(format_args!(
                "the pictures are shown at {percent} % of their size: a sheet has at most 64 million pixels and 16384 \
                 a side"
            ));
        }
        match drawn.signed {
            0 => {}
            1 => report.warning("one picture carries Content Credentials (C2PA), and the sheet does not"),
            n => report.warning(format_args!("{n} pictures carry Content Credentials (C2PA), and the sheet does not")),
        }
        let has_parameters = with_metadata && !drawn.parameters.cells.is_empty();
        let parameters = has_parameters.then_some(&drawn.parameters);
        let format = self.output.format();
        let mut bytes = encode_sheet(&drawn.image, format, parameters)?;
        // With parameters comes the word.
        if with_metadata && !has_parameters && drawn.is_drawn {
            bytes = xmp::embed(bytes, format, &xmp::packet(xmp::SourceType::Composite));
        }
        let written = self.output.write(self.output.path(1, 0).as_deref(), &bytes)?;
        report.show_finished(0, &drawn.image);
        if let Some(path) = &written {
            report.written(path)?;
        }
        Ok(written)
    }
}
