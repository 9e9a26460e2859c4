//! `linear_swiglu`: two products of the same rows, joined.

use super::cublaslt::{Out, padded};
use super::linear::LINEAR;
use super::{Epilogue, Left, Product};
use crate::cuda::{CudaBackend, Geometry, Matrix, int, launch};
use crate::{Result, Tensor};

pub(crate) fn linear_swiglu(
    be: &CudaBackend,
    x: &Tensor<CudaBackend>,
    gate: &Matrix,
    up: &Matrix,
) -> Result<Tensor<CudaBackend>> {
    let mut shape = x.shape().to_vec();
    *shape.last_mut().expect("a tensor has at least one axis") = gate.rows;
    let y = be.empty(&shape, be.compute.dtype())?;
    Product { left: Left::Rows(&[x]), weight: gate, epilogue: Epilogue::Swiglu { up, y: &y } }.run(be)?;
    Ok(y)
}

/// cuBLASLt writes the f32 sums of both products side by side, and a pass joins them.
pub(super) fn with_pass(
    be: &CudaBackend,
    parts: &[&Tensor<CudaBackend>],
    [gate, up]: [&Matrix; 2],
    y: &Tensor<CudaBackend>,
) -> Result<()> {
    let (rows, cols) = (y.rows(), y.cols());
    let (n, half) = (rows * cols, padded(cols));
    let sums = be.pool.take(rows * 2 * half * 4)?;
    be.multiply(parts, gate, Out::sums(sums.address(), 2 * half))?;
    be.multiply(parts, up, Out::sums(sums.address() + 4 * half as u64, 2 * half))?;
    let wide = cols.is_multiple_of(4);
    let name = if wide { "swiglu_join_wide" } else { "swiglu_join" };
    let geometry = Geometry::each(if wide { n / 4 } else { n });
    // SAFETY: the sums have the rows of `y`, those of `up` begin `half` behind those of `gate`.
    unsafe { launch!(be, LINEAR, name, geometry, [n, int(cols), sums.address(), 2 * half, half, y]) }
}
