//! What the GPU reaches at most, for benchmarks: a large product, and a copy between buffers larger than its cache.

use std::time::{Duration, Instant};

use super::CudaBackend;
use super::gemm::{Right, Shape};
use crate::{Backend, DType, Result, ops};

/// Rows and columns of the product.
const SIDE: usize = 8192;
/// Bytes of the copy.
const COPY: usize = 1 << 30;

/// Floating-point operations a second.
pub(super) fn flops(be: &CudaBackend) -> Result<f64> {
    // Not zeros: they take less power, so the clock would be higher than it is for a model.
    let values: Vec<f32> = (0..SIDE * 64).map(|i| (i * 7919 % 8191) as f32 / 8191.0 - 0.5).collect();
    let block = ops::cast(be, &be.upload(&[64, SIDE], &values)?, be.compute.dtype())?;
    let x = ops::concat_rows(be, &[&block; SIDE / 64])?;
    let y = be.empty(&[SIDE, SIDE], be.compute.dtype())?;
    let shape = Shape {
        rows: SIDE,
        cols: SIDE,
        k: SIDE,
        strides: [SIDE; 3],
        right: Right::OutIn,
        out: be.compute.dtype(),
        accumulate: false,
        batch: 1,
        batch_strides: [0; 3],
    };
    // SAFETY: all three are square.
    let product = || unsafe { be.gemm.run(&be.device, shape, [x.address(), x.address(), y.address()]) };
    let seconds = shortest(be, product)?.as_secs_f64();
    Ok(2.0 * (SIDE as f64).powi(3) / seconds)
}

/// Bytes a second, those read and those written.
pub(super) fn bandwidth(be: &CudaBackend) -> Result<f64> {
    let from = be.empty(&[COPY / 4], DType::F32)?;
    be.fill_with_zeros(from.address(), COPY)?;
    let to = be.empty(&[COPY / 4], DType::F32)?;
    let seconds = shortest(be, || be.copy_rows(&from, to.address(), COPY / 4))?.as_secs_f64();
    Ok(2.0 * COPY as f64 / seconds)
}

/// Of a few runs, each of several calls in a row.
fn shortest(be: &CudaBackend, call: impl Fn() -> Result<()>) -> Result<Duration> {
    const CALLS: u32 = 10;
    call()?;
    be.wait()?;
    let mut shortest = Duration::MAX;
    for _ in 0..3 {
        let start = Instant::now();
        for _ in 0..CALLS {
            call()?;
        }
        be.wait()?;
        shortest = shortest.min(start.elapsed() / CALLS);
    }
    Ok(shortest)
}
