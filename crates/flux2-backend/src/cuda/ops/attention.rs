//! `attention`: through cuDNN if it is installed, with our own kernels for masks and small shapes, and for the large
//! head of the autoencoder as two products with a softmax between them.

use super::cudnn;
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
    let wide = head_dim.is_multiple_of(8) && [q, k, v].iter().all(|x| x.is_wide(8));
    if mask == AttentionMask::None && heads == [1, 1] && head_dim > 128 && k.rows().is_multiple_of(8) && wide {
        return by_products(be, q, k, v);
    }
    if be.compute == Compute::F32 || !wide || head_dim > 128 {
        return by_rows(be, [q, k, v], heads, head_dim, mask);
    }
    if mask == AttentionMask::None
        && q.rows() * k.rows() >= CUDNN_SCORES
        && let Some(y) = by_cudnn(be, [q, k, v], heads, head_dim)?
    {
        return Ok(y);
    }
    by_tiles(be, [q, k, v], heads, head_dim, mask)
}

/// Attention through cuDNN; `None` if it is missing or has no plan.
fn by_cudnn(
    be: &CudaBackend,
    [q, k, v]: [&Tensor<CudaBackend>; 3],
    heads: [usize; 2],
    head_dim: usize,
) -> Result<Option<Tensor<CudaBackend>>> {
    let Some(cudnn) = &be.cudnn else { return Ok(None) };
    let shape = cudnn::Shape {
        queries: q.rows(),
        keys: k.rows(),
        heads,
        channels: head_dim,
        strides: [q.row_stride(), k.row_stride(), v.row_stride(), q.cols()],
    };
    let Some(plan) = cudnn.plan(&be.device, shape) else { return Ok(None) };
    be.note("attention", "cudnn");
    let y = be.empty(q.shape(), be.compute.dtype())?;
    // SAFETY: the operands are those of the shape.
    unsafe { cudnn.run(&be.pool, &be.device, &plan, [q, k, v, &y].map(Tensor::address))? };
    Ok(Some(y))
}

/// Attention with our own tensor-core kernel.
fn by_tiles(
    be: &CudaBackend,
    [q, k, v]: [&Tensor<CudaBackend>; 3],
    [heads, kv_heads]: [usize; 2],
    head_dim: usize,
    mask: AttentionMask,
) -> Result<Tensor<CudaBackend>> {
    let y = be.empty(q.shape(), be.compute.dtype())?;
    let (name, channels) = match head_dim {
        ..=32 => ("attention_tiles_32", 32),
        33..=64 => ("attention_tiles_64", 64),
        _ => ("attention_tiles_128", 128),
    };
    let (causal, valid) = causal(mask, k);
    be.note("attention", "mma");
    // A tile of queries, and two of keys and values: one is loaded while the other is multiplied.
    let shared = 5 * TILE * channels * 2;
    let geometry = Geometry { grid: [blocks(q.rows(), TILE), int(heads) as u32, 1], block: 128, shared: shared as u32 };
    be.allow_shared(ATTENTION, name, geometry.shared)?;
    let (n, m, repeat) = (int(q.rows()), int(k.rows()), int(heads / kv_heads));
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
                &y,
                y.row_stride()
            ]
        )?;
    }
    Ok(y)
}

/// The mask as kernels take it: 1 if causal, and the number of visible keys.
fn causal(mask: AttentionMask, k: &Tensor<CudaBackend>) -> (i32, i32) {
    match mask {
        AttentionMask::None => (0, int(k.rows())),
        AttentionMask::Causal { valid } => (1, int(valid)),
    }
}

/// Attention of one head: the scores of some queries with all keys, their softmax, its product with the values.
fn by_products(
    be: &CudaBackend,
    q: &Tensor<CudaBackend>,
    k: &Tensor<CudaBackend>,
    v: &Tensor<CudaBackend>,
) -> Result<Tensor<CudaBackend>> {
    let (n, m, d) = (q.rows(), k.rows(), q.cols());
    be.note("attention", "cublaslt");
    let y = be.empty(&[n, d], be.compute.dtype())?;
    let at_once = (SCORE_BYTES / (4 * m)).clamp(1, n.max(1));
    let scores = be.pool.take(at_once * m * 4)?;
    let weights = be.pool.take(at_once * m * be.compute_size())?;
    for first in (0..n).step_by(at_once) {
        let rows = at_once.min(n - first);
        let shape = Shape {
            quantized: None,
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
    Ok(y)
}

/// Attention with one warp for each head of each query.
fn by_rows(
    be: &CudaBackend,
    [q, k, v]: [&Tensor<CudaBackend>; 3],
    [heads, kv_heads]: [usize; 2],
    head_dim: usize,
    mask: AttentionMask,
) -> Result<Tensor<CudaBackend>> {
    let y = be.empty(q.shape(), be.compute.dtype())?;
    let items = q.rows() * heads;
    be.note("attention", "plain");
    let (causal, valid) = causal(mask, k);
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
                &y
            ]
        )?;
    }
    Ok(y)
}
