//! Pixels that are drawn on: filled rectangles, pictures, single pixels with a coverage.

use crate::image::RgbImage;
use crate::{Error, Result};

/// A picture that is being drawn. What lies outside is left out.
pub(super) struct Canvas {
    width: u32,
    height: u32,
    pixels: Vec<u8>,
}

impl Canvas {
    /// A canvas of one color.
    ///
    /// # Errors
    /// If memory for the pixels cannot be allocated.
    pub(super) fn new(width: u32, height: u32, color: [u8; 3]) -> Result<Self> {
        let bytes = width as usize * height as usize * 3;
        let mut pixels: Vec<u8> = Vec::new();
        let out_of_memory = |_| Error::from(flux2_backend::Error::OutOfMemory { bytes });
        pixels.try_reserve_exact(bytes).map_err(out_of_memory)?;
        pixels.extend(color.iter().cycle().take(bytes));
        Ok(Canvas { width, height, pixels })
    }

    /// Fills a rectangle.
    pub(super) fn fill(&mut self, [x, y]: [u32; 2], [width, height]: [u32; 2], color: [u8; 3]) {
        for row in y.min(self.height)..y.saturating_add(height).min(self.height) {
            let (from, to) = (self.at(x.min(self.width), row), self.at(x.saturating_add(width).min(self.width), row));
            self.pixels[from..to].as_chunks_mut::<3>().0.fill(color);
        }
    }

    /// Puts a picture at a place.
    pub(super) fn put(&mut self, [x, y]: [u32; 2], image: &RgbImage) {
        let width = image.width().min(self.width.saturating_sub(x)) as usize * 3;
        let rows = image.pixels().chunks_exact(image.width() as usize * 3);
        for (row, pixels) in (y..self.height).zip(rows) {
            let from = self.at(x.min(self.width), row);
            self.pixels[from..from + width].copy_from_slice(&pixels[..width]);
        }
    }

    /// Blends a color into a pixel; a `coverage` of 1 replaces it.
    pub(super) fn blend(&mut self, x: i64, y: i64, color: [u8; 3], coverage: f32) {
        let (Ok(x), Ok(y)) = (u32::try_from(x), u32::try_from(y)) else { return };
        if x >= self.width || y >= self.height {
            return;
        }
        let (at, coverage) = (self.at(x, y), coverage.clamp(0.0, 1.0));
        for (byte, color) in self.pixels[at..at + 3].iter_mut().zip(color) {
            *byte = (f32::from(*byte) + coverage * (f32::from(color) - f32::from(*byte))).round() as u8;
        }
    }

    fn at(&self, x: u32, y: u32) -> usize {
        (y as usize * self.width as usize + x as usize) * 3
    }

    /// The picture.
    ///
    /// # Errors
    /// [`Error::ImageBuffer`] if a side is zero.
    pub(super) fn finish(self) -> Result<RgbImage> {
        RgbImage::new(self.width, self.height, self.pixels)
    }
}
