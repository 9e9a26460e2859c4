//! The bytes of a mask: 0 keeps a pixel, 255 repaints it, a value between repaints it less.
//!
//! In:  an image file, or the alpha channel of the source. Out: [`Mask`], one byte for each pixel of the source.
//!
//! A file that is transparent anywhere repaints where it is transparent, as OpenAI's API and erasers of image editors
//! do it. Any other repaints where it is white. Color profiles do not apply: a mask is no color.

use std::borrow::Cow;

use super::distance::Distances;
use crate::image::original::Unconverted;
use crate::image::resize::lanczos_channels;
use crate::image::{codec, zeroed};
use crate::{Error, Result};

/// Farther than this, in pixels, no mask is grown.
pub const MAX_GROW: u32 = 128;

/// Levels that lossy compression makes of black and white.
const BLACK_BELOW: u8 = 8;
const WHITE_ABOVE: u8 = 247;

/// One byte for each pixel.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Mask {
    pub(super) width: u32,
    pub(super) height: u32,
    /// `[height, width]`.
    pub(super) bytes: Vec<u8>,
}

impl Mask {
    /// The mask in a file, for a source of `size` pixels. `name` is what errors call the file.
    ///
    /// # Errors
    /// [`Error::MaskSize`] if it is of another shape; any of the image errors.
    pub(super) fn of_file(file: &[u8], name: &str, size: [u32; 2]) -> Result<Self> {
        let image = codec::decode_unconverted(file, name)?;
        let mask = [image.width, image.height];
        if !has_shape_of(mask, size) {
            return Err(Error::MaskSize { mask, expected: size });
        }
        let mut bytes = transparency_or_gray(&image);
        if mask != size {
            bytes = lanczos_channels::<1>(&bytes, mask, size)?;
        }
        Ok(Mask { width: size[0], height: size[1], bytes })
    }

    /// A mask that repaints where `alpha` is transparent.
    pub(super) fn of_alpha(alpha: &[u8], [width, height]: [u32; 2]) -> Self {
        Mask { width, height, bytes: alpha.iter().map(|alpha| 255 - alpha).collect() }
    }

    /// Repaint what was kept, and keep the rest.
    pub(super) fn invert(&mut self) {
        self.bytes.iter_mut().for_each(|byte| *byte = 255 - *byte);
    }

    /// Make almost black black and almost white white.
    pub(super) fn clean(&mut self) {
        clean(&mut self.bytes);
    }

    /// Left, top, right and bottom edge of the box of the pixels that are repainted; `None` if there are none.
    pub(super) fn bounds(&self) -> Option<[u32; 4]> {
        let width = self.width as usize;
        let mut bounds: Option<[usize; 4]> = None;
        for (y, row) in self.bytes.chunks_exact(width).enumerate() {
            let Some(first) = row.iter().position(|&byte| byte != 0) else { continue };
            let last = row.iter().rposition(|&byte| byte != 0).unwrap_or(first);
            let [left, top, right, _] = bounds.unwrap_or([first, y, last + 1, y]);
            bounds = Some([left.min(first), top, right.max(last + 1), y + 1]);
        }
        bounds.map(|bounds| bounds.map(|edge| edge as u32))
    }

    /// Give each pixel the largest value within `radius` pixels of it.
    pub(super) fn grow(&mut self, radius: u32) -> Result<()> {
        let Some([left, top, right, bottom]) = self.bounds().filter(|_| radius > 0) else { return Ok(()) };
        let (width, height) = (self.width as usize, self.height as usize);
        let edges = [
            left.saturating_sub(radius) as usize,
            top.saturating_sub(radius) as usize,
            ((right + radius) as usize).min(width),
            ((bottom + radius) as usize).min(height),
        ];
        match self.bytes.iter().all(|byte| matches!(byte, 0 | 255)) {
            true => self.grow_hard(edges, radius),
            false => self.grow_soft(edges, radius as usize),
        }
    }

    /// As [`grow`](Self::grow), for a mask of two values: whatever lies near enough to a pixel that is repainted.
    fn grow_hard(&mut self, edges: [usize; 4], radius: u32) -> Result<()> {
        let mut grown = zeroed(self.bytes.len())?;
        let width = self.width as usize;
        let [left, top, right, bottom] = edges;
        let mut distances = Distances::new(&self.bytes, width, edges, |byte| byte != 0, radius + 1);
        for y in top..bottom {
            let row = &mut grown[y * width + left..y * width + right];
            for (byte, &squared) in row.iter_mut().zip(distances.next_row()) {
                *byte = if squared <= radius * radius { 255 } else { 0 };
            }
        }
        self.bytes = grown;
        Ok(())
    }

    /// As [`grow`](Self::grow): a disc is one run of pixels for each of its rows, and the largest value of a run that
    /// moves along a row takes constant time.
    fn grow_soft(&mut self, [left, top, right, bottom]: [usize; 4], radius: usize) -> Result<()> {
        let mut grown = zeroed(self.bytes.len())?;
        let (width, height) = (self.width as usize, self.height as usize);
        let mut largest = vec![0; right - left];
        for below in 0..=2 * radius {
            let dy = below as i64 - radius as i64;
            let half = ((radius * radius) as i64 - dy * dy).isqrt() as usize;
            for y in top..bottom {
                let from = y as i64 + dy;
                if !(0..height as i64).contains(&from) {
                    continue;
                }
                let row = &self.bytes[from as usize * width..][..width];
                if row[left..right].iter().all(|&byte| byte == 0) {
                    continue;
                }
                largest_of_runs(&row[left..right], half, &mut largest);
                let target = &mut grown[y * width + left..y * width + right];
                target.iter_mut().zip(&largest).for_each(|(byte, largest)| *byte = (*byte).max(*largest));
            }
        }
        self.bytes = grown;
        Ok(())
    }
}

/// The largest value within `half` places of each, by van Herk's method: running maxima from both ends of blocks.
fn largest_of_runs(values: &[u8], half: usize, out: &mut [u8]) {
    let (n, window) = (values.len(), 2 * half + 1);
    let padded = |i: usize| i.checked_sub(half).and_then(|i| values.get(i)).copied().unwrap_or(0);
    let length = (n + 2 * half).next_multiple_of(window);
    let (mut prefix, mut suffix) = (vec![0u8; length], vec![0u8; length]);
    for i in 0..length {
        let before = if i % window == 0 { 0 } else { prefix[i - 1] };
        prefix[i] = before.max(padded(i));
    }
    for i in (0..length).rev() {
        let after = if (i + 1) % window == 0 { 0 } else { suffix[i + 1] };
        suffix[i] = after.max(padded(i));
    }
    out.iter_mut().enumerate().for_each(|(i, out)| *out = suffix[i].max(prefix[i + window - 1]));
}

/// Make almost black black and almost white white.
pub(super) fn clean(bytes: &mut [u8]) {
    bytes.iter_mut().for_each(|byte| {
        *byte = match *byte {
            ..BLACK_BELOW => 0,
            byte if byte > WHITE_ABOVE => 255,
            byte => byte,
        }
    });
}

/// Whether a mask that is scaled to the width or the height of the source is at most a pixel longer or shorter.
fn has_shape_of([width, height]: [u32; 2], [source_width, source_height]: [u32; 2]) -> bool {
    let product = |a: u32, b: u32| u64::from(a) * u64::from(b);
    let difference = product(height, source_width).abs_diff(product(source_height, width));
    difference <= u64::from(width.max(height))
}

fn transparency_or_gray(image: &Unconverted) -> Vec<u8> {
    let alpha = || image.samples.iter().skip(image.channels - 1).step_by(image.channels);
    match image.channels.is_multiple_of(2) && alpha().any(|&alpha| alpha < 255) {
        true => alpha().map(|alpha| 255 - alpha).collect(),
        false => gray(&image.samples, image.channels).into_owned(),
    }
}

/// The gray of samples of 1 to 4 channels, as Pillow's `convert("L")`: alpha is dropped.
pub(super) fn gray(samples: &[u8], channels: usize) -> Cow<'_, [u8]> {
    let luma = |pixel: &[u8]| {
        let [red, green, blue] = [pixel[0], pixel[1], pixel[2]].map(u32::from);
        ((red * 19_595 + green * 38_470 + blue * 7_471 + 0x8000) >> 16) as u8
    };
    match channels {
        1 => Cow::Borrowed(samples),
        2 => samples.iter().step_by(2).copied().collect(),
        channels => samples.chunks_exact(channels).map(luma).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn mask(width: u32, height: u32, bytes: Vec<u8>) -> Mask {
        Mask { width, height, bytes }
    }

    #[test]
    fn a_mask_of_the_same_shape_is_scaled() {
        for (mask, source, fits) in [
            ([100, 75], [100, 75], true),
            ([50, 37], [100, 75], true),
            ([50, 38], [100, 75], true),
            ([400, 300], [100, 75], true),
            ([75, 100], [100, 75], false),
            ([100, 70], [100, 75], false),
            ([1024, 1024], [1024, 1020], false),
        ] {
            assert_eq!(has_shape_of(mask, source), fits, "{mask:?} {source:?}");
        }
    }

    #[test]
    fn bounds_are_tight() {
        let mut bytes = vec![0; 20];
        assert_eq!(mask(5, 4, bytes.clone()).bounds(), None);
        bytes[7] = 1;
        assert_eq!(mask(5, 4, bytes.clone()).bounds(), Some([2, 1, 3, 2]));
        bytes[15] = 255;
        assert_eq!(mask(5, 4, bytes).bounds(), Some([0, 1, 3, 4]));
    }

    #[test]
    fn noise_of_lossy_files_is_removed() {
        let mut levels = mask(4, 1, vec![7, 8, 247, 248]);
        levels.clean();
        assert_eq!(levels.bytes, [0, 8, 247, 255]);
    }

    proptest! {
        #[test]
        fn growing_takes_the_largest_value_of_a_disc(
            width in 1u32..20, height in 1u32..20, radius in 0u32..7, is_hard in any::<bool>(),
            values in proptest::collection::vec(0u8..=255, 400)
        ) {
            let value = |v: &u8| if is_hard { u8::from(*v > 230) * 255 } else { v.saturating_sub(180) };
            let bytes: Vec<u8> = values.iter().map(value).take((width * height) as usize).collect();
            let mut grown = mask(width, height, bytes.clone());
            grown.grow(radius).unwrap();
            for y in 0..height {
                for x in 0..width {
                    let near = |i: &usize| {
                        let (u, v) = (*i as u32 % width, *i as u32 / width);
                        u.abs_diff(x).pow(2) + v.abs_diff(y).pow(2) <= radius * radius
                    };
                    let largest = (0..bytes.len()).filter(near).map(|i| bytes[i]).max();
                    prop_assert_eq!(Some(grown.bytes[(y * width + x) as usize]), largest);
                }
            }
        }
    }
}
