//! Concatenation of matrices along columns.
//!
//! Used by the text encoder to join the hidden states of its taps.

use crate::{Backend, Error, Result, Tensor};

/// Parts `[n, d_i]` of one dtype, in order -> `[n, d_0 + d_1 + ..]` of that dtype.
///
/// # Errors
/// [`Error::Shape`] or [`Error::DType`] if the parts differ in rows or dtype, or there are none.
pub fn concat_cols<B: Backend>(be: &B, parts: &[&Tensor<B>]) -> Result<Tensor<B>> {
    let [first, rest @ ..] = parts else {
        return Err(Error::Shape { what: "concat_cols: parts", found: vec![0], expected: "one part or more".into() });
    };
    let [n, _d] = first.dims("concat_cols: parts")?;
    for part in rest {
        let [_, d] = part.dims("concat_cols: parts")?;
        part.expect_shape("concat_cols: parts", &[n, d])?;
        part.expect_dtype("concat_cols: parts", first.dtype())?;
    }
    be.concat_cols(parts)
}

/// `parts` are values and number of columns of each part -> rows of all parts side by side.
pub fn reference(parts: &[(&[f32], usize)]) -> Vec<f64> {
    let rows = parts.first().map_or(0, |(values, cols)| values.len() / cols);
    let row = |i: usize| parts.iter().flat_map(move |(values, cols)| &values[i * cols..][..*cols]);
    (0..rows).flat_map(row).map(|x| f64::from(*x)).collect()
}
