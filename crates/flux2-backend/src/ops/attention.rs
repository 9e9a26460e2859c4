//! Attention: for each head `softmax(q * k^T / sqrt(head_dim) + mask) * v`; several query heads may share a key head
//! (grouped-query attention).
//!
//! Used by Qwen3 (causal, grouped), the flow transformer (unmasked) and the autoencoder (one head). The score matrix is
//! never stored as a whole.

use crate::{Backend, Result, Tensor};

/// Which keys a query may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttentionMask {
    /// Every query sees every key.
    None,
    /// Query `i` sees key `j` if `j <= i` and `j < valid`. Keys are those of the queries' tokens, from the first on;
    /// keys that no query sees may be left out.
    Causal {
        /// Keys before the padding; at least 1.
        valid: usize,
    },
}

/// The operands of [`attention`].
pub struct AttentionInput<'a, B: Backend> {
    /// Queries, compute `[n, heads * head_dim]`, or a batch `[b, n, ..]` whose items attend each to its own keys.
    pub q: &'a Tensor<B>,
    /// Keys, compute `[m, kv_heads * head_dim]`, or a batch `[b, m, ..]`.
    pub k: &'a Tensor<B>,
    /// Values, compute, of the shape of the keys.
    pub v: &'a Tensor<B>,
    /// Channels of a head; even.
    pub head_dim: usize,
    /// Which keys a query may see.
    pub mask: AttentionMask,
}

/// Returns compute `[n, heads * head_dim]`, or a batch `[b, n, ..]` of it. Query head `i` uses key head
/// `i / (heads / kv_heads)`.
///
/// # Errors
/// [`crate::Error::Shape`] or [`crate::Error::DType`] if the operands are not as [`AttentionInput`] says, `head_dim` is
/// odd, `heads` is not a multiple of `kv_heads`, there are no keys, or a causal mask meets `m > n` or `valid` outside
/// `1..=m`.
pub fn attention<B: Backend>(be: &B, operands: &AttentionInput<B>) -> Result<Tensor<B>> {
    let &AttentionInput { q, k, v, head_dim, mask } = operands;
    let compute = be.compute().dtype();
    let [items, n, q_cols] = q.batch_dims("attention: q")?;
    let [k_items, m, kv_cols] = k.batch_dims("attention: k")?;
    if head_dim == 0 || !head_dim.is_multiple_of(2) || q_cols == 0 || !q_cols.is_multiple_of(head_dim) {
        return Err(
            q.wrong_shape("attention: q", format!("[n, heads * head_dim] with an even head_dim, not {head_dim}"))
        );
    }
    if m == 0 || kv_cols == 0 || !kv_cols.is_multiple_of(head_dim) || !q_cols.is_multiple_of(kv_cols) {
        let heads = q_cols / head_dim;
        return Err(k.wrong_shape("attention: k", format!("[m, kv_heads * {head_dim}] with kv_heads dividing {heads}")));
    }
    if k_items != items || k.shape().len() != q.shape().len() {
        return Err(k.wrong_shape("attention: k", format!("keys for queries {:?}", q.shape())));
    }
    v.expect_shape("attention: v", k.shape())?;
    if let AttentionMask::Causal { valid } = mask {
        if m > n {
            return Err(k.wrong_shape("attention: k", format!("keys of the {n} queries' tokens under a causal mask")));
        }
        if valid == 0 || valid > m {
            return Err(
                k.wrong_shape("attention: k", format!("at least as many keys as the {valid} valid ones, and one"))
            );
        }
    }
    for (what, x) in [("attention: q", q), ("attention: k", k), ("attention: v", v)] {
        x.expect_dtype(what, compute)?;
    }
    be.attention(operands)
}

/// `q` `[n, heads * head_dim]`, `k` and `v` `[m, kv_heads * head_dim]` -> `[n, heads * head_dim]`, with
/// `heads = [heads, kv_heads]`.
pub fn reference(q: &[f32], k: &[f32], v: &[f32], heads: [usize; 2], head_dim: usize, mask: AttentionMask) -> Vec<f64> {
    let [heads, kv_heads] = heads;
    let keys = k.len() / (kv_heads * head_dim);
    let mut y = Vec::with_capacity(q.len());
    for (i, q) in q.chunks_exact(head_dim).enumerate() {
        let (query, head) = (i / heads, i % heads);
        let kv_head = head / (heads / kv_heads);
        let of_head = |x: &[f32], key: usize| -> Vec<f64> {
            let from = (key * kv_heads + kv_head) * head_dim;
            x[from..from + head_dim].iter().map(|v| f64::from(*v)).collect()
        };
        let visible = match mask {
            AttentionMask::None => keys,
            AttentionMask::Causal { valid } => valid.min(query + 1),
        };
        let scale = 1.0 / (head_dim as f64).sqrt();
        let dot = |key| q.iter().zip(of_head(k, key)).map(|(q, k)| f64::from(*q) * k).sum::<f64>() * scale;
        let scores: Vec<f64> = (0..visible).map(dot).collect();
        let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let total: f64 = scores.iter().map(|s| (s - max).exp()).sum();
        let mut sums = vec![0.0; head_dim];
        for (key, score) in scores.iter().enumerate() {
            let weight = (score - max).exp() / total;
            sums.iter_mut().zip(of_head(v, key)).for_each(|(sum, v)| *sum += weight * v);
        }
        y.extend(sums);
    }
    y
}
