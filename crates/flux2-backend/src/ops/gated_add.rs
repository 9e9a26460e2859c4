//! Gated residual in place: `x += gate * y`, one gate for each channel.
//!
//! Used by the flow transformer after attention and MLP. `gate` is a window of the modulation's row, hence `[1, d]`.

use crate::{Backend, DType, Result, Tensor};

/// `x` f32 `[n, d]`, `gate` f32 `[1, d]`, `y` compute `[n, d]`. `x` is copied first if another tensor shares its memory.
///
/// # Errors
/// [`crate::Error::Shape`] or [`crate::Error::DType`] if the arguments are not as above.
pub fn gated_add<B: Backend>(be: &B, x: &mut Tensor<B>, gate: &Tensor<B>, y: &Tensor<B>) -> Result<()> {
    let [n, d] = x.dims("gated_add: x")?;
    x.expect_dtype("gated_add: x", DType::F32)?;
    super::expect_f32("gated_add: gate", gate, &[1, d])?;
    y.expect_shape("gated_add: y", &[n, d])?;
    y.expect_dtype("gated_add: y", be.compute().dtype())?;
    be.gated_add(x, gate, y)
}

/// `x` and `y` `[n, d]`, `gate` `[d]` -> `[n, d]`.
pub fn reference(x: &[f32], gate: &[f32], y: &[f32]) -> Vec<f64> {
    let gates = gate.iter().cycle();
    x.iter().zip(y).zip(gates).map(|((x, y), gate)| f64::from(*x) + f64::from(*gate) * f64::from(*y)).collect()
}
