//! The invisible watermark of the Python package `invisible-watermark`, method `dwtDct`, in a variant that its decoder
//! reads more often.
//!
//! In:  8-bit RGB. Out: the same with 46 bits in its blue-difference channel; or the bits that are there.
//!
//! The channel U of YUV is averaged over 2x2 pixels (times 2, as the low band of a Haar transform). In each block of
//! 4x4 of these, the largest value but the first carries a bit: its remainder by 36 is above or below 18. Bits repeat
//! from block to block, and a decoder takes the majority. The package itself often marks a value that is not the
//! largest any more once the pixels are rounded; here it stays the largest by a margin.
//!
//! The mark survives a uniform change of colors and JPEG of high quality. It does not survive scaling, or cropping by an
//! odd number of pixels. A picture without a mark may still be drawn by a model.

use crate::image::RgbImage;
use crate::{Error, Result};

/// Least number of pixels of a picture that holds the watermark.
pub const MIN_PIXELS: u64 = 256 * 256;
/// The message of FLUX pictures: 0x2afe879cf52e of Black Forest Labs without its leading zeros, as the package is
/// given.
pub const FLUX: Message = Message { name: "FLUX", bits: 0x2afe_879c_f52e, length: 46 };
/// The message that diffusers puts into pictures of Stable Diffusion XL. It is read, never written.
pub const SDXL: Message = Message { name: "Stable Diffusion XL", bits: 0xb3ec_907b_b19e, length: 48 };

/// Step between values that carry the same bit.
const STEP: i32 = 36;
/// Values of a block along a side; each stands for 2x2 pixels.
const BLOCK: usize = 4;
/// By how much the marked value is the largest of its block.
const MARGIN: i32 = 6;
/// A marked value above this is taken one step down: the largest possible is 510.
const HIGHEST: f32 = 500.0;
/// A message counts as found if an unmarked picture shows as many of its bits once in so many pictures, or more rarely.
const MOST_CHANCE: f64 = 1e-6;

/// A message of bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// Whose message it is.
    pub name: &'static str,
    bits: u64,
    /// Number of bits.
    pub length: u32,
}

impl Message {
    /// Bit `i`, the first being the highest.
    fn bit(self, i: usize) -> bool {
        self.bits >> (self.length as usize - 1 - i % self.length as usize) & 1 == 1
    }
}

/// A watermark that was found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Watermark {
    /// The message it is read as.
    pub message: Message,
    /// Bits of the message that were read right.
    pub right: u32,
    /// The chance that an unmarked picture shows as many, if its bits were even.
    pub chance: f64,
}

impl Watermark {
    /// The watermark of a picture; `None` if none of the known messages is there beyond doubt, or the picture is
    /// smaller than [`MIN_PIXELS`].
    pub fn find(image: &RgbImage) -> Option<Self> {
        let is_found = |found: &Watermark| found.chance <= MOST_CHANCE;
        [FLUX, SDXL].into_iter().filter_map(|message| read(image, message)).find(is_found)
    }
}

/// How much of `message` is in a picture; `None` if it is smaller than [`MIN_PIXELS`].
pub fn read(image: &RgbImage, message: Message) -> Option<Watermark> {
    if !is_large_enough(image) {
        return None;
    }
    let mut votes = vec![[0u32; 2]; message.length as usize];
    for (n, block) in Plane::of(image).blocks().enumerate() {
        let value = block.values[block.largest()];
        votes[n % message.length as usize][usize::from(value % (2 * STEP) > STEP)] += 1;
    }
    // A bit is set if 128 of 255 of its votes are for it.
    let is_set = |[against, of]: [u32; 2]| 255 * of > 127 * (against + of);
    let right = votes.iter().enumerate().filter(|(i, votes)| is_set(**votes) == message.bit(*i)).count() as u32;
    Some(Watermark { message, right, chance: chance(message.length, right) })
}

/// The picture with the watermark [`FLUX`].
///
/// # Errors
/// [`Error::WatermarkTooSmall`] if it has fewer than [`MIN_PIXELS`] pixels.
pub fn embed(image: &RgbImage) -> Result<RgbImage> {
    check_size(image.width(), image.height())?;
    let mut plane = Plane::of(image);
    let blocks: Vec<Block> = plane.blocks().collect();
    for (n, block) in blocks.into_iter().enumerate() {
        let at = block.largest();
        let (largest, second) = (block.values[at], block.second(at));
        // A quarter or three quarters of a step above a whole one. All values are halves, so this is exact.
        let mut marked = (largest / (2 * STEP) * STEP) as f32 + if FLUX.bit(n) { 27.0 } else { 9.0 };
        if marked <= second as f32 / 2.0 + MARGIN as f32 {
            marked += STEP as f32;
        }
        if marked > HIGHEST {
            marked -= STEP as f32;
        }
        plane.raise(&block, at, (marked - largest as f32 / 2.0) / 2.0);
    }
    plane.picture(image)
}

/// Whether a picture of this size can hold the watermark.
///
/// # Errors
/// [`Error::WatermarkTooSmall`] if not.
pub fn check_size(width: u32, height: u32) -> Result<()> {
    match u64::from(width) * u64::from(height) >= MIN_PIXELS {
        true => Ok(()),
        false => Err(Error::WatermarkTooSmall { width, height }),
    }
}

fn is_large_enough(image: &RgbImage) -> bool {
    check_size(image.width(), image.height()).is_ok()
}

/// The chance that `right` or more of `length` even bits are those of a message.
fn chance(length: u32, right: u32) -> f64 {
    let mut ways = 1.0;
    let mut sum = 0.0;
    // From the end of the row of binomial coefficients, which is symmetric.
    for wrong in 0..=length - right {
        sum += ways;
        ways *= f64::from(length - wrong) / f64::from(wrong + 1);
    }
    sum / 2f64.powi(length as i32)
}

/// The blue-difference channel of a picture, as OpenCV computes it in integers.
struct Plane {
    width: usize,
    height: usize,
    u: Vec<u8>,
}

/// 4x4 sums of 2x2 pixels, in halves of the value that the transform has: so they are whole numbers.
struct Block {
    /// Row and column of its first pixel.
    at: [usize; 2],
    /// Twice the values: the sums of four pixels.
    values: [i32; BLOCK * BLOCK],
}

impl Block {
    /// Index of the largest value but the first, which is left alone.
    fn largest(&self) -> usize {
        let rest = &self.values[1..];
        // Of equal ones the first.
        1 + rest.iter().enumerate().rev().max_by_key(|(_, value)| **value).map_or(0, |(i, _)| i)
    }

    /// The largest value beside that at `largest` and the first.
    fn second(&self, largest: usize) -> i32 {
        let others = self.values.iter().enumerate().skip(1).filter(|(i, _)| *i != largest);
        others.map(|(_, value)| *value).max().unwrap_or_default()
    }
}

impl Plane {
    fn of(image: &RgbImage) -> Self {
        let u = image.pixels().as_chunks::<3>().0.iter().map(|pixel| yuv(*pixel)[1]).collect();
        Plane { width: image.width() as usize, height: image.height() as usize, u }
    }

    /// The whole blocks, row by row. A block takes 8x8 pixels; rows and columns beyond a multiple of 4 are left out
    /// before that, as the package does, which changes nothing for whole blocks.
    fn blocks(&self) -> impl Iterator<Item = Block> {
        const PX: usize = 2 * BLOCK;
        let (rows, columns) = (self.height / 4 * 4 / PX, self.width / 4 * 4 / PX);
        (0..rows).flat_map(move |row| (0..columns).map(move |column| self.block([row * PX, column * PX])))
    }

    fn block(&self, at: [usize; 2]) -> Block {
        let sum = |i: usize| {
            let first = (at[0] + 2 * (i / BLOCK)) * self.width + at[1] + 2 * (i % BLOCK);
            [first, first + 1, first + self.width, first + self.width + 1].map(|i| i32::from(self.u[i])).iter().sum()
        };
        Block { at, values: std::array::from_fn(sum) }
    }

    /// Add `difference` to the four pixels of value `i` of a block, rounded.
    fn raise(&mut self, block: &Block, i: usize, difference: f32) {
        let first = (block.at[0] + 2 * (i / BLOCK)) * self.width + block.at[1] + 2 * (i % BLOCK);
        for at in [first, first + 1, first + self.width, first + self.width + 1] {
            let raised = (f32::from(self.u[at]) + difference + 0.5).floor();
            self.u[at] = raised.clamp(0.0, 255.0) as u8;
        }
    }

    /// The picture with this channel in place of its own.
    fn picture(&self, image: &RgbImage) -> Result<RgbImage> {
        let pixels = image.pixels().as_chunks::<3>().0.iter().zip(&self.u).flat_map(|(pixel, u)| {
            let [y, _, v] = yuv(*pixel);
            rgb([y, *u, v])
        });
        RgbImage::new(image.width(), image.height(), pixels.collect())
    }
}

/// Half of a unit of fixed-point numbers with 14 bits behind the point.
const HALF: i32 = 1 << 13;

fn byte(value: i32) -> u8 {
    value.clamp(0, 255) as u8
}

fn yuv([r, g, b]: [u8; 3]) -> [u8; 3] {
    let [r, g, b] = [r, g, b].map(i32::from);
    let y = (4899 * r + 9617 * g + 1868 * b + HALF) >> 14;
    let difference = |color: i32, factor: i32| ((color - y) * factor + (128 << 14) + HALF) >> 14;
    [byte(y), byte(difference(b, 8061)), byte(difference(r, 14_369))]
}

fn rgb([y, u, v]: [u8; 3]) -> [u8; 3] {
    let (y, u, v) = (i32::from(y), i32::from(u) - 128, i32::from(v) - 128);
    let b = y + ((33_292 * u + HALF) >> 14);
    let g = y + ((-6472 * u - 9519 * v + HALF) >> 14);
    let r = y + ((18_678 * v + HALF) >> 14);
    [byte(r), byte(g), byte(b)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chance_is_that_of_even_bits() {
        assert!((chance(46, 0) - 1.0).abs() < 1e-12);
        assert!((chance(46, 46) - 2f64.powi(-46)).abs() < 1e-30);
        assert!((chance(2, 1) - 0.75).abs() < 1e-12);
        assert!(chance(46, 39) < MOST_CHANCE && chance(46, 37) > MOST_CHANCE, "{}", chance(46, 38));
    }

    #[test]
    fn the_first_bits_are_those_of_the_package() {
        let bits: String = (0..46).map(|i| if FLUX.bit(i) { '1' } else { '0' }).collect();
        assert_eq!(bits, "1010101111111010000111100111001111010100101110");
    }
}
