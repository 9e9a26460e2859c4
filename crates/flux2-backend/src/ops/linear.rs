//! Product with a weight: `y = x * W^T + bias`, sums in f32.
//!
//! Used by every model. [`linear_f32`] gives what joins a residual stream or leaves a model; [`linear_pair`] takes its
//! input in two parts, as the single blocks of the flow transformer have it.

use crate::{Backend, DType, Result, Tensor, Weight};

/// `x` compute `[.., k]`, `weight` `[m, k]`, `bias` f32 `[m]` -> compute `[.., m]`.
///
/// # Errors
/// [`crate::Error::Shape`] or [`crate::Error::DType`] if the arguments are not as above.
pub fn linear<B: Backend>(be: &B, x: &Tensor<B>, weight: &Weight<B>, bias: Option<&Tensor<B>>) -> Result<Tensor<B>> {
    product(be, x, weight, bias, be.compute().dtype())
}

/// As [`linear`], but the sums stay f32: `[.., m]`.
///
/// # Errors
/// As [`linear`].
pub fn linear_f32<B: Backend>(
    be: &B,
    x: &Tensor<B>,
    weight: &Weight<B>,
    bias: Option<&Tensor<B>>,
) -> Result<Tensor<B>> {
    product(be, x, weight, bias, DType::F32)
}

/// The product with `a` and `b` side by side, without copying them.
///
/// `a` compute `[n, k1]`, `b` compute `[n, k2]`, `weight` `[m, k1 + k2]` -> compute `[n, m]`.
///
/// # Errors
/// As [`linear`].
pub fn linear_pair<B: Backend>(be: &B, a: &Tensor<B>, b: &Tensor<B>, weight: &Weight<B>) -> Result<Tensor<B>> {
    let compute = be.compute().dtype();
    let [n, k1] = a.dims("linear_pair: a")?;
    a.expect_dtype("linear_pair: a", compute)?;
    let [m, k] = weight.shape();
    let Some(k2) = k.checked_sub(k1) else {
        return Err(a.wrong_shape("linear_pair: a", format!("at most the {k} columns of weight [{m}, {k}]")));
    };
    b.expect_shape("linear_pair: b", &[n, k2])?;
    b.expect_dtype("linear_pair: b", compute)?;
    be.linear(&[a, b], weight, None, compute)
}

fn product<B: Backend>(
    be: &B,
    x: &Tensor<B>,
    weight: &Weight<B>,
    bias: Option<&Tensor<B>>,
    out: DType,
) -> Result<Tensor<B>> {
    let [m, k] = weight.shape();
    if x.cols() != k {
        return Err(x.wrong_shape("linear: x", format!("rows of {k} for weight [{m}, {k}]")));
    }
    x.expect_dtype("linear: x", be.compute().dtype())?;
    if let Some(bias) = bias {
        super::expect_f32("linear: bias", bias, &[m])?;
    }
    be.linear(&[x], weight, bias, out)
}

/// `x` `[n, k]`, `weight` `[m, k]`, `bias` `[m]` or empty -> `[n, m]`.
pub fn reference(x: &[f32], weight: &[f32], bias: &[f32], k: usize) -> Vec<f64> {
    let mut y = Vec::new();
    for x in x.chunks_exact(k) {
        for (j, weight) in weight.chunks_exact(k).enumerate() {
            let sum: f64 = x.iter().zip(weight).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
            y.push(sum + bias.get(j).copied().map_or(0.0, f64::from));
        }
    }
    y
}
