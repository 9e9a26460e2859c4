//! `linear`: a product with a bias.

use super::cublaslt::{Out, padded};
use super::{Epilogue, Left, Product};
use crate::cuda::{CudaBackend, Geometry, Matrix, Source, int, launch, source};
use crate::{DType, Result, Tensor};

/// The passes after cuBLASLt, of this op, `linear_add` and `linear_swiglu`.
pub(super) const LINEAR: Source = source!("linear.cu");

pub(crate) fn linear(
    be: &CudaBackend,
    x: &Tensor<CudaBackend>,
    weight: &Matrix,
    bias: Option<&Tensor<CudaBackend>>,
    out: DType,
) -> Result<Tensor<CudaBackend>> {
    let mut shape = x.shape().to_vec();
    *shape.last_mut().expect("a tensor has at least one axis") = weight.rows;
    let y = be.empty(&shape, out)?;
    let epilogue = Epilogue::Store { bias, accumulate: false, y: &y };
    Product { left: Left::Rows(&[x]), weight, epilogue }.run(be)?;
    Ok(y)
}

/// cuBLASLt writes f32 sums, and a pass adds the bias and rounds.
pub(super) fn with_pass(
    be: &CudaBackend,
    parts: &[&Tensor<CudaBackend>],
    weight: &Matrix,
    bias: Option<&Tensor<CudaBackend>>,
    y: &Tensor<CudaBackend>,
) -> Result<()> {
    let (rows, cols) = (parts[0].rows(), weight.rows);
    let (n, stride) = (rows * cols, padded(cols));
    let sums = be.pool.take(rows * stride * 4)?;
    be.multiply(parts, weight, Out::sums(sums.address(), stride))?;
    let wide = cols.is_multiple_of(4) && bias.is_none_or(|bias| bias.is_wide(4));
    let name = match (y.dtype() == DType::F32, wide) {
        (true, false) => "bias_f32",
        (true, true) => "bias_f32_wide",
        (false, false) => "bias_compute",
        (false, true) => "bias_compute_wide",
    };
    let geometry = Geometry::each(if wide { n / 4 } else { n });
    let bias = bias.map_or(0, Tensor::address);
    // SAFETY: the sums have the rows of `y`, and the bias, if there is one, a value for each column.
    unsafe { launch!(be, LINEAR, name, geometry, [n, int(cols), sums.address(), stride, bias, y]) }
}
