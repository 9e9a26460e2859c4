//! Tensors and the fused ops that FLUX.2 \[klein\] is made of, behind one [`Backend`] trait.
//!
//! A model calls the functions in [`ops`]. Each checks its shapes once and calls the backend that owns the tensors, so
//! kernels check nothing and models name no device. Beside each contract stands its f64 `reference`, and the op matrix
//! in `tests/it/ops` tests every backend against it.
//!
//! | room | holds |
//! |---|---|
//! | [`runtime`] | what a device does besides computing: memory, copies, progress, replay |
//! | [`backend`] | the ops a device computes |
//! | [`ops`] | one file per op: contract, reference |
//! | [`cpu`] | the CPU backend: kernels, buffer pool |
//! | `cuda` | the CUDA backend: libraries, kernels, memory (feature `cuda`, on Linux) |
//! | `simd` | instruction sets of the CPU, and code compiled for each |
//! | `threads` | the host threads of a backend |
//! | [`host`] | tensors as bytes on the host: mapped files, decoded values |
//! | [`quant`] | number formats smaller than 16 bits, encoding weights in them |
//! | `testing` | seeded values, tolerances, `on_every_backend!` (feature `testing`) |
//!
//! A backend computes products in one of two number formats, chosen when it is created: `f32`, or `bf16` with f32 sums.
//! The residual streams, gates, shifts and scales are f32 in both; operands of products have the compute dtype.

#[cfg(target_endian = "big")]
compile_error!("checkpoints are read in place, and they are little-endian");

pub mod backend;
pub mod cpu;
#[cfg(all(feature = "cuda", target_os = "linux"))]
pub mod cuda;
pub mod dtype;
pub mod error;
pub mod host;
pub mod ops;
pub mod quant;
pub mod runtime;
mod simd;
pub mod tensor;
#[cfg(feature = "testing")]
pub mod testing;
mod threads;

/// Whether this crate was compiled with optimization; without it, kernels take a hundred times as long.
pub const IS_OPTIMIZED: bool = !cfg!(unoptimized);

pub use backend::Backend;
pub use cpu::{CpuBackend, CpuOptions};
#[cfg(all(feature = "cuda", target_os = "linux"))]
pub use cuda::{CudaBackend, CudaOptions};
pub use dtype::{Compute, DType, Format};
pub use error::{Error, Result};
pub use host::{ByteOwner, HostBytes, HostTensor, Placement};
pub use ops::attention::{AttentionInput, AttentionMask};
pub use ops::conv2d::{ConvInput, ConvShape, Convolution};
pub use ops::group_norm::GroupNorm;
pub use ops::modulated_layer_norm::ModulatedLayerNorm;
pub use ops::norm_rope::{Rope, RopeLayout};
pub use quant::encode::encode;
pub use runtime::{KernelRun, MemoryUse, PendingDownload, Runtime};
pub use tensor::{Tensor, Weight};
pub use threads::Threads;
