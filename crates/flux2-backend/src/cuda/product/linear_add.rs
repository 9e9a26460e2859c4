//! `linear_add`: a product added to a residual stream, times a gate if there is one.

use super::cublaslt::{Out, padded};
use super::linear::LINEAR;
use super::{Epilogue, Left, Product};
use crate::cuda::{CudaBackend, Geometry, Matrix, int, launch};
use crate::{Result, Tensor};

pub(crate) fn linear_add(
    be: &CudaBackend,
    x: &mut Tensor<CudaBackend>,
    gate: Option<&Tensor<CudaBackend>>,
    parts: &[&Tensor<CudaBackend>],
    weight: &Matrix,
) -> Result<()> {
    be.make_mut(x)?;
    Product { left: Left::Rows(parts), weight, epilogue: Epilogue::Add { gate, x } }.run(be)
}

/// cuBLASLt writes f32 sums, and a pass multiplies them by the gate and adds them.
pub(super) fn with_pass(
    be: &CudaBackend,
    parts: &[&Tensor<CudaBackend>],
    weight: &Matrix,
    gate: Option<&Tensor<CudaBackend>>,
    x: &Tensor<CudaBackend>,
) -> Result<()> {
    let cols = x.cols();
    let (n, stride) = (x.rows() * cols, padded(cols));
    let sums = be.pool.take(x.rows() * stride * 4)?;
    be.multiply(parts, weight, Out::sums(sums.address(), stride))?;
    let wide = x.is_wide(4) && gate.is_none_or(|gate| gate.is_wide(4));
    let name = if wide { "gated_add_wide" } else { "gated_add" };
    let geometry = Geometry::each(if wide { n / 4 } else { n });
    let gate = gate.map_or(0, Tensor::address);
    // SAFETY: the sums have the rows of `x`, which no other tensor shares, and the gate, if there is one, a value for
    // each column.
    unsafe { launch!(be, LINEAR, name, geometry, [n, int(cols), x, gate, sums.address(), stride]) }
}
