//! `euler_step`: row by row, in place.

use super::CpuBackend;
use super::simd::vectorize;
use crate::{Result, Tensor};

pub(super) fn euler_step(
    be: &CpuBackend,
    x: &mut Tensor<CpuBackend>,
    velocity: &Tensor<CpuBackend>,
    dt: f32,
) -> Result<()> {
    let cols = x.cols();
    let x = be.make_mut::<f32>(x)?;
    be.threads.for_rows(x, cols, |i, x| row(be.tier, x, velocity.row(i), dt));
    Ok(())
}

vectorize! {
    fn row(x: &mut [f32], velocity: &[f32], dt: f32) {
        for (x, velocity) in x.iter_mut().zip(velocity) {
            *x += dt * velocity;
        }
    }
}
