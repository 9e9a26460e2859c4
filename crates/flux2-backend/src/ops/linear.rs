//! Product with a weight: `y = x * W^T + bias`, sums in f32.
//!
//! Used by every model; [`linear_f32`] where a residual stream starts or a result leaves a model.
//!
//! With an 8-bit weight ([`crate::Format::Int8`], [`crate::Format::Fp8`]) the rows of `x` are quantized to the same
//! format first: see [`crate::quant::int8`] and [`crate::quant::fp8`]. This holds for every op that takes a weight.

use crate::quant::{fp8, int8};
use crate::{Backend, DType, Result, Tensor, Weight};

/// `x` compute `[n, k]` or a batch `[b, n, k]`, `weight` `[m, k]`, `bias` f32 `[m]` -> compute `[.., m]`.
///
/// # Errors
/// [`crate::Error::Shape`] or [`crate::Error::DType`] if the arguments are not as above.
pub fn linear<B: Backend>(be: &B, x: &Tensor<B>, weight: &Weight<B>, bias: Option<&Tensor<B>>) -> Result<Tensor<B>> {
    product(be, x, weight, bias, be.compute().dtype())
}

/// As [`linear`], but the result is f32: `[.., m]`.
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

fn product<B: Backend>(
    be: &B,
    x: &Tensor<B>,
    weight: &Weight<B>,
    bias: Option<&Tensor<B>>,
    out: DType,
) -> Result<Tensor<B>> {
    let [m, k] = weight.shape();
    x.batch_dims("linear: x")?;
    if x.cols() != k {
        return Err(x.wrong_shape("linear: x", format!("rows of {k} for weight [{m}, {k}]")));
    }
    x.expect_dtype("linear: x", be.compute().dtype())?;
    if let Some(bias) = bias {
        super::expect_f32("linear: bias", bias, &[m])?;
    }
    be.linear(x, weight, bias, out)
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

/// Product with an int8 weight: rows of `x` and `weight` are quantized as [`crate::quant::int8`] says, then multiplied.
pub fn int8_reference(x: &[f32], weight: &[f32], k: usize) -> Vec<f64> {
    let round_row = |row: &[f32]| {
        let mut bytes = vec![0; k];
        let scale = int8::quantize_weights(row, &mut bytes);
        bytes.iter().map(|b| f64::from(scale) * f64::from(*b)).collect::<Vec<_>>()
    };
    let weights: Vec<Vec<f64>> = weight.chunks_exact(k).map(round_row).collect();
    let mut y = Vec::new();
    for x in x.chunks_exact(k) {
        let (min, max) = int8::range(x, |v| *v);
        let (scale, zero) = int8::activation_range(min, max);
        let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
        let x = x
            .iter()
            .map(|v| f64::from(scale) * f64::from(i32::from(int8::quantize_activation(*v, inverse, zero)) - zero));
        let x: Vec<f64> = x.collect();
        y.extend(weights.iter().map(|w| x.iter().zip(w).map(|(x, w)| x * w).sum::<f64>()));
    }
    y
}

/// Product with an e4m3 weight: rows of `x` and `weight` are quantized as [`crate::quant::fp8`] says, then multiplied.
pub fn e4m3_reference(x: &[f32], weight: &[f32], k: usize) -> Vec<f64> {
    let round_rows = |rows: &[f32]| -> Vec<f32> {
        let round_row = |row: &[f32]| {
            let mut bytes = vec![0; k];
            let scale = fp8::quantize_row(row, &mut bytes);
            bytes.into_iter().map(move |b| scale * fp8::e4m3_to_f32(b)).collect::<Vec<_>>()
        };
        rows.chunks_exact(k).flat_map(round_row).collect()
    };
    reference(&round_rows(x), &round_rows(weight), &[], k)
}
