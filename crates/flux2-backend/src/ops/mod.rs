//! The ops: contracts and f64 references.
//!
//! Each file holds one op: its formula; the function that models call, which checks shapes and dtypes and calls the
//! backend; and `reference`, the formula in f64 on plain slices, which the op matrix compares every backend with.
//!
//! Operands of products and attention may be batches `[b, n, d]`: `b` items of `n` rows each. Each item of the result
//! is the same bytes as that of the item alone, whatever the others are. Rows `[b * n, d]` without a batch axis may
//! differ from that in the order of their sums, as a kernel is chosen by the number of rows.
//!
//! In contracts, "compute" is the dtype [`crate::Compute::dtype`] of the backend. Operands of products are compute;
//! residual streams, shifts, scales, gates, norm weights, biases and rope tables are f32. Tensors may be strided
//! windows.
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
//! | [`cast()`] | conversion of dtype | model inputs and outputs |
//! | [`concat_cols()`] | concatenation along columns | taps of the text encoder |
//! | [`concat_rows()`] | concatenation along rows | text and image tokens |
//! | [`embedding()`] | rows of a table | Qwen3 |
//! | [`conv2d()`], [`conv2d_f32`], [`conv2d_add`] | convolution with fused norm, SiLU and residual | autoencoder |
//! | [`group_norm()`], [`group_norm_statistics`] | `(x - mean) / std * weight + bias` | autoencoder |
//! | [`patchify()`], [`unpatchify`] | 2x2 pixels to one normalized token and back | autoencoder |
//! | [`prelu()`] | `x < 0 ? slope * x : x` | upscalers |
//! | [`add_scaled()`] | `x += scale * y` | upscalers |
//! | [`pixel_shuffle()`] | channels to pixels, added to a map of repeated pixels | upscalers |

pub mod add_scaled;
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
pub mod pixel_shuffle;
pub mod prelu;
pub mod rms_norm;
pub mod silu;

pub use add_scaled::add_scaled;
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
pub use pixel_shuffle::pixel_shuffle;
pub use prelu::prelu;
pub use rms_norm::rms_norm;
pub use silu::silu;

use crate::{Backend, DType, Result, Tensor};

/// Checks that `x` is f32 of `shape`.
fn expect_f32<B: Backend>(what: &'static str, x: &Tensor<B>, shape: &[usize]) -> Result<()> {
    x.expect_shape(what, shape)?;
    x.expect_dtype(what, DType::F32)
}

/// Checks that `x` is f32 or in the compute dtype of `be`.
fn expect_f32_or_compute<B: Backend>(be: &B, what: &'static str, x: &Tensor<B>) -> Result<()> {
    if x.dtype() == DType::F32 { Ok(()) } else { x.expect_dtype(what, be.compute().dtype()) }
}
