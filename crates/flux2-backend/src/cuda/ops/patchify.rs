//! `patchify` and `unpatchify`.

use crate::cuda::{CudaBackend, Geometry, Source, int, launch, source};
use crate::{DType, Result, Tensor};

const PATCHIFY: Source = source!("patchify.cu");

pub(crate) fn patchify(
    be: &CudaBackend,
    x: &Tensor<CudaBackend>,
    mean: &Tensor<CudaBackend>,
    std: &Tensor<CudaBackend>,
) -> Result<Tensor<CudaBackend>> {
    let [h, w, c] = x.dims("patchify: x")?;
    let y = be.empty(&[h / 2 * (w / 2), 4 * c], DType::F32)?;
    let name = if x.dtype() == DType::F32 { "patchify_f32" } else { "patchify_compute" };
    let n = h * w * c;
    // SAFETY: `y` has as many values as `x`, and `mean` and `std` four for each channel.
    unsafe {
        launch!(be, PATCHIFY, name, Geometry::each(n), [n, int(w / 2), int(c), x, x.row_stride(), mean, std, &y])?;
    }
    Ok(y)
}

pub(crate) fn unpatchify(
    be: &CudaBackend,
    tokens: &Tensor<CudaBackend>,
    [h, w]: [usize; 2],
    mean: &Tensor<CudaBackend>,
    std: &Tensor<CudaBackend>,
) -> Result<Tensor<CudaBackend>> {
    let c = tokens.cols() / 4;
    let y = be.empty(&[2 * h, 2 * w, c], be.compute.dtype())?;
    let n = 4 * h * w * c;
    // SAFETY: `y` has as many values as `tokens`, and `mean` and `std` one for each of a token's.
    unsafe {
        launch!(
            be,
            PATCHIFY,
            "unpatchify",
            Geometry::each(n),
            [n, int(w), int(c), tokens, tokens.row_stride(), mean, std, &y]
        )?;
    }
    Ok(y)
}
