//! The blocked product behind `linear` and `conv2d`: `c[m, n] = a[m, k] * b[n, k]^T`, sums in f32.
//!
//! The left operand is never copied: a micro-kernel reads it through one pointer for each row of its tile, so rows may
//! be strided windows, parts that stand side by side, or the shifted pixels of a convolution. The right operand, the
//! weights, is packed panel by panel straight from the checkpoint's bytes, whatever their dtype, into a buffer that
//! stays in the cache while all rows pass by. Tasks are (rows, panels) of the result and meet nowhere, so there is no
//! barrier, and the sums do not depend on who runs them.

use std::ops::Range;
use std::sync::Mutex;

use half::bf16;

use super::simd::{self, Element, MicroKernel, RowPointers, Tier, vectorised, with_element};
use super::{Buffer, CpuBackend};
use crate::{HostTensor, Result, Tensor};

/// Rows of the result in one task: long enough that packing the weights is a few percent of the work.
const TASK_ROWS: usize = 1536;
/// Packed weights of one task, at most: what stays in a second-level cache beside the rows passing by.
const PACKED_BYTES: usize = 448 * 1024;
/// Panels of one task, at most.
const TASK_PANELS: usize = 4;
/// Groups of the summed axis that are packed at a time in a plain product.
pub(super) const BLOCK_GROUPS: usize = 1024;

/// A piece of the summed axis: `segments` runs of `groups` groups, found in the left operand through pointers and in
/// the weight as `columns` consecutive columns for each segment.
///
/// A plain product has one block for every [`BLOCK_GROUPS`] groups of each of its parts, of one segment. A convolution has
/// one block of nine segments, the taps, each a pixel's channels.
pub(super) struct Block {
    /// Which part of the left operand, and the first group in it: for the pointer function.
    pub part: usize,
    /// See `part`.
    pub from: usize,
    /// Runs, one pointer a row each.
    pub segments: usize,
    /// Length of a run.
    pub groups: usize,
    /// First column of the weight.
    pub first_column: usize,
    /// Columns of the weight in each run; `groups` groups hold them, the last perhaps half empty.
    pub columns: usize,
}

/// What to multiply.
pub(super) struct Product<'a> {
    /// Rows of the result.
    pub rows: usize,
    /// `[n, k]`.
    pub weight: &'a HostTensor,
    /// The summed axis in pieces.
    pub blocks: Vec<Block>,
}

impl Product<'_> {
    /// Compute the product. `pointers(block, row, lane, table)` sets `table[s][lane]` to where `row` of the left operand
    /// has segment `s` of `block`; `emit(row, columns, values)` takes a finished piece of the result.
    ///
    /// # Safety
    /// Every pointer set by `pointers` is readable for `block.groups` groups of `kernel`'s dtype.
    pub(super) unsafe fn run(
        &self,
        be: &CpuBackend,
        kernel: MicroKernel,
        pointers: impl Fn(&Block, usize, usize, &mut [RowPointers]) + Sync,
        emit: impl Fn(usize, Range<usize>, &[f32]) + Sync,
    ) -> Result<()> {
        let n = self.weight.shape()[0];
        let panel_groups = self.blocks.iter().map(|b| b.segments * b.groups).max().unwrap_or(0);
        let panels = n.div_ceil(kernel.cols);
        let task_panels = (PACKED_BYTES / (4 * kernel.cols * panel_groups).max(1)).clamp(1, TASK_PANELS).min(panels);
        let task_rows = TASK_ROWS.min(self.rows.next_multiple_of(kernel.rows)).max(1);
        let width = task_panels * kernel.cols;
        let segments = self.blocks.iter().map(|b| b.segments).max().unwrap_or(0);

        let packed_len = panel_groups * width;
        let sums_len = task_rows.next_multiple_of(kernel.rows) * width;
        let scratch = Scratch::new(be, 4 * (packed_len + sums_len))?;

        let row_tasks = self.rows.div_ceil(task_rows);
        let column_tasks = panels.div_ceil(task_panels);
        let state = || (scratch.take(), vec![[std::ptr::null(); simd::MAX_TILE_ROWS]; segments], Staging::default());
        be.threads.run(row_tasks * column_tasks, state, |(buffer, table, staging), task| {
            let rows = task % row_tasks * task_rows..(task % row_tasks * task_rows + task_rows).min(self.rows);
            let first = task / row_tasks * width;
            let columns = first..(first + width).min(n);
            let (packed, sums) = buffer.as_mut_slice::<u32>(packed_len + sums_len).split_at_mut(packed_len);
            let sums: &mut [f32] = bytemuck::cast_slice_mut(sums);
            for (index, block) in self.blocks.iter().enumerate() {
                let used = columns.len().div_ceil(kernel.cols);
                let panel_len = block.segments * block.groups * kernel.cols;
                for (p, panel) in packed.chunks_exact_mut(panel_len).take(used).enumerate() {
                    let from = columns.start + p * kernel.cols;
                    let weight_rows = from..(from + kernel.cols).min(n);
                    pack_weight(be.tier, kernel, self.weight, weight_rows, block, staging, panel);
                }
                for row in rows.clone().step_by(kernel.rows) {
                    // Lanes beyond the last row repeat it; what they give is not emitted.
                    for lane in 0..kernel.rows {
                        pointers(block, (row + lane).min(self.rows - 1), lane, &mut table[..block.segments]);
                    }
                    for p in 0..used {
                        let tile = &mut sums[(row - rows.start) * width + p * kernel.cols..];
                        // SAFETY: the caller vouches for the pointers; a packed panel holds `segments * groups`
                        // groups of `cols`; `sums` has `kernel.rows` rows from here, `width` apart.
                        unsafe {
                            kernel.run(
                                &table[..block.segments],
                                block.groups,
                                packed[p * panel_len..][..panel_len].as_ptr(),
                                tile.as_mut_ptr(),
                                width,
                                index > 0,
                            );
                        }
                    }
                }
            }
            for row in rows.clone() {
                emit(row, columns.clone(), &sums[(row - rows.start) * width..][..columns.len()]);
            }
        });
        Ok(())
    }
}

/// One buffer for each thread, taken from the pool before the threads start so that running out is an error.
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

/// Groups that are decoded at a time when the stored dtype is not the kernel's.
const STAGED_GROUPS: usize = 128;

/// Values on their way from the stored dtype to the kernel's.
#[derive(Default)]
struct Staging {
    values: Vec<f32>,
    groups: Vec<u32>,
}

/// Pack `rows` of the weight, at most `kernel.cols`, for all segments of `block`.
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
    let row_bytes = weight.shape()[1] * weight.dtype().size();
    for (segment, panel) in panel.chunks_exact_mut(block.groups * kernel.cols).enumerate() {
        let column = block.first_column + segment * block.columns;
        if direct && block.columns.is_multiple_of(kernel.group()) {
            let offset = column * weight.dtype().size();
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
                weight.decode_row(row, column + from * kernel.group(), &mut staging.values);
                group_values(kernel, &staging.values, &mut staging.groups);
            }
            let panel = &mut panel[from * kernel.cols..][..groups * kernel.cols];
            // SAFETY: as long as the panel's groups, sliced so.
            unsafe { pack_rows(tier, kernel, panel, rows.len(), |r| staging.groups[r * groups..][..groups].as_ptr()) };
        }
    }
}

/// Append `values` as groups of `kernel`, the last one filled up with zero.
fn group_values(kernel: MicroKernel, values: &[f32], out: &mut Vec<u32>) {
    if !kernel.pairs {
        return out.extend(values.iter().map(|v| v.to_bits()));
    }
    let bits = |v: f32| u32::from(<bf16 as Element>::from_f32(v).to_bits());
    let pairs = values.chunks_exact(2);
    let last = pairs.remainder().first().map(|v| bits(*v));
    out.extend(pairs.map(|p| bits(p[0]) | bits(p[1]) << 16));
    out.extend(last);
}

/// Write `rows` rows of groups side by side, `kernel.cols` to a group; columns beyond them become zero.
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
            // SAFETY: the caller's rows hold `groups` groups; rows of a file may be unaligned.
            *out = unsafe { pointer.add(group).read_unaligned() };
        }
    }
}

/// A result that tasks write to in pieces that do not overlap.
pub(super) struct Output<T> {
    start: *mut T,
    rows: usize,
    cols: usize,
}

// SAFETY: tasks write disjoint pieces, see `Output::store`.
unsafe impl<T: Send> Sync for Output<T> {}

impl<T: Element> Output<T> {
    /// `out` is contiguous rows of `cols`.
    pub(super) fn new(out: &mut [T], cols: usize) -> Self {
        Output { start: out.as_mut_ptr(), rows: out.len() / cols.max(1), cols }
    }

    /// Write `values`, plus `bias` if there is one, from `column` of `row` on.
    ///
    /// # Safety
    /// No two threads may store to the same element, and the slice this was made from must outlive the call.
    pub(super) unsafe fn store(&self, tier: Tier, row: usize, column: usize, values: &[f32], bias: Option<&[f32]>) {
        assert!(row < self.rows && column + values.len() <= self.cols);
        // SAFETY: within the slice this was made from, as asserted; nobody else writes here, as the caller promises.
        let out = unsafe { std::slice::from_raw_parts_mut(self.start.add(row * self.cols + column), values.len()) };
        match bias {
            Some(bias) => round_sum(tier, values, &bias[column..column + values.len()], out),
            None => round(tier, values, out),
        }
    }
}

vectorised! {
    fn round<T: Element>(values: &[f32], out: &mut [T]) {
        for (out, value) in out.iter_mut().zip(values) {
            *out = T::from_f32(*value);
        }
    }
}

vectorised! {
    fn round_sum<T: Element>(values: &[f32], bias: &[f32], out: &mut [T]) {
        for ((out, value), bias) in out.iter_mut().zip(values).zip(bias) {
            *out = T::from_f32(value + bias);
        }
    }
}

/// `x` in the kernel's dtype with rows of whole groups: itself, or a converted copy where an instruction set has no
/// bf16 products or a row has an odd number of values.
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

vectorised! {
    /// Change the dtype of a row.
    pub(super) fn convert<S: Element, T: Element>(from: &[S], to: &mut [T]) {
        for (to, from) in to.iter_mut().zip(from) {
            *to = T::from_f32(from.to_f32());
        }
    }
}

/// Where row `i` of a left operand starts.
pub(super) fn row_pointer(x: &Tensor<CpuBackend>, i: usize) -> *const u32 {
    with_element!(x.dtype(), T => x.row::<T>(i).as_ptr().cast())
}
