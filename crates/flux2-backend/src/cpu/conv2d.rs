//! `conv2d`: an implicit product. The rows of the left operand are pixels, one pointer for each tap of the kernel; taps
//! outside the map point to zeros. Nothing is copied or unfolded, so memory is the map itself.

use std::ops::Range;

use super::CpuBackend;
use super::gemm::{Block, Output, Product, Weights, convert_sum, left_operand, row_pointer};
use super::simd::{MicroKernel, RowPointers, with_element};
use crate::{ConvShape, DType, HostTensor, Result, Tensor};

pub(super) fn conv2d(
    be: &CpuBackend,
    x: &Tensor<CpuBackend>,
    weight: &HostTensor,
    bias: &Tensor<CpuBackend>,
    conv: ConvShape,
    out: DType,
) -> Result<Tensor<CpuBackend>> {
    let kernel = MicroKernel::select(be.tier, be.compute);
    let [h, w, channels] = x.dims("conv2d: x")?;
    let [out_h, out_w, out_channels] = [conv.output(h), conv.output(w), weight.shape()[0]];
    let map = left_operand(be, kernel, x)?;
    let groups = channels.div_ceil(kernel.group());
    let zeros = vec![0u32; groups];
    let taps = conv.kernel() * conv.kernel();
    let block = Block { part: 0, from: 0, segments: taps, groups, first_column: 0, columns: channels };
    let product = Product { rows: out_h * out_w, weights: Weights::Stored([weight]), blocks: vec![block] };
    let bias = bias.elements::<f32>();

    let pointers = |_: &Block, pixel: usize, lane: usize, table: &mut [RowPointers]| {
        let (y, x) = (pixel / out_w, pixel % out_w);
        for (tap, pointers) in table.iter_mut().enumerate() {
            let source = source_pixel(conv, [h, w], [y, x], [tap / conv.kernel(), tap % conv.kernel()]);
            pointers[lane] = source.map_or(zeros.as_ptr(), |[y, x]| row_pointer(&map, y * w + x));
        }
    };
    with_element!(out, T => be.build::<T>(&[out_h, out_w, out_channels], |out| {
        let out = Output::new(out, out_channels);
        let emit = |pixel, columns: Range<usize>, [values]: [&[f32]; 1]| {
            // SAFETY: the result is written in disjoint pieces.
            convert_sum(be.tier, values, &bias[columns.clone()], unsafe { out.piece(pixel, columns) });
        };
        // SAFETY: `left_operand` made pixels of whole groups, and so are the zeros.
        unsafe { product.run(be, kernel, pointers, emit) }
    }))
}

/// The input pixel that tap `[row, column]` of the kernel reads for an output pixel, unless it is padding.
fn source_pixel(conv: ConvShape, size: [usize; 2], pixel: [usize; 2], tap: [usize; 2]) -> Option<[usize; 2]> {
    let axis = |i: usize| match conv {
        ConvShape::Pointwise => Some(pixel[i]),
        ConvShape::Same => (pixel[i] + tap[i]).checked_sub(1).filter(|p| *p < size[i]),
        ConvShape::Downsample => Some(2 * pixel[i] + tap[i]).filter(|p| *p < size[i]),
        ConvShape::Upsample => (pixel[i] + tap[i]).checked_sub(1).map(|p| p / 2).filter(|p| *p < size[i]),
    };
    Some([axis(0)?, axis(1)?])
}
