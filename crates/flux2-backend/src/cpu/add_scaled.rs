//! `add_scaled`: row by row, in place.

use super::CpuBackend;
use super::simd::{Element, vectorize, with_element};
use crate::{Result, Tensor};

pub(super) fn add_scaled(
    be: &CpuBackend,
    x: &mut Tensor<CpuBackend>,
    y: &Tensor<CpuBackend>,
    scale: f32,
) -> Result<()> {
    let cols = x.cols();
    with_element!(x.dtype(), T => {
        let x = be.make_mut::<T>(x)?;
        be.threads.for_rows(x, cols, |i, x| row(be.tier, x, y.row(i), scale));
    });
    Ok(())
}

vectorize! {
    fn row<T: Element>(x: &mut [T], y: &[T], scale: f32) {
        for (x, y) in x.iter_mut().zip(y) {
            *x = T::from_f32(x.to_f32() + scale * y.to_f32());
        }
    }
}
