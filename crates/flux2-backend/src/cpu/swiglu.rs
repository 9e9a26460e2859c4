//! `swiglu`: row by row, in f32 between loading and storing.

use super::CpuBackend;
use super::simd::{self, Element, vectorised, with_element};
use crate::{Result, Tensor};

pub(super) fn swiglu(
    be: &CpuBackend,
    gate: &Tensor<CpuBackend>,
    up: &Tensor<CpuBackend>,
) -> Result<Tensor<CpuBackend>> {
    with_element!(gate.dtype(), T => be.build_rows(gate.shape(), |i, out: &mut [T]| {
        row(be.tier, gate.row(i), up.row(i), out);
    }))
}

vectorised! {
    fn row<T: Element>(gate: &[T], up: &[T], out: &mut [T]) {
        for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
            *out = T::from_f32(simd::silu(gate.to_f32()) * up.to_f32());
        }
    }
}
