//! Peak throughput for benchmarks: a large product, long attention, and a copy between buffers larger than the cache.

use std::time::{Duration, Instant};

use super::CudaBackend;
use super::product::cublaslt::{Right, Shape};
use super::product::quantized::QuantizedDType;
use crate::{AttentionInput, AttentionMask, DType, Format, Result, Runtime, ops};

/// Rows, columns and k of the product.
const SIDE: usize = 8192;
/// Bytes of each buffer of the copy.
const COPY: usize = 1 << 30;

/// Floating-point operations a second of a product with weights in `format`.
pub(super) fn flops(be: &CudaBackend, format: Format) -> Result<f64> {
    let quantized = QuantizedDType::of(format);
    // Not zeros: those take less power, so the clock would be higher than for a model.
    let values: Vec<f32> = (0..SIDE * 64).map(|i| (i * 7919 % 8191) as f32 / 8191.0 - 0.5).collect();
    let block = ops::cast(be, &be.upload(&[64, SIDE], &values)?, be.compute.dtype())?;
    let x = ops::concat_rows(be, &[&block; SIDE / 64])?;
    let rows = quantized.map(|dtype| be.quantize_rows(&[&x], dtype)).transpose()?;
    let x = rows.as_ref().map_or(x.address(), |rows| rows.buffer.address());
    let y = be.empty(&[SIDE, SIDE], DType::F32)?;
    let shape = Shape {
        items: 1,
        quantized,
        rows: SIDE,
        cols: SIDE,
        k: SIDE,
        strides: [SIDE; 3],
        right: Right::OutIn,
        out: if quantized.is_none() { be.compute.dtype() } else { DType::F32 },
        accumulate: false,
    };
    // SAFETY: all three matrices are `SIDE` x `SIDE`.
    let product = || unsafe { be.cublaslt.run(&be.device, shape, [x, x, y.address()]) };
    let seconds = shortest(be, product)?.as_secs_f64();
    Ok(2.0 * (SIDE as f64).powi(3) / seconds)
}

/// Floating-point operations a second of attention with the heads of the flow transformer, over so many tokens that
/// overheads vanish.
pub(super) fn attention_flops(be: &CudaBackend) -> Result<f64> {
    const TOKENS: usize = 8192;
    const HEADS: usize = 24;
    const CHANNELS: usize = 128;
    let values: Vec<f32> = (0..64 * HEADS * CHANNELS).map(|i| (i * 7919 % 8191) as f32 / 8191.0 - 0.5).collect();
    let block = ops::cast(be, &be.upload(&[64, HEADS * CHANNELS], &values)?, be.compute.dtype())?;
    let x = ops::concat_rows(be, &[&block; TOKENS / 64])?;
    let operands = AttentionInput { q: &x, k: &x, v: &x, head_dim: CHANNELS, mask: AttentionMask::None };
    let attend = || ops::attention(be, &operands).map(drop);
    let seconds = shortest(be, attend)?.as_secs_f64();
    Ok((4 * TOKENS * TOKENS * HEADS * CHANNELS) as f64 / seconds)
}

/// Bytes read and written a second by a copy.
pub(super) fn bandwidth(be: &CudaBackend) -> Result<f64> {
    let from = be.empty(&[COPY / 4], DType::F32)?;
    be.fill_with_zeros(from.address(), COPY)?;
    let to = be.empty(&[COPY / 4], DType::F32)?;
    let seconds = shortest(be, || be.copy_rows(&from, to.address(), COPY / 4))?.as_secs_f64();
    Ok(2.0 * COPY as f64 / seconds)
}

/// The shortest of three runs of `call`, per call. A run lasts 200 ms: in a shorter one the power limit does not yet
/// lower the clock.
fn shortest(be: &CudaBackend, call: impl Fn() -> Result<()>) -> Result<Duration> {
    const RUN: Duration = Duration::from_millis(200);
    let run = |calls: u32| -> Result<Duration> {
        let start = Instant::now();
        (0..calls).try_for_each(|_| call())?;
        be.wait()?;
        Ok(start.elapsed() / calls)
    };
    run(1)?;
    let calls = (RUN.as_secs_f64() / run(2)?.as_secs_f64().max(1e-6)).ceil() as u32;
    (0..3).map(|_| run(calls)).try_fold(Duration::MAX, |shortest, next| Ok(shortest.min(next?)))
}
