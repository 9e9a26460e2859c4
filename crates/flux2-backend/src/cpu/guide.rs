//! `guide`: row by row.

use super::CpuBackend;
use super::simd::vectorize;
use crate::{Result, Tensor};

pub(super) fn guide(
    be: &CpuBackend,
    uncond: &Tensor<CpuBackend>,
    cond: &Tensor<CpuBackend>,
    guidance: f32,
) -> Result<Tensor<CpuBackend>> {
    be.build_rows(uncond.shape(), |i, out: &mut [f32]| row(be.tier, uncond.row(i), cond.row(i), guidance, out))
}

vectorize! {
    fn row(uncond: &[f32], cond: &[f32], guidance: f32, out: &mut [f32]) {
        for ((out, uncond), cond) in out.iter_mut().zip(uncond).zip(cond) {
            *out = uncond + guidance * (cond - uncond);
        }
    }
}
