//! Conversion to another dtype, rounding to nearest even. A tensor that has the dtype already is shared, not copied.
//!
//! Used before products, on f32 values from the host or a residual stream.

use crate::{Backend, DType, Error, Result, Tensor};

/// `x` of any shape -> `dtype` of the same shape.
///
/// # Errors
/// [`Error::DType`] if `dtype` is neither f32 nor the backend's compute dtype.
pub fn cast<B: Backend>(be: &B, x: &Tensor<B>, dtype: DType) -> Result<Tensor<B>> {
    if dtype == x.dtype() {
        return Ok(x.clone());
    }
    let expected = be.compute().dtype();
    if dtype != DType::F32 && dtype != expected {
        return Err(Error::DType { what: "cast: dtype", found: dtype, expected });
    }
    be.cast(x, dtype)
}

/// The exact values, before rounding.
pub fn reference(x: &[f32]) -> Vec<f64> {
    x.iter().map(|x| f64::from(*x)).collect()
}
