//! Reference images scaled to the size the model takes, bit for bit as diffusers does it with Pillow.
//!
//! In:  a picture of any size.
//! Out: at most 1024² pixels in area, sides multiples of 16.
//!
//! Follows `Flux2KleinPipeline.__call__` and `Flux2ImageProcessor` (diffusers 0.42.1), and `Image.resize` with
//! `LANCZOS` (Pillow 13) on 8-bit channels: two passes, each rounding to bytes, with coefficients of 22 fractional
//! bits. The order of the passes changes the result; since Pillow 13 the vertical one is first if it reduces the size
//! much more.

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
    check_reference(image)?;
    let (width, height) = (image.width, image.height);
    let (small_width, small_height) = size_within_area(width, height);
    if (small_width, small_height) == (width, height) {
        Ok(crop_to_grid(image))
    } else {
        Ok(crop_to_grid(&resize_lanczos(image, small_width, small_height)?))
    }
}

/// Check that an image can be a reference.
///
/// # Errors
/// Those of [`prepare_reference`].
pub fn check_reference(image: &RgbImage) -> Result<()> {
    let (width, height) = (image.width, image.height);
    if width.min(height) < MIN_SIDE {
        return Err(Error::ImageTooSmall { width, height, min: MIN_SIDE });
    }
    if u64::from(width.max(height)) > u64::from(MAX_ASPECT) * u64::from(width.min(height)) {
        return Err(Error::ImageAspect { width, height, max: MAX_ASPECT });
    }
    Ok(())
}

/// The size a reference image is shrunk to. Both sides are truncated, as Python's `int` does, not rounded.
fn size_within_area(width: u32, height: u32) -> (u32, u32) {
    let area = u64::from(width) * u64::from(height);
    if area <= MAX_AREA {
        return (width, height);
    }
    let scale = (MAX_AREA as f64 / area as f64).sqrt();
    ((f64::from(width) * scale) as u32, (f64::from(height) * scale) as u32)
}

fn crop_to_grid(image: &RgbImage) -> RgbImage {
    let (width, height) = (image.width / GRID * GRID, image.height / GRID * GRID);
    let (left, top) = ((image.width - width) / 2, (image.height - height) / 2);
    let rows = image.pixels.chunks_exact(image.width as usize * 3).skip(top as usize).take(height as usize);
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
    Ok(if vertical_first(image, width, height) {
        horizontal(&vertical(image, height), width)
    } else {
        vertical(&horizontal(image, width), height)
    })
}

/// Whether Pillow runs the vertical pass first: if the height shrinks by more than twice as many pixels as the width.
///
/// Source: Pillow pull request 9549; the condition was confirmed by comparing 6000 sizes with both orders.
fn vertical_first(image: &RgbImage, width: u32, height: u32) -> bool {
    let lost = |from: u32, to: u32| i64::from(from) - i64::from(to);
    height < image.height && lost(image.height, height) > 2 * lost(image.width, width)
}

/// Resample each row to `to` columns. A pass that keeps the width is the identity and skipped.
fn horizontal(image: &RgbImage, to: u32) -> RgbImage {
    if image.width == to {
        return image.clone();
    }
    let windows = windows(image.width, to);
    let mut pixels = Vec::with_capacity(to as usize * image.height as usize * 3);
    for row in image.pixels.chunks_exact(image.width as usize * 3) {
        for window in &windows {
            let mut sums = [HALF; 3];
            for (pixel, weight) in row[window.start * 3..].as_chunks::<3>().0.iter().zip(&window.weights) {
                for (sum, &byte) in sums.iter_mut().zip(pixel) {
                    *sum += i32::from(byte) * weight;
                }
            }
            pixels.extend(sums.map(to_byte));
        }
    }
    RgbImage { width: to, height: image.height, pixels }
}

/// Resample each column to `to` rows.
fn vertical(image: &RgbImage, to: u32) -> RgbImage {
    if image.height == to {
        return image.clone();
    }
    let stride = image.width as usize * 3;
    let mut pixels = Vec::with_capacity(stride * to as usize);
    let mut sums = vec![HALF; stride];
    for window in windows(image.height, to) {
        sums.fill(HALF);
        for (row, weight) in image.pixels[window.start * stride..].chunks_exact(stride).zip(&window.weights) {
            for (sum, &byte) in sums.iter_mut().zip(row) {
                *sum += i32::from(byte) * weight;
            }
        }
        pixels.extend(sums.iter().map(|&sum| to_byte(sum)));
    }
    RgbImage { width: image.width, height: to, pixels }
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

/// One window for each output position. The order of operations is Pillow's, so that the f64 results are the same.
fn windows(from: u32, to: u32) -> Vec<Window> {
    const LOBES: f64 = 3.0;
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
