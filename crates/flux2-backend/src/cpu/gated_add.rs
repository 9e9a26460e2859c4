//! `gated_add`: row by row, in place.

use super::CpuBackend;
use super::simd::{Element, vectorised, with_element};
use crate::{Result, Tensor};

pub(super) fn gated_add(
    be: &CpuBackend,
    x: &mut Tensor<CpuBackend>,
    gate: &Tensor<CpuBackend>,
    y: &Tensor<CpuBackend>,
) -> Result<()> {
    let cols = x.cols();
    let gate = gate.elements::<f32>();
    let x = be.make_mut::<f32>(x)?;
    with_element!(y.dtype(), Y => be.threads.for_rows(x, cols, |i, x| row(be.tier, x, gate, y.row::<Y>(i))));
    Ok(())
}

vectorised! {
    fn row<Y: Element>(x: &mut [f32], gate: &[f32], y: &[Y]) {
        for ((x, gate), y) in x.iter_mut().zip(gate).zip(y) {
            *x += gate * y.to_f32();
        }
    }
}
