//! `conv2d`: bands of rows, norm and SiLU before the convolution, and another convolution before those.
//!
//! Each step before the last one is a pass of its own: over a band of rows at a time if there is another convolution or
//! the map is large, so that its result never exists as a whole. The product itself is a [`Product`].

use std::ops::Range;

use super::group_norm::norm_silu;
use crate::cuda::CudaBackend;
use crate::cuda::product::{Epilogue, Left, Product};
use crate::{ConvInput, ConvShape, Convolution, DType, Result, Tensor};

/// Approximate size of a band of a map's rows in bytes.
const BAND_BYTES: usize = 128 << 20;
/// Maps larger than this many bytes are normalized a band at a time.
const WHOLE_BYTES: usize = 1 << 30;

pub(crate) fn conv2d(
    be: &CudaBackend,
    x: &ConvInput<CudaBackend>,
    conv: &Convolution<CudaBackend>,
    out: DType,
) -> Result<Tensor<CudaBackend>> {
    let [h, w, _] = x.size()?;
    let y = be.empty(&[conv.shape.output(h), conv.shape.output(w), conv.weight.shape()[0]], out)?;
    convolve(be, x, conv, &y, false)?;
    Ok(y)
}

pub(crate) fn conv2d_add(
    be: &CudaBackend,
    y: &mut Tensor<CudaBackend>,
    x: &ConvInput<CudaBackend>,
    conv: &Convolution<CudaBackend>,
) -> Result<()> {
    be.make_mut(y)?;
    convolve(be, x, conv, y, true)
}

/// `y = convolution of x`, or `y += convolution of x` with `accumulate`.
fn convolve(
    be: &CudaBackend,
    x: &ConvInput<CudaBackend>,
    conv: &Convolution<CudaBackend>,
    y: &Tensor<CudaBackend>,
    accumulate: bool,
) -> Result<()> {
    let [h, w, c] = x.size()?;
    let is_large = x.norm_silu.is_some() && be.compute.dtype().bytes(h * w * c) > WHOLE_BYTES;
    match x.after.is_some() || is_large {
        false => of_map(be, &read_rows(be, x, 0..h)?, conv, y, accumulate),
        // A row of the result reads at most two rows of the input.
        true => by_bands(be, x, conv, y, Bands { rows: band_rows(be, [w, c], 2) / 2, accumulate }),
    }
}

/// Rows of `[w, c]` in a band, a multiple of `unit`.
pub(crate) fn band_rows(be: &CudaBackend, [w, c]: [usize; 2], unit: usize) -> usize {
    (BAND_BYTES / be.compute.dtype().bytes(w * c) / unit).max(1) * unit
}

/// How [`by_bands`] computes a map.
#[derive(Clone, Copy)]
struct Bands {
    /// Rows of the result at a time.
    rows: usize,
    accumulate: bool,
}

/// [`convolve`], a band of rows at a time. A band is computed with the rows around it that it needs, and those are cut
/// off.
fn by_bands(
    be: &CudaBackend,
    x: &ConvInput<CudaBackend>,
    conv: &Convolution<CudaBackend>,
    y: &Tensor<CudaBackend>,
    Bands { rows, accumulate }: Bands,
) -> Result<()> {
    let [h, w, c] = y.dims("conv2d: y")?;
    for first in (0..h).step_by(rows.max(1)) {
        let band = first..(first + rows.max(1)).min(h);
        let made = output_rows(be, x, conv, band, if accumulate { Target::Add(y) } else { Target::New(y.dtype()) })?;
        be.copy_rows(&made, y.address() + (first * w * y.dtype().bytes(c)) as u64, c)?;
    }
    Ok(())
}

/// What [`output_rows`] returns.
enum Target<'a> {
    /// The rows in this dtype.
    New(DType),
    /// The rows added to those of this map.
    Add(&'a Tensor<CudaBackend>),
}

/// Some rows of the convolution of `x`.
fn output_rows(
    be: &CudaBackend,
    x: &ConvInput<CudaBackend>,
    conv: &Convolution<CudaBackend>,
    rows: Range<usize>,
    target: Target,
) -> Result<Tensor<CudaBackend>> {
    let [h, w, _] = x.size()?;
    let read = read_for(conv.shape, &rows, h);
    let (first, made) = (conv.shape.output(read.start), conv.shape.output(read.len()));
    let (dtype, accumulate) = match target {
        Target::New(dtype) => (dtype, false),
        Target::Add(to) => (to.dtype(), true),
    };
    let y = be.empty(&[made, conv.shape.output(w), conv.weight.shape()[0]], dtype)?;
    if let Target::Add(to) = target {
        be.copy_rows(&map_rows(to, first..first + made)?, y.address(), y.cols())?;
    }
    of_map(be, &read_rows(be, x, read)?, conv, &y, accumulate)?;
    map_rows(&y, rows.start - first..rows.end - first)
}

/// The rows of a map of `h` rows that `rows` of the convolution read.
fn read_for(shape: ConvShape, rows: &Range<usize>, h: usize) -> Range<usize> {
    match shape {
        ConvShape::Pointwise => rows.clone(),
        ConvShape::Same => rows.start.saturating_sub(1)..(rows.end + 1).min(h),
        ConvShape::Downsample => 2 * rows.start..(2 * rows.end + 1).min(h),
        ConvShape::Upsample => (rows.start / 2).saturating_sub(1)..(rows.end.div_ceil(2) + 1).min(h),
    }
}

/// Some rows of what a convolution of `x` reads, with norm and SiLU.
fn read_rows(be: &CudaBackend, x: &ConvInput<CudaBackend>, rows: Range<usize>) -> Result<Tensor<CudaBackend>> {
    let map = raw_rows(be, x, rows)?;
    match &x.norm_silu {
        Some(statistics) => norm_silu(be, &map, statistics),
        None => Ok(map),
    }
}

/// Some rows of what a convolution of `x` reads, before norm and SiLU.
pub(crate) fn raw_rows(
    be: &CudaBackend,
    x: &ConvInput<CudaBackend>,
    rows: Range<usize>,
) -> Result<Tensor<CudaBackend>> {
    match x.after {
        Some(first) => output_rows(be, &x.map.into(), first, rows, Target::New(be.compute.dtype())),
        None => map_rows(x.map, rows),
    }
}

/// Some rows of a map `[h, w, c]`, shared.
fn map_rows(map: &Tensor<CudaBackend>, rows: Range<usize>) -> Result<Tensor<CudaBackend>> {
    let [h, w, c] = map.dims("conv2d: map")?;
    if rows == (0..h) {
        return Ok(map.clone());
    }
    map.reshape("conv2d: map", [h, w * c])?.slice_rows(rows.clone()).reshape("conv2d: map", [rows.len(), w, c])
}

/// The convolution of a map in memory.
fn of_map(
    be: &CudaBackend,
    map: &Tensor<CudaBackend>,
    conv: &Convolution<CudaBackend>,
    y: &Tensor<CudaBackend>,
    accumulate: bool,
) -> Result<()> {
    let epilogue = Epilogue::Store { bias: Some(&conv.bias), accumulate, y };
    Product { left: Left::Map(map, conv.shape), weight: conv.weight.matrix(), epilogue }.run(be)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{on_cuda, random, tensor};
    use crate::{Compute, HostTensor, Runtime, Weight, ops};

    #[test]
    fn rows_are_made_of_their_neighbors() {
        let read = |shape, rows: Range<usize>| read_for(shape, &rows, 10);
        assert_eq!(read(ConvShape::Same, 0..4), 0..5);
        assert_eq!(read(ConvShape::Same, 4..10), 3..10);
        assert_eq!(read(ConvShape::Pointwise, 4..10), 4..10);
        assert_eq!(read(ConvShape::Upsample, 6..12), 2..7);
        assert_eq!(read(ConvShape::Upsample, 7..9), 2..6); // of pixels 3 and 4, doubled
        assert_eq!(read(ConvShape::Downsample, 2..4), 4..9);
    }

    fn check(compute: Compute) {
        on_cuda(compute, |be| {
            let (h, w) = (26, 48);
            for (name, c, out) in [("as large as usual", 64, 128), ("narrow", 64, 8), ("of no even size", 6, 5)] {
                let map = tensor(be, name, &[h, w, c], compute.dtype())?.0;
                let conv = |shape: ConvShape, channels: [usize; 2]| {
                    let matrix = [channels[1], shape.kernel() * shape.kernel() * channels[0]];
                    let weight = Weight::load(be, HostTensor::from_f32(matrix, &random("weight", &matrix)))?;
                    let bias = be.upload(&[channels[1]], &random("bias", &[channels[1]]))?;
                    Ok::<_, crate::Error>(Convolution { weight, bias, shape })
                };
                let before = conv(ConvShape::Upsample, [c, c])?;
                let norm = crate::GroupNorm {
                    groups: 2,
                    weight: be.upload(&[c], &random("scale", &[c]))?,
                    bias: be.upload(&[c], &random("shift", &[c]))?,
                    eps: 1e-6,
                };
                for shape in [ConvShape::Pointwise, ConvShape::Same, ConvShape::Upsample, ConvShape::Downsample] {
                    let last = conv(shape, [c, out])?;
                    for after in [None, Some(&before)] {
                        let whole_map = match after {
                            Some(before) => conv2d(be, &(&map).into(), before, compute.dtype())?,
                            None => map.clone(),
                        };
                        let whole = ConvInput::from(&whole_map);
                        let statistics = ops::group_norm_statistics(be, &whole, &norm)?;
                        let whole = ConvInput { norm_silu: Some(statistics.clone()), ..whole };
                        let x = ConvInput { map: &map, after, norm_silu: Some(statistics) };
                        let expected = conv2d(be, &whole, &last, compute.dtype())?;
                        let mut sum = expected.clone();
                        conv2d_add(be, &mut sum, &whole, &last)?;
                        for rows in [2, 7, 16] {
                            let y = be.empty(expected.shape(), expected.dtype())?;
                            let what = format!("{name}, {shape:?}, after another: {}, {rows} rows", after.is_some());
                            for (adds, expected) in [(false, &expected), (true, &sum)] {
                                by_bands(be, &x, &last, &y, Bands { rows, accumulate: adds })?;
                                let (y, expected) = (be.download(&y)?, be.download(expected)?);
                                let worst = y.iter().zip(&expected).map(|(y, e)| (y - e).abs()).fold(0.0, f32::max);
                                let largest = expected.iter().fold(0f32, |m, e| m.max(e.abs()));
                                // One kernel sums in one order; cuBLASLt may choose another algorithm for fewer rows.
                                let on_hopper = be.is_hopper() && map.is_wide(8);
                                let by_im2col = shape == ConvShape::Downsample || !on_hopper;
                                let allowed = match compute {
                                    _ if !by_im2col => 0.0,
                                    Compute::Bf16 => largest / 128.0, // rounded the other way
                                    Compute::F32 => 1e-5 * largest,
                                };
                                assert!(worst <= allowed, "{what}, added: {adds}: {worst} of {largest}");
                            }
                        }
                    }
                }
            }
            Ok::<_, crate::Error>(())
        });
    }

    #[test]
    fn bands_are_the_map_bf16() {
        check(Compute::Bf16);
    }

    #[test]
    fn bands_are_the_map_f32() {
        check(Compute::F32);
    }
}
