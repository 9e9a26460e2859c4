//! Putting what was drawn back into the canvas.
//!
//! In:  the canvas and its mask, what was drawn of a region. Out: the canvas with the region painted over.
//!
//! Where the mask is 0 the canvas keeps its bytes. Inside, what was drawn covers the canvas by the value of the mask,
//! and less within the feather of pixels that stay: the transition lies inside the mask, so nothing outside changes.

use super::distance::Distances;
use super::mask::Mask;
use super::region::Region;
use crate::Result;
use crate::image::{Attached, Original, RgbImage, zeroed};

/// Widest transition in pixels.
pub const MAX_FEATHER: u32 = 256;
/// Width of the transition in pixels by default.
pub const FEATHER_PX: u32 = 8;

/// `canvas` with a region painted over. `drawn` is that region, in the colors of the canvas.
///
/// # Errors
/// If memory for the copy cannot be allocated.
pub(super) fn paste(
    canvas: &Original,
    mask: &Mask,
    region: &Region,
    drawn: &RgbImage,
    feather: u32,
) -> Result<(RgbImage, Attached)> {
    let width = mask.width as usize;
    let [left, top, right, bottom] = region.edges.map(|edge| edge as usize);
    let mut pixels = copy(canvas.image.pixels())?;
    let mut alpha = canvas.attached.alpha.as_deref().map(copy).transpose()?;
    let mut covers = Covers::new(mask, region, feather);
    for (y, drawn) in (top..bottom).zip(drawn.pixels().chunks_exact(3 * (right - left))) {
        let row = y * width + left..y * width + right;
        let drawn = drawn.as_chunks::<3>().0;
        let covers = covers.next_row();
        match &mut alpha {
            None => blend_row(&mut pixels[3 * row.start..3 * row.end], drawn, covers),
            Some(alpha) => {
                let (pixels, alpha) = (&mut pixels[3 * row.start..3 * row.end], &mut alpha[row.clone()]);
                blend_transparent_row(pixels, alpha, drawn, covers, &mask.bytes[row]);
            }
        }
    }
    let image = RgbImage::new(mask.width, mask.height, pixels)?;
    Ok((image, Attached { alpha, profile: canvas.attached.profile.clone() }))
}

fn copy(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut copied = zeroed(bytes.len())?;
    copied.copy_from_slice(bytes);
    Ok(copied)
}

/// How much of each pixel is painted over, 0 to 1, row by row.
pub(super) struct Covers<'a> {
    mask: &'a Mask,
    /// First and last column of the region.
    columns: [usize; 2],
    y: usize,
    feather: u32,
    distances: Distances<'a>,
    /// Columns of the distances before those of the region.
    before: usize,
    row: Vec<f32>,
}

impl<'a> Covers<'a> {
    /// Before the first row of a region.
    pub(super) fn new(mask: &'a Mask, region: &Region, feather: u32) -> Self {
        let [left, top, right, bottom] = region.edges.map(|edge| edge as usize);
        let (width, height) = (mask.width as usize, mask.height as usize);
        // A pixel that stays counts wherever it lies, within the feather also outside of the region.
        let reach = feather as usize + 1;
        let (first, from) = (left.saturating_sub(reach), top.saturating_sub(reach));
        let edges = [first, from, (right + reach).min(width), (bottom + reach).min(height)];
        let mut distances = Distances::new(&mask.bytes, width, edges, |byte| byte == 0, feather + 1);
        for _ in from..top {
            distances.next_row();
        }
        let before = left - first;
        Covers { mask, columns: [left, right], y: top, feather, distances, before, row: vec![0.0; right - left] }
    }

    /// Of the next row.
    pub(super) fn next_row(&mut self) -> &[f32] {
        let [left, right] = self.columns;
        let start = self.y * self.mask.width as usize;
        let mask = &self.mask.bytes[start + left..start + right];
        let squared = &self.distances.next_row()[self.before..];
        for ((cover, &byte), &squared) in self.row.iter_mut().zip(mask).zip(squared) {
            let by_mask = 2.0 * (f64::from(byte) / 255.0);
            let by_distance = f64::from(squared).sqrt() / f64::from(self.feather + 1);
            *cover = by_mask.min(1.0).min(by_distance) as f32;
        }
        self.y += 1;
        &self.row
    }
}

/// Paint over a row of opaque pixels.
fn blend_row(pixels: &mut [u8], drawn: &[[u8; 3]], covers: &[f32]) {
    for ((pixel, drawn), &cover) in pixels.as_chunks_mut::<3>().0.iter_mut().zip(drawn).zip(covers) {
        *pixel = std::array::from_fn(|c| blend(pixel[c], drawn[c], cover));
    }
}

/// Paint over a row. What is painted is opaque, also within the feather: there is nothing below a transparent pixel that
/// it should be blended with.
fn blend_transparent_row(pixels: &mut [u8], alpha: &mut [u8], drawn: &[[u8; 3]], covers: &[f32], mask: &[u8]) {
    for (i, pixel) in pixels.as_chunks_mut::<3>().0.iter_mut().enumerate() {
        let (cover, opacity) = (covers[i], f32::from(alpha[i]));
        if cover == 0.0 {
            continue;
        }
        if alpha[i] == 255 {
            *pixel = std::array::from_fn(|c| blend(pixel[c], drawn[i][c], cover));
            continue;
        }
        // The color of a transparent pixel counts as far as it shows.
        let result = opacity + (f32::from(mask[i]) / 127.5).min(1.0) * (255.0 - opacity);
        let below = opacity * (1.0 - cover);
        *pixel = std::array::from_fn(|c| {
            let sum = f32::from(pixel[c]) * below + f32::from(drawn[i][c]) * (result - below);
            (sum / result + 0.5) as u8
        });
        alpha[i] = (result + 0.5) as u8;
    }
}

fn blend(under: u8, over: u8, cover: f32) -> u8 {
    let (under, over) = (f32::from(under), f32::from(over));
    (under + cover * (over - under) + 0.5).floor() as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transparent_pixel_becomes_opaque_as_it_is_painted() {
        let mut pixels = [10, 20, 30].repeat(4);
        let mut alpha = [0, 0, 128, 0];
        let drawn = [[200, 100, 50]; 4];
        blend_transparent_row(&mut pixels, &mut alpha, &drawn, &[0.0, 0.5, 1.0, 0.25], &[0, 255, 255, 51]);
        assert_eq!(pixels[..3], [10, 20, 30]);
        assert_eq!(pixels[3..], [200, 100, 50].repeat(3));
        assert_eq!(alpha, [0, 255, 255, 102]);
    }

    #[test]
    fn half_of_an_opaque_pixel_is_rounded_up() {
        assert_eq!((blend(10, 11, 0.5), blend(0, 255, 0.25), blend(255, 0, 1.0)), (11, 64, 0));
    }
}
