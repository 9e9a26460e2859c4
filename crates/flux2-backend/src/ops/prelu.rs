//! PReLU in place: `x = x >= 0 ? x : slope * x`, with one slope per channel. Leaky ReLU is the same slope for all.
//!
//! Used by the upscalers after each convolution.

use crate::{Backend, Result, Tensor};

/// `x` compute `[.., c]`, `slope` f32 `[c]`. `x` is copied first if another tensor shares its memory.
///
/// # Errors
/// [`crate::Error::Shape`] or [`crate::Error::DType`] if the arguments are not as above.
pub fn prelu<B: Backend>(be: &B, x: &mut Tensor<B>, slope: &Tensor<B>) -> Result<()> {
    x.expect_dtype("prelu: x", be.compute().dtype())?;
    super::expect_f32("prelu: slope", slope, &[x.cols()])?;
    be.prelu(x, slope)
}

/// `x` `[n, c]`, `slope` `[c]` -> `[n, c]`.
pub fn reference(x: &[f32], slope: &[f32]) -> Vec<f64> {
    let product = |(x, slope): (&f32, &f32)| f64::from(*x) * if *x < 0.0 { f64::from(*slope) } else { 1.0 };
    x.iter().zip(slope.iter().cycle()).map(product).collect()
}
