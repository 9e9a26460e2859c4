//! The ops: contracts and references.
//!
//! Each file holds one op: what it computes, the function models call, which checks shapes and dtypes and hands over to
//! the backend, and `reference`, the same formula in f64 on plain slices, which the op matrix holds every backend to.
//!
//! "compute" is [`crate::Compute::dtype`] of the backend. Whatever enters a product is compute; residual streams,
//! shifts, scales, gates, norm weights, biases and rope tables are f32. Tensors may be windows of others.
//!
//! | op | result | used by |
//! |---|---|---|
//! | [`linear()`], [`linear_f32`] | `x * W^T + bias` | everything |
//! | [`linear_add()`], [`linear_pair_add`] | `x += gate * (y * W^T)` | residual connections of the transformers |
//! | [`linear_swiglu()`] | `silu(x * W_gate^T) * (x * W_up^T)` | MLPs |
//! | [`attention()`] | `softmax(q k^T / sqrt(d)) v` | Qwen3, flow transformer, autoencoder |
//! | [`rms_norm()`] | `x / rms(x) * weight` | Qwen3 |
//! | [`modulated_layer_norm()`] | `(1 + scale) * LN(x) + shift` | flow transformer |
//! | [`norm_rope()`] | `rope(rms_norm(x))` for each head | q and k of Qwen3 and the flow transformer |
//! | [`silu()`] | `x * sigmoid(x)` | timestep embedding, modulation |
//! | [`euler_step()`] | `x += dt * velocity` | sampler |
//! | [`guide()`] | `uncond + g * (cond - uncond)` | sampler |
//! | [`cast()`] | another dtype | model inputs and outputs |
//! | [`concat_cols()`] | matrices side by side | what the text encoder taps |
//! | [`concat_rows()`] | matrices on top of each other | text and image tokens |
//! | [`embedding()`] | rows of a table | Qwen3 |
//! | [`conv2d()`], [`conv2d_f32`], [`conv2d_add`] | 1x1 or 3x3 convolution, norm and SiLU before and residual after it | autoencoder |
//! | [`group_norm()`], [`group_norm_statistics`] | `(x - mean) / std * weight + bias` | autoencoder |
//! | [`patchify()`], [`unpatchify`] | 2x2 pixels to one normalized token and back | autoencoder |

pub mod attention;
pub mod cast;
pub mod concat_cols;
pub mod concat_rows;
pub mod conv2d;
pub mod embedding;
pub mod euler_step;
pub mod group_norm;
pub mod guide;
pub mod linear;
pub mod linear_add;
pub mod linear_swiglu;
pub mod modulated_layer_norm;
pub mod norm_rope;
pub mod patchify;
pub mod rms_norm;
pub mod silu;

pub use attention::attention;
pub use cast::cast;
pub use concat_cols::concat_cols;
pub use concat_rows::concat_rows;
pub use conv2d::{conv2d, conv2d_add, conv2d_f32};
pub use embedding::embedding;
pub use euler_step::euler_step;
pub use group_norm::{group_norm, group_norm_statistics};
pub use guide::guide;
pub use linear::{linear, linear_f32};
pub use linear_add::{linear_add, linear_pair_add};
pub use linear_swiglu::linear_swiglu;
pub use modulated_layer_norm::modulated_layer_norm;
pub use norm_rope::norm_rope;
pub use patchify::{patchify, unpatchify};
pub use rms_norm::rms_norm;
pub use silu::silu;

use crate::{Backend, DType, Result, Tensor};

/// Refuse `x` unless it is f32 of `shape`.
fn expect_f32<B: Backend>(what: &'static str, x: &Tensor<B>, shape: &[usize]) -> Result<()> {
    x.expect_shape(what, shape)?;
    x.expect_dtype(what, DType::F32)
}

/// Refuse `x` unless it is f32 or in the dtype `be` computes in.
fn expect_f32_or_compute<B: Backend>(be: &B, what: &'static str, x: &Tensor<B>) -> Result<()> {
    if x.dtype() == DType::F32 { Ok(()) } else { x.expect_dtype(what, be.compute().dtype()) }
}
