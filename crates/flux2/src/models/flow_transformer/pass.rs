//! What the blocks of a pass share, and how the rows of several pictures are laid out.
//!
//! Rows of `b` pictures lie one picture behind the other: `[b * n, d]`, where one picture is `[n, d]`. Norms and
//! products work on rows. Attention is within a picture, and text and image tokens are joined picture by picture.

use std::ops::Range;

use flux2_backend::{AttentionInput, AttentionMask, Backend, ModulatedLayerNorm, Rope, Tensor, Weight, ops};

use super::conditioning::KeysValues;
use super::modulation::{Modulation, Modulations};
use crate::Result;

/// How the products of pictures that are denoised together are computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Batching {
    /// A picture is the same bytes as if it were made alone, whatever is made beside it. On a GPU, kernels are chosen
    /// for the rows of one picture and take those of all.
    #[default]
    SameBytes,
    /// Kernels are chosen for the rows of all pictures, which may be faster on a GPU. The last bits of a picture then
    /// depend on how many pictures there are. On the CPU this is the same as [`SameBytes`](Self::SameBytes).
    Fast,
}

/// Sees the operands of an attention.
pub(super) type Watch<'a, B> = dyn Fn(&AttentionInput<B>) -> Result<()> + 'a;

/// Arguments that all blocks of a pass share.
pub(super) struct Pass<'a, B: Backend> {
    pub(super) be: &'a B,
    /// Number of pictures, `b`.
    pub(super) pictures: usize,
    pub(super) batching: Batching,
    pub(super) modulations: &'a Modulations<B>,
    pub(super) head_dim: usize,
    pub(super) eps: f32,
    /// Where a picture is explained.
    pub(super) watch: Option<&'a Watch<'a, B>>,
}

impl<B: Backend> Pass<'_, B> {
    /// Split `qkv`, `[b * n, 3 * hidden]`; normalize its queries and keys and rotate them as `rope` says.
    pub(super) fn project(
        &self,
        qkv: &Tensor<B>,
        q_norm: &Tensor<B>,
        k_norm: &Tensor<B>,
        rope: &Rope<B>,
    ) -> Result<Projected<B>> {
        let [q, k, v] = qkv.chunk_cols(); // 3 x [b * n, hidden]
        let q = ops::norm_rope(self.be, &q, q_norm, rope, self.eps)?;
        let k = ops::norm_rope(self.be, &k, k_norm, rope, self.eps)?;
        Ok(Projected { q, k, v })
    }

    /// The modulated norm of `x` `[b * n, hidden]`, whose result `feeds` multiplies.
    pub(super) fn norm(&self, x: &Tensor<B>, m: &Modulation<B>, feeds: &Weight<B>) -> Result<Tensor<B>> {
        let norm = ModulatedLayerNorm { shift: &m.shift, scale: &m.scale, eps: self.eps, feeds: Some(feeds) };
        Ok(ops::modulated_layer_norm(self.be, x, &norm)?)
    }

    /// The left operand of a product: `x` with a batch axis if each picture is to get the bytes it gets alone.
    pub(super) fn left(&self, x: &Tensor<B>) -> Result<Tensor<B>> {
        match self.batching {
            Batching::SameBytes => self.by_picture(x),
            Batching::Fast => self.rows(x),
        }
    }

    /// `x` `[b * n, k]` times `weight` -> compute `[b * n, m]`.
    pub(super) fn linear(&self, x: &Tensor<B>, weight: &Weight<B>) -> Result<Tensor<B>> {
        self.rows(&ops::linear(self.be, &self.left(x)?, weight, None)?)
    }

    /// As [`linear`](Self::linear) -> f32.
    pub(super) fn linear_f32(&self, x: &Tensor<B>, weight: &Weight<B>) -> Result<Tensor<B>> {
        self.rows(&ops::linear_f32(self.be, &self.left(x)?, weight, None)?)
    }

    /// SwiGLU of `x` `[b * n, hidden]` -> the left operand of the next product, `[b * n, mlp]`.
    pub(super) fn swiglu(&self, x: &Tensor<B>, gate: &Weight<B>, up: &Weight<B>) -> Result<Tensor<B>> {
        Ok(ops::linear_swiglu(self.be, &self.left(x)?, gate, up)?)
    }

    /// Attention within each picture, `[b * n, hidden]`.
    pub(super) fn attention(&self, q: &Tensor<B>, k: &Tensor<B>, v: &Tensor<B>) -> Result<Tensor<B>> {
        let (q, k, v) = (self.by_picture(q)?, self.by_picture(k)?, self.by_picture(v)?);
        let operands = AttentionInput { q: &q, k: &k, v: &v, head_dim: self.head_dim, mask: AttentionMask::None };
        self.watch.map_or(Ok(()), |watch| watch(&operands))?;
        self.rows(&ops::attention(self.be, &operands)?)
    }

    /// Concatenate the rows of each picture: of text, cached references (of each picture, or none) and image.
    pub(super) fn joint(&self, text: &Tensor<B>, cached: &[&Tensor<B>], image: &Tensor<B>) -> Result<Tensor<B>> {
        if cached.is_empty() {
            let (text, image) = (self.by_picture(text)?, self.by_picture(image)?);
            return self.rows(&ops::concat_rows(self.be, &[&text, &image])?);
        }
        let of_picture = |x: &Tensor<B>, i: usize| {
            let n = x.rows() / self.pictures;
            x.slice_rows(i * n..(i + 1) * n)
        };
        self.insert(cached, |i| [of_picture(text, i), of_picture(image, i)])
    }

    /// `x` with rows of each picture, `cached`, inserted behind the picture's first `n_txt`.
    pub(super) fn around(&self, x: &Tensor<B>, n_txt: usize, cached: &[&Tensor<B>]) -> Result<Tensor<B>> {
        let n = x.rows() / self.pictures;
        self.insert(cached, |i| [x.slice_rows(i * n..i * n + n_txt), x.slice_rows(i * n + n_txt..(i + 1) * n)])
    }

    /// Concatenate, for each picture, the first part of it, its cached rows, and its second part.
    fn insert(&self, cached: &[&Tensor<B>], parts: impl Fn(usize) -> [Tensor<B>; 2]) -> Result<Tensor<B>> {
        let with_cached = |(i, cached): (usize, &&Tensor<B>)| {
            let [text, image] = parts(i);
            [text, (*cached).clone(), image]
        };
        let parts: Vec<Tensor<B>> = cached.iter().enumerate().flat_map(with_cached).collect();
        Ok(ops::concat_rows(self.be, &parts.iter().collect::<Vec<_>>())?)
    }

    /// The rows of text and of image, each of all pictures: `[b * n_txt, d]` and `[b * n_img, d]`.
    pub(super) fn split(&self, x: &Tensor<B>, n_txt: usize) -> Result<[Tensor<B>; 2]> {
        Ok([self.tokens(x, 0..n_txt)?, self.tokens(x, n_txt..x.rows() / self.pictures)?])
    }

    /// Rows `range` of each picture. Those of one picture share memory with `x`, else they are a copy.
    pub(super) fn tokens(&self, x: &Tensor<B>, range: Range<usize>) -> Result<Tensor<B>> {
        if self.pictures == 1 {
            return Ok(x.slice_rows(range));
        }
        // A row for each picture, of which the tokens are columns.
        let (b, n, d) = (self.pictures, x.rows() / self.pictures, x.cols());
        let columns = x.reshape("rows of a batch", [b, n * d])?.slice_cols(range.start * d..range.end * d);
        Ok(ops::concat_cols(self.be, &[&columns])?.reshape("rows of a batch", [b * range.len(), d])?)
    }

    /// `x` with a batch axis, `[b, n, d]`; one picture has none.
    fn by_picture(&self, x: &Tensor<B>) -> Result<Tensor<B>> {
        if self.pictures == 1 {
            return self.rows(x);
        }
        Ok(x.reshape("rows of a batch", [self.pictures, x.rows() / self.pictures, x.cols()])?)
    }

    /// `x` without a batch axis, `[b * n, d]`.
    fn rows(&self, x: &Tensor<B>) -> Result<Tensor<B>> {
        Ok(x.reshape("rows of a batch", [x.rows(), x.cols()])?)
    }
}

/// Queries, keys and values of a block, each `[b * n, hidden]`; queries and keys are normalized and rotated.
pub(super) struct Projected<B: Backend> {
    pub(super) q: Tensor<B>,
    pub(super) k: Tensor<B>,
    pub(super) v: Tensor<B>,
}

impl<B: Backend> Projected<B> {
    /// Keys and values for the cache. The values are copied, since they are a view that would keep all of `qkv` alive.
    pub(super) fn keep(&self, be: &B) -> Result<KeysValues<B>> {
        Ok(KeysValues { keys: self.k.clone(), values: ops::concat_rows(be, &[&self.v])? })
    }
}
