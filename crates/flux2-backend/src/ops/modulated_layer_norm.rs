//! Layer norm without parameters, then modulation: `y = (1 + scale) * (x - mean(x)) / sqrt(var(x) + eps) + shift`.
//!
//! Used by the flow transformer before attention, before the MLP, and before the output projection. `shift` and
//! `scale` are windows of one row, the projection of the timestep embedding, hence `[1, d]`.

use crate::{Backend, DType, Result, Tensor, Weight};

/// The parameters of [`modulated_layer_norm`].
pub struct ModulatedLayerNorm<'a, B: Backend> {
    /// f32 `[1, d]`.
    pub shift: &'a Tensor<B>,
    /// f32 `[1, d]`.
    pub scale: &'a Tensor<B>,
    /// Added to the variance before the square root.
    pub eps: f32,
    /// The weight that the result will be multiplied with. If the backend quantizes rows for it, the norm can do so in
    /// its own kernel; the result is the same.
    pub feeds: Option<&'a Weight<B>>,
}

/// `x` f32 `[n, d]` -> compute `[n, d]`.
///
/// # Errors
/// [`crate::Error::Shape`] or [`crate::Error::DType`] if the arguments are not as above.
pub fn modulated_layer_norm<B: Backend>(be: &B, x: &Tensor<B>, norm: &ModulatedLayerNorm<B>) -> Result<Tensor<B>> {
    let [_n, d] = x.dims("modulated_layer_norm: x")?;
    x.expect_dtype("modulated_layer_norm: x", DType::F32)?;
    super::expect_f32("modulated_layer_norm: shift", norm.shift, &[1, d])?;
    super::expect_f32("modulated_layer_norm: scale", norm.scale, &[1, d])?;
    be.modulated_layer_norm(x, norm)
}

/// `x` `[n, d]`, `shift` and `scale` `[d]` -> `[n, d]`.
pub fn reference(x: &[f32], shift: &[f32], scale: &[f32], eps: f32) -> Vec<f64> {
    let mut y = Vec::with_capacity(x.len());
    for row in x.chunks_exact(shift.len()) {
        let n = row.len() as f64;
        let mean = row.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
        let variance = row.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / n;
        let deviation = (variance + f64::from(eps)).sqrt();
        y.extend(row.iter().zip(shift).zip(scale).map(|((v, shift), scale)| {
            (1.0 + f64::from(*scale)) * (f64::from(*v) - mean) / deviation + f64::from(*shift)
        }));
    }
    y
}
