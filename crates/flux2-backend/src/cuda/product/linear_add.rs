//! `linear_add`: on Hopper one kernel; elsewhere the product adds itself without a gate, and a pass behind it does with one.

use super::cublaslt::padded;
use super::hopper::{Epilogue, Left};
use super::linear::LINEAR;
use super::quantized;
use crate::cuda::{CudaBackend, Geometry, Matrix, int, launch};
use crate::{DType, Result, Tensor};

pub(crate) fn linear_add(
    be: &CudaBackend,
    x: &mut Tensor<CudaBackend>,
    gate: Option<&Tensor<CudaBackend>>,
    parts: &[&Tensor<CudaBackend>],
    weight: &Matrix,
) -> Result<()> {
    be.make_mut(x)?;
    let cols = x.cols();
    if let Some(bytes) = &weight.bytes {
        return quantized::linear_add(be, x, gate, parts, weight, bytes);
    }
    if be.on_hopper(parts) && be.fills_hopper([x.rows(), cols]) && cols.is_multiple_of(8) && x.is_wide(2) {
        let epilogue = Epilogue::Add { gate };
        // SAFETY: `x` has a row for each of `parts` and is nobody else's; the gate, if there is one, as many values as one.
        return unsafe { be.multiply("linear", Left::Rows(parts), weight, epilogue, x.address()) };
    }
    if gate.is_none() && cols == padded(cols) && x.is_wide(4) {
        return be.product(parts, weight, x.address(), (cols, DType::F32), true);
    }
    let (n, stride) = (x.rows() * cols, padded(cols));
    let product = be.pool.take(x.rows() * stride * 4)?;
    be.product(parts, weight, product.address(), (stride, DType::F32), false)?;
    let wide = x.is_wide(4) && gate.is_none_or(|gate| gate.is_wide(4));
    let name = if wide { "gated_add_wide" } else { "gated_add" };
    let geometry = Geometry::each(if wide { n / 4 } else { n });
    let gate = gate.map_or(0, |gate| gate.address());
    // SAFETY: the product has the rows of `x`, which is nobody else's, and the gate, if there is one, as many values as one.
    unsafe { launch!(be, LINEAR, name, geometry, [n, int(cols), &*x, gate, product.address(), stride]) }
}
