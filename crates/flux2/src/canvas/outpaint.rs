//! A larger canvas: the source with new pixels at its sides.
//!
//! In:  the source, the pixels to add at each side. Out: the canvas, and a mask that repaints what is new.
//!
//! The mask also falls from 255 to 0 within a few pixels of the source, so that both parts are drawn into each other.

use std::fmt;
use std::str::FromStr;

use super::mask::Mask;
use crate::image::codec::{MAX_PIXELS, MAX_SIDE};
use crate::image::{Attached, Original, RgbImage, zeroed};
use crate::{Error, Result};

/// Pixels at the sides to add.
#[derive(Clone, Debug, PartialEq)]
pub struct Outpaint {
    /// What is added at the left, the top, the right and the bottom.
    pub sides: [Side; 4],
    /// The color of new pixels before they are painted over.
    pub fill: Fill,
    /// How far the repainted part reaches into the source, in pixels; with 0 the source keeps all of its pixels.
    pub overlap: u32,
}

/// How far [`Outpaint::overlap`] reaches by default, in pixels.
pub const OVERLAP_PX: u32 = 24;

/// How much is added at a side.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Side {
    /// So many pixels.
    Px(u32),
    /// So many percent of the width, at the left and the right, or of the height.
    Percent(f32),
}

/// Pixels, or percent with a sign: `64`, `12.5%`.
impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Side::Px(pixels) => write!(f, "{pixels}"),
            Side::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

/// A text that is no [`Side`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a number of pixels, as 64, or of percent, as 25%")]
pub struct ParseSideError(String);

/// Reads what `Display` writes.
impl FromStr for Side {
    type Err = ParseSideError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let side = match text.trim().strip_suffix('%') {
            Some(percent) => {
                let percent: Option<f32> = percent.trim().parse().ok();
                percent.filter(|percent| (0.0..=MAX_PERCENT).contains(percent)).map(Side::Percent)
            }
            None => text.trim().parse().ok().map(Side::Px),
        };
        side.ok_or_else(|| ParseSideError(text.to_owned()))
    }
}

/// Most percent that are added at a side.
const MAX_PERCENT: f32 = 10_000.0;

/// The color of new pixels before they are painted over. The model sees it unless the source is no reference.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fill {
    /// That of the nearest pixel of the source.
    #[default]
    Edge,
    /// One color of sRGB.
    Color([u8; 3]),
}

impl Outpaint {
    /// So much at each side, with the color of the nearest pixel.
    pub fn new(sides: [Side; 4]) -> Self {
        Outpaint { sides, fill: Fill::Edge, overlap: OVERLAP_PX }
    }

    /// Pixels to add at the left, the top, the right and the bottom of a source of `size` pixels.
    pub fn pixels(&self, size: [u32; 2]) -> [u32; 4] {
        std::array::from_fn(|i| match self.sides[i] {
            Side::Px(pixels) => pixels,
            // A negative or huge number saturates.
            Side::Percent(percent) => (f64::from(size[i % 2]) * f64::from(percent) / 100.0).round() as u32,
        })
    }

    /// Width and height of the canvas of a source of `size` pixels.
    ///
    /// # Errors
    /// [`Error::CanvasTooLarge`] over the limits of images that are read; [`Error::NothingToRepaint`] if no side grows.
    pub fn canvas(&self, size: [u32; 2]) -> Result<[u32; 2]> {
        let [left, top, right, bottom] = self.pixels(size).map(u64::from);
        if left + top + right + bottom == 0 {
            return Err(Error::NothingToRepaint);
        }
        let (width, height) = (u64::from(size[0]) + left + right, u64::from(size[1]) + top + bottom);
        if width.max(height) > u64::from(MAX_SIDE) || width * height > MAX_PIXELS {
            return Err(Error::CanvasTooLarge { width, height, max_side: MAX_SIDE, max_pixels: MAX_PIXELS });
        }
        Ok([width as u32, height as u32])
    }

    /// The canvas of a source, with the mask of the source, if it has one, on it.
    pub(super) fn extend(&self, source: &Original, mask: Option<&Mask>) -> Result<(Original, Mask)> {
        let size = [source.image.width(), source.image.height()];
        let (canvas, added) = (self.canvas(size)?, self.pixels(size));
        let fill = match self.fill {
            Fill::Edge => None,
            Fill::Color(color) => {
                let pixel = source.of_srgb(RgbImage::new(1, 1, color.to_vec())?)?;
                Some(pixel.pixel(0, 0))
            }
        };
        let place = Placement { size, canvas, left: added[0] as usize, top: added[1] as usize };
        let pixels = place.extend::<3>(source.image.pixels(), fill)?;
        let alpha = source.attached.alpha.as_deref().map(|alpha| place.extend::<1>(alpha, Some([255]))).transpose()?;
        let bytes = self.mask(&place, added, mask)?;
        let attached = Attached { alpha, profile: source.attached.profile.clone() };
        let image = RgbImage::new(canvas[0], canvas[1], pixels)?;
        Ok((Original { image, attached }, Mask { width: canvas[0], height: canvas[1], bytes }))
    }

    /// 255 where the canvas is new. In the source, what `mask` says, and a ramp at the sides that grow.
    fn mask(&self, place: &Placement, added: [u32; 4], mask: Option<&Mask>) -> Result<Vec<u8>> {
        let [width, height] = place.size;
        let ramp: Vec<u8> = (0..=self.overlap)
            .map(|q| (255.0 * (1.0 - f64::from(q) / (f64::from(self.overlap) + 1.0))).round_ties_even() as u8)
            .collect();
        // Pixels from the side, 1 for the outermost; beyond the ramp the mask is 0.
        let near = |grows: u32, from_side: u32| if grows > 0 { from_side } else { u32::MAX };
        let mut bytes = zeroed(place.canvas[0] as usize * place.canvas[1] as usize)?;
        bytes.fill(255);
        for y in 0..height {
            let vertical = near(added[1], y + 1).min(near(added[3], height - y));
            let start = (place.top + y as usize) * place.canvas[0] as usize + place.left;
            for (x, byte) in (0..width).zip(&mut bytes[start..start + width as usize]) {
                let distance = near(added[0], x + 1).min(near(added[2], width - x)).min(vertical);
                let of_user = mask.map_or(0, |mask| mask.bytes[y as usize * width as usize + x as usize]);
                *byte = ramp.get(distance as usize).copied().unwrap_or(0).max(of_user);
            }
        }
        Ok(bytes)
    }
}

/// Where the source lies on its canvas.
struct Placement {
    size: [u32; 2],
    canvas: [u32; 2],
    left: usize,
    top: usize,
}

impl Placement {
    /// The source's plane of `C` channels on the canvas; new pixels are `fill`, or as the nearest pixel.
    fn extend<const C: usize>(&self, plane: &[u8], fill: Option<[u8; C]>) -> Result<Vec<u8>> {
        let ([width, height], [canvas_width, canvas_height]) =
            (self.size.map(|side| side as usize), self.canvas.map(|side| side as usize));
        let mut out = zeroed(canvas_width * canvas_height * C)?;
        for (y, row) in out.chunks_exact_mut(canvas_width * C).enumerate() {
            let nearest = y.saturating_sub(self.top).min(height - 1);
            let is_new = y < self.top || y >= self.top + height;
            let source = &plane[nearest * width * C..][..width * C];
            let edges = [&source[..C], &source[(width - 1) * C..]];
            let (left, rest) = row.split_at_mut(self.left * C);
            let (middle, right) = rest.split_at_mut(width * C);
            for (side, edge) in [(left, edges[0]), (right, edges[1])] {
                let color = fill.as_ref().map_or(edge, |fill| &fill[..]);
                side.chunks_exact_mut(C).for_each(|pixel| pixel.copy_from_slice(color));
            }
            match fill.filter(|_| is_new) {
                Some(fill) => middle.chunks_exact_mut(C).for_each(|pixel| pixel.copy_from_slice(&fill)),
                None => middle.copy_from_slice(source),
            }
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(width: u32, height: u32) -> Original {
        let pixels = (0..width * height).flat_map(|i| [i as u8, 0, 255 - i as u8]).collect();
        Original { image: RgbImage::new(width, height, pixels).unwrap(), attached: Attached::default() }
    }

    #[test]
    fn sides_are_pixels_or_percent() {
        let outpaint = Outpaint::new([Side::Px(3), Side::Percent(50.0), Side::Percent(25.0), Side::Px(0)]);
        assert_eq!(outpaint.pixels([200, 100]), [3, 50, 50, 0]);
        assert_eq!(outpaint.canvas([200, 100]).unwrap(), [253, 150]);
    }

    #[test]
    fn a_side_is_read_as_it_is_written() {
        for (text, side) in [("64", Side::Px(64)), ("0", Side::Px(0)), (" 12.5% ", Side::Percent(12.5))] {
            assert_eq!(text.parse(), Ok(side), "{text}");
            assert_eq!(side.to_string(), text.trim());
        }
        for text in ["", "-1", "-5%", "1.5", "%", "NaN%", "inf%", "1e9%", "64px"] {
            assert!(text.parse::<Side>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_canvas_has_limits() {
        let canvas = |side| Outpaint::new([side, Side::Px(0), Side::Px(0), Side::Px(0)]).canvas([100, 100]);
        assert!(matches!(canvas(Side::Px(0)), Err(Error::NothingToRepaint)));
        assert!(matches!(canvas(Side::Percent(f32::NAN)), Err(Error::NothingToRepaint)));
        for side in [Side::Px(u32::MAX), Side::Percent(f32::INFINITY), Side::Px(16_300)] {
            assert!(matches!(canvas(side), Err(Error::CanvasTooLarge { .. })), "{side:?}");
        }
    }

    #[test]
    fn new_pixels_repeat_the_edge_or_have_the_color_that_is_asked_for() {
        let source = source(3, 2);
        let mut outpaint =
            Outpaint { overlap: 0, ..Outpaint::new([Side::Px(2), Side::Px(1), Side::Px(0), Side::Px(1)]) };
        let (canvas, mask) = outpaint.extend(&source, None).unwrap();
        assert_eq!((canvas.image.width(), canvas.image.height()), (5, 4));
        assert_eq!(canvas.image.pixel(0, 0), source.image.pixel(0, 0));
        assert_eq!(canvas.image.pixel(4, 3), source.image.pixel(2, 1));
        assert_eq!(canvas.image.pixel(3, 2), source.image.pixel(1, 1));
        let expected = [255; 5].iter().chain(&[255, 255, 0, 0, 0]).chain(&[255, 255, 0, 0, 0]).chain(&[255; 5]);
        assert!(mask.bytes.iter().eq(expected), "{:?}", mask.bytes);
        outpaint.fill = Fill::Color([0, 255, 0]);
        let (canvas, _) = outpaint.extend(&source, None).unwrap();
        assert_eq!([canvas.image.pixel(0, 1), canvas.image.pixel(4, 0)], [[0, 255, 0]; 2]);
        assert_eq!(canvas.image.pixel(2, 1), source.image.pixel(0, 0));
    }

    #[test]
    fn the_mask_falls_within_the_source_and_keeps_that_of_the_user() {
        let outpaint = Outpaint { overlap: 3, ..Outpaint::new([Side::Px(2), Side::Px(0), Side::Px(0), Side::Px(0)]) };
        let of_user = Mask { width: 6, height: 1, bytes: vec![0, 100, 255, 0, 0, 0] };
        let (_, mask) = outpaint.extend(&source(6, 1), Some(&of_user)).unwrap();
        assert_eq!(mask.bytes, [255, 255, 191, 128, 255, 0, 0, 0]);
    }
}
