//! `linear`: the product; a bias on Hopper in the same kernel, elsewhere in a pass of its own.

use super::cublaslt::padded;
use super::hopper::{Epilogue, Left};
use super::quantized;
use crate::cuda::{CudaBackend, Geometry, Matrix, Source, int, launch, source};
use crate::{DType, Result, Tensor};

/// Shared by the ops around products.
pub(crate) const LINEAR: Source = source!("linear.cu");

pub(crate) fn linear(
    be: &CudaBackend,
    x: &Tensor<CudaBackend>,
    weight: &Matrix,
    bias: Option<&Tensor<CudaBackend>>,
    out: DType,
) -> Result<Tensor<CudaBackend>> {
    let mut shape = x.shape().to_vec();
    let cols = weight.rows;
    *shape.last_mut().expect("a tensor has at least one axis") = cols;
    let y = be.empty(&shape, out)?;
    if let Some(bytes) = &weight.bytes {
        quantized::linear(be, x, weight, bytes, bias, &y)?;
        return Ok(y);
    }
    if bias.is_none() && cols == padded(cols) {
        be.product(&[x], weight, y.address(), (cols, out), false)?;
        return Ok(y);
    }
    if let Some(bias) = bias
        && out != DType::F32
        && be.on_hopper(&[x])
        && cols.is_multiple_of(8)
        && bias.is_wide(2)
    {
        // SAFETY: `y` has a row for each of `x`, and the bias as many values as one.
        unsafe { be.multiply("linear", Left::Rows(&[x]), weight, Epilogue::Bf16 { bias, add: 0 }, y.address())? };
        return Ok(y);
    }
    let (n, stride) = (x.rows() * cols, padded(cols));
    let product = be.pool.take(x.rows() * stride * 4)?;
    be.product(&[x], weight, product.address(), (stride, DType::F32), false)?;
    let wide = cols.is_multiple_of(4) && bias.is_none_or(|bias| bias.is_wide(4));
    let name = match (out == DType::F32, wide) {
        (true, false) => "bias_f32",
        (true, true) => "bias_f32_wide",
        (false, false) => "bias_compute",
        (false, true) => "bias_compute_wide",
    };
    let geometry = Geometry::each(if wide { n / 4 } else { n });
    let bias = bias.map_or(0, |bias| bias.address());
    // SAFETY: the product has the rows of `y`, and the bias, if there is one, as many values as a row.
    unsafe { launch!(be, LINEAR, name, geometry, [n, int(cols), product.address(), stride, bias, &y])? };
    Ok(y)
}
