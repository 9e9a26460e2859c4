//! `modulated_layer_norm`: mean, variance, result: three passes over a row, two of them from the cache.

use super::simd::{Element, vectorize, with_element};
use super::{CpuBackend, lanes};
use crate::{ModulatedLayerNorm, Result, Tensor};

pub(super) fn modulated_layer_norm(
    be: &CpuBackend,
    x: &Tensor<CpuBackend>,
    norm: &ModulatedLayerNorm<CpuBackend>,
) -> Result<Tensor<CpuBackend>> {
    let (shift, scale, eps) = (norm.shift.elements::<f32>(), norm.scale.elements::<f32>(), norm.eps);
    with_element!(be.compute.dtype(), T => be.build_rows(x.shape(), |i, out: &mut [T]| {
        row(be.tier, x.row(i), shift, scale, eps, out);
    }))
}

vectorize! {
    fn row<T: Element>(x: &[f32], shift: &[f32], scale: &[f32], eps: f32, out: &mut [T]) {
        let n = x.len() as f32;
        let mean = lanes::sum(x, |v| v) / n;
        let variance = lanes::sum(x, |v| (v - mean) * (v - mean)) / n;
        let inverse = 1.0 / (variance + eps).sqrt();
        for (((out, x), shift), scale) in out.iter_mut().zip(x).zip(shift).zip(scale) {
            *out = T::from_f32((x - mean) * inverse * (1.0 + scale) + shift);
        }
    }
}
