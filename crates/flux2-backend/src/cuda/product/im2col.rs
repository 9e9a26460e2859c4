//! A convolution as a product of rows: im2col, a band of output pixels at a time, cuBLASLt, and a pass for bias and
//! rounding.
//!
//! Also the doubled map that `hopper.cu` needs for [`ConvShape::Upsample`].

use super::cublaslt::{Right, Shape, padded};
use super::{Epilogue, Product};
use crate::cuda::{CudaBackend, Geometry, Source, int, launch, source};
use crate::{ConvShape, DType, Result, Tensor};

const IM2COL: Source = source!("im2col.cu");

/// Approximate size of a band of im2col rows in bytes.
const BAND_BYTES: usize = 128 << 20;

/// `map` with every pixel twice in both directions: `[h, w, c]` to `[2 * h, 2 * w, c]`.
pub(super) fn doubled(be: &CudaBackend, map: &Tensor<CudaBackend>) -> Result<Tensor<CudaBackend>> {
    let [h, w, c] = map.dims("conv2d: x")?;
    let y = be.empty(&[2 * h, 2 * w, c], map.dtype())?;
    let n = y.rows() * c;
    let (wide, stride) = (map.is_wide(8), map.row_stride());
    let (name, geometry) = match wide {
        true => ("double_map_wide", Geometry::each(n / 8)),
        false => ("double_map", Geometry::each(n)),
    };
    // SAFETY: `y` has four pixels for each of the map.
    unsafe { launch!(be, IM2COL, name, geometry, [n, int(w), int(c), map, stride, &y])? };
    Ok(y)
}

/// Computes a product whose left operand is a map.
pub(super) fn run(be: &CudaBackend, product: &Product, map: &Tensor<CudaBackend>, shape: ConvShape) -> Result<()> {
    let weight = product.weight;
    let Epilogue::Store { bias: Some(bias), accumulate, y } = product.epilogue else {
        unreachable!("a convolution has a bias, and no other epilogue")
    };
    let (pixels, cols, k) = (y.rows(), weight.rows, weight.stride);
    let band = (BAND_BYTES / (k * be.compute_size())).clamp(1, pixels);
    let columns = be.pool.take(band * k * be.compute_size())?;
    let sums = be.pool.take(band * padded(cols) * 4)?;
    let windows = Windows::new(map, shape, k)?;
    be.note("conv2d", "cublaslt");
    let right = be.present(weight)?;
    for first in (0..pixels).step_by(band) {
        let rows = band.min(pixels - first);
        windows.write(be, first..first + rows, columns.address())?;
        let shape = Shape {
            quantized: None,
            items: 1,
            rows,
            cols,
            k,
            strides: [k, k, padded(cols)],
            right: Right::OutIn,
            out: DType::F32,
            accumulate: false,
        };
        let operands = [columns.address(), right.address(), sums.address()];
        // SAFETY: `columns` and `sums` hold a band, and rows of the weight are `k` long.
        unsafe { be.cublaslt.run(&be.device, shape, operands)? };
        let to = y.address() + (first * cols * y.dtype().bytes(1)) as u64;
        let wide = cols.is_multiple_of(4) && y.is_wide(4) && bias.is_wide(4);
        let name = match (y.dtype() == DType::F32, wide) {
            (true, false) => "conv_epilogue_f32",
            (true, true) => "conv_epilogue_f32_wide",
            (false, false) => "conv_epilogue_compute",
            (false, true) => "conv_epilogue_compute_wide",
        };
        let n = rows * cols;
        let geometry = Geometry::each(if wide { n / 4 } else { n });
        let (sums, residual) = (sums.address(), if accumulate { to } else { 0 });
        // SAFETY: `sums` holds a band, `y` all pixels, the bias a value for each channel.
        unsafe { launch!(be, IM2COL, name, geometry, [n, int(cols), sums, padded(cols), bias, residual, to])? };
    }
    Ok(())
}

/// The windows of a convolution over a map, as rows of `k` values.
struct Windows<'a> {
    map: &'a Tensor<CudaBackend>,
    /// Height, width and channels of the map.
    size: [usize; 3],
    shape: ConvShape,
    /// Values of a row, zeros behind those of the window.
    k: usize,
}

impl<'a> Windows<'a> {
    fn new(map: &'a Tensor<CudaBackend>, shape: ConvShape, k: usize) -> Result<Self> {
        Ok(Windows { map, size: map.dims("conv2d: x")?, shape, k })
    }

    /// Writes the windows of output pixels `pixels` to address `to`.
    fn write(&self, be: &CudaBackend, pixels: std::ops::Range<usize>, to: u64) -> Result<()> {
        let Windows { map, size: [h, w, c], shape, k } = *self;
        let Walk { stride, up, before } = Walk::of(shape);
        let wide = c.is_multiple_of(8) && map.is_wide(8);
        let name = if wide { "im2col_wide" } else { "im2col" };
        let n = pixels.len() * k;
        let geometry = Geometry::each(if wide { n / 8 } else { n });
        let (first, kernel, out_w) = (pixels.start, int(shape.kernel()), int(shape.output(w)));
        let (k, [h, w, c]) = (int(k), [h, w, c].map(int));
        // SAFETY: there is room for as many rows, and the kernel reads pixels of `map` only.
        unsafe {
            launch!(
                be,
                IM2COL,
                name,
                geometry,
                [n, k, first, kernel, stride, up, before, h, w, c, out_w, map, map.row_stride(), to]
            )
        }
    }
}

/// How a convolution walks over its map.
struct Walk {
    /// Pixels from one window to the next.
    stride: i32,
    /// 2 if every pixel is read twice in both directions, else 1.
    up: i32,
    /// Zeros above and on the left.
    before: i32,
}

impl Walk {
    fn of(shape: ConvShape) -> Self {
        match shape {
            ConvShape::Pointwise => Walk { stride: 1, up: 1, before: 0 },
            ConvShape::Same => Walk { stride: 1, up: 1, before: 1 },
            ConvShape::Downsample => Walk { stride: 2, up: 1, before: 0 },
            ConvShape::Upsample => Walk { stride: 1, up: 2, before: 1 },
        }
    }
}
