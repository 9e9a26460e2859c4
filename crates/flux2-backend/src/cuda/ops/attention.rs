//! `attention`: through cuDNN if it is installed, with our own kernels for masks and small shapes, and for the large
//! head of the autoencoder as two products with a softmax between them.

use std::sync::Arc;

use super::cudnn::{self, Cudnn, Plan};
use crate::cuda::product::cublaslt::{Right, Shape};
use crate::cuda::runtime::driver::{Geometry, blocks};
use crate::cuda::{CudaBackend, Source, int, launch, source};
use crate::{AttentionInput, AttentionMask, Compute, DType, Error, Result, Tensor};

const ATTENTION: Source = source!("attention.cu");

/// Queries and keys of a tile, as in `attention.cu`.
const TILE: usize = 64;

/// Approximate size in bytes of the scores stored at a time: enough rows that the products fill the GPU. With so few
/// that they stay in the cache it took 2.5 times as long.
const SCORE_BYTES: usize = 256 << 20;
/// Threads for the softmax of a row, and the longest row that they keep in registers, as in `attention.cu`.
const SOFTMAX_THREADS: u32 = 512;
const SOFTMAX_ROW: usize = 8 * 4 * SOFTMAX_THREADS as usize;

/// Queries x keys from which on building a cuDNN plan pays.
const CUDNN_SCORES: usize = 512 * 512;

pub(crate) fn attention(be: &CudaBackend, operands: &AttentionInput<CudaBackend>) -> Result<Tensor<CudaBackend>> {
    let &AttentionInput { q, k, v, head_dim, mask } = operands;
    let heads = [q.cols() / head_dim, k.cols() / head_dim];
    let [items, n, _] = q.batch_dims("attention: q")?;
    let [_, m, _] = k.batch_dims("attention: k")?;
    let y = be.empty(q.shape(), be.compute.dtype())?;
    // Queries, keys, values and result of one item, or of all: what a kernel takes does not depend on their number.
    let of_item = |i| [q.item(i), k.item(i), v.item(i), y.item(i)];
    let wide = head_dim.is_multiple_of(8) && [q, k, v].iter().all(|x| x.is_wide(8));
    if mask == AttentionMask::None && heads == [1, 1] && head_dim > 128 && m.is_multiple_of(8) && wide {
        (0..items).try_for_each(|i| by_products(be, &of_item(i)))?;
    } else if be.compute == Compute::F32 || !wide || head_dim > 128 {
        (0..items).try_for_each(|i| by_rows(be, &of_item(i), heads, head_dim, mask))?;
    } else if mask == AttentionMask::None
        && n * m >= CUDNN_SCORES
        && let Some((cudnn, plan)) = cudnn_plan(be, &of_item(0), heads, head_dim)
    {
        // A plan for a batch might be another algorithm.
        for i in 0..items {
            be.note("attention", "cudnn");
            // SAFETY: the operands are those of the plan.
            unsafe { cudnn.run(&be.pool, &be.device, &plan, of_item(i).map(|x| x.address()))? };
        }
    } else {
        by_tiles(be, [q, k, v, &y], heads, head_dim, mask)?;
    }
    Ok(y)
}

/// cuDNN and its plan for `[queries, keys, values, result]`; `None` if it is missing or has no plan.
fn cudnn_plan<'a>(
    be: &'a CudaBackend,
    [q, k, v, y]: &[Tensor<CudaBackend>; 4],
    heads: [usize; 2],
    head_dim: usize,
) -> Option<(&'a Cudnn, Arc<Plan>)> {
    let cudnn = be.cudnn.as_deref()?;
    let shape = cudnn::Shape {
        queries: q.rows(),
        keys: k.rows(),
        heads,
        channels: head_dim,
        strides: [q, k, v, y].map(Tensor::row_stride),
    };
    Some((cudnn, cudnn.plan(&be.device, shape)?))
}

/// Attention with our own tensor-core kernel, all items of a batch at once.
fn by_tiles(
    be: &CudaBackend,
    [q, k, v, y]: [&Tensor<CudaBackend>; 4],
    [heads, kv_heads]: [usize; 2],
    head_dim: usize,
    mask: AttentionMask,
) -> Result<()> {
    let [items, n, _] = q.batch_dims("attention: q")?;
    let [_, m, _] = k.batch_dims("attention: k")?;
    let (name, channels) = match head_dim {
        ..=32 => ("attention_tiles_32", 32),
        33..=64 => ("attention_tiles_64", 64),
        _ => ("attention_tiles_128", 128),
    };
    let (causal, valid) = causal(mask, m);
    be.note("attention", "mma");
    // A tile of queries, and two of keys and values: one is loaded while the other is multiplied.
    let shared = 5 * TILE * channels * 2;
    let grid = [blocks(n, TILE), int(heads) as u32, int(items) as u32];
    let geometry = Geometry { grid, block: 128, shared: shared as u32 };
    be.allow_shared(ATTENTION, name, geometry.shared)?;
    let (n, m, repeat) = (int(n), int(m), int(heads / kv_heads));
    let scale = 1.0 / (head_dim as f32).sqrt();
    // SAFETY: `y` has the shape of `q`, and no key beyond `k` is visible.
    unsafe {
        launch!(
            be,
            ATTENTION,
            name,
            geometry,
            [
                n,
                m,
                repeat,
                int(head_dim),
                causal,
                valid,
                scale,
                q,
                q.row_stride(),
                k,
                k.row_stride(),
                v,
                v.row_stride(),
                y,
                y.row_stride()
            ]
        )
    }
}

/// The mask over `keys` as kernels take it: 1 if causal, and the number of visible keys.
fn causal(mask: AttentionMask, keys: usize) -> (i32, i32) {
    match mask {
        AttentionMask::None => (0, int(keys)),
        AttentionMask::Causal { valid } => (1, int(valid)),
    }
}

/// Attention of one head: the scores of some queries with all keys, their softmax, its product with the values.
fn by_products(be: &CudaBackend, [q, k, v, y]: &[Tensor<CudaBackend>; 4]) -> Result<()> {
    let (n, m, d) = (q.rows(), k.rows(), q.cols());
    be.note("attention", "cublaslt");
    let at_once = (SCORE_BYTES / (4 * m)).clamp(1, n.max(1));
    let scores = be.pool.take(at_once * m * 4)?;
    let weights = be.pool.take(at_once * m * be.compute_size())?;
    for first in (0..n).step_by(at_once) {
        let rows = at_once.min(n - first);
        let shape = Shape {
            quantized: None,
            items: 1,
            rows,
            cols: m,
            k: d,
            strides: [q.row_stride(), k.row_stride(), m],
            right: Right::OutIn,
            out: DType::F32,
            accumulate: false,
        };
        let queries = q.address() + (first * q.row_stride() * be.compute_size()) as u64;
        let to = y.address() + (first * d * be.compute_size()) as u64;
        let scale = 1.0 / (d as f32).sqrt();
        // SAFETY: `scores` and `weights` hold `at_once` rows of `m`; the rest lies within its tensor.
        unsafe {
            be.cublaslt.run(&be.device, shape, [queries, k.address(), scores.address()])?;
            let arguments = [scores.address(), weights.address()];
            let geometry = Geometry::block_each(rows, SOFTMAX_THREADS);
            let name = if m.is_multiple_of(4) && m <= SOFTMAX_ROW { "softmax_wide" } else { "softmax" };
            launch!(be, ATTENTION, name, geometry, [int(m), arguments[0], scale, arguments[1]])?;
            let shape = Shape {
                cols: d,
                k: m,
                strides: [m, v.row_stride(), d],
                right: Right::InOut,
                out: be.compute.dtype(),
                ..shape
            };
            be.cublaslt.run(&be.device, shape, [weights.address(), v.address(), to])?;
        }
    }
    Ok(())
}

/// Attention with one warp for each head of each query.
fn by_rows(
    be: &CudaBackend,
    [q, k, v, y]: &[Tensor<CudaBackend>; 4],
    [heads, kv_heads]: [usize; 2],
    head_dim: usize,
    mask: AttentionMask,
) -> Result<()> {
    let items = q.rows() * heads;
    be.note("attention", "plain");
    let (causal, valid) = causal(mask, k.rows());
    let name = match head_dim {
        ..=128 => "attention_rows_128",
        129..=512 => "attention_rows_512",
        _ => return Err(Error::Unsupported { what: "attention on a GPU with heads of more than 512 channels" }),
    };
    let scale = 1.0 / (head_dim as f32).sqrt();
    // SAFETY: `y` has the shape of `q`, and no key beyond `k` is visible.
    unsafe {
        launch!(
            be,
            ATTENTION,
            name,
            Geometry::warp_each(items),
            [
                items,
                int(heads),
                int(heads / kv_heads),
                int(head_dim),
                int(k.rows()),
                causal,
                valid,
                scale,
                q,
                q.row_stride(),
                k,
                k.row_stride(),
                v,
                v.row_stride(),
                y
            ]
        )
    }
}
