//! `linear_swiglu`: on Hopper one kernel, elsewhere both products in f32, side by side, and a pass that joins them.

use super::cublaslt::padded;
use super::hopper::{Epilogue, Left};
use super::linear::LINEAR;
use super::quantized;
use crate::cuda::{CudaBackend, Geometry, Matrix, int, launch};
use crate::{DType, Result, Tensor};

pub(crate) fn linear_swiglu(
    be: &CudaBackend,
    x: &Tensor<CudaBackend>,
    gate: &Matrix,
    up: &Matrix,
) -> Result<Tensor<CudaBackend>> {
    let cols = gate.rows;
    let y = be.empty(&[x.rows(), cols], be.compute.dtype())?;
    if let (Some(gate_bytes), Some(up_bytes)) = (&gate.bytes, &up.bytes) {
        quantized::linear_swiglu(be, x, [(gate, gate_bytes), (up, up_bytes)], &y)?;
        return Ok(y);
    }
    if be.on_hopper(&[x]) && cols.is_multiple_of(8) {
        // SAFETY: `y` has a row for each of `x`, and both weights one shape.
        unsafe { be.multiply("linear", Left::Rows(&[x]), gate, Epilogue::Swiglu { up }, y.address())? };
        return Ok(y);
    }
    let (n, half) = (x.rows() * cols, padded(cols));
    let products = be.pool.take(x.rows() * 2 * half * 4)?;
    let out = (2 * half, DType::F32);
    be.product(&[x], gate, products.address(), out, false)?;
    be.product(&[x], up, products.address() + 4 * half as u64, out, false)?;
    let wide = cols.is_multiple_of(4);
    let name = if wide { "swiglu_join_wide" } else { "swiglu_join" };
    let geometry = Geometry::each(if wide { n / 4 } else { n });
    // SAFETY: the products have the rows of `y`, the second `half` behind the first.
    unsafe { launch!(be, LINEAR, name, geometry, [n, int(cols), products.address(), 2 * half, half, &y])? };
    Ok(y)
}
