//! Concatenation of matrices along rows, or of the items of batches.
//!
//! Used by the flow transformer to join text and image tokens (text first), and for reference tokens.

use crate::{Backend, Error, Result, Tensor};

/// Parts `[n_i, d]` of one dtype, in order -> `[n_0 + n_1 + .., d]` of that dtype. Batches `[b, n_i, d]` are
/// concatenated item by item -> `[b, n_0 + n_1 + .., d]`.
///
/// # Errors
/// [`Error::Shape`] or [`Error::DType`] if the parts differ in items, columns or dtype, or there are none.
pub fn concat_rows<B: Backend>(be: &B, parts: &[&Tensor<B>]) -> Result<Tensor<B>> {
    let [first, rest @ ..] = parts else {
        return Err(Error::Shape { what: "concat_rows: parts", found: vec![0], expected: "one part or more".into() });
    };
    let [_items, _n, _d] = first.batch_dims("concat_rows: parts")?;
    for part in rest {
        let [_, n, _] = part.batch_dims("concat_rows: parts")?;
        part.expect_shape("concat_rows: parts", &with_rows(first.shape(), n))?;
        part.expect_dtype("concat_rows: parts", first.dtype())?;
    }
    be.concat_rows(parts)
}

/// `shape`, `[n, d]` or `[b, n, d]`, with `rows` in place of `n`.
pub(crate) fn with_rows(shape: &[usize], rows: usize) -> Vec<usize> {
    let mut shape = shape.to_vec();
    let axis = shape.len() - 2;
    shape[axis] = rows;
    shape
}

/// Values of the parts, concatenated.
pub fn reference(parts: &[&[f32]]) -> Vec<f64> {
    parts.iter().copied().flatten().map(|x| f64::from(*x)).collect()
}
