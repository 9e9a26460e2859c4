//! `norm_rope`.

use crate::cuda::{CudaBackend, Geometry, Source, int, launch, source};
use crate::{Result, Rope, RopeLayout, Tensor};

const NORM_ROPE: Source = source!("norm_rope.cu");

pub(crate) fn norm_rope(
    be: &CudaBackend,
    x: &Tensor<CudaBackend>,
    weight: &Tensor<CudaBackend>,
    rope: &Rope<CudaBackend>,
    eps: f32,
) -> Result<Tensor<CudaBackend>> {
    let y = be.empty(x.shape(), be.compute.dtype())?;
    let d = weight.cols();
    let heads = x.cols() / d;
    let items = x.rows() * heads;
    let Rope { cos, sin, layout } = rope;
    if d == 128 && x.is_wide(4) && [weight, cos, sin].iter().all(|table| table.is_wide(2)) {
        let name = match layout {
            RopeLayout::Interleaved => "norm_rope_128",
            RopeLayout::Halves => "norm_rope_128_halves",
        };
        let (geometry, heads) = (Geometry::warp_each(items), int(heads));
        let (stride, cos_stride, sin_stride) = (x.row_stride(), cos.row_stride(), sin.row_stride());
        // SAFETY: as below.
        unsafe {
            launch!(
                be,
                NORM_ROPE,
                name,
                geometry,
                [items, heads, x, stride, weight, cos, cos_stride, sin, sin_stride, eps, &y]
            )?;
        }
        return Ok(y);
    }
    let halves = i32::from(*layout == RopeLayout::Halves);
    // SAFETY: `y` has the shape of `x`, the tables a row for each of its rows, and `weight` a value for each channel.
    unsafe {
        launch!(
            be,
            NORM_ROPE,
            "norm_rope",
            Geometry::warp_each(items),
            [
                items,
                int(heads),
                int(d),
                x,
                x.row_stride(),
                weight,
                cos,
                cos.row_stride(),
                sin,
                sin.row_stride(),
                halves,
                eps,
                &y
            ]
        )?;
    }
    Ok(y)
}
