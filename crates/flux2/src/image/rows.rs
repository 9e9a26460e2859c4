//! Decoded rows to sRGB pixels: color profile, then transparency. A picture need not be in memory for it.
//!
//! In:  rows as a decoder returns them: gray or RGB, perhaps with alpha.
//! Out: rows of RGB for a [`Rows`], as the file has them: not yet turned upright.

use image::metadata::Orientation;

use super::codec::Transparency;
use super::color::{self, GrayToSrgb, RgbToSrgb};
use super::resize::{self, Shrinking};
use super::{RgbImage, zeroed};
use crate::Result;

/// What is known of a picture before its first row.
pub(super) struct Head {
    pub(super) width: u32,
    pub(super) height: u32,
    /// 1 and 2 are gray, 2 and 4 have alpha.
    pub(super) channels: usize,
    pub(super) profile: Option<Vec<u8>>,
    pub(super) orientation: Orientation,
}

/// Takes the samples of a picture as its decoder returns them, rows from the top.
pub(super) trait Samples: Sized {
    /// The next row, `[width, channels]`.
    fn row(&mut self, samples: &[u8]);
}

/// Takes the rows of a picture from the top, `[width, 3]` each.
pub(super) trait Rows: Sized {
    /// Before the first row.
    fn start(head: &Head) -> Result<Self>;
    /// The next row.
    fn row(&mut self, row: &[u8]);
}

/// Keeps all rows.
pub(super) struct Whole {
    width: u32,
    height: u32,
    pixels: Vec<u8>,
    orientation: Orientation,
}

impl Rows for Whole {
    fn start(head: &Head) -> Result<Self> {
        let Head { width, height, orientation, .. } = *head;
        let mut pixels = zeroed(width as usize * height as usize * 3)?;
        pixels.clear();
        Ok(Whole { width, height, pixels, orientation })
    }

    fn row(&mut self, row: &[u8]) {
        self.pixels.extend_from_slice(row);
    }
}

impl Whole {
    /// The picture, upright, after the last row.
    pub(super) fn finish(self) -> RgbImage {
        let Whole { width, height, pixels, orientation } = self;
        resize::upright(RgbImage { width, height, pixels }, orientation)
    }
}

impl Rows for Shrinking {
    fn start(head: &Head) -> Result<Self> {
        let Head { width, height, orientation, .. } = *head;
        resize::check_reference(width, height)?;
        Shrinking::new(width, height, orientation)
    }

    fn row(&mut self, row: &[u8]) {
        self.row(row);
    }
}

/// Converts rows to sRGB without an alpha channel.
pub(super) struct Flattening<R> {
    rows: R,
    row_bytes: usize,
    channels: usize,
    color: Color,
    transparency: Transparency,
    was_transparent: bool,
    /// Samples that wait until there are [`CHUNK`](color::CHUNK) pixels, gray or RGB.
    colors: Vec<u8>,
    /// Their alpha.
    alpha: Vec<u8>,
    /// Converted pixels that do not fill a row yet.
    converted: Vec<u8>,
}

enum Color {
    Gray(Box<GrayToSrgb>),
    Rgb(Option<RgbToSrgb>),
}

impl<R: Rows> Flattening<R> {
    /// Before the first row of a picture that goes to an `R`.
    pub(super) fn start(head: &Head, transparency: Transparency) -> Result<Self> {
        let profile = head.profile.as_deref();
        let color = match head.channels {
            1 | 2 => Color::Gray(Box::new(GrayToSrgb::new(profile))),
            _ => Color::Rgb(profile.and_then(RgbToSrgb::new)),
        };
        Ok(Flattening {
            rows: R::start(head)?,
            row_bytes: head.width as usize * 3,
            channels: head.channels,
            color,
            transparency,
            was_transparent: false,
            colors: vec![],
            alpha: vec![],
            converted: vec![],
        })
    }

    fn has_alpha(&self) -> bool {
        self.channels.is_multiple_of(2)
    }

    fn convert(&mut self) {
        let start = self.converted.len();
        match &mut self.color {
            Color::Gray(transform) => transform.append(&self.colors, &mut self.converted),
            Color::Rgb(transform) => {
                self.converted.extend_from_slice(&self.colors);
                if let Some(transform) = transform {
                    transform.apply(&mut self.converted[start..]);
                }
            }
        }
        self.was_transparent |= self.alpha.iter().any(|&alpha| alpha != 255);
        if let Transparency::Over(background) = self.transparency {
            for (pixel, &alpha) in self.converted[start..].as_chunks_mut::<3>().0.iter_mut().zip(&self.alpha) {
                *pixel = over(*pixel, alpha, background);
            }
        }
        self.colors.clear();
        self.alpha.clear();
        let whole = self.converted.len() / self.row_bytes * self.row_bytes;
        self.converted[..whole].chunks_exact(self.row_bytes).for_each(|row| self.rows.row(row));
        self.converted.drain(..whole);
    }

    /// Where all rows are, after the last one; and whether any pixel is transparent.
    pub(super) fn finish(mut self) -> (R, bool) {
        self.convert();
        (self.rows, self.was_transparent)
    }
}

impl<R: Rows> Samples for Flattening<R> {
    fn row(&mut self, samples: &[u8]) {
        let colors = self.channels - usize::from(self.has_alpha());
        // A profile is applied to as many pixels at a time, wherever rows end: vectorized code may round the last ones
        // of a call in another way.
        for pixel in samples.chunks_exact(self.channels) {
            self.colors.extend_from_slice(&pixel[..colors]);
            self.alpha.extend(pixel.get(colors));
            if self.colors.len() == color::CHUNK * colors {
                self.convert();
            }
        }
    }
}

/// A pixel over a background, rounded to the nearest level, as viewers blend: without linear light.
pub(super) fn over(pixel: [u8; 3], alpha: u8, background: [u8; 3]) -> [u8; 3] {
    let blend = |i: usize| u32::from(pixel[i]) * u32::from(alpha) + u32::from(background[i]) * u32::from(255 - alpha);
    std::array::from_fn(|i| ((blend(i) + 127) / 255) as u8)
}
