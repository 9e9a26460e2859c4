//! `add`: row by row, in place.

use super::CpuBackend;
use super::simd::{Element, vectorised, with_element};
use crate::{Result, Tensor};

pub(super) fn add(be: &CpuBackend, x: &mut Tensor<CpuBackend>, y: &Tensor<CpuBackend>) -> Result<()> {
    let cols = x.cols();
    with_element!(x.dtype(), X => with_element!(y.dtype(), Y => {
        let x = be.make_mut::<X>(x)?;
        be.threads.for_rows(x, cols, |i, x| row(be.tier, x, y.row::<Y>(i)));
    }));
    Ok(())
}

vectorised! {
    fn row<X: Element, Y: Element>(x: &mut [X], y: &[Y]) {
        for (x, y) in x.iter_mut().zip(y) {
            *x = X::from_f32(x.to_f32() + y.to_f32());
        }
    }
}
