//! The parameters of the pictures on a sheet, stored in the sheet and read back.

use exif::Tag;
use serde::{Deserialize, Serialize};

use super::super::ImageFormat;
use super::texts::Texts;
use super::{Parameters, PngText, PngTextKind, SOFTWARE, ascii_json, check_length, exif_block, unreadable};
use crate::{Error, Result};

/// Keyword of the PNG chunk.
const KEYWORD: &str = "dj-flux2-sheet";

/// The pictures of a sheet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SheetParameters {
    /// Cells in a row.
    pub columns: usize,
    /// The cells that hold pictures with parameters of this program, in reading order.
    pub cells: Vec<SheetCell>,
    /// Name of the program: [`SOFTWARE`].
    pub software: String,
    /// Version of the program.
    pub version: String,
}

/// A picture on a sheet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SheetCell {
    /// Its column, from 1.
    pub column: usize,
    /// Its row, from 1.
    pub row: usize,
    /// What it was made with.
    pub parameters: Parameters,
}

impl SheetParameters {
    /// The cell at a column and a row, from 1.
    pub fn at(&self, column: usize, row: usize) -> Option<&SheetCell> {
        self.cells.iter().find(|cell| (cell.column, cell.row) == (column, row))
    }

    fn json(&self) -> String {
        serde_json::to_string(self).expect("strings and numbers serialize")
    }

    /// The text of a PNG.
    ///
    /// # Errors
    /// [`Error::ImageParametersTooLong`].
    pub(in super::super) fn png_text(&self) -> Result<PngText> {
        let text = self.json();
        check_length(text.len(), ImageFormat::Png)?;
        Ok(PngText { keyword: KEYWORD, text, kind: PngTextKind::Utf8 })
    }

    /// The block of EXIF of a JPEG or WebP.
    ///
    /// # Errors
    /// [`Error::ImageParametersTooLong`].
    pub(in super::super) fn exif(&self, format: ImageFormat) -> Result<Vec<u8>> {
        let block = exif_block(&self.version, &ascii_json(&self.json()), None);
        check_length(block.len(), format).map(|()| block)
    }
}

/// Whether a text is the parameters of a sheet, as those of a picture are in the same field.
pub(super) fn is_sheet(json: &str) -> bool {
    serde_json::from_str::<SheetParameters>(json).is_ok()
}

/// Read the parameters of the cells of a sheet; `None` for any other file.
///
/// # Errors
/// [`Error::ImageParameters`] if the file is a sheet and they cannot be parsed.
pub fn read_sheet(bytes: &[u8]) -> Result<Option<SheetParameters>> {
    let texts = Texts::of(bytes);
    let parse = |json: &str| -> Result<SheetParameters, Error> {
        serde_json::from_str(json).map_err(|e| unreadable(&e.to_string()))
    };
    if let Some(json) = texts.png(KEYWORD) {
        return parse(&json.map_err(|reason| unreadable(&reason))?).map(Some);
    }
    let stored = texts.exif(Tag::ImageDescription).and_then(|json| parse(&json).ok());
    Ok(stored.filter(|sheet| sheet.software == SOFTWARE))
}
