//! Product with a weight, added to a residual stream in place: `x += gate * (y * W^T)`, with one gate per channel or
//! none.
//!
//! Used by the flow transformer after attention and MLP, gated by its modulation (a window of one row, hence `[1, d]`),
//! and by Qwen3 without a gate. [`linear_pair_add`] takes its input in two parts, as in the single blocks of the flow
//! transformer. The product is f32 until it is added.

use crate::{Backend, DType, Result, Tensor, Weight};

/// `x` f32 `[n, d]`, `gate` f32 `[1, d]`, `y` compute `[n, k]` or a batch `[b, n / b, k]`, `weight` `[d, k]`. `x` is
/// copied first if another tensor shares its memory.
///
/// # Errors
/// [`crate::Error::Shape`] or [`crate::Error::DType`] if the arguments are not as above.
pub fn linear_add<B: Backend>(
    be: &B,
    x: &mut Tensor<B>,
    gate: Option<&Tensor<B>>,
    y: &Tensor<B>,
    weight: &Weight<B>,
) -> Result<()> {
    let n = check_residual(x, gate, weight)?;
    let [items, rows, k] = y.batch_dims("linear_add: y")?;
    if items * rows != n || k != weight.shape()[1] {
        return Err(y.wrong_shape("linear_add: y", format!("{n} rows of {}", weight.shape()[1])));
    }
    y.expect_dtype("linear_add: y", be.compute().dtype())?;
    be.linear_add(x, gate, &[y], weight)
}

/// As [`linear_add`], with `y` given as two parts side by side, which are not copied.
///
/// `a` compute `[n, k1]`, `b` compute `[n, k2]`, `weight` `[d, k1 + k2]`; or batches of both.
///
/// # Errors
/// As [`linear_add`].
pub fn linear_pair_add<B: Backend>(
    be: &B,
    x: &mut Tensor<B>,
    gate: Option<&Tensor<B>>,
    [a, b]: [&Tensor<B>; 2],
    weight: &Weight<B>,
) -> Result<()> {
    let compute = be.compute().dtype();
    let n = check_residual(x, gate, weight)?;
    let [items, rows, k1] = a.batch_dims("linear_pair_add: a")?;
    a.expect_dtype("linear_pair_add: a", compute)?;
    let [d, k] = weight.shape();
    let Some(k2) = k.checked_sub(k1).filter(|_| items * rows == n) else {
        return Err(
            a.wrong_shape("linear_pair_add: a", format!("{n} rows of at most the columns of weight [{d}, {k}]"))
        );
    };
    let mut expected = a.shape().to_vec();
    *expected.last_mut().expect("a matrix or a batch") = k2;
    b.expect_shape("linear_pair_add: b", &expected)?;
    b.expect_dtype("linear_pair_add: b", compute)?;
    be.linear_add(x, gate, &[a, b], weight)
}

/// Checks residual stream and gate against the weight; returns the number of rows.
fn check_residual<B: Backend>(x: &Tensor<B>, gate: Option<&Tensor<B>>, weight: &Weight<B>) -> Result<usize> {
    let [n, d] = x.dims("linear_add: x")?;
    x.expect_dtype("linear_add: x", DType::F32)?;
    let [m, k] = weight.shape();
    if d != m {
        return Err(x.wrong_shape("linear_add: x", format!("rows of {m} for weight [{m}, {k}]")));
    }
    if let Some(gate) = gate {
        super::expect_f32("linear_add: gate", gate, &[1, d])?;
    }
    Ok(n)
}

/// `x` `[n, d]`, `gate` `[d]` or empty, `product` `[n, d]` -> `[n, d]`.
pub fn reference(x: &[f32], gate: &[f32], product: &[f64]) -> Vec<f64> {
    let gates =
        gate.iter().map(|g| f64::from(*g)).chain(std::iter::repeat_n(1.0, usize::from(gate.is_empty()))).cycle();
    x.iter().zip(product).zip(gates).map(|((x, y), gate)| f64::from(*x) + gate * y).collect()
}
