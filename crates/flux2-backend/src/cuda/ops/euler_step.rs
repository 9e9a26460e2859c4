//! `euler_step`.

use super::cast::ELEMENTWISE;
use crate::cuda::{CudaBackend, Geometry, int, launch};
use crate::{Result, Tensor};

pub(crate) fn euler_step(
    be: &CudaBackend,
    x: &mut Tensor<CudaBackend>,
    velocity: &Tensor<CudaBackend>,
    dt: f32,
) -> Result<()> {
    be.make_mut(x)?;
    let n = x.rows() * x.cols();
    // SAFETY: both have one shape, and no other tensor shares `x`.
    unsafe {
        launch!(
            be,
            ELEMENTWISE,
            "euler_step",
            Geometry::each(n),
            [n, int(x.cols()), &*x, velocity, velocity.row_stride(), dt]
        )
    }
}
