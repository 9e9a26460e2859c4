//! `prelu`: row by row, in place.

use super::CpuBackend;
use super::simd::{Element, vectorize, with_element};
use crate::{Result, Tensor};

pub(super) fn prelu(be: &CpuBackend, x: &mut Tensor<CpuBackend>, slope: &Tensor<CpuBackend>) -> Result<()> {
    let (cols, slope) = (x.cols(), slope.elements::<f32>());
    with_element!(x.dtype(), T => {
        let x = be.make_mut::<T>(x)?;
        be.threads.for_rows(x, cols, |_, x| row(be.tier, x, slope));
    });
    Ok(())
}

vectorize! {
    fn row<T: Element>(x: &mut [T], slope: &[f32]) {
        for (x, slope) in x.iter_mut().zip(slope) {
            let value = x.to_f32();
            *x = T::from_f32(if value < 0.0 { value * slope } else { value });
        }
    }
}
