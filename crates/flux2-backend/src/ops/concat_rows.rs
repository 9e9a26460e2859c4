//! Concatenation of matrices along rows.
//!
//! Used by the flow transformer to join text and image tokens (text first), and for reference tokens.

use crate::{Backend, Error, Result, Tensor};

/// Parts `[n_i, d]` of one dtype, in order -> `[n_0 + n_1 + .., d]` of that dtype.
///
/// # Errors
/// [`Error::Shape`] or [`Error::DType`] if the parts differ in columns or dtype, or there are none.
pub fn concat_rows<B: Backend>(be: &B, parts: &[&Tensor<B>]) -> Result<Tensor<B>> {
    let [first, rest @ ..] = parts else {
        return Err(Error::Shape { what: "concat_rows: parts", found: vec![0], expected: "one part or more".into() });
    };
    let [_n, d] = first.dims("concat_rows: parts")?;
    for part in rest {
        let [n, _] = part.dims("concat_rows: parts")?;
        part.expect_shape("concat_rows: parts", &[n, d])?;
        part.expect_dtype("concat_rows: parts", first.dtype())?;
    }
    be.concat_rows(parts)
}

/// Values of the parts, concatenated.
pub fn reference(parts: &[&[f32]]) -> Vec<f64> {
    parts.iter().copied().flatten().map(|x| f64::from(*x)).collect()
}
