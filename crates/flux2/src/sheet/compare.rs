//! Two pictures compared: numbers, their difference as a picture, half of each.

use crate::image::RgbImage;
use crate::{Error, Result};

/// By how much differences are multiplied in a picture.
pub const AMPLIFICATION: u8 = 4;

/// How far two pictures of one size are apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Difference {
    /// Pixels that are not equal.
    pub pixels: u64,
    /// Largest difference of a channel, 0 to 255.
    pub max: u8,
    /// Mean difference of all channels, in levels.
    pub mean: f64,
    /// Peak signal-to-noise ratio in dB; `None` if the pictures are equal.
    pub psnr: Option<f64>,
}

impl Difference {
    /// Compare two pictures pixel by pixel.
    ///
    /// # Errors
    /// [`Error::SizesDiffer`].
    pub fn between(a: &RgbImage, b: &RgbImage) -> Result<Self> {
        check_sizes(a, b)?;
        let (mut pixels, mut max, mut sum, mut squares) = (0, 0, 0u64, 0u64);
        for (a, b) in a.pixels().as_chunks::<3>().0.iter().zip(b.pixels().as_chunks::<3>().0) {
            pixels += u64::from(a != b);
            for (a, b) in a.iter().zip(b) {
                let apart = a.abs_diff(*b);
                max = max.max(apart);
                sum += u64::from(apart);
                squares += u64::from(apart) * u64::from(apart);
            }
        }
        let values = a.pixels().len() as f64;
        let psnr = (squares > 0).then(|| 10.0 * (255.0 * 255.0 * values / squares as f64).log10());
        Ok(Difference { pixels, max, mean: sum as f64 / values, psnr })
    }
}

fn check_sizes(a: &RgbImage, b: &RgbImage) -> Result<()> {
    let size = |image: &RgbImage| [image.width(), image.height()];
    match size(a) == size(b) {
        true => Ok(()),
        false => Err(Error::SizesDiffer { first: size(a), second: size(b) }),
    }
}

/// Where and how far two pictures differ: each channel's difference times [`AMPLIFICATION`], at most 255.
///
/// # Errors
/// [`Error::SizesDiffer`].
pub fn difference_picture(a: &RgbImage, b: &RgbImage) -> Result<RgbImage> {
    check_sizes(a, b)?;
    let apart = |(a, b): (&u8, &u8)| a.abs_diff(*b).saturating_mul(AMPLIFICATION);
    let pixels = a.pixels().iter().zip(b.pixels()).map(apart).collect();
    RgbImage::new(a.width(), a.height(), pixels)
}

/// The left half of the first picture and the right half of the second, with a line of two pixels between them: a black
/// and a white one, so that it is seen on any picture.
///
/// # Errors
/// [`Error::SizesDiffer`].
pub fn wipe(a: &RgbImage, b: &RgbImage) -> Result<RgbImage> {
    check_sizes(a, b)?;
    let row_bytes = a.width() as usize * 3;
    let middle = a.width() as usize / 2 * 3;
    let mut pixels = Vec::with_capacity(a.pixels().len());
    for (a, b) in a.pixels().chunks_exact(row_bytes).zip(b.pixels().chunks_exact(row_bytes)) {
        let row = pixels.len();
        pixels.extend_from_slice(&a[..middle]);
        pixels.extend_from_slice(&b[middle..]);
        if row_bytes >= 12 {
            pixels[row + middle - 3..row + middle].fill(0);
            pixels[row + middle..row + middle + 3].fill(255);
        }
    }
    RgbImage::new(a.width(), a.height(), pixels)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(width: u32, height: u32, value: impl Fn(usize) -> u8) -> RgbImage {
        RgbImage::new(width, height, (0..(width * height * 3) as usize).map(value).collect()).unwrap()
    }

    #[test]
    fn numbers_are_those_of_their_definitions() {
        let (a, b) = (image(4, 2, |_| 100), image(4, 2, |i| if i == 5 { 110 } else { 100 }));
        let apart = Difference::between(&a, &b).unwrap();
        assert_eq!((apart.pixels, apart.max), (1, 10));
        assert!((apart.mean - 10.0 / 24.0).abs() < 1e-12);
        // Mean square error 100 / 24.
        assert!((apart.psnr.unwrap() - 41.932_4).abs() < 1e-3, "{apart:?}");
        let same = Difference { pixels: 0, max: 0, mean: 0.0, psnr: None };
        assert_eq!(Difference::between(&a, &a).unwrap(), same);
        let black_and_white = Difference::between(&image(3, 3, |_| 0), &image(3, 3, |_| 255)).unwrap();
        assert_eq!((black_and_white.max, black_and_white.psnr), (255, Some(0.0)));
        assert!(matches!(Difference::between(&a, &image(2, 4, |_| 0)), Err(Error::SizesDiffer { .. })));
    }

    #[test]
    fn differences_are_amplified_and_do_not_overflow() {
        let (a, b) = (image(2, 1, |_| 100), image(2, 1, |i| [100, 90, 110, 200, 0, 99][i]));
        assert_eq!(difference_picture(&a, &b).unwrap().pixels(), [0, 40, 40, 255, 255, 4]);
    }

    #[test]
    fn a_wipe_has_the_left_of_one_and_the_right_of_the_other() {
        let wiped = wipe(&image(8, 2, |_| 10), &image(8, 2, |_| 20)).unwrap();
        let row: Vec<u8> = (0..8).map(|x| wiped.pixel(x, 1)[0]).collect();
        assert_eq!(row, [10, 10, 10, 0, 255, 20, 20, 20]);
    }
}
