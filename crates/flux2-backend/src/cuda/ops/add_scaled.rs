//! `add_scaled`.

use super::cast::ELEMENTWISE;
use crate::cuda::{CudaBackend, Geometry, int, launch};
use crate::{Result, Tensor};

pub(crate) fn add_scaled(
    be: &CudaBackend,
    x: &mut Tensor<CudaBackend>,
    y: &Tensor<CudaBackend>,
    scale: f32,
) -> Result<()> {
    be.make_mut(x)?;
    let n = x.rows() * x.cols();
    let (name, geometry) = match x.is_wide(4) && y.is_wide(4) {
        true => ("add_scaled_wide", Geometry::each(n / 4)),
        false => ("add_scaled", Geometry::each(n)),
    };
    // SAFETY: both have one shape, and no other tensor shares `x`.
    unsafe { launch!(be, ELEMENTWISE, name, geometry, [n, int(x.cols()), &*x, y, y.row_stride(), scale]) }
}
