//! `linear_swiglu`: a task computes the same columns of both products; SwiGLU is the epilogue.

use super::gemm::Output;
use super::linear::product;
use super::simd::{self, Element, vectorize, with_element};
use super::{CpuBackend, Matrix};
use crate::{Result, Tensor};

pub(super) fn linear_swiglu(
    be: &CpuBackend,
    x: &Tensor<CpuBackend>,
    gate: &Matrix,
    up: &Matrix,
) -> Result<Tensor<CpuBackend>> {
    let mut shape = x.shape().to_vec();
    let cols = gate.shape()[0];
    *shape.last_mut().expect("a tensor has at least one axis") = cols;
    with_element!(be.compute.dtype(), T => be.build::<T>(&shape, |out| {
        let out = Output::new(out, cols);
        product(be, &[x], [gate, up], |row, columns, [gate, up]| {
            // SAFETY: `product` emits disjoint pieces.
            swiglu(be.tier, gate, up, unsafe { out.piece(row, columns) });
        })
    }))
}

vectorize! {
    fn swiglu<T: Element>(gate: &[f32], up: &[f32], out: &mut [T]) {
        for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
            *out = T::from_f32(simd::silu(*gate) * up);
        }
    }
}
