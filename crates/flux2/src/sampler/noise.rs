//! Noise from a seed: three generators, each exact to the element.
//!
//! In:  a [`NoiseKind`], a seed, a number of elements.
//! Out: standard normal f32 values in the order of the patchified latent `[channels, h, w]`.
//!
//! - `philox`: every value depends on the seed and the element's index alone. Equal to PyTorch's CUDA generator while
//!   the latent is small, and always to the "NV" generator of AUTOMATIC1111 and the default of stable-diffusion.cpp.
//! - `torch-cpu`: PyTorch's CPU generator, bit for bit (PyTorch 2.15, x86-64 with AVX2).
//! - `torch-cuda`: PyTorch's CUDA generator on a named GPU. The order of elements is exact; values differ from the
//!   GPU's by about 2e-6, because CUDA's fast sine is not reproduced.
//!
//! A seed gives the same bytes on every platform: everything is made from operations that IEEE 754 defines exactly
//! (sums, products, square roots, fused multiply-add), not from the platform's sine and logarithm. The exception is
//! torch-cpu with fewer than 16 elements, which no image has.
//!
//! PyTorch pipelines that run in bf16 use this noise rounded to bf16. Older versions (seen up to 2.7) made bf16 noise
//! on the CPU from 8-bit uniforms, which is not offered.
//!
//! To add a kind: a variant of [`NoiseKind`], its name in `NAMES`, its generator in [`noise_on`].

mod philox;
mod torch_cpu;

use std::fmt;
use std::num::NonZeroUsize;
use std::str::FromStr;

use flux2_base::parallel::all_threads;

/// The generator that turns a seed into noise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum NoiseKind {
    /// One mapping for every device and size.
    #[default]
    Philox,
    /// `torch.randn` with a CPU generator. Only the low 32 bits of the seed count.
    TorchCpu,
    /// `torch.randn` with a CUDA generator, whose element order depends on the GPU once the latent is large.
    TorchCuda {
        /// Streaming multiprocessors of the GPU.
        sms: u32,
        /// Threads that one multiprocessor holds.
        threads_per_sm: u32,
    },
}

/// The kinds by name; those with parameters also have a name without.
const NAMES: [(&str, NoiseKind); 3] =
    [("philox", NoiseKind::Philox), ("torch-cpu", NoiseKind::TorchCpu), (TORCH_CUDA, NoiseKind::TORCH_CUDA_H100)];

const TORCH_CUDA: &str = "torch-cuda";

impl NoiseKind {
    /// PyTorch on an H100 or H200 with all 132 multiprocessors.
    pub const TORCH_CUDA_H100: Self = Self::TorchCuda { sms: 132, threads_per_sm: 2048 };
}

/// `philox`, `torch-cpu`, or `torch-cuda:SMSxTHREADS`.
impl fmt::Display for NoiseKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Self::TorchCuda { sms, threads_per_sm } = self {
            return write!(f, "{TORCH_CUDA}:{sms}x{threads_per_sm}");
        }
        let (name, _) = NAMES.iter().find(|(_, kind)| kind == self).expect("every kind without parameters has a name");
        f.write_str(name)
    }
}

/// A name that is no [`NoiseKind`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a kind of noise: {names}, or torch-cuda:SMSxTHREADS as in torch-cuda:46x1536", names = names())]
pub struct ParseNoiseKindError(String);

fn names() -> String {
    NAMES.map(|(name, _)| name).join(", ")
}

/// Reads what `Display` writes; `torch-cuda` alone is [`NoiseKind::TORCH_CUDA_H100`].
impl FromStr for NoiseKind {
    type Err = ParseNoiseKindError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let named = NAMES.iter().find(|(known, _)| *known == name).map(|(_, kind)| *kind);
        let gpu = || name.strip_prefix(TORCH_CUDA)?.strip_prefix(':').and_then(parse_gpu);
        named.or_else(gpu).ok_or_else(|| ParseNoiseKindError(name.to_owned()))
    }
}

/// Parse `46x1536`. A GPU that holds no block of threads is refused, so that the grid is never empty.
fn parse_gpu(gpu: &str) -> Option<NoiseKind> {
    let (sms, threads) = gpu.split_once('x')?;
    let (sms, threads_per_sm) = (sms.parse().ok()?, threads.parse().ok()?);
    let holds_a_block = sms >= 1 && threads_per_sm >= philox::CUDA_BLOCK as u32;
    holds_a_block.then_some(NoiseKind::TorchCuda { sms, threads_per_sm })
}

/// `n` standard normal values for `seed`.
///
/// The values are drawn for a latent of `n` elements in one call, as PyTorch does; `torch-cpu` and `torch-cuda` give
/// other values to the same element of a larger latent.
///
/// ```
/// use flux2::sampler::{NoiseKind, noise};
///
/// let values = noise(NoiseKind::Philox, 0, 1024);
/// assert!((values[0] + 0.924662).abs() < 1e-5);
/// assert_eq!(values, noise("philox".parse()?, 0, 1024));
/// # Ok::<(), flux2::sampler::noise::ParseNoiseKindError>(())
/// ```
pub fn noise(kind: NoiseKind, seed: u64, n: usize) -> Vec<f32> {
    noise_on(all_threads(), kind, seed, n)
}

/// As [`noise()`], on at most `threads` threads.
pub fn noise_on(threads: NonZeroUsize, kind: NoiseKind, seed: u64, n: usize) -> Vec<f32> {
    match kind {
        NoiseKind::Philox => philox::philox(threads, seed, n),
        NoiseKind::TorchCpu => torch_cpu::torch_cpu(seed, n),
        NoiseKind::TorchCuda { sms, threads_per_sm } => philox::torch_cuda(seed, n, [sms, threads_per_sm]),
    }
}
