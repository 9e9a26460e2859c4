//! The blocked matrix product behind `linear` and `conv2d`: `c[m, n] = a[m, k] * b[n, k]^T`, sums in f32.
//!
//! The left operand is never copied. The micro-kernel reads it through one pointer per row of its tile, so a row may be
//! a strided window, several parts side by side, or the shifted pixels of a convolution.
//!
//! The right operand is the weight. It is decoded from its stored dtype and packed into panels that stay in the cache
//! while the rows of a task stream past. int8 weights were packed when they were loaded.
//!
//! A task is a block of rows times a few panels of the result. Tasks are independent, so there is no barrier and sums
//! do not depend on scheduling.
//!
//! Epilogues (bias, residual, activation) run on a finished piece of the result while it is in the cache: see `emit` in
//! [`Product::run`]. With `N` weights, a task computes the same columns of all of them, so that an epilogue can combine
//! them, as SwiGLU does.

use std::ops::Range;
use std::sync::Mutex;

use half::bf16;

use super::int8::{Int8Matrix, QuantizedRows};
use super::simd::{self, Element, MicroKernel, Operand, RowPointers, Tier, vectorize, with_element};
use super::{Buffer, CpuBackend};
use crate::{HostTensor, Result, Tensor};

/// Rows of the result per task: enough that packing the weights is a few percent of the work.
const TASK_ROWS: usize = 1536;
/// Rows per task for int8 weights, which need no packing: few enough that the sums of a task stay in the L2 cache.
const TASK_ROWS_INT8: usize = 768;
/// Most bytes of packed weights per task: they stay in the L2 cache beside the rows that stream past.
const PACKED_BYTES: usize = 448 * 1024;
/// Most panels per task.
const TASK_PANELS: usize = 4;
/// Groups of the summed axis that are packed at a time in a plain product.
pub(super) const BLOCK_GROUPS: usize = 1024;

/// A block of the summed axis (k): `segments` segments of `groups` groups each. In the left operand a segment is found
/// by one pointer per row; in the weight it is `columns` consecutive columns.
///
/// A plain product has blocks of one segment and up to [`BLOCK_GROUPS`] groups. A convolution has a single block with
/// one segment per tap, and a segment is the channels of a pixel.
pub(super) struct Block {
    /// Index of the part of the left operand (parts are tensors side by side), for the pointer function.
    pub part: usize,
    /// First group within the part, for the pointer function.
    pub from: usize,
    /// Number of segments; each has one pointer per row.
    pub segments: usize,
    /// Groups per segment.
    pub groups: usize,
    /// First column of the weight.
    pub first_column: usize,
    /// Columns of the weight per segment. They fill `groups` groups; the last group may be padded with zeros.
    pub columns: usize,
}

/// A product of one left operand with `N` weights.
pub(super) struct Product<'a, const N: usize> {
    /// Rows of the result.
    pub rows: usize,
    /// The right operands, each `[n, k]`.
    pub weights: Weights<'a, N>,
    /// The summed axis.
    pub blocks: Vec<Block>,
}

/// The right operands of a product.
pub(super) enum Weights<'a, const N: usize> {
    /// In their stored dtype: packed block by block during the product.
    Stored([&'a HostTensor; N]),
    /// Quantized and packed, with the quantized left operand.
    Int8([&'a Int8Matrix; N], &'a QuantizedRows),
}

impl<const N: usize> Weights<'_, N> {
    /// Rows of each weight, which are columns of the result.
    fn rows(&self) -> usize {
        match self {
            Weights::Stored(weights) => weights[0].shape()[0],
            Weights::Int8(weights, _) => weights[0].shape()[0],
        }
    }
}

impl<const N: usize> Product<'_, N> {
    /// Computes the product. `pointers(block, row, lane, table)` sets `table[s][lane]` to the address of segment `s` of
    /// `block` in `row` of the left operand. `emit(row, columns, values)` is the epilogue: it receives each piece of
    /// the `N` results once.
    ///
    /// # Safety
    /// Every pointer set by `pointers` is readable for `block.groups` groups of `kernel`'s dtype.
    pub(super) unsafe fn run(
        &self,
        be: &CpuBackend,
        kernel: MicroKernel,
        pointers: impl Fn(&Block, usize, usize, &mut [RowPointers]) + Sync,
        emit: impl Fn(usize, Range<usize>, [&[f32]; N]) + Sync,
    ) -> Result<()> {
        let n = self.weights.rows();
        let panel_groups = self.blocks.iter().map(|b| b.segments * b.groups).max().unwrap_or(0);
        let panels = n.div_ceil(kernel.cols);
        let fit = (PACKED_BYTES / (4 * kernel.cols * panel_groups).max(1)).clamp(1, TASK_PANELS);
        let task_panels = (fit / N).clamp(1, panels); // of each weight
        let most_rows = if matches!(self.weights, Weights::Stored(_)) { TASK_ROWS } else { TASK_ROWS_INT8 };
        // Equal tasks, so that threads finish together.
        let task_rows = self.rows.div_ceil(self.rows.div_ceil(most_rows).max(1)).next_multiple_of(kernel.rows).max(1);
        let width = task_panels * kernel.cols;
        let stride = N * width;
        let segments = self.blocks.iter().map(|b| b.segments).max().unwrap_or(0);

        let packed_len = if matches!(self.weights, Weights::Stored(_)) { panel_groups * stride } else { 0 };
        let sums_len = task_rows.next_multiple_of(kernel.rows) * stride;
        let scratch = Scratch::new(be, 4 * (packed_len + sums_len))?;

        let row_tasks = self.rows.div_ceil(task_rows);
        let column_tasks = panels.div_ceil(task_panels);
        let state = || (scratch.take(), vec![[std::ptr::null(); simd::MAX_TILE_ROWS]; segments], Staging::default());
        be.threads.run(row_tasks * column_tasks, state, |(buffer, table, staging), task| {
            let rows = task % row_tasks * task_rows..(task % row_tasks * task_rows + task_rows).min(self.rows);
            let first_panel = task / row_tasks * task_panels;
            let columns = first_panel * kernel.cols..((first_panel + task_panels) * kernel.cols).min(n);
            let used = columns.len().div_ceil(kernel.cols);
            let (packed, sums) = buffer.as_mut_slice::<u32>(packed_len + sums_len).split_at_mut(packed_len);
            let sums: &mut [f32] = bytemuck::cast_slice_mut(sums);
            for (index, block) in self.blocks.iter().enumerate() {
                let panel_len = block.segments * block.groups * kernel.cols;
                if let Weights::Stored(weights) = &self.weights {
                    for (i, panel) in packed.chunks_exact_mut(panel_len).take(N * used).enumerate() {
                        let from = columns.start + i % used * kernel.cols;
                        let weight_rows = from..(from + kernel.cols).min(n);
                        let kernel = kernel.for_columns(weight_rows.len());
                        let panel = &mut panel[..block.segments * block.groups * kernel.cols];
                        pack_weight(be.tier, kernel, weights[i / used], weight_rows, block, staging, panel);
                    }
                }
                let panels: [[&[u32]; TASK_PANELS]; N] = std::array::from_fn(|w| {
                    std::array::from_fn(|p| match &self.weights {
                        _ if p >= used => &[][..],
                        Weights::Stored(_) => &packed[(w * used + p) * panel_len..][..panel_len],
                        Weights::Int8(weights, _) => {
                            weights[w].panel(first_panel + p, block.from..block.from + block.groups, kernel.cols)
                        }
                    })
                });
                for row in rows.clone().step_by(kernel.rows) {
                    // Lanes beyond the last row repeat it; their results are not emitted.
                    for lane in 0..kernel.rows {
                        pointers(block, (row + lane).min(self.rows - 1), lane, &mut table[..block.segments]);
                    }
                    for (w, panels) in panels.iter().enumerate() {
                        for (p, panel) in panels[..used].iter().enumerate() {
                            let tile = &mut sums[(row - rows.start) * stride + w * width + p * kernel.cols..];
                            let kernel = kernel.for_columns(columns.len() - p * kernel.cols);
                            let table = &table[..block.segments];
                            // SAFETY: the caller guarantees the pointers; a packed panel holds `segments * groups`
                            // groups of `cols`; `sums` has `kernel.rows` rows from here, `stride` apart.
                            unsafe {
                                kernel.run(table, block.groups, panel.as_ptr(), tile.as_mut_ptr(), stride, index > 0);
                            }
                        }
                    }
                }
            }
            for row in rows.clone() {
                let sums = &mut sums[(row - rows.start) * stride..][..stride];
                if let Weights::Int8(weights, left) = &self.weights {
                    for (weight, sums) in weights.iter().zip(sums.chunks_exact_mut(width)) {
                        weight.dequantize(be.tier, columns.clone(), left.range(row), &mut sums[..columns.len()]);
                    }
                }
                let sums = &*sums;
                emit(row, columns.clone(), std::array::from_fn(|w| &sums[w * width..][..columns.len()]));
            }
        });
        Ok(())
    }
}

/// One scratch buffer per thread, allocated before the threads start so that running out of memory is an error.
pub(super) struct Scratch(Mutex<Vec<Buffer>>);

impl Scratch {
    pub(super) fn new(be: &CpuBackend, bytes: usize) -> Result<Self> {
        let buffers = (0..be.threads.count()).map(|_| be.buffers.take(bytes)).collect::<Result<Vec<_>>>()?;
        Ok(Scratch(Mutex::new(buffers)))
    }

    pub(super) fn take(&self) -> Buffer {
        self.0.lock().expect("no panic while the lock is held").pop().expect("one buffer for each thread")
    }
}

/// Groups decoded at a time if the stored dtype differs from the kernel's.
const STAGED_GROUPS: usize = 128;

/// Scratch for converting weights from their stored dtype to the kernel's.
#[derive(Default)]
pub(super) struct Staging {
    pub values: Vec<f32>,
    groups: Vec<u32>,
}

/// Packs `rows` of the weight, at most `kernel.cols`, for all segments of `block`.
fn pack_weight(
    tier: Tier,
    kernel: MicroKernel,
    weight: &HostTensor,
    rows: Range<usize>,
    block: &Block,
    staging: &mut Staging,
    panel: &mut [u32],
) {
    let direct = weight.dtype() == kernel.dtype() && weight.scales().is_none();
    let row_bytes = weight.dtype().bytes(weight.shape()[1]);
    for (segment, panel) in panel.chunks_exact_mut(block.groups * kernel.cols).enumerate() {
        let column = block.first_column + segment * block.columns;
        if direct && block.columns.is_multiple_of(kernel.group()) {
            let offset = weight.dtype().bytes(column);
            let bytes = weight.bytes();
            let row = |r| bytes[(rows.start + r) * row_bytes + offset..][..4 * block.groups].as_ptr().cast();
            // SAFETY: the slice is as long as the panel's groups.
            unsafe { pack_rows(tier, kernel, panel, rows.len(), row) };
            continue;
        }
        for from in (0..block.groups).step_by(STAGED_GROUPS) {
            let groups = STAGED_GROUPS.min(block.groups - from);
            let values = (groups * kernel.group()).min(block.columns - from * kernel.group());
            staging.values.resize(values, 0.0);
            staging.groups.clear();
            for row in rows.clone() {
                let first = column + from * kernel.group();
                stage(tier, kernel, weight, row, first, &mut staging.values, &mut staging.groups);
            }
            let panel = &mut panel[from * kernel.cols..][..groups * kernel.cols];
            // SAFETY: each slice is as long as the panel's groups.
            unsafe { pack_rows(tier, kernel, panel, rows.len(), |r| staging.groups[r * groups..][..groups].as_ptr()) };
        }
    }
}

vectorize! {
    /// Decodes `values.len()` values of a row and appends them as groups.
    fn stage(
        kernel: MicroKernel,
        weight: &HostTensor,
        row: usize,
        first: usize,
        values: &mut [f32],
        groups: &mut Vec<u32>,
    ) {
        weight.decode_row(row, first, values);
        group_values(kernel, values, groups);
    }
}

/// Appends `values` as groups of `kernel`; the last group is padded with zeros.
#[inline(always)]
fn group_values(kernel: MicroKernel, values: &[f32], out: &mut Vec<u32>) {
    if kernel.operand == Operand::F32 {
        return out.extend(values.iter().map(|v| v.to_bits()));
    }
    let bits = |v: f32| u32::from(<bf16 as Element>::from_f32(v).to_bits());
    let pairs = values.chunks_exact(2);
    let last = pairs.remainder().first().map(|v| bits(*v));
    out.extend(pairs.map(|p| bits(p[0]) | bits(p[1]) << 16));
    out.extend(last);
}

/// Interleaves `rows` rows of groups into a panel, `kernel.cols` columns per group; columns beyond `rows` become zero.
///
/// # Safety
/// `row(r)` points to as many readable groups as `panel` holds for each column.
pub(super) unsafe fn pack_rows(
    tier: Tier,
    kernel: MicroKernel,
    panel: &mut [u32],
    rows: usize,
    row: impl Fn(usize) -> *const u32,
) {
    let groups = panel.len() / kernel.cols;
    if rows < kernel.cols {
        panel.fill(0);
    }
    let mut r = 0;
    while r + 8 <= rows {
        let pointers = std::array::from_fn(|i| row(r + i));
        // SAFETY: the caller's rows hold `groups` groups; `panel` has `groups` rows of `cols >= r + 8` groups.
        unsafe { simd::interleave_8(tier, pointers, groups, panel[r..].as_mut_ptr(), kernel.cols) };
        r += 8;
    }
    for r in r..rows {
        let pointer = row(r);
        for (group, out) in panel[r..].iter_mut().step_by(kernel.cols).enumerate() {
            // SAFETY: the caller's rows hold `groups` groups; rows of a mapped file may be unaligned.
            *out = unsafe { pointer.add(group).read_unaligned() };
        }
    }
}

/// A result that tasks write in parallel, in disjoint pieces.
pub(super) struct Output<T> {
    start: *mut T,
    rows: usize,
    cols: usize,
}

// SAFETY: tasks write disjoint pieces, see `Output::piece`.
unsafe impl<T: Send> Sync for Output<T> {}

impl<T> Output<T> {
    /// `out` holds contiguous rows of `cols` elements.
    pub(super) fn new(out: &mut [T], cols: usize) -> Self {
        Output { start: out.as_mut_ptr(), rows: out.len() / cols.max(1), cols }
    }

    /// Columns `columns` of row `row`.
    ///
    /// # Safety
    /// No two threads may hold the same element, and the slice this was made from must outlive the result.
    #[allow(clippy::mut_from_ref)] // the caller guarantees disjoint pieces
    pub(super) unsafe fn piece(&self, row: usize, columns: Range<usize>) -> &mut [T] {
        assert!(row < self.rows && columns.end <= self.cols);
        // SAFETY: within the slice this was made from, as asserted; disjoint from all others, as the caller guarantees.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(row * self.cols + columns.start), columns.len()) }
    }
}

vectorize! {
    /// Converts a row to another dtype.
    pub(super) fn convert<S: Element, T: Element>(from: &[S], to: &mut [T]) {
        for (to, from) in to.iter_mut().zip(from) {
            *to = T::from_f32(from.to_f32());
        }
    }
}

vectorize! {
    /// Adds a bias to a row of sums and converts it.
    pub(super) fn convert_sum<T: Element>(from: &[f32], bias: &[f32], to: &mut [T]) {
        for ((to, from), bias) in to.iter_mut().zip(from).zip(bias) {
            *to = T::from_f32(from + bias);
        }
    }
}

/// `x` in the kernel's dtype, rows padded to whole groups. Shares `x` if it is so already; copies it if the tier has no
/// bf16 products or rows of bf16 have an odd length.
pub(super) fn left_operand(be: &CpuBackend, kernel: MicroKernel, x: &Tensor<CpuBackend>) -> Result<Tensor<CpuBackend>> {
    let cols = x.cols();
    if x.dtype() == kernel.dtype() && cols.is_multiple_of(kernel.group()) {
        return Ok(x.clone());
    }
    let mut shape = x.shape().to_vec();
    *shape.last_mut().expect("a tensor has at least one axis") = cols.next_multiple_of(kernel.group());
    with_element!(x.dtype(), S => with_element!(kernel.dtype(), T => be.build_rows(&shape, |i, out: &mut [T]| {
        convert(be.tier, x.row::<S>(i), &mut out[..cols]);
        out[cols..].fill(T::from_f32(0.0));
    })))
}

/// Address of row `i` of a left operand.
pub(super) fn row_pointer(x: &Tensor<CpuBackend>, i: usize) -> *const u32 {
    with_element!(x.dtype(), T => x.row::<T>(i).as_ptr().cast())
}
