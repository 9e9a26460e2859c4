//! RMS norm of each head, then rotary position embedding: pairs of channels `(a, b)` of token `i` become
//! `(a * cos - b * sin, b * cos + a * sin)` with the angles of row `i`.
//!
//! Used on q and k by Qwen3 (pairs of channels half a head apart) and the flow transformer (pairs of adjacent
//! channels). `x` is usually a window of a fused projection.

use std::ops::Range;

use crate::{Backend, Result, Tensor};

/// Which channels of a head form the pairs that rotate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopeLayout {
    /// Channels `2i` and `2i + 1`, as in the flow transformer.
    Interleaved,
    /// Channels `i` and `i + head_dim / 2`, as in Qwen3.
    Halves,
}

/// Rotary position embedding, one angle for each token and pair of channels.
pub struct Rope<B: Backend> {
    /// f32 `[n, head_dim / 2]`.
    pub cos: Tensor<B>,
    /// f32 `[n, head_dim / 2]`.
    pub sin: Tensor<B>,
    /// How pairs are laid out in a head.
    pub layout: RopeLayout,
}

impl<B: Backend> Rope<B> {
    /// Returns the angles of tokens `range`.
    ///
    /// # Panics
    /// If `range` exceeds the tokens.
    pub fn slice_rows(&self, range: Range<usize>) -> Self {
        let Rope { cos, sin, layout } = self;
        Rope { cos: cos.slice_rows(range.clone()), sin: sin.slice_rows(range), layout: *layout }
    }
}

impl<B: Backend> Clone for Rope<B> {
    fn clone(&self) -> Self {
        Rope { cos: self.cos.clone(), sin: self.sin.clone(), layout: self.layout }
    }
}

/// `x` compute `[n, heads * d]`, `weight` f32 `[d]`, `rope` f32 `[n, d / 2]` -> compute `[n, heads * d]`.
///
/// # Errors
/// [`crate::Error::Shape`] or [`crate::Error::DType`] if the arguments are not as above or `d` is odd.
pub fn norm_rope<B: Backend>(be: &B, x: &Tensor<B>, weight: &Tensor<B>, rope: &Rope<B>, eps: f32) -> Result<Tensor<B>> {
    let [n, cols] = x.dims("norm_rope: x")?;
    x.expect_dtype("norm_rope: x", be.compute().dtype())?;
    let [d] = weight.dims("norm_rope: weight")?;
    if d == 0 || !d.is_multiple_of(2) {
        return Err(weight.wrong_shape("norm_rope: weight", "an even number of channels"));
    }
    super::expect_f32("norm_rope: weight", weight, &[d])?;
    if !cols.is_multiple_of(d) {
        return Err(x.wrong_shape("norm_rope: x", format!("[n, heads * {d}]")));
    }
    super::expect_f32("norm_rope: cos", &rope.cos, &[n, d / 2])?;
    super::expect_f32("norm_rope: sin", &rope.sin, &[n, d / 2])?;
    be.norm_rope(x, weight, rope, eps)
}

/// `x` `[n, heads * d]`, `weight` `[d]`, `cos` and `sin` `[n, d / 2]` -> `[n, heads * d]`.
pub fn reference(
    x: &[f32],
    weight: &[f32],
    cos: &[f32],
    sin: &[f32],
    layout: RopeLayout,
    heads: usize,
    eps: f32,
) -> Vec<f64> {
    let d = weight.len();
    let mut y = super::rms_norm::reference(x, weight, eps);
    for (i, head) in y.chunks_exact_mut(d).enumerate() {
        let token = i / heads;
        for pair in 0..d / 2 {
            let (cos, sin) = (f64::from(cos[token * d / 2 + pair]), f64::from(sin[token * d / 2 + pair]));
            let (first, second) = match layout {
                RopeLayout::Interleaved => (2 * pair, 2 * pair + 1),
                RopeLayout::Halves => (pair, pair + d / 2),
            };
            let (a, b) = (head[first], head[second]);
            head[first] = a * cos - b * sin;
            head[second] = b * cos + a * sin;
        }
    }
    y
}
