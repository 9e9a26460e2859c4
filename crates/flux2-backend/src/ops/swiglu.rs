//! Gated activation: `y = silu(gate) * up`.
//!
//! Used by the MLPs of Qwen3 (gate and up from two projections) and the flow transformer (columns of one; gate first).

use crate::{Backend, Result, Tensor};

/// `gate` and `up` compute `[n, m]` -> compute `[n, m]`.
///
/// # Errors
/// [`crate::Error::Shape`] or [`crate::Error::DType`] if the arguments are not as above.
pub fn swiglu<B: Backend>(be: &B, gate: &Tensor<B>, up: &Tensor<B>) -> Result<Tensor<B>> {
    let shape: [usize; 2] = gate.dims("swiglu: gate")?;
    gate.expect_dtype("swiglu: gate", be.compute().dtype())?;
    up.expect_shape("swiglu: up", &shape)?;
    up.expect_dtype("swiglu: up", be.compute().dtype())?;
    be.swiglu(gate, up)
}

/// Element by element.
pub fn reference(gate: &[f32], up: &[f32]) -> Vec<f64> {
    super::silu::reference(gate).iter().zip(up).map(|(gate, up)| gate * f64::from(*up)).collect()
}
