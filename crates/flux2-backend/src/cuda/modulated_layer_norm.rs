//! `modulated_layer_norm`.

use super::driver::Geometry;
use super::rms_norm::NORM;
use super::{CudaBackend, int, launch};
use crate::{Result, Tensor};

pub(super) fn modulated_layer_norm(
    be: &CudaBackend,
    x: &Tensor<CudaBackend>,
    shift: &Tensor<CudaBackend>,
    scale: &Tensor<CudaBackend>,
    eps: f32,
) -> Result<Tensor<CudaBackend>> {
    let y = be.empty(x.shape(), be.compute.dtype())?;
    let wide = [x, shift, scale].iter().all(|x| x.is_wide(4));
    let name = if wide { "modulated_layer_norm_wide" } else { "modulated_layer_norm" };
    let geometry = Geometry::block_each(x.rows(), 256);
    // SAFETY: `y` has the shape of `x`, and `shift` and `scale` as many values as a row.
    unsafe { launch!(be, NORM, name, geometry, [int(x.cols()), x, x.row_stride(), shift, scale, eps, &y])? };
    Ok(y)
}
