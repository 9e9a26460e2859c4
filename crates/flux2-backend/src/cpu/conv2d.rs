//! `conv2d` as an implicit matrix product. The rows of the left operand are pixels, with one pointer per tap of the
//! kernel; taps outside the map point to zeros. No im2col buffer is built.
//!
//! Prologues (another convolution, group norm and SiLU, conversion of dtype) run on a band of input rows at a time,
//! whose result stays in the cache for the product of that band. Each value is prepared about once, and no intermediate
//! map is stored as a whole.

use std::ops::Range;

use super::CpuBackend;
use super::gemm::{Block, Output, Product, Weights, convert, convert_sum, row_pointer};
use super::group_norm::norm_silu;
use super::simd::{Element, MicroKernel, RowPointers, vectorize, with_element};
use crate::{ConvInput, ConvShape, Convolution, DType, Result, Tensor};

/// Approximate bytes of a band's prepared input. Small enough for the L3 cache; large enough that the rows at a band's
/// border, which are prepared twice, and the wait for the last thread cost little.
pub(super) const BAND_BYTES: usize = 16 << 20;

pub(super) fn conv2d(
    be: &CpuBackend,
    x: &ConvInput<CpuBackend>,
    conv: &Convolution<CpuBackend>,
    out: DType,
) -> Result<Tensor<CpuBackend>> {
    let [h, w, _] = x.size()?;
    let [h, w, channels] = [conv.shape.output(h), conv.shape.output(w), conv.weight.shape()[0]];
    rows_of(be, x, conv, 0..h, &[h, w, channels], out)
}

pub(super) fn conv2d_add(
    be: &CpuBackend,
    y: &mut Tensor<CpuBackend>,
    x: &ConvInput<CpuBackend>,
    conv: &Convolution<CpuBackend>,
) -> Result<()> {
    let [h, _, channels] = y.dims("conv2d: y")?;
    let bias = conv.bias.elements::<f32>();
    with_element!(y.dtype(), T => {
        let y = Output::new(be.make_mut::<T>(y)?, channels);
        convolve(be, x, conv, 0..h, |pixel, columns: Range<usize>, values: &[f32]| {
            // SAFETY: `convolve` emits each piece of the result once.
            add_sum(be.tier, values, &bias[columns.clone()], unsafe { y.piece(pixel, columns) });
        })
    })
}

/// Computes rows `rows` of the result, as a tensor of `shape`.
fn rows_of(
    be: &CpuBackend,
    x: &ConvInput<CpuBackend>,
    conv: &Convolution<CpuBackend>,
    rows: Range<usize>,
    shape: &[usize; 3],
    out: DType,
) -> Result<Tensor<CpuBackend>> {
    let bias = conv.bias.elements::<f32>();
    with_element!(out, T => be.build::<T>(shape, |out| {
        let out = Output::new(out, shape[2]);
        convolve(be, x, conv, rows, |pixel, columns: Range<usize>, values: &[f32]| {
            // SAFETY: `convolve` emits each piece of the result once.
            convert_sum(be.tier, values, &bias[columns.clone()], unsafe { out.piece(pixel, columns) });
        })
    }))
}

/// Computes rows `rows` of the result, without bias. Calls `emit(pixel, columns, values)` for each piece; pixels are
/// counted from the first of these rows.
fn convolve(
    be: &CpuBackend,
    x: &ConvInput<CpuBackend>,
    conv: &Convolution<CpuBackend>,
    rows: Range<usize>,
    emit: impl Fn(usize, Range<usize>, &[f32]) + Sync,
) -> Result<()> {
    let kernel = MicroKernel::select(be.tier, be.compute);
    be.log.note("conv2d", Some(conv.weight.matrix().stored().peek().dtype()), kernel.name);
    let [h, w, channels] = x.size()?;
    let (shape, taps) = (conv.shape, conv.shape.kernel() * conv.shape.kernel());
    let out_w = shape.output(w);
    let groups = channels.div_ceil(kernel.group());
    let zeros = vec![0u32; groups];

    for band in bands(x, kernel, rows.clone(), shape)? {
        let first = source(shape, h, band.start, 0..shape.kernel()).expect("a tap inside the map");
        let last = source(shape, h, band.end - 1, (0..shape.kernel()).rev()).expect("a tap inside the map");
        let prepared = prepare(be, kernel, x, first..last + 1)?;
        let pointers = |_: &Block, pixel: usize, lane: usize, table: &mut [RowPointers]| {
            let (y, x) = (band.start + pixel / out_w, pixel % out_w);
            for (tap, pointers) in table.iter_mut().enumerate() {
                let tap = [tap / shape.kernel(), tap % shape.kernel()];
                let source = source(shape, h, y, [tap[0]]).zip(source(shape, w, x, [tap[1]]));
                let pixel = source.map(|(y, x)| row_pointer(&prepared.pixels, (y - prepared.first) * w + x));
                pointers[lane] = pixel.unwrap_or(zeros.as_ptr());
            }
        };
        let block = Block { part: 0, from: 0, segments: taps, groups, first_column: 0, columns: channels };
        let weights = Weights::Stored([conv.weight.matrix().stored().read()]);
        let product = Product { rows: band.len() * out_w, weights, blocks: vec![block] };
        let done = (band.start - rows.start) * out_w;
        let emit = |pixel, columns: Range<usize>, [values]: [&[f32]; 1]| emit(done + pixel, columns, values);
        // SAFETY: pixels from `prepare` are whole groups, and so are the zeros.
        unsafe { product.run(be, kernel, pointers, emit)? };
    }
    Ok(())
}

/// Divides rows `rows` of the result into bands of equal height, whose prepared input takes about [`BAND_BYTES`]. One
/// band if the input needs no preparation.
fn bands(
    x: &ConvInput<CpuBackend>,
    kernel: MicroKernel,
    rows: Range<usize>,
    shape: ConvShape,
) -> Result<impl Iterator<Item = Range<usize>>> {
    let [_, w, channels] = x.size()?;
    let input_row = kernel.dtype().bytes(w * channels.next_multiple_of(kernel.group()));
    let input_rows = 2 * rows.len() / shape.output(2);
    let bands = if ready(x, kernel) { 1 } else { (input_rows * input_row).div_ceil(BAND_BYTES) };
    let height = rows.len().div_ceil(bands.max(1)).max(1);
    Ok(rows.clone().step_by(height).map(move |start| start..(start + height).min(rows.end)))
}

/// Input position, along one axis of length `n`, that the first non-padding tap of `taps` reads for output `position`.
fn source(shape: ConvShape, n: usize, position: usize, taps: impl IntoIterator<Item = usize>) -> Option<usize> {
    let at = |tap: usize| match shape {
        ConvShape::Pointwise => Some(position),
        ConvShape::Same => (position + tap).checked_sub(1),
        ConvShape::Downsample => Some(2 * position + tap),
        ConvShape::Upsample => (position + tap).checked_sub(1).map(|p| p / 2),
    };
    taps.into_iter().find_map(|tap| at(tap).filter(|p| *p < n))
}

/// Consecutive rows of a map: pixel `[y, x]` is row `(y - first) * w + x` of `pixels`.
pub(super) struct Rows {
    pub pixels: Tensor<CpuBackend>,
    pub first: usize,
}

/// Whether the map can be multiplied without preparation.
fn ready(x: &ConvInput<CpuBackend>, kernel: MicroKernel) -> bool {
    let fits = x.map.dtype() == kernel.dtype() && x.map.cols().is_multiple_of(kernel.group());
    x.after.is_none() && x.norm_silu.is_none() && fits
}

/// At least rows `rows` of the input as the product reads it: in the kernel's dtype, pixels padded to whole groups.
fn prepare(be: &CpuBackend, kernel: MicroKernel, x: &ConvInput<CpuBackend>, rows: Range<usize>) -> Result<Rows> {
    let [_, w, channels] = x.size()?;
    let raw = raw_rows(be, x, rows.clone())?;
    let fits = raw.pixels.dtype() == kernel.dtype() && channels.is_multiple_of(kernel.group());
    if fits && x.norm_silu.is_none() {
        return Ok(raw);
    }
    let shape = [rows.len(), w, channels.next_multiple_of(kernel.group())];
    let from = (rows.start - raw.first) * w;
    let statistics = x.norm_silu.as_ref().map(|s| [0, 1, 2].map(|i| s.row::<f32>(i)));
    let pixels = with_element!(raw.pixels.dtype(), S => with_element!(kernel.dtype(), T => {
        be.build_rows(&shape, |i, out: &mut [T]| {
            let (out, padding) = out.split_at_mut(channels);
            match statistics {
                Some([means, scales, biases]) => {
                    norm_silu(be.tier, raw.pixels.row::<S>(from + i), means, scales, biases, out);
                }
                None => convert(be.tier, raw.pixels.row::<S>(from + i), out),
            }
            padding.fill(T::from_f32(0.0));
        })
    }))?;
    Ok(Rows { pixels, first: rows.start })
}

/// At least rows `rows` of the input, before group norm and SiLU.
pub(super) fn raw_rows(be: &CpuBackend, x: &ConvInput<CpuBackend>, rows: Range<usize>) -> Result<Rows> {
    let Some(conv) = x.after else { return Ok(Rows { pixels: x.map.clone(), first: 0 }) };
    let [_, w, channels] = x.size()?;
    let shape = [rows.len(), w, channels];
    let pixels = rows_of(be, &x.map.into(), conv, rows.clone(), &shape, be.compute.dtype())?;
    Ok(Rows { pixels, first: rows.start })
}

vectorize! {
    fn add_sum<T: Element>(from: &[f32], bias: &[f32], to: &mut [T]) {
        for ((to, from), bias) in to.iter_mut().zip(from).zip(bias) {
            *to = T::from_f32(to.to_f32() + (from + bias));
        }
    }
}
