//! Classifier-free guidance: `uncond + guidance * (cond - uncond)`.
//!
//! Used by the sampler for the base models, on the velocities of the empty and the given prompt.

use crate::{Backend, DType, Result, Tensor};

/// `uncond` and `cond` f32 of the same shape -> f32 of that shape.
///
/// # Errors
/// [`crate::Error::Shape`] or [`crate::Error::DType`] if the arguments are not as above.
pub fn guide<B: Backend>(be: &B, uncond: &Tensor<B>, cond: &Tensor<B>, guidance: f32) -> Result<Tensor<B>> {
    uncond.expect_dtype("guide: uncond", DType::F32)?;
    super::expect_f32("guide: cond", cond, uncond.shape())?;
    be.guide(uncond, cond, guidance)
}

/// The result, element by element.
pub fn reference(uncond: &[f32], cond: &[f32], guidance: f32) -> Vec<f64> {
    let guided = |(u, c): (&f32, &f32)| f64::from(*u) + f64::from(guidance) * (f64::from(*c) - f64::from(*u));
    uncond.iter().zip(cond).map(guided).collect()
}
