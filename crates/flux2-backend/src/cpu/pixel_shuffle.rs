//! `pixel_shuffle`: a permutation, one output pixel at a time.

use super::CpuBackend;
use crate::{Result, Tensor};

pub(super) fn pixel_shuffle(
    be: &CpuBackend,
    x: &Tensor<CpuBackend>,
    base: &Tensor<CpuBackend>,
    scale: usize,
) -> Result<Tensor<CpuBackend>> {
    let [h, w, c] = base.dims("pixel_shuffle: base")?;
    be.build_rows(&[h * scale, w * scale, c], |pixel, out: &mut [f32]| {
        let (row, column) = (pixel / (w * scale), pixel % (w * scale));
        let from = row / scale * w + column / scale;
        let place = row % scale * scale + column % scale;
        let (x, base) = (x.row::<f32>(from), base.row::<f32>(from));
        for (channel, (out, base)) in out.iter_mut().zip(base).enumerate() {
            *out = x[channel * scale * scale + place] + base;
        }
    })
}
