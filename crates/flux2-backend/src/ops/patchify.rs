//! Patches of 2x2 latent pixels to tokens, normalized per channel, and back.
//!
//! Token channel `c * 4 + py * 2 + px` is channel `c` of the pixel at row `py`, column `px` of the patch. Used between
//! the autoencoder and the flow transformer; `mean` and `std` are the autoencoder's batch-norm statistics.

use crate::{Backend, DType, Result, Tensor};

/// `(patch - mean) / std`: `x` compute or f32 `[h, w, c]`, `mean` and `std` f32 `[4 * c]` -> f32
/// `[h / 2 * (w / 2), 4 * c]`, row by row.
///
/// # Errors
/// [`crate::Error::Shape`] or [`crate::Error::DType`] if the arguments are not as above or `h` or `w` is odd.
pub fn patchify<B: Backend>(be: &B, x: &Tensor<B>, mean: &Tensor<B>, std: &Tensor<B>) -> Result<Tensor<B>> {
    let [h, w, c] = x.dims("patchify: x")?;
    if !h.is_multiple_of(2) || !w.is_multiple_of(2) {
        return Err(x.wrong_shape("patchify: x", "even height and width"));
    }
    super::expect_f32_or_compute(be, "patchify: x", x)?;
    super::expect_f32("patchify: mean", mean, &[4 * c])?;
    super::expect_f32("patchify: std", std, &[4 * c])?;
    be.patchify(x, mean, std)
}

/// The inverse, `token * std + mean`: `tokens` f32 `[h * w, 4 * c]` with `size = [h, w]`, `mean` and `std` f32
/// `[4 * c]` -> compute `[2 * h, 2 * w, c]`.
///
/// # Errors
/// [`crate::Error::Shape`] or [`crate::Error::DType`] if the arguments are not as above.
pub fn unpatchify<B: Backend>(
    be: &B,
    tokens: &Tensor<B>,
    size: [usize; 2],
    mean: &Tensor<B>,
    std: &Tensor<B>,
) -> Result<Tensor<B>> {
    let [n, channels] = tokens.dims("unpatchify: tokens")?;
    let [h, w] = size;
    if n != h * w || !channels.is_multiple_of(4) {
        return Err(tokens.wrong_shape("unpatchify: tokens", format!("[{h} * {w}, 4 * c]")));
    }
    tokens.expect_dtype("unpatchify: tokens", DType::F32)?;
    super::expect_f32("unpatchify: mean", mean, &[channels])?;
    super::expect_f32("unpatchify: std", std, &[channels])?;
    be.unpatchify(tokens, size, mean, std)
}

/// `x` `[h, w, c]` with `size = [h, w, c]` -> `[h / 2 * (w / 2), 4 * c]`.
pub fn reference(x: &[f32], size: [usize; 3], mean: &[f32], std: &[f32]) -> Vec<f64> {
    let [h, w, c] = size;
    let mut tokens = vec![0.0; h * w * c];
    for (i, v) in x.iter().enumerate() {
        let (row, column, channel) = (i / c / w, i / c % w, i % c);
        let token = row / 2 * (w / 2) + column / 2;
        let to = channel * 4 + row % 2 * 2 + column % 2;
        tokens[token * 4 * c + to] = (f64::from(*v) - f64::from(mean[to])) / f64::from(std[to]);
    }
    tokens
}

/// `tokens` `[h * w, 4 * c]` with `size = [h, w]` -> `[2 * h, 2 * w, c]`.
pub fn unpatchify_reference(tokens: &[f32], size: [usize; 2], mean: &[f32], std: &[f32]) -> Vec<f64> {
    let [_h, w] = size;
    let channels = mean.len();
    let c = channels / 4;
    let mut x = vec![0.0; tokens.len()];
    for (i, v) in tokens.iter().enumerate() {
        let (token, from) = (i / channels, i % channels);
        let (channel, py, px) = (from / 4, from % 4 / 2, from % 2);
        let (row, column) = (token / w * 2 + py, token % w * 2 + px);
        x[(row * 2 * w + column) * c + channel] = f64::from(*v) * f64::from(std[from]) + f64::from(mean[from]);
    }
    x
}
