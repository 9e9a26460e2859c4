//! An image in the colors of its file, so that pixels that nobody paints over keep their bytes.
//!
//! In:  samples as a decoder returns them. Out: [`Original`]: RGB, and beside it what its file says about them.
//!
//! Two kinds of file cannot keep their bytes, since what is painted has 8-bit color: gray with a profile of its own
//! becomes sRGB, and 16-bit channels keep their high byte.

use std::borrow::Cow;
use std::sync::Arc;

use image::DynamicImage;
use image::metadata::Orientation;

use super::codec::{ImageFormat, Transparency, WHITE};
use super::color::{GrayToSrgb, RgbSpace};
use super::rows::{Head, Samples, over};
use super::{RgbImage, zeroed};
use crate::{Error, Result};

/// What belongs to the pixels of an [`RgbImage`] in a file: nothing for a picture that a model made from noise.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attached {
    /// Opacity of each pixel, `[height, width]`; `None` if all are opaque.
    pub alpha: Option<Vec<u8>>,
    /// ICC profile of an RGB space that the pixels are in; `None` is sRGB.
    pub profile: Option<Arc<[u8]>>,
}

impl Attached {
    /// The samples of a file, and whether they have alpha.
    ///
    /// # Errors
    /// [`Error::ImageBuffer`] if there is not one alpha for each pixel.
    pub(super) fn samples<'a>(&self, image: &'a RgbImage, format: ImageFormat) -> Result<(Cow<'a, [u8]>, bool)> {
        let Some(alpha) = &self.alpha else { return Ok((Cow::Borrowed(&image.pixels), false)) };
        if 3 * alpha.len() != image.pixels.len() {
            return Err(Error::ImageBuffer { width: image.width, height: image.height, len: alpha.len() });
        }
        let has_alpha = format != ImageFormat::Jpeg;
        let mut samples = zeroed(alpha.len() * if has_alpha { 4 } else { 3 })?;
        samples.clear();
        for (&color, &alpha) in image.pixels.as_chunks::<3>().0.iter().zip(alpha) {
            if has_alpha {
                samples.extend_from_slice(&[color[0], color[1], color[2], alpha]);
            } else {
                samples.extend_from_slice(&over(color, alpha, WHITE));
            }
        }
        Ok((Cow::Owned(samples), has_alpha))
    }
}

/// An upright image in the colors of its file.
#[derive(Clone, Debug)]
pub struct Original {
    /// RGB in the space of the profile.
    pub image: RgbImage,
    /// Its alpha channel, if it is transparent anywhere, and its profile, if that is valid.
    pub attached: Attached,
}

impl Original {
    /// Rows `top..bottom` of columns `left..right` as the model sees them: in sRGB, without an alpha channel.
    ///
    /// # Panics
    /// If they are not in the image.
    pub(crate) fn cut(&self, [left, top, right, bottom]: [u32; 4], transparency: Transparency) -> Result<RgbImage> {
        let width = self.image.width as usize;
        let columns = |y: u32| (y as usize * width + left as usize)..(y as usize * width + right as usize);
        let mut pixels = zeroed(3 * (right - left) as usize * (bottom - top) as usize)?;
        pixels.clear();
        for y in top..bottom {
            let range = columns(y);
            pixels.extend_from_slice(&self.image.pixels[3 * range.start..3 * range.end]);
        }
        if let Some(mut space) = self.space() {
            space.convert_to_srgb(&mut pixels);
        }
        if let (Some(alpha), Transparency::Over(background)) = (&self.attached.alpha, transparency) {
            let alpha = (top..bottom).flat_map(|y| &alpha[columns(y)]);
            for (pixel, &alpha) in pixels.as_chunks_mut::<3>().0.iter_mut().zip(alpha) {
                *pixel = over(*pixel, alpha, background);
            }
        }
        RgbImage::new(right - left, bottom - top, pixels)
    }

    /// Pixels of sRGB in the space of this image.
    ///
    /// # Errors
    /// [`Error::SourceProfile`] if the profile says only what its colors look like, not how to make a color.
    pub(crate) fn of_srgb(&self, mut image: RgbImage) -> Result<RgbImage> {
        if let Some(mut space) = self.space() {
            space.convert_from_srgb(&mut image.pixels).map_err(|_| Error::SourceProfile)?;
        }
        Ok(image)
    }

    fn space(&self) -> Option<RgbSpace> {
        RgbSpace::new(self.attached.profile.as_deref()?)
    }
}

/// Takes decoded samples to an [`Original`].
pub(super) struct Keeping {
    width: u32,
    height: u32,
    channels: usize,
    orientation: Orientation,
    gray: Option<Box<GrayToSrgb>>,
    profile: Option<Arc<[u8]>>,
    pixels: Vec<u8>,
    alpha: Vec<u8>,
}

impl Keeping {
    /// Before the first row.
    pub(super) fn start(head: &Head) -> Result<Self> {
        let Head { width, height, channels, orientation, .. } = *head;
        let profile = head.profile.as_deref();
        let is_gray = channels < 3;
        let count = width as usize * height as usize;
        let (mut pixels, mut alpha) = (zeroed(3 * count)?, zeroed(if channels.is_multiple_of(2) { count } else { 0 })?);
        pixels.clear();
        alpha.clear();
        Ok(Keeping {
            width,
            height,
            channels,
            orientation,
            gray: is_gray.then(|| Box::new(GrayToSrgb::new(profile))),
            // Viewers pass over a profile that is broken or of another kind.
            profile: profile.filter(|profile| !is_gray && RgbSpace::new(profile).is_some()).map(Into::into),
            pixels,
            alpha,
        })
    }

    /// The image, upright, after the last row.
    pub(super) fn finish(self) -> Original {
        let Keeping { width, height, orientation, profile, pixels, alpha, .. } = self;
        let (pixels, [upright_width, upright_height]) = upright(pixels, 3, [width, height], orientation);
        let is_transparent = alpha.iter().any(|&alpha| alpha != 255);
        let alpha = is_transparent.then(|| upright(alpha, 1, [width, height], orientation).0);
        let image = RgbImage { width: upright_width, height: upright_height, pixels };
        Original { image, attached: Attached { alpha, profile } }
    }
}

impl Samples for Keeping {
    fn row(&mut self, samples: &[u8]) {
        match (&self.gray, self.channels) {
            (Some(gray), channels) => {
                let levels: Vec<u8> = samples.iter().step_by(channels).copied().collect();
                gray.append(&levels, &mut self.pixels);
            }
            (None, 3) => self.pixels.extend_from_slice(samples),
            (None, channels) => {
                samples.chunks_exact(channels).for_each(|pixel| self.pixels.extend_from_slice(&pixel[..3]));
            }
        }
        if self.channels.is_multiple_of(2) {
            self.alpha.extend(samples.iter().skip(self.channels - 1).step_by(self.channels));
        }
    }
}

/// Samples whose meaning is not color, as those of a mask: upright, nothing converted.
pub(crate) struct Unconverted {
    pub(crate) width: u32,
    pub(crate) height: u32,
    /// 1 is gray, 2 gray with alpha, 3 RGB, 4 RGB with alpha.
    pub(crate) channels: usize,
    /// `[height, width, channels]`.
    pub(crate) samples: Vec<u8>,
}

/// Takes decoded samples to [`Unconverted`].
pub(super) struct KeepingSamples {
    size: [u32; 2],
    channels: usize,
    orientation: Orientation,
    samples: Vec<u8>,
}

impl KeepingSamples {
    /// Before the first row.
    pub(super) fn start(head: &Head) -> Result<Self> {
        let Head { width, height, channels, orientation, .. } = *head;
        let mut samples = zeroed(width as usize * height as usize * channels)?;
        samples.clear();
        Ok(KeepingSamples { size: [width, height], channels, orientation, samples })
    }

    /// The samples, upright, after the last row.
    pub(super) fn finish(self) -> Unconverted {
        let KeepingSamples { size, channels, orientation, samples } = self;
        let (samples, [width, height]) = upright(samples, channels, size, orientation);
        Unconverted { width, height, channels, samples }
    }
}

impl Samples for KeepingSamples {
    fn row(&mut self, samples: &[u8]) {
        self.samples.extend_from_slice(samples);
    }
}

/// Samples of 1 to 4 channels turned upright, and their width and height then.
fn upright(
    samples: Vec<u8>,
    channels: usize,
    [width, height]: [u32; 2],
    orientation: Orientation,
) -> (Vec<u8>, [u32; 2]) {
    if orientation == Orientation::NoTransforms {
        return (samples, [width, height]);
    }
    let image = match channels {
        1 => image::GrayImage::from_raw(width, height, samples).map(DynamicImage::from),
        2 => image::GrayAlphaImage::from_raw(width, height, samples).map(DynamicImage::from),
        3 => image::RgbImage::from_raw(width, height, samples).map(DynamicImage::from),
        _ => image::RgbaImage::from_raw(width, height, samples).map(DynamicImage::from),
    };
    let mut image = image.expect("a decoder returns all rows");
    image.apply_orientation(orientation);
    let size = [image.width(), image.height()];
    (image.into_bytes(), size)
}
