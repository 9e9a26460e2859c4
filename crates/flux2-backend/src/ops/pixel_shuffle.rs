//! Channels to pixels, added to a map enlarged by repeating its pixels.
//!
//! Channel `c * s * s + dy * s + dx` is channel `c` of the pixel at row `dy`, column `dx` of a block of `s * s` pixels,
//! as in PyTorch's `pixel_shuffle`. Used at the end of the upscalers that predict a residual.

use crate::{Backend, DType, Result, Tensor};

/// `x` f32 `[h, w, c * s * s]`, `base` f32 `[h, w, c]` -> f32 `[h * s, w * s, c]`; `s` follows from the shapes.
///
/// # Errors
/// [`crate::Error::Shape`] or [`crate::Error::DType`] if the arguments are not as above.
pub fn pixel_shuffle<B: Backend>(be: &B, x: &Tensor<B>, base: &Tensor<B>) -> Result<Tensor<B>> {
    let [h, w, channels] = x.dims("pixel_shuffle: x")?;
    x.expect_dtype("pixel_shuffle: x", DType::F32)?;
    let [_, _, c] = base.dims("pixel_shuffle: base")?;
    super::expect_f32("pixel_shuffle: base", base, &[h, w, c])?;
    let scale = (channels / c.max(1)).isqrt();
    if scale == 0 || scale * scale * c != channels {
        return Err(x.wrong_shape("pixel_shuffle: x", format!("[h, w, {c} * s * s]")));
    }
    be.pixel_shuffle(x, base, scale)
}

/// `x` `[h, w, c * s * s]`, `base` `[h, w, c]` with `size = [h, w, c]` -> `[h * s, w * s, c]`.
pub fn reference(x: &[f32], base: &[f32], [h, w, c]: [usize; 3], s: usize) -> Vec<f64> {
    let mut y = vec![0.0; h * s * w * s * c];
    for (i, v) in x.iter().enumerate() {
        let (pixel, from) = (i / (c * s * s), i % (c * s * s));
        let (channel, dy, dx) = (from / (s * s), from % (s * s) / s, from % s);
        let (row, column) = (pixel / w * s + dy, pixel % w * s + dx);
        y[(row * w * s + column) * c + channel] = f64::from(*v) + f64::from(base[pixel * c + channel]);
    }
    y
}
