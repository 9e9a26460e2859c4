//! `guide`.

use super::cast::ELEMENTWISE;
use crate::cuda::{CudaBackend, Geometry, int, launch};
use crate::{DType, Result, Tensor};

pub(crate) fn guide(
    be: &CudaBackend,
    uncond: &Tensor<CudaBackend>,
    cond: &Tensor<CudaBackend>,
    guidance: f32,
) -> Result<Tensor<CudaBackend>> {
    let y = be.empty(cond.shape(), DType::F32)?;
    let n = cond.rows() * cond.cols();
    // SAFETY: all three have one shape.
    unsafe {
        launch!(
            be,
            ELEMENTWISE,
            "guide",
            Geometry::each(n),
            [n, int(cond.cols()), uncond, uncond.row_stride(), cond, cond.row_stride(), guidance, &y]
        )?;
    }
    Ok(y)
}
