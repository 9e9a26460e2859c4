//! `rms_norm`: two passes over a row, the second from the cache.

use super::simd::{Element, vectorize, with_element};
use super::{CpuBackend, lanes};
use crate::{Result, Tensor};

pub(super) fn rms_norm(
    be: &CpuBackend,
    x: &Tensor<CpuBackend>,
    weight: &Tensor<CpuBackend>,
    eps: f32,
) -> Result<Tensor<CpuBackend>> {
    let weight = weight.elements::<f32>();
    with_element!(be.compute.dtype(), T => be.build_rows(x.shape(), |i, out: &mut [T]| {
        row(be.tier, x.row(i), weight, eps, out);
    }))
}

vectorize! {
    fn row<T: Element>(x: &[f32], weight: &[f32], eps: f32, out: &mut [T]) {
        let scale = lanes::inverse_rms(x, eps);
        for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
            *out = T::from_f32(x * scale * weight);
        }
    }
}
