//! `conv2d`: on Hopper one kernel, elsewhere by im2col and a product. Norm and SiLU before it are a pass of their own, and so are a
//! convolution before it and the doubling of a map: of rows at a time where that is asked for or the map is large.

use std::ops::Range;

use super::group_norm::norm_silu;
use crate::cuda::product::cublaslt::{Operands, Right, Shape, padded};
use crate::cuda::product::hopper::{Epilogue, Left};
use crate::cuda::{CudaBackend, Geometry, Source, int, launch, source};
use crate::{ConvInput, ConvShape, Convolution, DType, Result, Tensor};

const CONV2D: Source = source!("conv2d.cu");

/// Bytes of im2col rows, or of a map's rows, at a time, about.
const BAND_BYTES: usize = 128 << 20;
/// Maps larger than this are normalised some rows at a time, not as a whole.
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

/// Write the convolution of `x` into `y`, or add it to what is there.
fn convolve(
    be: &CudaBackend,
    x: &ConvInput<CudaBackend>,
    conv: &Convolution<CudaBackend>,
    y: &Tensor<CudaBackend>,
    adds: bool,
) -> Result<()> {
    let [h, w, c] = x.size()?;
    let is_large = x.norm_silu.is_some() && be.compute.dtype().bytes(h * w * c) > WHOLE_BYTES;
    match x.after.is_some() || is_large {
        false => of_map(be, &read_rows(be, x, 0..h)?, conv, y, if adds { y.address() } else { 0 }),
        // A row of the result takes two of what is read at most.
        true => by_bands(be, x, conv, y, adds, band_rows(be, [w, c], 2) / 2),
    }
}

/// How many rows of `[w, c]` a band has, a multiple of `unit`.
pub(crate) fn band_rows(be: &CudaBackend, [w, c]: [usize; 2], unit: usize) -> usize {
    (BAND_BYTES / be.compute.dtype().bytes(w * c) / unit).max(1) * unit
}

/// The same with `rows` rows of `y` at a time, from copies of which those at a cut, whose neighbours are missing, are left out.
fn by_bands(
    be: &CudaBackend,
    x: &ConvInput<CudaBackend>,
    conv: &Convolution<CudaBackend>,
    y: &Tensor<CudaBackend>,
    adds: bool,
    rows: usize,
) -> Result<()> {
    let [h, w, c] = y.dims("conv2d: y")?;
    for first in (0..h).step_by(rows.max(1)) {
        let band = first..(first + rows.max(1)).min(h);
        let made = output_rows(be, x, conv, band, y.dtype(), adds.then_some(y))?;
        be.copy_rows(&made, y.address() + (first * w * y.dtype().bytes(c)) as u64, c)?;
    }
    Ok(())
}

/// Rows of the convolution of `x`, added to those of `to` if that is given.
fn output_rows(
    be: &CudaBackend,
    x: &ConvInput<CudaBackend>,
    conv: &Convolution<CudaBackend>,
    rows: Range<usize>,
    dtype: DType,
    to: Option<&Tensor<CudaBackend>>,
) -> Result<Tensor<CudaBackend>> {
    let [h, w, _] = x.size()?;
    let read = read_for(conv.shape, &rows, h);
    let (first, made) = (conv.shape.output(read.start), conv.shape.output(read.len()));
    let y = be.empty(&[made, conv.shape.output(w), conv.weight.shape()[0]], dtype)?;
    if let Some(to) = to {
        be.copy_rows(&map_rows(to, first..first + made)?, y.address(), y.cols())?;
    }
    let residual = if to.is_some() { y.address() } else { 0 };
    of_map(be, &read_rows(be, x, read)?, conv, &y, residual)?;
    map_rows(&y, rows.start - first..rows.end - first)
}

/// The rows of a map of `h` that rows of a convolution are made of.
fn read_for(shape: ConvShape, rows: &Range<usize>, h: usize) -> Range<usize> {
    match shape {
        ConvShape::Pointwise => rows.clone(),
        ConvShape::Same => rows.start.saturating_sub(1)..(rows.end + 1).min(h),
        ConvShape::Downsample => 2 * rows.start..(2 * rows.end + 1).min(h),
        ConvShape::Upsample => (rows.start / 2).saturating_sub(1)..(rows.end.div_ceil(2) + 1).min(h),
    }
}

/// Rows of what a convolution of `x` reads.
fn read_rows(be: &CudaBackend, x: &ConvInput<CudaBackend>, rows: Range<usize>) -> Result<Tensor<CudaBackend>> {
    let map = raw_rows(be, x, rows)?;
    match &x.norm_silu {
        Some(statistics) => norm_silu(be, &map, statistics),
        None => Ok(map),
    }
}

/// The same before norm and SiLU.
pub(crate) fn raw_rows(
    be: &CudaBackend,
    x: &ConvInput<CudaBackend>,
    rows: Range<usize>,
) -> Result<Tensor<CudaBackend>> {
    match x.after {
        Some(first) => output_rows(be, &x.map.into(), first, rows, be.compute.dtype(), None),
        None => map_rows(x.map, rows),
    }
}

/// Rows of a map `[h, w, c]`, as they are.
fn map_rows(map: &Tensor<CudaBackend>, rows: Range<usize>) -> Result<Tensor<CudaBackend>> {
    let [h, w, c] = map.dims("conv2d: map")?;
    if rows == (0..h) {
        return Ok(map.clone());
    }
    map.reshape("conv2d: map", [h, w * c])?.slice_rows(rows.clone()).reshape("conv2d: map", [rows.len(), w, c])
}

/// Write the convolution of `map` into `y`, added to what is at `residual` unless that is 0; it may be `y` itself.
fn of_map(
    be: &CudaBackend,
    map: &Tensor<CudaBackend>,
    conv: &Convolution<CudaBackend>,
    y: &Tensor<CudaBackend>,
    residual: u64,
) -> Result<()> {
    match conv.shape {
        ConvShape::Downsample => im2col(be, map, conv, y, residual),
        _ if !is_fast(be, map, conv, y) => im2col(be, map, conv, y, residual),
        ConvShape::Upsample => fast(be, &doubled(be, map)?, conv, y, residual),
        ConvShape::Pointwise | ConvShape::Same => fast(be, map, conv, y, residual),
    }
}

/// Whether [`fast`] can write to `y`.
fn is_fast(
    be: &CudaBackend,
    map: &Tensor<CudaBackend>,
    conv: &Convolution<CudaBackend>,
    y: &Tensor<CudaBackend>,
) -> bool {
    let whole = match y.dtype() {
        DType::F32 => conv.shape != ConvShape::Pointwise,
        _ => y.is_wide(8),
    };
    be.on_hopper(&[map]) && whole && conv.bias.address().is_multiple_of(8)
}

/// The convolution as one kernel.
fn fast(
    be: &CudaBackend,
    map: &Tensor<CudaBackend>,
    conv: &Convolution<CudaBackend>,
    y: &Tensor<CudaBackend>,
    residual: u64,
) -> Result<()> {
    let bias = &conv.bias;
    let epilogue = match y.dtype() {
        DType::F32 => Epilogue::F32 { bias },
        _ => Epilogue::Bf16 { bias, add: residual },
    };
    let rows = [map];
    let left = if conv.shape == ConvShape::Pointwise { Left::Rows(&rows) } else { Left::Pixels(map) };
    // SAFETY: `y` has a pixel for each of the map, and a value for each of the bias.
    unsafe { be.multiply("conv2d", left, conv.weight.matrix(), epilogue, y.address()) }
}

/// Every pixel twice in both directions.
fn doubled(be: &CudaBackend, map: &Tensor<CudaBackend>) -> Result<Tensor<CudaBackend>> {
    let [h, w, c] = map.dims("conv2d: x")?;
    let y = be.empty(&[2 * h, 2 * w, c], map.dtype())?;
    let n = y.rows() * c;
    let (wide, stride) = (map.is_wide(8), map.row_stride());
    let (name, geometry) = match wide {
        true => ("double_map_wide", Geometry::each(n / 8)),
        false => ("double_map", Geometry::each(n)),
    };
    // SAFETY: `y` has four pixels for each of the map.
    unsafe { launch!(be, CONV2D, name, geometry, [n, int(w), int(c), map, stride, &y])? };
    Ok(y)
}

/// im2col: writes the pixels under each kernel window as a row, a band of output pixels at a time, and multiplies by the weights.
fn im2col(
    be: &CudaBackend,
    map: &Tensor<CudaBackend>,
    conv: &Convolution<CudaBackend>,
    y: &Tensor<CudaBackend>,
    residual: u64,
) -> Result<()> {
    let [h, w, c] = map.dims("conv2d: x")?;
    let (weight, kernel) = (conv.weight.matrix(), conv.shape.kernel());
    let Taps { stride, up, before } = taps(conv.shape);
    let (pixels, cols, k) = (y.rows(), weight.rows, weight.stride);
    let band = (BAND_BYTES / (k * be.compute_size())).clamp(1, pixels);
    let columns = be.pool.take(band * k * be.compute_size())?;
    let product = be.pool.take(band * padded(cols) * 4)?;
    let wide = c.is_multiple_of(8) && map.is_wide(8);
    let im2col_kernel = if wide { "im2col_wide" } else { "im2col" };
    let epilogue_wide = cols.is_multiple_of(4) && y.is_wide(4) && conv.bias.is_wide(4);
    let epilogue = match (y.dtype() == DType::F32, epilogue_wide) {
        (true, false) => "conv_epilogue_f32",
        (true, true) => "conv_epilogue_f32_wide",
        (false, false) => "conv_epilogue_compute",
        (false, true) => "conv_epilogue_compute_wide",
    };
    be.note("conv2d", "cublaslt");
    let right = be.present(weight)?;
    for first in (0..pixels).step_by(band) {
        let rows = band.min(pixels - first);
        let n = rows * k;
        let geometry = Geometry::each(if wide { n / 8 } else { n });
        // SAFETY: `columns` holds a band, and the kernel reads pixels of `map` only.
        unsafe {
            launch!(
                be,
                CONV2D,
                im2col_kernel,
                geometry,
                [
                    n,
                    int(k),
                    first,
                    int(kernel),
                    stride,
                    up,
                    before,
                    int(h),
                    int(w),
                    int(c),
                    int(conv.shape.output(w)),
                    map,
                    map.row_stride(),
                    columns.address()
                ]
            )?;
        }
        let shape = Shape {
            operands: Operands::Compute,
            rows,
            cols,
            k,
            strides: [k, k, padded(cols)],
            right: Right::OutIn,
            out: DType::F32,
            accumulate: false,
            batch: 1,
            batch_strides: [0; 3],
        };
        let operands = [columns.address(), right.address(), product.address()];
        // SAFETY: `columns` and `product` hold a band, and rows of the weight are `k` long.
        unsafe { be.cublaslt.run(&be.device, shape, operands)? };
        let n = rows * cols;
        let to = y.address() + (first * cols * y.dtype().bytes(1)) as u64;
        let residual = if residual == 0 { 0 } else { residual + (first * cols * be.compute_size()) as u64 };
        let geometry = Geometry::each(if epilogue_wide { n / 4 } else { n });
        // SAFETY: `product` holds a band, `y` and the residual all pixels, the bias a value for each channel.
        unsafe {
            let arguments = [product.address(), conv.bias.address(), residual, to];
            let [product, bias, residual, to] = arguments;
            launch!(be, CONV2D, epilogue, geometry, [n, int(cols), product, padded(cols), bias, residual, to])?;
        }
    }
    Ok(())
}

/// How a convolution walks over its map.
struct Taps {
    /// Pixels from one output pixel to the next.
    stride: i32,
    /// How often each pixel stands in the map that is read, in both directions.
    up: i32,
    /// Zeros above and on the left.
    before: i32,
}

fn taps(shape: ConvShape) -> Taps {
    match shape {
        ConvShape::Pointwise => Taps { stride: 1, up: 1, before: 0 },
        ConvShape::Same => Taps { stride: 1, up: 1, before: 1 },
        ConvShape::Downsample => Taps { stride: 2, up: 1, before: 0 },
        ConvShape::Upsample => Taps { stride: 1, up: 2, before: 1 },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{on_cuda, random, tensor};
    use crate::{Compute, HostTensor, Runtime, Weight, ops};

    #[test]
    fn rows_are_made_of_their_neighbours() {
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
                                by_bands(be, &x, &last, &y, adds, rows)?;
                                let (y, expected) = (be.download(&y)?, be.download(expected)?);
                                let worst = y.iter().zip(&expected).map(|(y, e)| (y - e).abs()).fold(0.0, f32::max);
                                let largest = expected.iter().fold(0f32, |m, e| m.max(e.abs()));
                                // One kernel sums in one order; cuBLASLt may choose another algorithm for fewer rows.
                                let by_im2col = shape == ConvShape::Downsample || !be.on_hopper(&[&map]);
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
