//! `conv2d`: on Hopper one kernel, elsewhere by unfolding. Norm and SiLU before it are a pass of their own, and so are a
//! convolution before it and the doubling of a map.

use super::driver::Geometry;
use super::gemm::{Operands, Right, Shape, padded};
use super::group_norm::norm_silu;
use super::hopper::{Finish, Left};
use super::kernels::source;
use super::{CudaBackend, Source, int, launch};
use crate::{ConvInput, ConvShape, Convolution, DType, Result, Tensor};

const CONV2D: Source = source!("conv2d.cu");

/// Bytes of unfolded pixels at a time, about.
const BAND_BYTES: usize = 128 << 20;

pub(super) fn conv2d(
    be: &CudaBackend,
    x: &ConvInput<CudaBackend>,
    conv: &Convolution<CudaBackend>,
    out: DType,
) -> Result<Tensor<CudaBackend>> {
    let [h, w, _] = x.size()?;
    let y = be.empty(&[conv.shape.output(h), conv.shape.output(w), conv.weight.shape()[0]], out)?;
    convolve(be, x, conv, &y, 0)?;
    Ok(y)
}

pub(super) fn conv2d_add(
    be: &CudaBackend,
    y: &mut Tensor<CudaBackend>,
    x: &ConvInput<CudaBackend>,
    conv: &Convolution<CudaBackend>,
) -> Result<()> {
    be.make_mut(y)?;
    convolve(be, x, conv, y, y.address())
}

/// What is read, before norm and SiLU.
pub(super) fn raw_map(be: &CudaBackend, x: &ConvInput<CudaBackend>) -> Result<Tensor<CudaBackend>> {
    match x.after {
        Some(first) => conv2d(be, &x.map.into(), first, be.compute.dtype()),
        None => Ok(x.map.clone()),
    }
}

/// Write the convolution of `x` into `y`, added to what is at `residual` unless that is 0; it may be `y` itself.
fn convolve(
    be: &CudaBackend,
    x: &ConvInput<CudaBackend>,
    conv: &Convolution<CudaBackend>,
    y: &Tensor<CudaBackend>,
    residual: u64,
) -> Result<()> {
    let mut map = raw_map(be, x)?;
    if let Some(statistics) = &x.norm_silu {
        map = norm_silu(be, &map, statistics)?;
    }
    match conv.shape {
        ConvShape::Downsample => unfolded(be, &map, conv, y, residual),
        _ if !is_fast(be, &map, conv, y) => unfolded(be, &map, conv, y, residual),
        ConvShape::Upsample => fast(be, &doubled(be, &map)?, conv, y, residual),
        ConvShape::Pointwise | ConvShape::Same => fast(be, &map, conv, y, residual),
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
    let finish = match y.dtype() {
        DType::F32 => Finish::F32 { bias },
        _ => Finish::Bf16 { bias, add: residual },
    };
    let rows = [map];
    let left = if conv.shape == ConvShape::Pointwise { Left::Rows(&rows) } else { Left::Pixels(map) };
    // SAFETY: `y` has a pixel for each of the map, and a value for each of the bias.
    unsafe { be.multiply("conv2d", left, conv.weight.matrix(), finish, y.address()) }
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

/// The pixels that each output pixel sees side by side, a band at a time, and their product with the weights.
fn unfolded(
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
    let unfold = if wide { "conv_columns_wide" } else { "conv_columns" };
    let finish_wide = cols.is_multiple_of(4) && y.is_wide(4) && conv.bias.is_wide(4);
    let finish = match (y.dtype() == DType::F32, finish_wide) {
        (true, false) => "conv_finish_f32",
        (true, true) => "conv_finish_f32_wide",
        (false, false) => "conv_finish_compute",
        (false, true) => "conv_finish_compute_wide",
    };
    be.note("conv2d", "cublaslt");
    for first in (0..pixels).step_by(band) {
        let rows = band.min(pixels - first);
        let n = rows * k;
        let geometry = Geometry::each(if wide { n / 8 } else { n });
        // SAFETY: `columns` holds a band, and the kernel reads pixels of `map` only.
        unsafe {
            launch!(
                be,
                CONV2D,
                unfold,
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
        let operands = [columns.address(), weight.buffer.address(), product.address()];
        // SAFETY: `columns` and `product` hold a band, and rows of the weight are `k` long.
        unsafe { be.gemm.run(&be.device, shape, operands)? };
        let n = rows * cols;
        let to = y.address() + (first * cols * y.dtype().bytes(1)) as u64;
        let residual = if residual == 0 { 0 } else { residual + (first * cols * be.compute_size()) as u64 };
        let geometry = Geometry::each(if finish_wide { n / 4 } else { n });
        // SAFETY: `product` holds a band, `y` and the residual all pixels, the bias a value for each channel.
        unsafe {
            let arguments = [product.address(), conv.bias.address(), residual, to];
            let [product, bias, residual, to] = arguments;
            launch!(be, CONV2D, finish, geometry, [n, int(cols), product, padded(cols), bias, residual, to])?;
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
