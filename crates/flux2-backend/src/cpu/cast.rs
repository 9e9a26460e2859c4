//! `cast`: row by row; bf16 rounds to nearest even.

use super::CpuBackend;
use super::gemm::convert;
use super::simd::{Element, with_element};
use crate::{DType, Result, Tensor};

pub(super) fn cast(be: &CpuBackend, x: &Tensor<CpuBackend>, dtype: DType) -> Result<Tensor<CpuBackend>> {
    with_element!(x.dtype(), S => with_element!(dtype, T => rows::<S, T>(be, x)))
}

fn rows<S: Element, T: Element>(be: &CpuBackend, x: &Tensor<CpuBackend>) -> Result<Tensor<CpuBackend>> {
    be.build_rows(x.shape(), |i, out: &mut [T]| convert(be.tier, x.row::<S>(i), out))
}
