//! `rms_norm`.

use crate::cuda::{CudaBackend, Geometry, Source, int, launch, source};
use crate::{Result, Tensor};

/// Shared by the norms over rows.
pub(crate) const NORM: Source = source!("norm.cu");

pub(crate) fn rms_norm(
    be: &CudaBackend,
    x: &Tensor<CudaBackend>,
    weight: &Tensor<CudaBackend>,
    eps: f32,
) -> Result<Tensor<CudaBackend>> {
    let y = be.empty(x.shape(), be.compute.dtype())?;
    let name = if x.is_wide(4) && weight.is_wide(4) { "rms_norm_wide" } else { "rms_norm" };
    let geometry = Geometry::block_each(x.rows(), 256);
    // SAFETY: `y` has the shape of `x`, and `weight` as many values as a row.
    unsafe { launch!(be, NORM, name, geometry, [int(x.cols()), x, x.row_stride(), weight, eps, &y])? };
    Ok(y)
}
