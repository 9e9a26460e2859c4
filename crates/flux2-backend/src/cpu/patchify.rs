//! `patchify` and `unpatchify`: a permutation of a small map, one token or pixel at a time.

use super::CpuBackend;
use super::simd::{Element, with_element};
use crate::{Result, Tensor};

pub(super) fn patchify(
    be: &CpuBackend,
    x: &Tensor<CpuBackend>,
    mean: &Tensor<CpuBackend>,
    std: &Tensor<CpuBackend>,
) -> Result<Tensor<CpuBackend>> {
    let [h, w, c] = x.dims("patchify: x")?;
    let (mean, std) = (mean.elements::<f32>(), std.elements::<f32>());
    with_element!(x.dtype(), T => be.build_rows(&[h / 2 * (w / 2), 4 * c], |token, out: &mut [f32]| {
        let (row, column) = (token / (w / 2) * 2, token % (w / 2) * 2);
        for place in 0..4 {
            let pixel = x.row::<T>((row + place / 2) * w + column + place % 2);
            for (channel, value) in pixel.iter().enumerate() {
                let to = 4 * channel + place;
                out[to] = (value.to_f32() - mean[to]) / std[to];
            }
        }
    }))
}

pub(super) fn unpatchify(
    be: &CpuBackend,
    tokens: &Tensor<CpuBackend>,
    [h, w]: [usize; 2],
    mean: &Tensor<CpuBackend>,
    std: &Tensor<CpuBackend>,
) -> Result<Tensor<CpuBackend>> {
    let c = tokens.cols() / 4;
    let (mean, std) = (mean.elements::<f32>(), std.elements::<f32>());
    with_element!(be.compute.dtype(), T => be.build_rows(&[2 * h, 2 * w, c], |pixel, out: &mut [T]| {
        let (row, column) = (pixel / (2 * w), pixel % (2 * w));
        let token = tokens.row::<f32>(row / 2 * w + column / 2);
        let place = row % 2 * 2 + column % 2;
        for (channel, out) in out.iter_mut().enumerate() {
            let from = 4 * channel + place;
            *out = T::from_f32(token[from] * std[from] + mean[from]);
        }
    }))
}
