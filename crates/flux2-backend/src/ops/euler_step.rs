//! One Euler step in place: `x += dt * velocity`.
//!
//! Used by the sampler with `dt = sigma[i + 1] - sigma[i]`, which is negative. Latents are f32 in all steps.

use crate::{Backend, DType, Result, Tensor};

/// `x` and `velocity` f32 of the same shape. `x` is copied first if another tensor shares its memory.
///
/// # Errors
/// [`crate::Error::Shape`] or [`crate::Error::DType`] if the arguments are not as above.
pub fn euler_step<B: Backend>(be: &B, x: &mut Tensor<B>, velocity: &Tensor<B>, dt: f32) -> Result<()> {
    x.expect_dtype("euler_step: x", DType::F32)?;
    super::expect_f32("euler_step: velocity", velocity, x.shape())?;
    be.euler_step(x, velocity, dt)
}

/// The result, element by element.
pub fn reference(x: &[f32], velocity: &[f32], dt: f32) -> Vec<f64> {
    x.iter().zip(velocity).map(|(x, v)| f64::from(*x) + f64::from(dt) * f64::from(*v)).collect()
}
