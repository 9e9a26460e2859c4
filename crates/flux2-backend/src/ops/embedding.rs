//! Embedding lookup: `y[i] = table[ids[i]]`.
//!
//! Used by Qwen3 for its input tokens. The result starts its residual stream, hence f32.

use crate::{Backend, Error, Result, Tensor, Weight};

/// `table` `[v, d]`, `n` ids -> f32 `[n, d]`.
///
/// # Errors
/// [`Error::TokenId`] if an id is not a row of the table.
pub fn embedding<B: Backend>(be: &B, table: &Weight<B>, ids: &[u32]) -> Result<Tensor<B>> {
    let [rows, _d] = table.shape();
    if let Some(id) = ids.iter().copied().find(|id| *id as usize >= rows) {
        return Err(Error::TokenId { id, rows });
    }
    be.embedding(table, ids)
}

/// `table` `[v, d]` -> `[n, d]`.
pub fn reference(table: &[f32], ids: &[u32], d: usize) -> Vec<f64> {
    ids.iter().flat_map(|id| &table[*id as usize * d..][..d]).map(|x| f64::from(*x)).collect()
}
