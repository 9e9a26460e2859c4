//! `linear`: the blocked product of one or more parts side by side. Epilogues differ: [`linear()`] adds the bias and
//! stores the result, `linear_add.rs` adds it to a residual stream, `linear_swiglu.rs` combines two results.

use std::ops::Range;

use super::gemm::{BLOCK_GROUPS, Block, Output, Product, Weights, convert, convert_sum, left_operand, row_pointer};
use super::int8::QuantizedRows;
use super::matrix::StoredMatrix;
use super::simd::{MicroKernel, RowPointers, with_element};
use super::{CpuBackend, Matrix};
use crate::{DType, Result, Tensor};

pub(super) fn linear(
    be: &CpuBackend,
    x: &Tensor<CpuBackend>,
    weight: &Matrix,
    bias: Option<&Tensor<CpuBackend>>,
    out: DType,
) -> Result<Tensor<CpuBackend>> {
    let mut shape = x.shape().to_vec();
    let cols = weight.shape()[0];
    *shape.last_mut().expect("a tensor has at least one axis") = cols;
    let bias = bias.map(|b| b.elements::<f32>());
    with_element!(out, T => be.build::<T>(&shape, |out| {
        let out = Output::new(out, cols);
        product(be, &[x], [weight], |row, columns, [values]| {
            // SAFETY: `product` emits disjoint pieces.
            let out = unsafe { out.piece(row, columns.clone()) };
            match bias {
                Some(bias) => convert_sum(be.tier, values, &bias[columns], out),
                None => convert(be.tier, values, out),
            }
        })
    }))
}

/// Multiplies `parts`, taken side by side, with each of `weights`. `emit(row, columns, values)` receives disjoint
/// pieces of the results.
pub(super) fn product<const N: usize>(
    be: &CpuBackend,
    parts: &[&Tensor<CpuBackend>],
    weights: [&Matrix; N],
    emit: impl Fn(usize, Range<usize>, [&[f32]; N]) + Sync,
) -> Result<()> {
    let rows = parts[0].rows();
    if let Some(weights) = Matrix::all_int8(weights) {
        let left = QuantizedRows::new(be, parts)?;
        let kernel = MicroKernel::select_int8(be.tier);
        weights.iter().for_each(|_| be.log.note("linear", Some(DType::I8), kernel.name));
        let blocks = blocks(kernel, [weights[0].shape()[1]]);
        let product = Product { rows, weights: Weights::Int8(weights, &left), blocks };
        let pointers = |block: &Block, row: usize, lane: usize, table: &mut [RowPointers]| {
            table[0][lane] = left.pointer(row).wrapping_add(block.from);
        };
        // SAFETY: quantized rows are as long as the weight's, and no block reaches beyond.
        return unsafe { product.run(be, kernel, pointers, emit) };
    }
    let stored = Matrix::all_stored(weights).expect("weights of one product are in one format");
    let kernel = MicroKernel::select(be.tier, be.compute);
    stored.iter().for_each(|weight| be.log.note("linear", Some(weight.peek().dtype()), kernel.name));
    let operands = parts.iter().map(|x| left_operand(be, kernel, x)).collect::<Result<Vec<_>>>()?;
    let blocks = blocks(kernel, parts.iter().map(|x| x.cols()));
    let product = Product { rows, weights: Weights::Stored(stored.map(StoredMatrix::read)), blocks };
    let pointers = |block: &Block, row: usize, lane: usize, table: &mut [RowPointers]| {
        table[0][lane] = row_pointer(&operands[block.part], row).wrapping_add(block.from);
    };
    // SAFETY: rows from `left_operand` are whole groups, and no block reaches beyond its part's row.
    unsafe { product.run(be, kernel, pointers, emit)? };
    stored.iter().for_each(|weight| weight.done());
    Ok(())
}

/// Divides the summed axis of parts with `widths` columns into blocks of at most [`BLOCK_GROUPS`] groups.
fn blocks(kernel: MicroKernel, widths: impl IntoIterator<Item = usize>) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut part_column = 0;
    for (part, width) in widths.into_iter().enumerate() {
        let groups = width.div_ceil(kernel.group());
        for from in (0..groups).step_by(BLOCK_GROUPS) {
            let length = BLOCK_GROUPS.min(groups - from);
            let column = from * kernel.group();
            let columns = (length * kernel.group()).min(width - column);
            let first_column = part_column + column;
            blocks.push(Block { part, from, segments: 1, groups: length, first_column, columns });
        }
        part_column += width;
    }
    blocks
}
