//! Images: bytes of a file to sRGB pixels and back, pixels to the values of the autoencoder and back.
//!
//! ```text
//! codec     PNG, JPEG, WebP bytes <-> RgbImage            untrusted input is checked here; atomic writes
//! jpeg      JPEG bytes -> pixels
//! container chunks and segments that the decoders' crates do not handle
//! color     embedded ICC profile -> sRGB
//! rows      decoded rows -> sRGB without transparency     a large picture need not be in memory as a whole
//! original  an image in the colors of its file         what is not painted over keeps its bytes
//! resize    reference image -> size the model takes       bit for bit as Pillow and diffusers do it
//! metadata  Parameters <-> text in the file               what made the picture, so that it can be made again
//! ```
//!
//! Source for the values: `VaeImageProcessor` and `Flux2ImageProcessor`, diffusers 0.42.1.

pub mod codec;
mod color;
mod container;
mod jpeg;
pub mod metadata;
pub mod original;
pub mod resize;
mod rows;

use std::num::NonZeroUsize;

pub use codec::{ImageFormat, Transparency, decode, encode, encode_attached, open, save};
pub use metadata::{LoraParameters, OtherParameters, Parameters, SourceParameters, Stored};
pub use original::{Attached, Original};
pub use resize::prepare_reference;

use crate::{Error, Result};
use flux2_base::parallel::in_shares;

/// A picture in sRGB: three bytes a pixel, rows from the top.
#[derive(Clone, PartialEq, Eq)]
pub struct RgbImage {
    width: u32,
    height: u32,
    pixels: Vec<u8>,
}

impl RgbImage {
    /// A picture from `pixels` `[height, width, 3]`.
    ///
    /// # Errors
    /// [`Error::ImageBuffer`] if a side is zero or `pixels` has another length.
    pub fn new(width: u32, height: u32, pixels: Vec<u8>) -> Result<Self> {
        check_len(width, height, pixels.len())?;
        Ok(Self { width, height, pixels })
    }

    /// Width in pixels.
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Height in pixels.
    pub fn height(&self) -> u32 {
        self.height
    }

    /// All bytes, `[height, width, 3]`.
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }

    /// Rows from the top, `[width, 3]` each.
    fn rows(&self) -> impl Iterator<Item = &[u8]> {
        self.pixels.chunks_exact(self.width as usize * 3)
    }

    /// All bytes, `[height, width, 3]`, without a copy.
    pub fn into_pixels(self) -> Vec<u8> {
        self.pixels
    }

    /// Red, green and blue at column `x` of row `y`.
    ///
    /// # Panics
    /// If the pixel lies outside.
    pub fn pixel(&self, x: u32, y: u32) -> [u8; 3] {
        assert!(x < self.width && y < self.height, "pixel {x},{y} of a {}x{} picture", self.width, self.height);
        let i = (y as usize * self.width as usize + x as usize) * 3;
        [self.pixels[i], self.pixels[i + 1], self.pixels[i + 2]]
    }
}

impl std::fmt::Debug for RgbImage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RgbImage({}x{})", self.width, self.height)
    }
}

/// A color as `#rrggbb`.
pub fn hexadecimal(color: [u8; 3]) -> String {
    let [red, green, blue] = color;
    format!("#{red:02x}{green:02x}{blue:02x}")
}

fn check_len(width: u32, height: u32, len: usize) -> Result<()> {
    let expected = u64::from(width) * u64::from(height);
    if expected == 0 || expected.checked_mul(3) != u64::try_from(len).ok() {
        return Err(Error::ImageBuffer { width, height, len });
    }
    Ok(())
}

/// The input of the autoencoder's encoder: `byte / 255 * 2 - 1` as `[height, width, 3]`, each in -1..=1.
pub fn to_model_input(image: &RgbImage) -> Vec<f32> {
    image.pixels.iter().map(|&byte| 2.0 * (f32::from(byte) / 255.0) - 1.0).collect()
}

/// Converts the decoder's output to 8-bit RGB: `values` `[height, width, 3]`, where -1..=1 is black to white. Runs on
/// at most `threads` threads.
///
/// `byte = round(255 * clamp(x * 0.5 + 0.5, 0, 1))` in f32, with halves rounded to even as numpy does. NaN, which
/// diffusers leaves undefined, becomes 0.
///
/// # Errors
/// [`Error::ImageBuffer`] if a side is zero or `values` has another length.
pub fn from_model_output(values: &[f32], width: u32, height: u32, threads: NonZeroUsize) -> Result<RgbImage> {
    check_len(width, height, values.len())?;
    // Adding 2^23 rounds to the nearest integer, halves to even, and leaves it in the low bits: this vectorizes on
    // every processor. `max` turns NaN into 0.
    const ROUND: f32 = 8_388_608.0;
    #[expect(clippy::manual_clamp, reason = "`clamp` keeps NaN")]
    let byte = |&x: &f32| ((x * 0.5 + 0.5).max(0.0).min(1.0) * 255.0 + ROUND).to_bits() as u8;
    let mut pixels = zeroed(values.len())?;
    // Page faults of the new buffer dominate, so a share is many pages.
    const SHARE: usize = 1 << 18;
    in_shares(&mut pixels, threads, SHARE, |first, share| {
        share.iter_mut().zip(&values[first..]).for_each(|(pixel, value)| *pixel = byte(value));
    });
    RgbImage::new(width, height, pixels)
}

/// Run a decoder. Its panic becomes an error: a bug in a decoder must not end the program, since files come from anywhere.
fn caught<T>(decoder: impl FnOnce() -> T) -> Result<T, String> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(decoder)).map_err(|panic| {
        let text = panic.downcast_ref::<&str>().copied();
        let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        format!("the decoder failed: {}", text.unwrap_or("no reason given"))
    })
}

/// Allocate pixels, with an error rather than an abort if there is no room: their number comes from a file or a
/// request.
pub(crate) fn zeroed(bytes: usize) -> Result<Vec<u8>> {
    let mut pixels = Vec::new();
    pixels.try_reserve_exact(bytes).map_err(|_| flux2_backend::Error::OutOfMemory { bytes })?;
    pixels.resize(bytes, 0);
    Ok(pixels)
}

#[cfg(test)]
mod tests {
    use super::caught;

    #[test]
    fn a_panic_of_a_decoder_is_an_error() {
        assert_eq!(caught(|| 1), Ok(1));
        assert_eq!(caught(|| panic!("slice")), Err::<(), _>("the decoder failed: slice".into()));
        let index = std::hint::black_box(7);
        let error = caught(|| [1, 2][index]).unwrap_err();
        assert!(error.contains("index is 7"), "{error}");
    }
}
