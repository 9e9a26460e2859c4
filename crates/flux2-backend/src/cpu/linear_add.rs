//! `linear_add`: the product, with the gated addition to the residual stream as its epilogue.

use super::gemm::Output;
use super::linear::product;
use super::simd::vectorize;
use super::{CpuBackend, Matrix};
use crate::{Result, Tensor};

pub(super) fn linear_add(
    be: &CpuBackend,
    x: &mut Tensor<CpuBackend>,
    gate: Option<&Tensor<CpuBackend>>,
    parts: &[&Tensor<CpuBackend>],
    weight: &Matrix,
) -> Result<()> {
    let cols = x.cols();
    let gate = gate.map(|gate| gate.elements::<f32>());
    let x = Output::new(be.make_mut::<f32>(x)?, cols);
    product(be, parts, [weight], |row, columns, [values]| {
        // SAFETY: `product` emits disjoint pieces.
        let x = unsafe { x.piece(row, columns.clone()) };
        match gate {
            Some(gate) => add_gated(be.tier, x, &gate[columns], values),
            None => add(be.tier, x, values),
        }
    })
}

vectorize! {
    fn add_gated(x: &mut [f32], gate: &[f32], values: &[f32]) {
        for ((x, gate), value) in x.iter_mut().zip(gate).zip(values) {
            *x += gate * value;
        }
    }
}

vectorize! {
    fn add(x: &mut [f32], values: &[f32]) {
        for (x, value) in x.iter_mut().zip(values) {
            *x += value;
        }
    }
}
