//! RMS norm over the last axis: `y = x / sqrt(mean(x^2) + eps) * weight`.
//!
//! Used by Qwen3 before attention and MLP. The per-head norm of q and k is part of [`super::norm_rope()`].

use crate::{Backend, DType, Result, Tensor};

/// `x` f32 `[n, d]`, `weight` f32 `[d]` -> compute `[n, d]`.
///
/// # Errors
/// [`crate::Error::Shape`] or [`crate::Error::DType`] if the arguments are not as above.
pub fn rms_norm<B: Backend>(be: &B, x: &Tensor<B>, weight: &Tensor<B>, eps: f32) -> Result<Tensor<B>> {
    let [_n, d] = x.dims("rms_norm: x")?;
    x.expect_dtype("rms_norm: x", DType::F32)?;
    super::expect_f32("rms_norm: weight", weight, &[d])?;
    be.rms_norm(x, weight, eps)
}

/// `x` `[n, d]`, `weight` `[d]` -> `[n, d]`.
pub fn reference(x: &[f32], weight: &[f32], eps: f32) -> Vec<f64> {
    let mut y = Vec::with_capacity(x.len());
    for row in x.chunks_exact(weight.len()) {
        let mean_square = row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / row.len() as f64;
        let scale = 1.0 / (mean_square + f64::from(eps)).sqrt();
        y.extend(row.iter().zip(weight).map(|(v, w)| f64::from(*v) * scale * f64::from(*w)));
    }
    y
}
