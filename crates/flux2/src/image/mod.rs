//! Images: bytes of a file to sRGB pixels and back, pixels to the values of the autoencoder and back.
//!
//! ```text
//! codec     bytes of a file <-> RgbImage                  untrusted input is checked here; atomic writes
//! input     which format a file has
//! jpeg      JPEG bytes -> pixels
//! plain     GIF, BMP, TIFF, QOI bytes -> pixels
//! quality   how lossy formats are written
//! container chunks and segments that the decoders' crates do not handle
//! color     embedded ICC profile -> sRGB
//! rows      decoded rows -> sRGB without transparency     a large picture need not be in memory as a whole
//! resize    reference image -> size the model takes       bit for bit as Pillow and diffusers do it
//! metadata  Parameters <-> text in the file               what made the picture, so that it can be made again
//! ```
//!
//! Source for the values: `VaeImageProcessor` and `Flux2ImageProcessor`, diffusers 0.42.1.

pub mod codec;
mod color;
mod container;
mod input;
mod jpeg;
pub mod metadata;
mod plain;
mod quality;
pub mod resize;
mod rows;

use std::num::NonZeroUsize;

pub use codec::{ImageFormat, Transparency, decode, encode, open, save};
pub use input::InputFormat;
pub use metadata::{LoraParameters, OtherParameters, Parameters, Stored};
pub use quality::{Chroma, Embedded, Percent, Quality};
pub use resize::prepare_reference;
pub use rows::Preparation;

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

/// How the decoder's output becomes bytes: `x` is -1 for black and 1 for white.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Rounding {
    /// `round(255 * clamp(x * 0.5 + 0.5, 0, 1))`, halves to even: diffusers.
    #[default]
    HalfToEven,
    /// `trunc(127.5 * (clamp(x, -1, 1) + 1))`: black-forest-labs/flux2.
    TruncateAround127,
    /// `trunc(255 * clamp((x + 1) / 2, 0, 1))`: ComfyUI.
    Truncate,
    /// `round(255 * clamp((x + 1) / 2, 0, 1))`, halves away from zero: stable-diffusion.cpp.
    HalfAway,
}

impl Rounding {
    /// The byte of a value that has its own place in a picture; NaN becomes 0.
    fn byte(self, x: f32) -> u8 {
        let unit = |x: f32| ((x + 1.0) / 2.0).clamp(0.0, 1.0);
        match self {
            // Adding 2^23 rounds to the nearest integer, halves to even, and leaves it in the low bits.
            #[expect(clippy::manual_clamp, reason = "`clamp` keeps NaN")]
            Rounding::HalfToEven => ((x * 0.5 + 0.5).max(0.0).min(1.0) * 255.0 + 8_388_608.0).to_bits() as u8,
            Rounding::TruncateAround127 => (127.5 * (x.clamp(-1.0, 1.0) + 1.0)) as u8,
            Rounding::Truncate => (255.0 * unit(x)) as u8,
            Rounding::HalfAway => (255.0 * unit(x)).round() as u8,
        }
    }
}

/// As [`from_model_output`], with the rounding of another program.
///
/// # Errors
/// Those of [`from_model_output`].
pub fn from_model_output_by(
    rounding: Rounding,
    values: &[f32],
    width: u32,
    height: u32,
    threads: NonZeroUsize,
) -> Result<RgbImage> {
    check_len(width, height, values.len())?;
    let mut pixels = zeroed(values.len())?;
    // Page faults of the new buffer dominate, so a share is many pages.
    const SHARE: usize = 1 << 18;
    in_shares(&mut pixels, threads, SHARE, |first, share| {
        let pairs = share.iter_mut().zip(&values[first..]);
        // Each loop with one formula, so that the usual one vectorizes.
        match rounding {
            Rounding::HalfToEven => pairs.for_each(|(pixel, x)| *pixel = Rounding::HalfToEven.byte(*x)),
            other => pairs.for_each(|(pixel, x)| *pixel = other.byte(*x)),
        }
    });
    RgbImage::new(width, height, pixels)
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
    from_model_output_by(Rounding::HalfToEven, values, width, height, threads)
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
fn zeroed(bytes: usize) -> Result<Vec<u8>> {
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
