//! `prelu`.

use super::cast::ELEMENTWISE;
use crate::cuda::{CudaBackend, Geometry, int, launch};
use crate::{Result, Tensor};

pub(crate) fn prelu(be: &CudaBackend, x: &mut Tensor<CudaBackend>, slope: &Tensor<CudaBackend>) -> Result<()> {
    be.make_mut(x)?;
    let n = x.rows() * x.cols();
    let (name, geometry) = match x.is_wide(4) && slope.is_wide(4) {
        true => ("prelu_wide", Geometry::each(n / 4)),
        false => ("prelu", Geometry::each(n)),
    };
    // SAFETY: no other tensor shares `x`, and `slope` has a value for each of its columns.
    unsafe { launch!(be, ELEMENTWISE, name, geometry, [n, int(x.cols()), &*x, slope]) }
}
