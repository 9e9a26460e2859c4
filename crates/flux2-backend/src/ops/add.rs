//! Sum in place: `x += y`.
//!
//! Used by the autoencoder for residual connections.

use crate::{Backend, Result, Tensor};

/// `x` and `y` f32 or compute, of the same shape. `x` is copied first if another tensor shares its memory.
///
/// # Errors
/// [`crate::Error::Shape`] or [`crate::Error::DType`] if the arguments are not as above.
pub fn add<B: Backend>(be: &B, x: &mut Tensor<B>, y: &Tensor<B>) -> Result<()> {
    super::expect_f32_or_compute(be, "add: x", x)?;
    super::expect_f32_or_compute(be, "add: y", y)?;
    y.expect_shape("add: y", x.shape())?;
    be.add(x, y)
}

/// Element by element.
pub fn reference(x: &[f32], y: &[f32]) -> Vec<f64> {
    x.iter().zip(y).map(|(x, y)| f64::from(*x) + f64::from(*y)).collect()
}
