//! Reference images scaled to the size the model takes, bit for bit as diffusers does it with Pillow.
//!
//! In:  a picture of any size, also row by row.
//! Out: at most 1024² pixels in area, sides multiples of 16.
//!
//! Follows `Flux2KleinPipeline.__call__` and `Flux2ImageProcessor` (diffusers 0.42.1), and `Image.resize` with
//! `LANCZOS` (Pillow 13) on 8-bit channels: two passes, each rounding to bytes, with coefficients of 22 fractional
//! bits. The order of the passes changes the result; since Pillow 13 the vertical one is first if it reduces the size
//! much more.

use std::collections::VecDeque;

use image::DynamicImage;
use image::metadata::Orientation;

use super::RgbImage;
use crate::{Error, Result};

/// Shortest side of a reference image in pixels.
pub const MIN_SIDE: u32 = 64;
/// Largest ratio of a reference image's longer side to its shorter one.
pub const MAX_ASPECT: u32 = 8;
/// Pixels above which a reference image is shrunk.
pub const MAX_AREA: u64 = 1024 * 1024;
/// Sides are cropped to a multiple of this: 8 for the autoencoder times 2 for a patch.
pub const GRID: u32 = 16;

/// A reference image as the autoencoder takes it: shrunk to at most 1024² pixels in area, never enlarged, then cropped
/// around its center to sides that are multiples of 16.
///
/// # Errors
/// [`Error::ImageTooSmall`] if a side is under 64 pixels, [`Error::ImageAspect`] if one side is over 8 times the other.
pub fn prepare_reference(image: &RgbImage) -> Result<RgbImage> {
    check_reference(image.width, image.height)?;
    let mut shrinking = Shrinking::new(image.width, image.height, Orientation::NoTransforms)?;
    image.rows().for_each(|row| shrinking.row(row));
    Ok(shrinking.finish())
}

/// A reference image that is [prepared](prepare_reference) while its rows are decoded, so that it is never in memory as
/// a whole. The rows come as the file has them, before `orientation` turns the picture upright.
pub(super) struct Shrinking {
    resampling: Resampling,
    /// Width and height of the upright picture.
    source_px: [u32; 2],
    orientation: Orientation,
}

impl Shrinking {
    /// A picture of `width` and `height` in its file that passes [`check_reference`].
    ///
    /// # Errors
    /// If memory for the result cannot be allocated.
    pub(super) fn new(width: u32, height: u32, orientation: Orientation) -> Result<Self> {
        let Axes { is_transposed, flips_columns, flips_rows } = Axes::of(orientation);
        // Sizes, windows and the order of the passes are those of the upright picture. Windows are not symmetric to the
        // last bit, so those of an axis that runs the other way are reversed rather than computed anew.
        let (from_width, from_height) = if is_transposed { (height, width) } else { (width, height) };
        let (to_width, to_height) = size_within_area(from_width, from_height);
        let (mut columns, mut rows) = (windows(from_width, to_width), windows(from_height, to_height));
        let mut rows_first = vertical_first([from_width, from_height], [to_width, to_height]);
        if is_transposed {
            std::mem::swap(&mut columns, &mut rows);
            rows_first = !rows_first;
        }
        for (axis, length, flips) in [(&mut columns, width, flips_columns), (&mut rows, height, flips_rows)] {
            if flips {
                reverse(axis, length);
            }
        }
        let resampling = Resampling::new(columns, rows, rows_first)?;
        Ok(Shrinking { resampling, source_px: [from_width, from_height], orientation })
    }

    /// Width and height of the upright picture before it is shrunk.
    pub(super) fn source_px(&self) -> [u32; 2] {
        self.source_px
    }

    /// The next row, `[width, 3]`.
    pub(super) fn row(&mut self, row: &[u8]) {
        self.resampling.row(row);
    }

    /// The prepared picture, after its last row.
    pub(super) fn finish(self) -> RgbImage {
        crop_to_grid(upright(self.resampling.finish(), self.orientation))
    }
}

/// A picture turned upright.
pub(super) fn upright(image: RgbImage, orientation: Orientation) -> RgbImage {
    if orientation == Orientation::NoTransforms {
        return image;
    }
    let buffer = image::RgbImage::from_raw(image.width, image.height, image.pixels);
    let mut turned = DynamicImage::from(buffer.expect("a picture has three bytes a pixel"));
    turned.apply_orientation(orientation);
    RgbImage { width: turned.width(), height: turned.height(), pixels: turned.into_bytes() }
}

/// How the axes of a file lie in the upright picture.
struct Axes {
    /// Whether its rows become columns.
    is_transposed: bool,
    /// Whether its rows run from right to left, or become columns from the bottom.
    flips_columns: bool,
    /// Whether its columns run from the bottom, or become rows from right to left.
    flips_rows: bool,
}

impl Axes {
    fn of(orientation: Orientation) -> Self {
        let (is_transposed, flips_columns, flips_rows) = match orientation {
            Orientation::NoTransforms => (false, false, false),
            Orientation::FlipHorizontal => (false, true, false),
            Orientation::FlipVertical => (false, false, true),
            Orientation::Rotate180 => (false, true, true),
            Orientation::Rotate90FlipH => (true, false, false),
            Orientation::Rotate270 => (true, true, false),
            Orientation::Rotate90 => (true, false, true),
            Orientation::Rotate270FlipH => (true, true, true),
        };
        Axes { is_transposed, flips_columns, flips_rows }
    }
}

/// Check that an upright image of this size can be a reference.
///
/// # Errors
/// Those of [`prepare_reference`].
pub fn check_reference(width: u32, height: u32) -> Result<()> {
    if width.min(height) < MIN_SIDE {
        return Err(Error::ImageTooSmall { width, height, min: MIN_SIDE });
    }
    if u64::from(width.max(height)) > u64::from(MAX_ASPECT) * u64::from(width.min(height)) {
        return Err(Error::ImageAspect { width, height, max: MAX_ASPECT });
    }
    Ok(())
}

/// The size a reference image is shrunk to. Both sides are truncated, as Python's `int` does, not rounded.
pub(crate) fn size_within_area(width: u32, height: u32) -> (u32, u32) {
    let area = u64::from(width) * u64::from(height);
    if area <= MAX_AREA {
        return (width, height);
    }
    let scale = (MAX_AREA as f64 / area as f64).sqrt();
    ((f64::from(width) * scale) as u32, (f64::from(height) * scale) as u32)
}

fn crop_to_grid(image: RgbImage) -> RgbImage {
    let (width, height) = (image.width / GRID * GRID, image.height / GRID * GRID);
    if (width, height) == (image.width, image.height) {
        return image;
    }
    let (left, top) = ((image.width - width) / 2, (image.height - height) / 2);
    let rows = image.rows().skip(top as usize).take(height as usize);
    let pixels = rows.flat_map(|row| &row[left as usize * 3..][..width as usize * 3]).copied().collect();
    RgbImage { width, height, pixels }
}

/// Resize a picture by Lanczos with three lobes, as Pillow computes it.
///
/// # Errors
/// [`Error::ImageBuffer`] if a side is zero.
pub fn resize_lanczos(image: &RgbImage, width: u32, height: u32) -> Result<RgbImage> {
    if width == 0 || height == 0 {
        return Err(Error::ImageBuffer { width, height, len: 0 });
    }
    let first = vertical_first([image.width, image.height], [width, height]);
    let mut resampling = Resampling::<3>::new(windows(image.width, width), windows(image.height, height), first)?;
    image.rows().for_each(|row| resampling.row(row));
    Ok(resampling.finish())
}

/// Whether Pillow runs the vertical pass first: if the height shrinks by more than twice as many pixels as the width.
///
/// Source: Pillow pull request 9549; the condition was confirmed by comparing 6000 sizes with both orders.
fn vertical_first(from: [u32; 2], to: [u32; 2]) -> bool {
    let lost = |axis: usize| i64::from(from[axis]) - i64::from(to[axis]);
    to[1] < from[1] && lost(1) > 2 * lost(0)
}

/// Resize `pixels` `[height, width, C]` by Lanczos with three lobes, each channel by itself, as Pillow computes it.
///
/// # Errors
/// If memory for the result cannot be allocated.
///
/// # Panics
/// If a side is zero or `pixels` has another length.
pub(crate) fn lanczos_channels<const C: usize>(pixels: &[u8], from: [u32; 2], to: [u32; 2]) -> Result<Vec<u8>> {
    assert_eq!(pixels.len(), from[0] as usize * from[1] as usize * C, "lanczos_channels: {from:?} pixels of {C}");
    assert!(to[0] > 0 && to[1] > 0, "lanczos_channels: to {to:?}");
    let (columns, rows) = (windows(from[0], to[0]), windows(from[1], to[1]));
    let mut resampling = Resampling::<C>::new(columns, rows, vertical_first(from, to))?;
    pixels.chunks_exact(from[0] as usize * C).for_each(|row| resampling.row(row));
    Ok(resampling.pixels)
}

/// A picture of `C` channels that is resampled row by row. Weights and sums are integers, so the order in which sums
/// grow does not change them.
struct Resampling<const C: usize = 3> {
    columns: Vec<Window>,
    rows: Vec<Window>,
    /// Whether the pass over rows comes before the one over columns.
    rows_first: bool,
    /// Rows of the input that have come.
    seen: usize,
    /// Sums of the output rows whose windows have begun and not ended, the first of them first.
    sums: VecDeque<Vec<i32>>,
    /// Sums to use again.
    spare: Vec<Vec<i32>>,
    /// A row between the passes.
    between: Vec<u8>,
    pixels: Vec<u8>,
}

impl<const C: usize> Resampling<C> {
    fn new(columns: Vec<Window>, rows: Vec<Window>, rows_first: bool) -> Result<Self> {
        let mut pixels = super::zeroed(columns.len() * rows.len() * C)?;
        pixels.clear();
        let (sums, spare, between) = (VecDeque::new(), Vec::new(), Vec::new());
        Ok(Resampling { columns, rows, rows_first, seen: 0, sums, spare, between, pixels })
    }

    /// The next row of the input.
    fn row(&mut self, row: &[u8]) {
        let mut between = std::mem::take(&mut self.between);
        let row = if self.rows_first {
            row
        } else {
            between.clear();
            combine_columns::<C>(&self.columns, row, &mut between);
            &between
        };
        let (y, begun) = (self.seen, self.done() + self.sums.len());
        self.seen += 1;
        for _ in self.rows[begun..].iter().take_while(|window| window.start <= y) {
            let mut sums = self.spare.pop().unwrap_or_else(|| vec![0; row.len()]);
            sums.fill(HALF);
            self.sums.push_back(sums);
        }
        for (window, sums) in self.rows[self.done()..].iter().zip(&mut self.sums) {
            if let Some(weight) = window.weights.get(y - window.start) {
                sums.iter_mut().zip(row).for_each(|(sum, &byte)| *sum += i32::from(byte) * weight);
            }
        }
        self.between = between;
        while self.sums.front().is_some() && self.rows[self.done()].end() <= self.seen {
            self.finish_row();
        }
    }

    /// Output rows that are complete.
    fn done(&self) -> usize {
        self.pixels.len() / (self.columns.len() * C)
    }

    fn finish_row(&mut self) {
        let sums = self.sums.pop_front().expect("called while there are sums");
        if self.rows_first {
            self.between.clear();
            self.between.extend(sums.iter().map(|&sum| to_byte(sum)));
            combine_columns::<C>(&self.columns, &self.between, &mut self.pixels);
        } else {
            self.pixels.extend(sums.iter().map(|&sum| to_byte(sum)));
        }
        self.spare.push(sums);
    }
}

impl Resampling {
    /// The picture, after the last row of the input.
    fn finish(self) -> RgbImage {
        debug_assert!(self.sums.is_empty() && self.done() == self.rows.len(), "all rows have come");
        RgbImage { width: self.columns.len() as u32, height: self.rows.len() as u32, pixels: self.pixels }
    }
}

/// Resample a row, and append the result to `out`.
fn combine_columns<const C: usize>(windows: &[Window], row: &[u8], out: &mut Vec<u8>) {
    for window in windows {
        let mut sums = [HALF; C];
        for (pixel, weight) in row[window.start * C..].as_chunks::<C>().0.iter().zip(&window.weights) {
            for (sum, &byte) in sums.iter_mut().zip(pixel) {
                *sum += i32::from(byte) * weight;
            }
        }
        out.extend(sums.map(to_byte));
    }
}

/// Fractional bits of a weight: 32 less 8 for the byte and 2 for sign and overshoot, so that a sum fits an `i32`.
const BITS: u32 = 22;
const HALF: i32 = 1 << (BITS - 1);

fn to_byte(sum: i32) -> u8 {
    (sum >> BITS).clamp(0, 255) as u8
}

/// The input positions that contribute to one output position, and their weights.
struct Window {
    start: usize,
    weights: Vec<i32>,
}

impl Window {
    fn end(&self) -> usize {
        self.start + self.weights.len()
    }
}

/// The windows of an axis of `length` that runs the other way.
fn reverse(windows: &mut [Window], length: u32) {
    windows.reverse();
    for window in windows {
        window.start = length as usize - window.end();
        window.weights.reverse();
    }
}

/// One window for each output position. The order of operations is Pillow's, so that the f64 results are the same.
fn windows(from: u32, to: u32) -> Vec<Window> {
    const LOBES: f64 = 3.0;
    if from == to {
        return (0..from as usize).map(|start| Window { start, weights: vec![1 << BITS] }).collect();
    }
    let ratio = f64::from(from) / f64::from(to);
    let stretch = ratio.max(1.0); // shrinking widens the filter; enlarging does not narrow it
    let (support, squeeze) = (LOBES * stretch, 1.0 / stretch);
    let window = |i: u32| {
        let center = (f64::from(i) + 0.5) * ratio;
        let start = (center - support + 0.5).max(0.0) as u32;
        let end = ((center + support + 0.5) as u32).min(from);
        let raw: Vec<f64> = (start..end).map(|x| lanczos((f64::from(x) - center + 0.5) * squeeze)).collect();
        let total: f64 = raw.iter().sum();
        let scaled = |weight: f64| (weight / total) * f64::from(1 << BITS);
        Window { start: start as usize, weights: raw.iter().map(|&weight| scaled(weight).round() as i32).collect() }
    };
    (0..to).map(window).collect()
}

fn lanczos(x: f64) -> f64 {
    if (-3.0..3.0).contains(&x) { sinc(x) * sinc(x / 3.0) } else { 0.0 }
}

fn sinc(x: f64) -> f64 {
    if x == 0.0 {
        return 1.0;
    }
    let x = x * std::f64::consts::PI;
    x.sin() / x
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_truncated_not_rounded() {
        assert_eq!(size_within_area(4000, 3000), (1182, 886));
        assert_eq!(size_within_area(1920, 1080), (1365, 768));
        assert_eq!(size_within_area(1024, 1024), (1024, 1024));
        assert_eq!(size_within_area(200, 100), (200, 100), "never enlarged");
    }

    #[test]
    fn weights_fit_their_accumulator() {
        for (from, to) in [(1, 1000), (1000, 1), (16384, 1024), (61, 97), (3, 4)] {
            for window in windows(from, to) {
                let most: i64 = window.weights.iter().map(|&w| i64::from(w).abs() * 255).sum();
                assert!(most + i64::from(HALF) <= i64::from(i32::MAX), "{from} -> {to}: {most}");
                assert!(window.start + window.weights.len() <= from as usize);
            }
        }
    }
}
