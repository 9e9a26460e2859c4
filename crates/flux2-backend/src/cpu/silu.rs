//! `silu`: row by row.

use super::CpuBackend;
use super::simd::{self, Element, vectorize, with_element};
use crate::{Result, Tensor};

pub(super) fn silu(be: &CpuBackend, x: &Tensor<CpuBackend>) -> Result<Tensor<CpuBackend>> {
    with_element!(be.compute.dtype(), T => be.build_rows(x.shape(), |i, out: &mut [T]| row(be.tier, x.row(i), out)))
}

vectorize! {
    fn row<T: Element>(x: &[f32], out: &mut [T]) {
        for (out, x) in out.iter_mut().zip(x) {
            *out = T::from_f32(simd::silu(*x));
        }
    }
}
