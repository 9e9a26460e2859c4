//! The fused ops a device must be able to compute, about twenty.
//!
//! No math and no checks here: callers go through [`crate::ops`], which checks shapes and dtypes first. Shapes are
//! those of the op contracts.

use crate::ops::attention::AttentionInput;
use crate::ops::conv2d::{ConvInput, Convolution};
use crate::ops::group_norm::GroupNorm;
use crate::ops::modulated_layer_norm::ModulatedLayerNorm;
use crate::ops::norm_rope::Rope;
use crate::runtime::Runtime;
use crate::{DType, Result, Tensor, Weight};

/// A [`Runtime`] that computes the ops.
pub trait Backend: Runtime {
    /// See [`crate::ops::cast()`].
    fn cast(&self, x: &Tensor<Self>, dtype: DType) -> Result<Tensor<Self>>;
    /// See [`crate::ops::concat_cols()`].
    fn concat_cols(&self, parts: &[&Tensor<Self>]) -> Result<Tensor<Self>>;
    /// See [`crate::ops::concat_rows()`].
    fn concat_rows(&self, parts: &[&Tensor<Self>]) -> Result<Tensor<Self>>;
    /// See [`crate::ops::embedding()`].
    fn embedding(&self, table: &Weight<Self>, ids: &[u32]) -> Result<Tensor<Self>>;
    /// See [`crate::ops::linear()`] and [`crate::ops::linear_f32`].
    fn linear(
        &self,
        x: &Tensor<Self>,
        weight: &Weight<Self>,
        bias: Option<&Tensor<Self>>,
        out: DType,
    ) -> Result<Tensor<Self>>;
    /// See [`crate::ops::linear_add()`] and [`crate::ops::linear_pair_add`]. The parts of `y` stand side by side.
    fn linear_add(
        &self,
        x: &mut Tensor<Self>,
        gate: Option<&Tensor<Self>>,
        y: &[&Tensor<Self>],
        weight: &Weight<Self>,
    ) -> Result<()>;
    /// See [`crate::ops::linear_swiglu()`].
    fn linear_swiglu(&self, x: &Tensor<Self>, gate: &Weight<Self>, up: &Weight<Self>) -> Result<Tensor<Self>>;
    /// See [`crate::ops::rms_norm()`].
    fn rms_norm(&self, x: &Tensor<Self>, weight: &Tensor<Self>, eps: f32) -> Result<Tensor<Self>>;
    /// See [`crate::ops::modulated_layer_norm()`].
    fn modulated_layer_norm(&self, x: &Tensor<Self>, norm: &ModulatedLayerNorm<Self>) -> Result<Tensor<Self>>;
    /// See [`crate::ops::norm_rope()`].
    fn norm_rope(&self, x: &Tensor<Self>, weight: &Tensor<Self>, rope: &Rope<Self>, eps: f32) -> Result<Tensor<Self>>;
    /// See [`crate::ops::attention()`].
    fn attention(&self, operands: &AttentionInput<Self>) -> Result<Tensor<Self>>;
    /// See [`crate::ops::silu()`].
    fn silu(&self, x: &Tensor<Self>) -> Result<Tensor<Self>>;
    /// See [`crate::ops::euler_step()`].
    fn euler_step(&self, x: &mut Tensor<Self>, velocity: &Tensor<Self>, dt: f32) -> Result<()>;
    /// See [`crate::ops::guide()`].
    fn guide(&self, uncond: &Tensor<Self>, cond: &Tensor<Self>, guidance: f32) -> Result<Tensor<Self>>;
    /// See [`crate::ops::conv2d()`].
    fn conv2d(&self, x: &ConvInput<Self>, conv: &Convolution<Self>, out: DType) -> Result<Tensor<Self>>;
    /// See [`crate::ops::conv2d_add`].
    fn conv2d_add(&self, y: &mut Tensor<Self>, x: &ConvInput<Self>, conv: &Convolution<Self>) -> Result<()>;
    /// See [`crate::ops::group_norm()`].
    fn group_norm(&self, x: &Tensor<Self>, norm: &GroupNorm<Self>) -> Result<Tensor<Self>>;
    /// See [`crate::ops::group_norm_statistics`].
    fn group_norm_statistics(&self, x: &ConvInput<Self>, norm: &GroupNorm<Self>) -> Result<Tensor<Self>>;
    /// See [`crate::ops::patchify()`].
    fn patchify(&self, x: &Tensor<Self>, mean: &Tensor<Self>, std: &Tensor<Self>) -> Result<Tensor<Self>>;
    /// See [`crate::ops::unpatchify`].
    fn unpatchify(
        &self,
        tokens: &Tensor<Self>,
        size: [usize; 2],
        mean: &Tensor<Self>,
        std: &Tensor<Self>,
    ) -> Result<Tensor<Self>>;
    /// See [`crate::ops::prelu()`].
    fn prelu(&self, x: &mut Tensor<Self>, slope: &Tensor<Self>) -> Result<()>;
    /// See [`crate::ops::add_scaled()`].
    fn add_scaled(&self, x: &mut Tensor<Self>, y: &Tensor<Self>, scale: f32) -> Result<()>;
    /// See [`crate::ops::pixel_shuffle()`]. The result is `scale` times as large in both directions.
    fn pixel_shuffle(&self, x: &Tensor<Self>, base: &Tensor<Self>, scale: usize) -> Result<Tensor<Self>>;
}
