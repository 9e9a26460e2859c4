//! `pixel_shuffle`.

use crate::cuda::{CudaBackend, Geometry, Source, int, launch, source};
use crate::{DType, Result, Tensor};

const PIXEL_SHUFFLE: Source = source!("pixel_shuffle.cu");

pub(crate) fn pixel_shuffle(
    be: &CudaBackend,
    x: &Tensor<CudaBackend>,
    base: &Tensor<CudaBackend>,
    scale: usize,
) -> Result<Tensor<CudaBackend>> {
    let [h, w, c] = base.dims("pixel_shuffle: base")?;
    let y = be.empty(&[h * scale, w * scale, c], DType::F32)?;
    let n = y.rows() * c;
    // SAFETY: `y` has as many values as `x`, and `base` a value for each `scale * scale` of them.
    unsafe {
        launch!(
            be,
            PIXEL_SHUFFLE,
            "pixel_shuffle",
            Geometry::each(n),
            [n, int(w), int(c), int(scale), x, x.row_stride(), base, base.row_stride(), &y]
        )?;
    }
    Ok(y)
}
