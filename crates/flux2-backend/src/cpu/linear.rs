//! `linear`: the blocked product over one or more parts that stand side by side.

use std::ops::Range;

use super::CpuBackend;
use super::gemm::{BLOCK_GROUPS, Block, Output, Product, left_operand, row_pointer};
use super::simd::{MicroKernel, RowPointers, with_element};
use crate::{DType, HostTensor, Result, Tensor};

pub(super) fn linear(
    be: &CpuBackend,
    parts: &[&Tensor<CpuBackend>],
    weight: &HostTensor,
    bias: Option<&Tensor<CpuBackend>>,
    out: DType,
) -> Result<Tensor<CpuBackend>> {
    let kernel = MicroKernel::select(be.tier, be.compute);
    let operands = parts.iter().map(|x| left_operand(be, kernel, x)).collect::<Result<Vec<_>>>()?;
    let mut blocks = Vec::new();
    let mut part_column = 0;
    for (part, x) in parts.iter().enumerate() {
        let groups = x.cols().div_ceil(kernel.group());
        for from in (0..groups).step_by(BLOCK_GROUPS) {
            let length = BLOCK_GROUPS.min(groups - from);
            let column = from * kernel.group();
            let columns = (length * kernel.group()).min(x.cols() - column);
            let first_column = part_column + column;
            blocks.push(Block { part, from, segments: 1, groups: length, first_column, columns });
        }
        part_column += x.cols();
    }
    let product = Product { rows: parts[0].rows(), weight, blocks };
    let bias = bias.map(|b| b.elements::<f32>());

    let mut shape = parts[0].shape().to_vec();
    let cols = weight.shape()[0];
    *shape.last_mut().expect("a tensor has at least one axis") = cols;
    with_element!(out, T => be.build::<T>(&shape, |out| {
        let out = Output::new(out, cols);
        let pointers = |block: &Block, row: usize, lane: usize, table: &mut [RowPointers]| {
            table[0][lane] = row_pointer(&operands[block.part], row).wrapping_add(block.from);
        };
        // SAFETY: the result is written in disjoint pieces.
        let emit = |row, columns: Range<usize>, values: &[f32]| unsafe {
            out.store(be.tier, row, columns.start, values, bias);
        };
        // SAFETY: `left_operand` made rows of whole groups, and no block reaches beyond its part's row.
        unsafe { product.run(be, kernel, pointers, emit) }
    }))
}
