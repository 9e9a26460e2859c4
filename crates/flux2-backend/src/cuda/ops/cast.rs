//! `cast`.

use crate::cuda::{CudaBackend, Geometry, Source, int, launch, source};
use crate::{DType, Result, Tensor};

/// Shared by the elementwise ops.
pub(crate) const ELEMENTWISE: Source = source!("elementwise.cu");

pub(crate) fn cast(be: &CudaBackend, x: &Tensor<CudaBackend>, dtype: DType) -> Result<Tensor<CudaBackend>> {
    let y = be.empty(x.shape(), dtype)?;
    let (n, wide) = (x.rows() * x.cols(), x.is_wide(4));
    let name = match (x.dtype() == DType::F32, wide) {
        (true, false) => "cast_from_f32",
        (true, true) => "cast_from_f32_wide",
        (false, false) => "cast_to_f32",
        (false, true) => "cast_to_f32_wide",
    };
    let geometry = Geometry::each(if wide { n / 4 } else { n });
    // SAFETY: `y` has the shape of `x`.
    unsafe { launch!(be, ELEMENTWISE, name, geometry, [n, int(x.cols()), x, x.row_stride(), &y])? };
    Ok(y)
}
