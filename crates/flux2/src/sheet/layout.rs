//! Where everything is on a sheet.

use super::{Axis, SheetSpec, text};
use crate::{Error, Result};

/// Most pixels of a sheet.
pub const MAX_PIXELS: u64 = 64_000_000;
/// Longest side of a sheet, in pixels.
pub const MAX_SIDE: u32 = 16_384;
/// Shortest side of a cell, in pixels: smaller pictures show nothing.
const MIN_CELL: u32 = 16;
/// Most lines above the cells, of a value beside them, and below each.
const MAX_LINES: usize = 4;

/// A part of a label, and how far from the left edge of its cell it begins, in pixels.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct LabelPart {
    pub(super) text: String,
    pub(super) left: u32,
    /// Whether the cell before has the same part.
    pub(super) is_repeated: bool,
}

/// The places of everything, in pixels.
#[derive(Debug)]
pub(super) struct Layout {
    /// Cells in a row.
    pub(super) columns: usize,
    /// Width and height of the sheet.
    pub(super) size: [u32; 2],
    /// Width and height of a cell.
    pub(super) cell: [u32; 2],
    /// By how much pictures are shrunk; 1 if they are not.
    pub(super) scale: f64,
    /// Height of texts.
    pub(super) text: u32,
    /// Distance between lines of text.
    pub(super) line: u32,
    /// Room at the edges, and between cells.
    pub(super) gap: u32,
    /// Lines above everything.
    pub(super) header: Vec<String>,
    /// Lines above each column, and beside each row.
    pub(super) x_values: Vec<Vec<String>>,
    pub(super) y_values: Vec<Vec<String>>,
    /// Lines below each cell.
    pub(super) labels: Vec<Vec<Vec<LabelPart>>>,
    /// Left edge of the first column and upper edge of the first row.
    pub(super) origin: [u32; 2],
    /// Distance between upper edges of rows.
    row_pitch: u32,
}

impl Layout {
    /// The largest layout that keeps to the limits of a sheet.
    ///
    /// # Errors
    /// [`Error::SheetTooLarge`] if pictures would be too small to be seen.
    pub(super) fn new(spec: &SheetSpec) -> Result<Self> {
        let mut scale = 1.0;
        loop {
            let layout = Layout::at(spec, scale);
            let [width, height] = layout.size.map(f64::from);
            let by_side = f64::from(MAX_SIDE) / width.max(height);
            let over = by_side.min((MAX_PIXELS as f64 / (width * height)).sqrt());
            if over >= 1.0 {
                return Ok(layout);
            }
            // Texts and gaps do not shrink below a size, so one step may not be enough.
            scale *= over * 0.999;
            if spec.cell_px.iter().any(|&px| f64::from(px) * scale < f64::from(MIN_CELL)) {
                return Err(Error::SheetTooLarge { cells: spec.cells, max_side: MAX_SIDE, max_pixels: MAX_PIXELS });
            }
        }
    }

    fn at(spec: &SheetSpec, scale: f64) -> Self {
        let columns = columns(spec);
        let rows = spec.cells.div_ceil(columns).max(1);
        let cell = spec.cell_px.map(|px| ((f64::from(px) * scale) as u32).max(1));
        let longer = cell[0].max(cell[1]);
        let (text, gap) = ((longer / 16).clamp(12, 48), (longer / 64).max(4));
        let line = text * 5 / 4;
        let height_of = |lines: usize| lines as u32 * line;

        let y_values: Vec<Vec<String>> = values_of(spec.y.as_ref(), text, (cell[0] / 2).max(8 * text));
        let x_values: Vec<Vec<String>> = values_of(spec.x.as_ref(), text, cell[0]);
        let y_width = match &spec.y {
            Some(axis) => {
                let widest = y_values.iter().flatten().map(|line| text::width(line, text)).max().unwrap_or(0);
                widest.max(text::width(&axis.name, text)) + gap
            }
            None => 0,
        };
        let width = gap + y_width + columns as u32 * (cell[0] + gap);

        let header: Vec<String> =
            spec.header.iter().flat_map(|line| text::wrap(line, text, width - 2 * gap, MAX_LINES)).collect();
        let header_height = if header.is_empty() { 0 } else { height_of(header.len()) + gap };
        // The names of both axes share a line.
        let x_lines = x_values.iter().map(Vec::len).max().unwrap_or(0);
        let has_axes = spec.x.is_some() || spec.y.is_some();
        let axis_height = if has_axes { height_of(1 + x_lines) + gap } else { 0 };

        let labels = labels(spec, text, cell[0]);
        let label_lines = labels.iter().map(Vec::len).max().unwrap_or(0);
        let row_pitch = cell[1] + height_of(label_lines) + gap;
        let origin = [gap + y_width, gap + header_height + axis_height];
        let size = [width, origin[1] + rows as u32 * row_pitch];
        Layout { columns, size, cell, scale, text, line, gap, header, x_values, y_values, labels, origin, row_pitch }
    }

    /// Upper left corner of a cell, counted in reading order from 0.
    pub(super) fn corner(&self, cell: usize) -> [u32; 2] {
        let (column, row) = ((cell % self.columns) as u32, (cell / self.columns) as u32);
        [self.origin[0] + column * (self.cell[0] + self.gap), self.origin[1] + row * self.row_pitch]
    }
}

/// Cells in a row: those of the X axis, what was asked for, or as many as make the sheet about square.
fn columns(spec: &SheetSpec) -> usize {
    let cells = spec.cells.max(1);
    match (&spec.x, spec.columns) {
        (Some(axis), _) => axis.values.len().max(1),
        (None, Some(columns)) => columns.clamp(1, cells),
        (None, None) if spec.y.is_some() => 1,
        (None, None) => {
            let rows = (cells as f64).sqrt().round().max(1.0) as usize;
            cells.div_ceil(rows)
        }
    }
}

fn values_of(axis: Option<&Axis>, text: u32, width: u32) -> Vec<Vec<String>> {
    let values = axis.map(|axis| axis.values.as_slice()).unwrap_or_default();
    values.iter().map(|value| text::wrap(value, text, width, MAX_LINES)).collect()
}

/// The lines of each label: parts follow each other on a line as long as they fit.
fn labels(spec: &SheetSpec, text: u32, width: u32) -> Vec<Vec<Vec<LabelPart>>> {
    let space = text / 2;
    let before = |cell: usize| cell.checked_sub(1).map(|before| spec.labels[before].as_slice()).unwrap_or_default();
    let label = |(cell, parts): (usize, &Vec<String>)| {
        let mut lines: Vec<Vec<LabelPart>> = Vec::new();
        let mut left = 0;
        for part in parts {
            let is_repeated = before(cell).contains(part);
            let fitted = text::fit(part, text, width);
            let needed = text::width(&fitted, text);
            if lines.is_empty() || left + needed > width {
                if lines.len() == MAX_LINES {
                    break;
                }
                lines.push(Vec::new());
                left = 0;
            }
            if let Some(line) = lines.last_mut() {
                line.push(LabelPart { text: fitted, left, is_repeated });
            }
            left += needed + space;
        }
        lines
    };
    spec.labels.iter().enumerate().map(label).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(cells: usize, cell_px: [u32; 2]) -> SheetSpec {
        SheetSpec { cells, cell_px, ..SheetSpec::default() }
    }

    #[test]
    fn sheets_without_axes_are_about_square() {
        let shape = |cells| {
            let columns = columns(&spec(cells, [64, 64]));
            (columns, cells.div_ceil(columns))
        };
        let expected = [(1, (1, 1)), (2, (2, 1)), (3, (2, 2)), (4, (2, 2)), (5, (3, 2)), (6, (3, 2)), (7, (3, 3))];
        for (cells, shape_of_it) in expected.into_iter().chain([(9, (3, 3)), (10, (4, 3)), (17, (5, 4))]) {
            assert_eq!(shape(cells), shape_of_it, "{cells}");
        }
        assert_eq!(columns(&SheetSpec { columns: Some(9), ..spec(4, [64, 64]) }), 4);
    }

    #[test]
    fn gaps_and_texts_follow_the_size_of_cells() {
        let at = |side| {
            let layout = Layout::new(&spec(4, [side, side])).unwrap();
            (layout.gap, layout.text, layout.size)
        };
        assert_eq!(at(64), (4, 12, [140, 140]));
        assert_eq!(at(512), (8, 32, [1048, 1048]));
        assert_eq!(at(1024).1, 48);
    }

    #[test]
    fn large_sheets_are_shrunk_to_the_limits() {
        for (cells, cell_px) in [(100, [4096, 4096]), (4, [4096, 64]), (2000, [512, 512]), (7, [64, 4096])] {
            let layout = Layout::new(&spec(cells, cell_px)).unwrap();
            let [width, height] = layout.size;
            assert!(width.max(height) <= MAX_SIDE && u64::from(width) * u64::from(height) <= MAX_PIXELS, "{layout:?}");
            let is_scaled = layout.scale < 1.0;
            assert_eq!(is_scaled, cells * cell_px[0] as usize * cell_px[1] as usize > 60_000_000, "{cells}");
        }
        let error = Layout::new(&spec(2_000_000, [64, 64])).unwrap_err();
        assert!(matches!(error, Error::SheetTooLarge { cells: 2_000_000, .. }), "{error}");
    }

    #[test]
    fn parts_of_a_label_share_lines_and_repetitions_are_known() {
        let labels = vec![vec!["steps 4".to_owned(), "seed 7".into()], vec!["steps 8".into(), "seed 7".into()]];
        let layout = Layout::new(&SheetSpec { labels, ..spec(2, [256, 64]) }).unwrap();
        let part = |text: &str, left, is_repeated| LabelPart { text: text.into(), left, is_repeated };
        let left = text::width("steps 4", 16) + 8;
        assert_eq!(layout.labels[0], [[part("steps 4", 0, false), part("seed 7", left, false)]]);
        assert_eq!(layout.labels[1], [[part("steps 8", 0, false), part("seed 7", left, true)]]);
        // In a narrow cell each has its own line.
        let labels = vec![vec!["steps 4".to_owned(), "seed 7".into()]];
        let narrow = Layout::new(&SheetSpec { labels, ..spec(1, [64, 64]) }).unwrap();
        assert_eq!(narrow.labels[0].len(), 2);
        assert_eq!(narrow.size[1], 64 + 2 * 15 + 2 * 4);
    }
}
