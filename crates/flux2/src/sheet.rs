//! Sheets: pictures in equal cells with texts, and comparisons of two pictures.
//!
//! In:  what a sheet looks like, then its pictures one by one, so that they need not be in memory together.
//! Out: one picture of at most 64 million pixels and 16384 pixels a side. Larger sheets have smaller cells.
//!
//! ```text
//! layout   where everything is        text     a font, lines of text
//! canvas   pixels that are drawn on   compare  numbers and pictures of a difference
//! ```

mod canvas;
pub mod compare;
mod layout;
mod text;

pub use compare::Difference;
pub use layout::{MAX_PIXELS, MAX_SIDE};

use crate::Result;
use crate::image::RgbImage;
use crate::image::resize::resize_lanczos;
use canvas::Canvas;
use layout::Layout;

/// What a sheet looks like, before its pictures.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SheetSpec {
    /// Number of cells; they are filled from the left to the right, then down.
    pub cells: usize,
    /// Width and height of the largest picture, in pixels: the size of all cells.
    pub cell_px: [u32; 2],
    /// Cells in a row where no axis says it; by default as many as make the sheet about square.
    pub columns: Option<usize>,
    /// Lines above everything: what holds for all cells.
    pub header: Vec<String>,
    /// What differs from column to column, with one value for each.
    pub x: Option<Axis>,
    /// What differs from row to row, with one value for each.
    pub y: Option<Axis>,
    /// The parts of the text below each cell, in the order of the cells; empty if there are no such texts. A part that
    /// the cell before also has is drawn in gray.
    pub labels: Vec<Vec<String>>,
    /// Whether the background is dark and the text light.
    pub dark: bool,
}

/// A setting that differs along a side of a sheet.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Axis {
    /// Its name.
    pub name: String,
    /// Its values in order.
    pub values: Vec<String>,
}

const WHITE: [u8; 3] = [255; 3];
const BLACK: [u8; 3] = [0; 3];
const DARK: [u8; 3] = [24; 3];
/// Text that repeats the cell before.
const GRAY: [u8; 3] = [128; 3];
/// A cell without a picture.
const MISSING: [u8; 3] = [112; 3];

/// A sheet that is being drawn.
pub struct Sheet {
    layout: Layout,
    canvas: Canvas,
    cells: usize,
    text_color: [u8; 3],
}

impl Sheet {
    /// Lay out a sheet and draw its texts.
    ///
    /// # Errors
    /// [`Error::SheetTooLarge`](crate::Error::SheetTooLarge) if pictures would be too small to be seen; an error if memory cannot be allocated.
    ///
    /// # Panics
    /// If the number of labels is neither zero nor that of the cells.
    pub fn new(spec: &SheetSpec) -> Result<Self> {
        assert!([0, spec.cells].contains(&spec.labels.len()), "{} labels, {} cells", spec.labels.len(), spec.cells);
        let layout = Layout::new(spec)?;
        let [width, height] = layout.size;
        let (background, text_color) = if spec.dark { (DARK, WHITE) } else { (WHITE, BLACK) };
        let canvas = Canvas::new(width, height, background)?;
        let mut sheet = Sheet { layout, canvas, cells: spec.cells, text_color };
        sheet.draw_header();
        sheet.draw_axes(spec);
        sheet.draw_labels();
        Ok(sheet)
    }

    /// Width and height of the sheet in pixels.
    pub fn size(&self) -> [u32; 2] {
        self.layout.size
    }

    /// Cells in a row.
    pub fn columns(&self) -> usize {
        self.layout.columns
    }

    /// By how much pictures are shrunk so that the sheet keeps to its limits; 1 if they are not.
    pub fn scale(&self) -> f64 {
        self.layout.scale
    }

    /// Upper left corner of a cell in pixels, and its width and height. Cells are counted from 0.
    pub fn cell(&self, cell: usize) -> ([u32; 2], [u32; 2]) {
        (self.layout.corner(cell), self.layout.cell)
    }

    fn draw_header(&mut self) {
        let Layout { gap, line, text, .. } = self.layout;
        for (number, content) in (0..).zip(&self.layout.header) {
            text::draw(&mut self.canvas, content, [gap, gap + number * line], text, self.text_color);
        }
    }

    fn draw_axes(&mut self, spec: &SheetSpec) {
        let Layout { gap, line, text, cell, origin, .. } = self.layout;
        let color = self.text_color;
        let x_lines = self.layout.x_values.iter().map(Vec::len).max().unwrap_or(0) as u32;
        if let Some(axis) = &spec.x {
            let name = text::fit(&axis.name, text, self.layout.size[0] - origin[0] - gap);
            text::draw(&mut self.canvas, &name, [origin[0], origin[1] - gap - (1 + x_lines) * line], text, color);
        }
        if let Some(axis) = &spec.y {
            text::draw(&mut self.canvas, &axis.name, [gap, origin[1] - gap - line], text, color);
        }
        for (column, lines) in self.layout.x_values.iter().enumerate() {
            let left = self.layout.corner(column)[0];
            for (number, content) in (0..).zip(lines) {
                let indent = cell[0].saturating_sub(text::width(content, text)) / 2;
                let top = origin[1] - gap - (x_lines - number) * line;
                text::draw(&mut self.canvas, content, [left + indent, top], text, color);
            }
        }
        for (row, lines) in self.layout.y_values.iter().enumerate() {
            let top = self.layout.corner(row * self.layout.columns)[1];
            let indent = cell[1].saturating_sub(lines.len() as u32 * line) / 2;
            for (number, content) in (0..).zip(lines) {
                text::draw(&mut self.canvas, content, [gap, top + indent + number * line], text, color);
            }
        }
    }

    fn draw_labels(&mut self) {
        let Layout { line, text, cell, .. } = self.layout;
        for (number, lines) in self.layout.labels.iter().enumerate() {
            let [left, top] = self.layout.corner(number);
            for (y, parts) in (0..).zip(lines) {
                for part in parts {
                    let color = if part.is_repeated { GRAY } else { self.text_color };
                    let corner = [left + part.left, top + cell[1] + y * line];
                    text::draw(&mut self.canvas, &part.text, corner, text, color);
                }
            }
        }
    }

    /// Put a picture into a cell, counted from 0. It is shrunk as all are, or to the size of the cell if it is larger,
    /// and centered.
    ///
    /// # Errors
    /// If memory cannot be allocated.
    ///
    /// # Panics
    /// If there is no such cell.
    pub fn picture(&mut self, cell: usize, image: &RgbImage) -> Result<()> {
        let corner = self.check(cell);
        let ([width, height], room) = ([image.width(), image.height()], self.layout.cell);
        let fits = (f64::from(room[0]) / f64::from(width)).min(f64::from(room[1]) / f64::from(height));
        let scale = self.layout.scale.min(fits);
        if scale >= 1.0 {
            self.put_centered(corner, image);
            return Ok(());
        }
        let shrunk = |px: u32, most: u32| ((f64::from(px) * scale).round() as u32).clamp(1, most);
        let small = resize_lanczos(image, shrunk(width, room[0]), shrunk(height, room[1]))?;
        self.put_centered(corner, &small);
        Ok(())
    }

    fn put_centered(&mut self, [left, top]: [u32; 2], image: &RgbImage) {
        let [width, height] = self.layout.cell;
        self.canvas.put([left + (width - image.width()) / 2, top + (height - image.height()) / 2], image);
    }

    /// Fill a cell, counted from 0, whose picture is missing, with the reason.
    ///
    /// # Panics
    /// If there is no such cell.
    pub fn missing(&mut self, cell: usize, reason: &str) {
        let corner = self.check(cell);
        let Layout { line, text, gap, cell: room, .. } = self.layout;
        self.canvas.fill(corner, room, MISSING);
        let lines = (room[1].saturating_sub(2 * gap) / line).max(1) as usize;
        let reason = reason.lines().next().unwrap_or_default();
        for (number, content) in (0..).zip(text::wrap(reason, text, room[0].saturating_sub(2 * gap), lines)) {
            let place = [corner[0] + gap, corner[1] + gap + number * line];
            text::draw(&mut self.canvas, &content, place, text, WHITE);
        }
    }

    fn check(&self, cell: usize) -> [u32; 2] {
        assert!(cell < self.cells, "cell {cell} of {}", self.cells);
        self.layout.corner(cell)
    }

    /// The sheet.
    ///
    /// # Errors
    /// [`Error::ImageBuffer`](crate::Error::ImageBuffer) if it has no pixels.
    pub fn finish(self) -> Result<RgbImage> {
        self.canvas.finish()
    }
}
