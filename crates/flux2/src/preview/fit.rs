//! A projection fitted to an autoencoder: least squares from latents to the colors that they are decoded to.
//!
//! The latents are random: smooth over a patch, as areas of a picture are, and some noise. No pictures are needed, and
//! nothing but the decoder.

use super::Projection;
use crate::sampler::{NoiseKind, noise};

/// Pictures that are decoded for a fit, and the tokens along each of their sides.
pub(crate) const PATCHES: [usize; 2] = [48, 4];
/// Random values along each side of a patch, between which the latents are smooth.
const KNOTS: usize = 3;
/// Standard deviation of the noise beside them.
const NOISE: f32 = 0.5;
/// Weight of small factors beside a small error.
const RIDGE: f64 = 1e-3;
/// Pixels of the decoded picture for one of a preview, along each side.
const BOX: usize = 8;

/// The normalized latents to decode for a fit, each `[n * n, 4 * channels]` with `n` of [`PATCHES`].
pub(crate) fn patches(channels: usize) -> impl Iterator<Item = Vec<f32>> {
    let [count, side] = PATCHES;
    (0..count as u64).map(move |seed| {
        let knots = noise(NoiseKind::Philox, 2 * seed, channels * KNOTS * KNOTS); // [c, KNOTS, KNOTS]
        let mut tokens = noise(NoiseKind::Philox, 2 * seed + 1, side * side * 4 * channels);
        for (at, token) in tokens.chunks_exact_mut(4 * channels).enumerate() {
            for (i, value) in token.iter_mut().enumerate() {
                let (channel, sub) = (&knots[i / 4 * KNOTS * KNOTS..][..KNOTS * KNOTS], i % 4);
                let position = [2 * (at / side) + sub / 2, 2 * (at % side) + sub % 2];
                *value = smooth(channel, position, 2 * side) + NOISE * *value;
            }
        }
        tokens
    })
}

/// Bilinear interpolation between `knots` `[KNOTS, KNOTS]`, the outer ones at the ends, at a position of a map `[n,
/// n]`.
fn smooth(knots: &[f32], position: [usize; 2], n: usize) -> f32 {
    let [[top, down], [left, right]] = position.map(|at| {
        let place = (at * (KNOTS - 1)) as f32 / (n - 1) as f32;
        let before = (place as usize).min(KNOTS - 2);
        [before as f32, place - before as f32]
    });
    let at = |y: usize, x: usize| knots[(top as usize + y) * KNOTS + left as usize + x];
    let row = |y| at(y, 0) * (1.0 - right) + at(y, 1) * right;
    row(0) * (1.0 - down) + row(1) * down
}

/// Sums of a least-squares fit, in f64.
pub(crate) struct Fit {
    channels: usize,
    count: usize,
    /// Products of the unknowns' coefficients, `[c + 1, c + 1]`; the last is the bias's, which is 1.
    squares: Vec<f64>,
    /// Products of coefficients and colors, `[c + 1, 3]`.
    products: Vec<[f64; 3]>,
}

impl Fit {
    pub(crate) fn new(channels: usize) -> Self {
        let unknowns = channels + 1;
        Fit { channels, count: 0, squares: vec![0.0; unknowns * unknowns], products: vec![[0.0; 3]; unknowns] }
    }

    /// Add a picture: its latents `[h * w, 4 * c]`, and its `pixels` `[16 * h, 16 * w, 3]`, where -1..=1 is black to
    /// white.
    pub(crate) fn add(&mut self, tokens: &[f32], [h, w]: [usize; 2], pixels: &[f32]) {
        let (channels, unknowns) = (self.channels, self.channels + 1);
        for y in 0..2 * h {
            for x in 0..2 * w {
                let token = &tokens[((y / 2) * w + x / 2) * 4 * channels..][..4 * channels];
                let sub = (y % 2) * 2 + x % 2;
                let row: Vec<f64> =
                    token.iter().skip(sub).step_by(4).map(|value| f64::from(*value)).chain([1.0]).collect();
                let color = mean_color(pixels, 2 * w * BOX, [y * BOX, x * BOX]);
                for (i, a) in row.iter().enumerate() {
                    row.iter().enumerate().for_each(|(j, b)| self.squares[i * unknowns + j] += a * b);
                    (0..3).for_each(|k| self.products[i][k] += a * color[k]);
                }
                self.count += 1;
            }
        }
    }

    /// The map with the least error; `None` if the latents or colors are not finite.
    pub(crate) fn solve(mut self) -> Option<Projection> {
        let unknowns = self.channels + 1;
        // The bias may be as large as it likes.
        (0..self.channels).for_each(|i| self.squares[i * unknowns + i] += RIDGE * self.count as f64);
        let solved = solve(self.squares, self.products)?;
        let solved: Vec<[f32; 3]> = solved.into_iter().map(|row| row.map(|value| value as f32)).collect();
        let (bias, factors) = solved.split_last()?;
        Projection::new(factors.to_vec(), *bias)
    }
}

/// Mean color of a box of pixels in rows of `width`, as it is shown: clamped to -1..=1.
fn mean_color(pixels: &[f32], width: usize, [top, left]: [usize; 2]) -> [f64; 3] {
    let mut sums = [0.0; 3];
    for y in top..top + BOX {
        for pixel in pixels[3 * (y * width + left)..][..3 * BOX].chunks_exact(3) {
            (0..3).for_each(|k| sums[k] += f64::from(pixel[k].clamp(-1.0, 1.0)));
        }
    }
    sums.map(|sum| sum / (BOX * BOX) as f64)
}

/// Solve `a x = b` for a symmetric positive definite `a` `[n, n]`, by Gauss's elimination, which needs no pivots there.
fn solve(mut a: Vec<f64>, mut b: Vec<[f64; 3]>) -> Option<Vec<[f64; 3]>> {
    let n = b.len();
    for i in 0..n {
        let pivot = a[i * n + i];
        if pivot.is_nan() || pivot <= 0.0 {
            return None;
        }
        for row in i + 1..n {
            let factor = a[row * n + i] / pivot;
            (i..n).for_each(|col| a[row * n + col] -= factor * a[i * n + col]);
            (0..3).for_each(|k| b[row][k] -= factor * b[i][k]);
        }
    }
    for i in (0..n).rev() {
        b[i] = std::array::from_fn(|k| {
            let known: f64 = (i + 1..n).map(|col| a[i * n + col] * b[col][k]).sum();
            (b[i][k] - known) / a[i * n + i]
        });
    }
    Some(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pixels that are a linear map of the latents are found again.
    #[test]
    fn a_linear_decoder_is_found() {
        let truth = Projection::new(vec![[0.1, 0.2, -0.1], [0.05, 0.0, 0.1], [-0.2, 0.1, 0.0]], [0.1, -0.1, 0.0]);
        let truth = truth.unwrap();
        let side = PATCHES[1];
        let mut fit = Fit::new(3);
        for tokens in patches(3) {
            let small = truth.colors(&tokens, [side, side]);
            let wide = 2 * side * BOX;
            let pixel = |y: usize, x: usize| &small[3 * ((y / BOX) * 2 * side + x / BOX)..][..3];
            let pixels: Vec<f32> = (0..wide).flat_map(|y| (0..wide).flat_map(move |x| pixel(y, x).to_vec())).collect();
            fit.add(&tokens, [side, side], &pixels);
        }
        let found = fit.solve().unwrap();
        let near = |a: &[f32; 3], b: &[f32; 3]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 2e-3);
        assert!(near(&found.bias, &truth.bias), "{found:?}");
        assert!(found.factors.iter().zip(&truth.factors).all(|(a, b)| near(a, b)), "{found:?}");
    }

    #[test]
    fn what_is_not_finite_has_no_fit() {
        let mut fit = Fit::new(1);
        fit.add(&[f32::NAN; 4], [1, 1], &[0.0; 16 * 16 * 3]);
        assert!(fit.solve().is_none());
        assert!(Fit::new(2).solve().is_none());
    }
}
