//! A source with the region of it that is drawn: the region as the model takes it, and the result.

use super::mask::{self, Mask};
use super::paste::{self, FEATHER_PX};
use super::region::Region;
use super::tokens::TokenMask;
use super::{Canvas, Inner, Source};
use crate::image::resize::{lanczos_channels, resize_lanczos};
use crate::image::{Attached, RgbImage, zeroed};
use crate::{Error, Result};

/// A source with the region of it that is drawn.
#[derive(Clone, Debug)]
pub struct Placed {
    pub(super) source: Source,
    pub(super) region: Region,
}

/// A region as it is drawn.
pub struct Work {
    /// The region in sRGB, without transparency.
    pub image: RgbImage,
    /// How much of each token is repainted.
    pub tokens: TokenMask,
}

impl Placed {
    /// The source.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// The region that is drawn.
    pub fn region(&self) -> Region {
        self.region
    }

    /// Memory that [`work`](Self::work) takes at most beside the source, in bytes: the region in sRGB and its mask, at
    /// their own size and at that while they are drawn.
    pub fn working_bytes(&self) -> usize {
        let pixels = |[width, height]: [u32; 2]| width as usize * height as usize;
        4 * (pixels(self.region.size()) + pixels(self.region.drawn))
    }

    /// What the model sees of the region, and what it repaints.
    ///
    /// # Errors
    /// If memory cannot be allocated.
    pub fn work(&self) -> Result<Work> {
        let [width, height] = self.region.drawn;
        let Inner { canvas, options, .. } = &*self.source.inner;
        if self.source.is_outline {
            let image = RgbImage::new(width, height, zeroed(3 * width as usize * height as usize)?)?;
            return Ok(Work { image, tokens: TokenMask::outline([width, height], self.source.has_mask()) });
        }
        match &**canvas {
            Canvas::Diffusers { image, mask } => {
                let tokens = TokenMask::of_centers(mask.as_deref(), [width, height]);
                Ok(Work { image: image.clone(), tokens })
            }
            Canvas::Own { original, mask } => {
                let image = original.cut(self.region.edges, options.transparency)?;
                let mask = mask.as_ref().map(|(mask, _)| self.cut(mask));
                let from = self.region.size();
                let (image, mask) = match self.region.is_reduced {
                    true => (resize_lanczos(&image, width, height)?, mask.map(|m| self.reduced(&m)).transpose()?),
                    false => {
                        let pixels = padded::<3>(image.pixels(), from, [width, height])?;
                        let mask = mask.map(|mask| padded::<1>(&mask, from, [width, height])).transpose()?;
                        (RgbImage::new(width, height, pixels)?, mask)
                    }
                };
                Ok(Work { image, tokens: TokenMask::of_largest(mask.as_deref(), [width, height]) })
            }
        }
    }

    /// The region's part of the mask.
    fn cut(&self, mask: &Mask) -> Vec<u8> {
        let [left, top, right, bottom] = self.region.edges.map(|edge| edge as usize);
        let width = mask.width as usize;
        (top..bottom).flat_map(|y| &mask.bytes[y * width + left..y * width + right]).copied().collect()
    }

    /// Lanczos overshoots at edges, which leaves almost black and almost white.
    fn reduced(&self, mask: &[u8]) -> Result<Vec<u8>> {
        let mut mask = lanczos_channels::<1>(mask, self.region.size(), self.region.drawn)?;
        mask::clean(&mut mask);
        Ok(mask)
    }

    /// The finished picture: what the model drew of the region, put into the source; and what belongs to its pixels.
    ///
    /// # Errors
    /// [`Error::ImageBuffer`] if `drawn` has another size than the region while it is drawn; [`Error::SourceProfile`];
    /// or if memory cannot be allocated.
    pub fn paste(&self, drawn: RgbImage) -> Result<(RgbImage, Attached)> {
        let Region { edges, drawn: expected, is_reduced } = self.region;
        let (width, height) = (drawn.width(), drawn.height());
        if [width, height] != expected {
            return Err(Error::ImageBuffer { width, height, len: drawn.pixels().len() });
        }
        let Inner { canvas, options, .. } = &*self.source.inner;
        let Canvas::Own { original, mask } = &**canvas else { return Ok((drawn, Attached::default())) };
        if self.source.is_outline {
            return Ok((drawn, Attached::default()));
        }
        let [full_width, full_height] = self.region.size();
        let drawn = match is_reduced {
            true => resize_lanczos(&drawn, full_width, full_height)?,
            false => cropped(&drawn, self.region.size())?,
        };
        let drawn = original.of_srgb(drawn)?;
        let feather = options.feather.unwrap_or(FEATHER_PX);
        match mask {
            Some((mask, _)) => paste::paste(original, mask, &self.region, &drawn, feather),
            // Everything is painted over, and keeps its outline.
            None => {
                debug_assert_eq!(edges[..2], [0, 0], "without a mask the region is all of the canvas");
                Ok((drawn, original.attached.clone()))
            }
        }
    }
}

/// `plane` of `C` channels, enlarged at the right and the bottom by repeating its edges.
fn padded<const C: usize>(plane: &[u8], from: [u32; 2], to: [u32; 2]) -> Result<Vec<u8>> {
    let ([width, height], [to_width, to_height]) = (from.map(|side| side as usize), to.map(|side| side as usize));
    let mut out = zeroed(to_width * to_height * C)?;
    for (y, row) in out.chunks_exact_mut(to_width * C).enumerate() {
        let source = &plane[y.min(height - 1) * width * C..][..width * C];
        let (inside, beyond) = row.split_at_mut(width * C);
        inside.copy_from_slice(source);
        beyond.chunks_exact_mut(C).for_each(|pixel| pixel.copy_from_slice(&source[(width - 1) * C..]));
    }
    Ok(out)
}

/// The top left part of an image.
fn cropped(image: &RgbImage, [width, height]: [u32; 2]) -> Result<RgbImage> {
    if [width, height] == [image.width(), image.height()] {
        return Ok(image.clone());
    }
    let mut pixels = zeroed(3 * width as usize * height as usize)?;
    let rows = image.pixels().chunks_exact(3 * image.width() as usize);
    for (row, source) in pixels.chunks_exact_mut(3 * width as usize).zip(rows) {
        row.copy_from_slice(&source[..3 * width as usize]);
    }
    RgbImage::new(width, height, pixels)
}
