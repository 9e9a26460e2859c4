//! `attention` with an online softmax, as in FlashAttention: scores exist only for a block of queries and keys.
//!
//! Keys and values are packed once for the micro-kernel. A task owns a block of queries of one head. For each block of
//! keys it computes scores, exponentiates them relative to the running maximum, and adds the weighted values. Sums,
//! maxima and weighted values are f32; weights are rounded to bf16 if the tier has bf16 products.

use std::array;

use super::CpuBackend;
use super::gemm::{self, Output, Scratch, left_operand, row_pointer};
use super::simd::{self, Element, MAX_TILE_ROWS, MicroKernel, RowPointers, Tier, vectorize, with_element};
use crate::{AttentionInput, AttentionMask, Result, Tensor};

/// Queries per task.
const QUERIES: usize = 96;
/// Keys per block, a multiple of every micro-kernel's columns.
const KEYS: usize = 480;

pub(super) fn attention(be: &CpuBackend, operands: &AttentionInput<CpuBackend>) -> Result<Tensor<CpuBackend>> {
    let &AttentionInput { q, k, v, head_dim, mask } = operands;
    let kernel = MicroKernel::select_attention(be.tier, be.compute);
    be.log.note("attention", None, kernel.name);
    let (shape, [items, n, cols]) = (q.shape().to_vec(), q.batch_dims("attention: q")?);
    let [q, k, v] = [left_operand(be, kernel, q)?, left_operand(be, kernel, k)?, left_operand(be, kernel, v)?];
    // The result has the compute dtype, as `q` has.
    with_element!(be.compute.dtype(), T => be.build::<T>(&shape, |out| {
        for i in 0..items {
            let [q, k, v] = [q.item(i), k.item(i), v.item(i)];
            let out = &mut out[i * n * cols..][..n * cols];
            with_element!(kernel.dtype(), P => Attention { be, kernel, q, k, v, head_dim, mask }.run::<P, T>(out))?;
        }
        Ok(())
    }))
}

struct Attention<'a> {
    be: &'a CpuBackend,
    kernel: MicroKernel,
    q: Tensor<CpuBackend>,
    k: Tensor<CpuBackend>,
    v: Tensor<CpuBackend>,
    head_dim: usize,
    mask: AttentionMask,
}

impl Attention<'_> {
    /// `P` is the element type of the kernel, `T` that of the result.
    fn run<P: Element, T: Element>(&self, out: &mut [T]) -> Result<()> {
        let Attention { be, kernel, head_dim, .. } = *self;
        let (queries, keys) = (self.q.rows(), self.k.rows());
        let (heads, kv_heads) = (self.q.cols() / head_dim, self.k.cols() / head_dim);
        let key_blocks = keys.div_ceil(KEYS);
        let width = head_dim.next_multiple_of(kernel.cols);
        let layout = Layout { keys_len: KEYS * head_dim / kernel.group(), values_len: KEYS / kernel.group() * width };

        let mut packed = be.buffers.take(4 * kv_heads * key_blocks * layout.len())?;
        let packed = packed.as_mut_slice::<u32>(kv_heads * key_blocks * layout.len());
        be.threads.for_rows(packed, layout.len(), |i, block| {
            let (keys_part, values_part) = block.split_at_mut(layout.keys_len);
            self.pack_keys(i / key_blocks, i % key_blocks, keys_part);
            self.pack_values::<P>(i / key_blocks, i % key_blocks, values_part);
        });
        let packed = &*packed;

        let scratch = Scratch::new(be, 4 * QUERIES * (2 * KEYS + width))?;
        let query_blocks = queries.div_ceil(QUERIES);
        let target = Output::new(out, heads * head_dim);
        be.threads.run(
            heads * query_blocks,
            || scratch.take(),
            |buffer, task| {
                let (head, first) = (task / query_blocks, task % query_blocks * QUERIES);
                let rows = QUERIES.min(queries - first);
                let buffer = buffer.as_mut_slice::<f32>(QUERIES * (2 * KEYS + width));
                let (scores, rest) = buffer.split_at_mut(QUERIES * KEYS);
                let (weights, sums) = rest.split_at_mut(QUERIES * KEYS);
                let weights: &mut [P] = bytemuck::cast_slice_mut(weights);
                let mut state = [Running { max: f32::NEG_INFINITY, total: 0.0 }; QUERIES];

                let kv_head = head / (heads / kv_heads);
                let last = self.visible(first + rows - 1, keys);
                for block in 0..last.div_ceil(KEYS) {
                    let start = block * KEYS;
                    let here = KEYS.min(last - start);
                    let packed = &packed[(kv_head * key_blocks + block) * layout.len()..][..layout.len()];
                    self.scores(head, first..first + rows, &packed[..layout.keys_len], here, scores);
                    for row in 0..rows {
                        let seen = self.visible(first + row, keys).saturating_sub(start).min(here);
                        let scale = softmax_block(
                            be.tier,
                            &scores[row * KEYS..][..seen],
                            std::f32::consts::LOG2_E / (head_dim as f32).sqrt(),
                            &mut weights[row * KEYS..][..KEYS],
                            &mut state[row],
                        );
                        if block > 0 && scale != 1.0 {
                            scale_row(be.tier, &mut sums[row * width..][..width], scale);
                        }
                    }
                    let values = &packed[layout.keys_len..];
                    self.weighted_values(weights, rows, values, here.div_ceil(kernel.group()), sums, block > 0);
                }
                for row in 0..rows {
                    let sums = &mut sums[row * width..][..head_dim];
                    scale_row(be.tier, sums, 1.0 / state[row].total);
                    // SAFETY: each (query, head) belongs to one task.
                    let out = unsafe { target.piece(first + row, head * head_dim..(head + 1) * head_dim) };
                    gemm::convert(be.tier, sums, out);
                }
            },
        );
        Ok(())
    }

    /// Number of leading keys that query `i` attends to.
    fn visible(&self, i: usize, keys: usize) -> usize {
        match self.mask {
            AttentionMask::None => keys,
            AttentionMask::Causal { valid } => valid.min(i + 1),
        }
    }

    /// Packs one block of keys of one head into panels of `kernel.cols` keys.
    fn pack_keys(&self, head: usize, block: usize, out: &mut [u32]) {
        let Attention { be, kernel, head_dim, .. } = *self;
        let groups = head_dim / kernel.group();
        for (p, panel) in out.chunks_exact_mut(groups * kernel.cols).enumerate() {
            let first = block * KEYS + p * kernel.cols;
            let rows = kernel.cols.min(self.k.rows().saturating_sub(first));
            let row = |r| row_pointer(&self.k, first + r).wrapping_add(head * groups);
            // SAFETY: a head of a key has `groups` groups, and so has the panel.
            unsafe { gemm::pack_rows(be.tier, kernel, panel, rows, row) };
        }
    }

    /// Packs one block of values of one head into panels of `kernel.cols` channels, grouped along the keys.
    fn pack_values<P: Element>(&self, head: usize, block: usize, out: &mut [u32]) {
        let Attention { kernel, head_dim, .. } = *self;
        let zero = P::from_f32(0.0);
        for (p, panel) in out.chunks_exact_mut(KEYS / kernel.group() * kernel.cols).enumerate() {
            let channels = p * kernel.cols..head_dim.min((p + 1) * kernel.cols);
            let panel: &mut [P] = bytemuck::cast_slice_mut(panel);
            for (g, group) in panel.chunks_exact_mut(kernel.cols * kernel.group()).enumerate() {
                for lane in 0..kernel.group() {
                    let key = block * KEYS + g * kernel.group() + lane;
                    let column = group[lane..].iter_mut().step_by(kernel.group());
                    if key < self.v.rows() {
                        let row = &self.v.row::<P>(key)[head * head_dim..][channels.clone()];
                        let padded = row.iter().copied().chain(std::iter::repeat(zero));
                        column.zip(padded).for_each(|(out, value)| *out = value);
                    } else {
                        column.for_each(|out| *out = zero);
                    }
                }
            }
        }
    }

    /// Scores, unscaled, of queries `rows` and the first `here` keys of a block; rows are `KEYS` apart.
    fn scores(&self, head: usize, rows: std::ops::Range<usize>, packed: &[u32], here: usize, scores: &mut [f32]) {
        let Attention { kernel, head_dim, .. } = *self;
        let groups = head_dim / kernel.group();
        for row in rows.clone().step_by(kernel.rows) {
            let table: RowPointers =
                array::from_fn(|lane| row_pointer(&self.q, (row + lane).min(rows.end - 1)).wrapping_add(head * groups));
            for p in 0..here.div_ceil(kernel.cols) {
                let panel = &packed[p * groups * kernel.cols..][..groups * kernel.cols];
                let tile = &mut scores[(row - rows.start) * KEYS + p * kernel.cols..];
                // SAFETY: a head of a query is `groups` groups; the panel was packed for as many; `scores` has room for
                // `QUERIES` rows of `KEYS`, of which this tile is a part.
                unsafe { kernel.run(&[table], groups, panel.as_ptr(), tile.as_mut_ptr(), KEYS, false) };
            }
        }
    }

    /// Weights times the values of a block, `groups` groups of keys: added to `sums` if `add`, else stored there.
    fn weighted_values<P: Element>(
        &self,
        weights: &[P],
        rows: usize,
        packed: &[u32],
        groups: usize,
        sums: &mut [f32],
        add: bool,
    ) {
        let Attention { kernel, head_dim, .. } = *self;
        let width = head_dim.next_multiple_of(kernel.cols);
        for row in (0..rows).step_by(kernel.rows) {
            let mut table: RowPointers = [std::ptr::null(); MAX_TILE_ROWS];
            for (lane, pointer) in table.iter_mut().enumerate().take(kernel.rows) {
                *pointer = weights[(row + lane).min(rows - 1) * KEYS..].as_ptr().cast();
            }
            for p in 0..width / kernel.cols {
                let panel = &packed[p * KEYS / kernel.group() * kernel.cols..];
                let tile = &mut sums[row * width + p * kernel.cols..];
                // SAFETY: a row of weights has `KEYS` values, `groups` groups or more; the panel was packed for `KEYS`
                // keys; `sums` has `QUERIES` rows of `width`, of which this tile is a part.
                unsafe { kernel.run(&[table], groups, panel.as_ptr(), tile.as_mut_ptr(), width, add) };
            }
        }
    }
}

/// Lengths, in groups, of the packed keys and values of one block of one head.
struct Layout {
    keys_len: usize,
    values_len: usize,
}

impl Layout {
    fn len(&self) -> usize {
        self.keys_len + self.values_len
    }
}

/// Online softmax state of a query: the running maximum of unscaled scores and the sum of weights relative to it.
#[derive(Clone, Copy)]
struct Running {
    max: f32,
    total: f32,
}

const LANES: usize = 16;

/// Turns a row of scores into weights relative to the new maximum, pads `weights` with zeros, and updates the running
/// state.
/// Returns the factor by which earlier sums must be rescaled.
fn softmax_block<P: Element>(tier: Tier, scores: &[f32], scale: f32, weights: &mut [P], state: &mut Running) -> f32 {
    let max = largest(tier, scores).max(state.max);
    let total = exponentials(tier, scores, scale, max, weights);
    let rescale = simd::exp2_of_nonpositive((state.max - max) * scale);
    *state = Running { max, total: state.total * rescale + total };
    rescale
}

vectorize! {
    fn largest(values: &[f32]) -> f32 {
        let mut lanes = [f32::NEG_INFINITY; LANES];
        let chunks = values.chunks_exact(LANES);
        let tail = chunks.remainder();
        for chunk in chunks {
            for (lane, value) in lanes.iter_mut().zip(chunk) {
                *lane = if *value > *lane { *value } else { *lane };
            }
        }
        lanes.iter().chain(tail).fold(f32::NEG_INFINITY, |a, b| a.max(*b))
    }
}

vectorize! {
    /// Sets `weights[i] = 2^((scores[i] - max) * scale)`, and zero beyond the scores; returns the sum of the weights.
    fn exponentials<P: Element>(scores: &[f32], scale: f32, max: f32, weights: &mut [P]) -> f32 {
        let (weights, behind) = weights.split_at_mut(scores.len());
        behind.fill(P::from_f32(0.0));
        let mut lanes = [0f32; LANES];
        let weight = |score: f32| simd::exp2_of_nonpositive((score - max) * scale);
        let (chunks, mut weight_chunks) = (scores.chunks_exact(LANES), weights.chunks_exact_mut(LANES));
        let tail = chunks.remainder();
        for (scores, weights) in chunks.zip(&mut weight_chunks) {
            for i in 0..LANES {
                let e = weight(scores[i]);
                weights[i] = P::from_f32(e);
                lanes[i] += e;
            }
        }
        for (score, out) in tail.iter().zip(weight_chunks.into_remainder()) {
            let e = weight(*score);
            *out = P::from_f32(e);
            lanes[0] += e;
        }
        lanes.iter().sum()
    }
}

vectorize! {
    fn scale_row(row: &mut [f32], factor: f32) {
        for value in row {
            *value *= factor;
        }
    }
}
