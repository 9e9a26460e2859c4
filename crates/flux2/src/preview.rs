//! Previews: what a picture looks like so far, from the latents of a denoising step.
//!
//! In:  an estimate of the finished latents, normalized tokens `[h * w, 4 * c]`.
//! Out: a small picture of 2 pixels a token, an eighth of the size of the one that is drawn.
//!
//! A [`Projection`] takes the place of the autoencoder: a linear map from the `c` channels of a latent to red, green
//! and blue. For 1024x1024 that is half a millisecond of one core, where the decoder takes seconds. Where a file of a
//! tiny decoder is given, as TAEF2, it decodes the estimate to a preview of the whole size instead.
//!
//! | file | holds |
//! |---|---|
//! | `constants` | the maps of the autoencoders that are known |
//! | `fit` | least squares for any other |
//! | `cache` | fitted maps on disk |

mod cache;
mod constants;
mod fit;

use std::path::PathBuf;
use std::sync::Arc;

pub(crate) use cache::Cache;
pub(crate) use fit::{Fit, PATCHES, patches};

use crate::image::RgbImage;
use crate::weights::{PreviewDecoderFile, VaeConfig};

/// Pixels of a preview along each side of a token.
pub const PX_PER_TOKEN: usize = 2;

/// How previews are made where they are asked for.
#[derive(Clone, Debug, Default)]
pub struct PreviewOptions {
    /// What decodes previews of models with latents of as many channels, in place of a projection.
    pub decoder: Option<Arc<PreviewDecoderFile>>,
    /// Folder where projections are kept that were fitted to an autoencoder, each a few kilobytes; `None` fits them in
    /// every process.
    pub cache: Option<PathBuf>,
}

impl PreviewOptions {
    /// The decoder, if it is one for the latents of an autoencoder.
    pub(crate) fn decoder_for(&self, vae: &VaeConfig) -> Option<&Arc<PreviewDecoderFile>> {
        self.decoder.as_ref().filter(|decoder| decoder.config.latent_channels == vae.latent_channels)
    }
}

/// A linear map from the normalized latents of one autoencoder to colors.
#[derive(Clone, Debug, PartialEq)]
pub struct Projection {
    /// Red, green and blue of each channel of a latent, `[c, 3]`.
    factors: Vec<[f32; 3]>,
    /// Added to them. -1..=1 is black to white.
    bias: [f32; 3],
}

impl Projection {
    /// A map with these `factors` `[c, 3]`; `None` if they or the `bias` are not finite.
    pub fn new(factors: Vec<[f32; 3]>, bias: [f32; 3]) -> Option<Self> {
        let is_finite = factors.iter().chain([&bias]).flatten().all(|value| value.is_finite());
        is_finite.then_some(Projection { factors, bias })
    }

    /// The map of a published autoencoder, which is known by the means that its latents are normalized with,
    /// `[4 * c]`: that of FLUX.2, whatever its decoder, or that of klein-mini.
    pub fn known(means: &[f32]) -> Option<Self> {
        constants::KNOWN.iter().find(|known| known.is_of(means)).map(constants::Known::projection)
    }

    /// Channels of a latent, a quarter of those of a token.
    pub fn channels(&self) -> usize {
        self.factors.len()
    }

    /// Colors of `tokens`, normalized latents `[h * w, 4 * c]` of a grid `[h, w]`, as `[2 * h, 2 * w, 3]`, where
    /// -1..=1 is black to white.
    ///
    /// # Panics
    /// If there are not as many values.
    pub fn colors(&self, tokens: &[f32], [h, w]: [usize; 2]) -> Vec<f32> {
        let channels = self.channels();
        assert_eq!(tokens.len(), h * w * 4 * channels, "{h}x{w} tokens of {channels} channels");
        let mut colors = vec![0.0; h * w * 4 * 3];
        for (at, token) in tokens.chunks_exact(4 * channels).enumerate() {
            // A channel of a token holds its four pixels one after the other, by rows.
            let mut sums = self.bias.map(|bias| [bias; 4]);
            for (pixels, factors) in token.as_chunks::<4>().0.iter().zip(&self.factors) {
                for (sum, factor) in sums.iter_mut().zip(factors) {
                    sum.iter_mut().zip(pixels).for_each(|(sum, pixel)| *sum += pixel * factor);
                }
            }
            let (top, left) = (PX_PER_TOKEN * (at / w), PX_PER_TOKEN * (at % w));
            for (i, (y, x)) in [(0, 0), (0, 1), (1, 0), (1, 1)].into_iter().enumerate() {
                let pixel = (top + y) * PX_PER_TOKEN * w + left + x;
                colors[3 * pixel..][..3].copy_from_slice(&sums.map(|sum| sum[i]));
            }
        }
        colors
    }

    /// The preview of `tokens`, as [`colors`](Self::colors) takes them: 2 pixels for each token and axis.
    ///
    /// # Panics
    /// If there are not as many values, or none.
    pub fn picture(&self, tokens: &[f32], [h, w]: [usize; 2]) -> RgbImage {
        let pixels = self.colors(tokens, [h, w]).into_iter().map(|value| byte(0.5 * value + 0.5)).collect();
        let side = |tokens: usize| (PX_PER_TOKEN * tokens) as u32;
        RgbImage::new(side(w), side(h), pixels).expect("a picture has tokens, and a pixel three colors")
    }
}

/// The picture of decoded `pixels` `[16 * h, 16 * w, 3]` in 0..=1, of a grid `[h, w]` of tokens.
///
/// # Panics
/// If there are not as many values, or none.
pub(crate) fn decoded(pixels: &[f32], [h, w]: [usize; 2]) -> RgbImage {
    let side = |tokens: usize| (16 * tokens) as u32;
    let pixels = pixels.iter().map(|value| byte(*value)).collect();
    RgbImage::new(side(w), side(h), pixels).expect("a picture has tokens, and a pixel three colors")
}

/// The byte of a color in 0..=1. A value that is not a number is black.
fn byte(value: f32) -> u8 {
    (255.0 * value.clamp(0.0, 1.0)).round() as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_four_pixels_by_rows() {
        let projection = Projection::new(vec![[1.0, 0.0, 0.0], [0.0, 0.5, 0.0]], [0.0, 0.0, -1.0]).unwrap();
        // Two tokens side by side: the first has pixels 0, 1, 2, 3 in channel 0, the second -1 in channel 1.
        let tokens = [0.0, 0.25, 0.5, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0, -1.0, -1.0, -1.0];
        let colors = projection.colors(&tokens, [1, 2]);
        let red: Vec<f32> = colors.iter().step_by(3).copied().collect();
        assert_eq!(red, [0.0, 0.25, 0.0, 0.0, 0.5, 1.0, 0.0, 0.0]);
        let picture = projection.picture(&tokens, [1, 2]);
        assert_eq!((picture.width(), picture.height()), (4, 2));
        assert_eq!((picture.pixel(1, 1), picture.pixel(3, 0)), ([255, 128, 0], [128, 64, 0]));
        assert!(Projection::new(vec![[f32::NAN; 3]], [0.0; 3]).is_none());
    }
}
