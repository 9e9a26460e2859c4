//! SwiGLU of two products: `silu(x * W_gate^T) * (x * W_up^T)`; the products are f32 until they are combined.
//!
//! Used by the MLPs of Qwen3 and the flow transformer, whose checkpoints store both weights as one matrix, gate first.

use crate::{Backend, Result, Tensor, Weight};

/// `x` compute `[n, k]` or a batch `[b, n, k]`, `gate` and `up` `[m, k]` in one format -> compute `[.., m]`.
///
/// # Errors
/// [`crate::Error::Shape`] or [`crate::Error::DType`] if the arguments are not as above.
pub fn linear_swiglu<B: Backend>(be: &B, x: &Tensor<B>, gate: &Weight<B>, up: &Weight<B>) -> Result<Tensor<B>> {
    let [_, n, k] = x.batch_dims("linear_swiglu: x")?;
    x.expect_dtype("linear_swiglu: x", be.compute().dtype())?;
    for weight in [gate, up] {
        if weight.shape() != [gate.shape()[0], k] {
            let expected =
                format!("[{n}, {}] for weights {:?} and {:?} of one shape", gate.shape()[1], gate.shape(), up.shape());
            return Err(x.wrong_shape("linear_swiglu: x", expected));
        }
    }
    be.linear_swiglu(x, gate, up)
}

/// The two products `gate` and `up`, `[n, m]` -> `[n, m]`.
pub fn reference(gate: &[f64], up: &[f64]) -> Vec<f64> {
    gate.iter().zip(up).map(|(gate, up)| gate / (1.0 + (-gate).exp()) * up).collect()
}
