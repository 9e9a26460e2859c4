//! Scaled addition in place: `x += scale * y`, rounded once.
//!
//! Used by the upscalers' residual connections.

use crate::{Backend, Result, Tensor};

/// `x` and `y` compute of the same shape. `x` is copied first if another tensor shares its memory.
///
/// # Errors
/// [`crate::Error::Shape`] or [`crate::Error::DType`] if the arguments are not as above.
pub fn add_scaled<B: Backend>(be: &B, x: &mut Tensor<B>, y: &Tensor<B>, scale: f32) -> Result<()> {
    x.expect_dtype("add_scaled: x", be.compute().dtype())?;
    y.expect_shape("add_scaled: y", x.shape())?;
    y.expect_dtype("add_scaled: y", be.compute().dtype())?;
    be.add_scaled(x, y, scale)
}

/// The result, element by element.
pub fn reference(x: &[f32], y: &[f32], scale: f32) -> Vec<f64> {
    x.iter().zip(y).map(|(x, y)| f64::from(*x) + f64::from(scale) * f64::from(*y)).collect()
}
