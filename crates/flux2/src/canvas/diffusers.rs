//! Source and mask as diffusers' `Flux2KleinInpaintPipeline` prepares them (0.42.1).
//!
//! In:  an upright source in sRGB, the file of a mask. Out: both in the size that is drawn.
//!
//! The source is squeezed to multiples of 16, the mask is black or white, and the result is what the model draws: the
//! source is not pasted back.

use super::mask;
use crate::Result;
use crate::image::original::Unconverted;
use crate::image::resize::{self, GRID, lanczos_channels};
use crate::image::{RgbImage, codec};

/// The source as it is drawn: at most 1024² pixels, sides rounded down to multiples of 16.
pub(super) fn prepare_source(source: &RgbImage) -> Result<RgbImage> {
    let (width, height) = resize::size_within_area(source.width(), source.height(), resize::MAX_AREA);
    let shrunk = match (width, height) == (source.width(), source.height()) {
        true => source.clone(),
        false => resize::resize_lanczos(source, width, height)?,
    };
    let grid = |side: u32| (side / GRID).max(1) * GRID;
    resize::resize_lanczos(&shrunk, grid(width), grid(height))
}

/// The mask in a file, as it is drawn: 255 where it is at least half white, else 0.
pub(super) fn prepare_mask(file: &[u8], name: &str, size: [u32; 2], is_inverted: bool) -> Result<Vec<u8>> {
    let image = codec::decode_unconverted(file, name)?;
    let resized = if is_palette_or_bits(file) { nearest(&image, size) } else { lanczos(&image, size)? };
    let gray = mask::gray(&resized, image.channels);
    Ok(gray.iter().map(|&byte| if (byte >= 128) != is_inverted { 255 } else { 0 }).collect())
}

/// Whether Pillow opens a file in a mode that it does not interpolate: palettes, and one bit a pixel.
fn is_palette_or_bits(file: &[u8]) -> bool {
    const GRAY: u8 = 0;
    const PALETTE: u8 = 3;
    let is_png = codec::ImageFormat::of(file) == Some(codec::ImageFormat::Png);
    // Depth and color type in the header, which is the first chunk.
    is_png && matches!(file.get(24..26), Some([1, GRAY] | [_, PALETTE]))
}

fn nearest(image: &Unconverted, [width, height]: [u32; 2]) -> Vec<u8> {
    let place = |i: u32, from: u32, to: u32| {
        let scale = f64::from(from) / f64::from(to);
        (((f64::from(i) + 0.5) * scale) as usize).min(from as usize - 1)
    };
    let pixel = |x: u32, y: u32| {
        let (x, y) = (place(x, image.width, width), place(y, image.height, height));
        &image.samples[(y * image.width as usize + x) * image.channels..][..image.channels]
    };
    (0..height).flat_map(|y| (0..width).flat_map(move |x| pixel(x, y).iter().copied())).collect()
}

/// As Pillow resizes: colors count as far as they are opaque.
fn lanczos(image: &Unconverted, to: [u32; 2]) -> Result<Vec<u8>> {
    let from = [image.width, image.height];
    if from == to {
        return Ok(image.samples.clone());
    }
    match image.channels {
        1 => lanczos_channels::<1>(&image.samples, from, to),
        2 => premultiplied::<2>(&image.samples, |samples| lanczos_channels::<2>(samples, from, to)),
        3 => lanczos_channels::<3>(&image.samples, from, to),
        _ => premultiplied::<4>(&image.samples, |samples| lanczos_channels::<4>(samples, from, to)),
    }
}

/// Resize `C` channels, the last of which is alpha, with the rounding of Pillow's modes `La` and `RGBa`.
fn premultiplied<const C: usize>(samples: &[u8], resize: impl FnOnce(&[u8]) -> Result<Vec<u8>>) -> Result<Vec<u8>> {
    let multiply = |color: u8, alpha: u8| {
        let product = u32::from(color) * u32::from(alpha) + 128;
        (((product >> 8) + product) >> 8) as u8
    };
    let mut samples = samples.to_vec();
    for pixel in samples.as_chunks_mut::<C>().0 {
        let alpha = pixel[C - 1];
        pixel[..C - 1].iter_mut().for_each(|color| *color = multiply(*color, alpha));
    }
    let mut resized = resize(&samples)?;
    for pixel in resized.as_chunks_mut::<C>().0 {
        let alpha = u32::from(pixel[C - 1]);
        if !matches!(alpha, 0 | 255) {
            pixel[..C - 1].iter_mut().for_each(|color| *color = (255 * u32::from(*color) / alpha).min(255) as u8);
        }
    }
    Ok(resized)
}
