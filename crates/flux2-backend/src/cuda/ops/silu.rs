//! `silu`.

use super::cast::ELEMENTWISE;
use crate::cuda::{CudaBackend, Geometry, int, launch};
use crate::{Result, Tensor};

pub(crate) fn silu(be: &CudaBackend, x: &Tensor<CudaBackend>) -> Result<Tensor<CudaBackend>> {
    let y = be.empty(x.shape(), be.compute.dtype())?;
    let n = x.rows() * x.cols();
    // SAFETY: `y` has the shape of `x`.
    unsafe {
        launch!(be, ELEMENTWISE, "silu_f32", Geometry::each(n), [n, int(x.cols()), x, x.row_stride(), &y])?;
    }
    Ok(y)
}
