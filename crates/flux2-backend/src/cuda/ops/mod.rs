//! The ops on a GPU: a launcher each, and `.cu` files, which several small ops may share.
//!
//! Products with weights are in [`product`].

pub(crate) mod add_scaled;
pub(crate) mod attention;
pub(crate) mod cast;
pub(crate) mod concat_cols;
pub(crate) mod concat_rows;
pub(crate) mod conv2d;
pub(crate) mod cudnn;
pub(crate) mod embedding;
pub(crate) mod euler_step;
pub(crate) mod group_norm;
pub(crate) mod guide;
pub(crate) mod modulated_layer_norm;
pub(crate) mod norm_rope;
pub(crate) mod patchify;
pub(crate) mod pixel_shuffle;
pub(crate) mod prelu;
pub(crate) mod rms_norm;
pub(crate) mod silu;

use super::product;
use crate::{
    AttentionInput, Backend, ConvInput, Convolution, CudaBackend, DType, GroupNorm, ModulatedLayerNorm, Result, Rope,
    Tensor, Weight,
};

impl Backend for CudaBackend {
    fn cast(&self, x: &Tensor<Self>, dtype: DType) -> Result<Tensor<Self>> {
        cast::cast(self, x, dtype)
    }

    fn concat_cols(&self, parts: &[&Tensor<Self>]) -> Result<Tensor<Self>> {
        concat_cols::concat_cols(self, parts)
    }

    fn concat_rows(&self, parts: &[&Tensor<Self>]) -> Result<Tensor<Self>> {
        concat_rows::concat_rows(self, parts)
    }

    fn embedding(&self, table: &Weight<Self>, ids: &[u32]) -> Result<Tensor<Self>> {
        embedding::embedding(self, table.matrix(), ids)
    }

    fn linear(
        &self,
        x: &Tensor<Self>,
        weight: &Weight<Self>,
        bias: Option<&Tensor<Self>>,
        out: DType,
    ) -> Result<Tensor<Self>> {
        product::linear::linear(self, x, weight.matrix(), bias, out)
    }

    fn linear_add(
        &self,
        x: &mut Tensor<Self>,
        gate: Option<&Tensor<Self>>,
        y: &[&Tensor<Self>],
        weight: &Weight<Self>,
    ) -> Result<()> {
        product::linear_add::linear_add(self, x, gate, y, weight.matrix())
    }

    fn linear_swiglu(&self, x: &Tensor<Self>, gate: &Weight<Self>, up: &Weight<Self>) -> Result<Tensor<Self>> {
        product::linear_swiglu::linear_swiglu(self, x, gate.matrix(), up.matrix())
    }

    fn rms_norm(&self, x: &Tensor<Self>, weight: &Tensor<Self>, eps: f32) -> Result<Tensor<Self>> {
        rms_norm::rms_norm(self, x, weight, eps)
    }

    fn modulated_layer_norm(&self, x: &Tensor<Self>, norm: &ModulatedLayerNorm<Self>) -> Result<Tensor<Self>> {
        modulated_layer_norm::modulated_layer_norm(self, x, norm)
    }

    fn norm_rope(&self, x: &Tensor<Self>, weight: &Tensor<Self>, rope: &Rope<Self>, eps: f32) -> Result<Tensor<Self>> {
        norm_rope::norm_rope(self, x, weight, rope, eps)
    }

    fn attention(&self, operands: &AttentionInput<Self>) -> Result<Tensor<Self>> {
        attention::attention(self, operands)
    }

    fn silu(&self, x: &Tensor<Self>) -> Result<Tensor<Self>> {
        silu::silu(self, x)
    }

    fn euler_step(&self, x: &mut Tensor<Self>, velocity: &Tensor<Self>, dt: f32) -> Result<()> {
        euler_step::euler_step(self, x, velocity, dt)
    }

    fn guide(&self, uncond: &Tensor<Self>, cond: &Tensor<Self>, guidance: f32) -> Result<Tensor<Self>> {
        guide::guide(self, uncond, cond, guidance)
    }

    fn conv2d(&self, x: &ConvInput<Self>, conv: &Convolution<Self>, out: DType) -> Result<Tensor<Self>> {
        conv2d::conv2d(self, x, conv, out)
    }

    fn conv2d_add(&self, y: &mut Tensor<Self>, x: &ConvInput<Self>, conv: &Convolution<Self>) -> Result<()> {
        conv2d::conv2d_add(self, y, x, conv)
    }

    fn group_norm(&self, x: &Tensor<Self>, norm: &GroupNorm<Self>) -> Result<Tensor<Self>> {
        group_norm::group_norm(self, x, norm)
    }

    fn group_norm_statistics(&self, x: &ConvInput<Self>, norm: &GroupNorm<Self>) -> Result<Tensor<Self>> {
        group_norm::group_norm_statistics(self, x, norm)
    }

    fn patchify(&self, x: &Tensor<Self>, mean: &Tensor<Self>, std: &Tensor<Self>) -> Result<Tensor<Self>> {
        patchify::patchify(self, x, mean, std)
    }

    fn unpatchify(
        &self,
        tokens: &Tensor<Self>,
        size: [usize; 2],
        mean: &Tensor<Self>,
        std: &Tensor<Self>,
    ) -> Result<Tensor<Self>> {
        patchify::unpatchify(self, tokens, size, mean, std)
    }

    fn prelu(&self, x: &mut Tensor<Self>, slope: &Tensor<Self>) -> Result<()> {
        prelu::prelu(self, x, slope)
    }

    fn add_scaled(&self, x: &mut Tensor<Self>, y: &Tensor<Self>, scale: f32) -> Result<()> {
        add_scaled::add_scaled(self, x, y, scale)
    }

    fn pixel_shuffle(&self, x: &Tensor<Self>, base: &Tensor<Self>, scale: usize) -> Result<Tensor<Self>> {
        pixel_shuffle::pixel_shuffle(self, x, base, scale)
    }
}
