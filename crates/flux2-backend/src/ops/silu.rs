//! SiLU: `y = x / (1 + e^-x)`.
//!
//! Used by the flow transformer on the timestep embedding and before each modulation.

use crate::{Backend, DType, Result, Tensor};

/// `x` f32 of any shape -> compute of the same shape.
///
/// # Errors
/// [`crate::Error::DType`] if `x` is not f32.
pub fn silu<B: Backend>(be: &B, x: &Tensor<B>) -> Result<Tensor<B>> {
    x.expect_dtype("silu: x", DType::F32)?;
    be.silu(x)
}

/// The result, element by element.
pub fn reference(x: &[f32]) -> Vec<f64> {
    x.iter().map(|x| f64::from(*x) / (1.0 + (-f64::from(*x)).exp())).collect()
}
