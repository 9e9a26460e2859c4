//! Where a seed's noise comes from: three generators, each exact down to the element.
//!
//! In:  a [`NoiseKind`], a seed, a number of elements.
//! Out: standard normal f32 values in the order of the patchified latent `[channels, h, w]`.
//!
//! - `philox`: every value depends on the seed and the element's index alone. Equal to PyTorch's CUDA generator while
//!   the latent is small, and to the "NV" generator of Automatic1111 and the default of stable-diffusion.cpp always.
//! - `torch-cpu`: PyTorch's CPU generator, bit for bit (2.15, x86-64 with AVX2).
//! - `torch-cuda`: PyTorch's CUDA generator on a named GPU. The mapping is exact; the values differ from the GPU's by
//!   about 2e-6, because CUDA's fast sine is not reproduced.
//!
//! Everything is made from operations that IEEE 754 defines exactly (sums, products, square roots, fused multiply-add)
//! rather than from the platform's sine and logarithm, so a seed gives the same bytes everywhere; only torch-cpu of fewer
//! than 16 elements, which no image has, is left to the platform.
//! PyTorch pipelines that run in bf16 use this noise rounded to bf16; older versions (seen up to 2.7) made bf16 noise on
//! the CPU from 8-bit uniforms, which is not offered.
//!
//! Sources: `DistributionTemplates.h` and `MT19937RNGEngine.h` (CPU), `DistributionTemplates.h` and
//! `PhiloxCudaState` (CUDA) of PyTorch; Salmon et al. 2011 for Philox; the Cephes single precision `logf` and `sincosf`.

use std::f64::consts::{LN_2, TAU};
use std::fmt;
use std::num::NonZeroUsize;
use std::str::FromStr;

use crate::parallel::{all_threads, in_shares};

/// Which generator turns a seed into noise.
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
        /// Threads that one of them holds.
        threads_per_sm: u32,
    },
}

impl NoiseKind {
    /// PyTorch on an H100 or H200 with all 132 multiprocessors.
    pub const TORCH_CUDA_H100: Self = Self::TorchCuda { sms: 132, threads_per_sm: 2048 };
}

/// `philox`, `torch-cpu`, or `torch-cuda:SMSxTHREADS`.
impl fmt::Display for NoiseKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Philox => f.write_str("philox"),
            Self::TorchCpu => f.write_str("torch-cpu"),
            Self::TorchCuda { sms, threads_per_sm } => write!(f, "torch-cuda:{sms}x{threads_per_sm}"),
        }
    }
}

/// A name that is no [`NoiseKind`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a kind of noise: philox, torch-cpu, torch-cuda, or torch-cuda:SMSxTHREADS as in torch-cuda:46x1536"
)]
pub struct ParseNoiseKindError(String);

/// As printed; `torch-cuda` alone is [`NoiseKind::TORCH_CUDA_H100`].
impl FromStr for NoiseKind {
    type Err = ParseNoiseKindError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let kind = match name {
            "philox" => Some(Self::Philox),
            "torch-cpu" => Some(Self::TorchCpu),
            "torch-cuda" => Some(Self::TORCH_CUDA_H100),
            _ => name.strip_prefix("torch-cuda:").and_then(parse_gpu),
        };
        kind.ok_or_else(|| ParseNoiseKindError(name.to_owned()))
    }
}

/// `46x1536`; a GPU that holds not even one block of threads is refused, so that the grid is never empty.
fn parse_gpu(gpu: &str) -> Option<NoiseKind> {
    let (sms, threads) = gpu.split_once('x')?;
    let (sms, threads_per_sm) = (sms.parse().ok()?, threads.parse().ok()?);
    let holds_a_block = sms >= 1 && threads_per_sm >= CUDA_BLOCK as u32;
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

/// The same on at most so many threads.
pub fn noise_on(threads: NonZeroUsize, kind: NoiseKind, seed: u64, n: usize) -> Vec<f32> {
    match kind {
        NoiseKind::Philox => philox(threads, seed, n),
        NoiseKind::TorchCpu if n < TORCH_CPU_BLOCK => torch_cpu_few(seed, n),
        NoiseKind::TorchCpu => torch_cpu(seed, n),
        NoiseKind::TorchCuda { sms, threads_per_sm } => {
            let blocks_held = u64::from(sms) * u64::from(threads_per_sm / CUDA_BLOCK as u32);
            torch_cuda(seed, n, blocks_held.max(1))
        }
    }
}

// ---- torch-cuda and philox ----

/// Every value by itself, so on several threads: a megapixel has half a million.
fn philox(threads: NonZeroUsize, seed: u64, n: usize) -> Vec<f32> {
    /// Values for which starting a thread pays.
    const SHARE: usize = 16_384;
    let mut values = vec![0.0; n];
    in_shares(&mut values, threads, SHARE, |first, share| {
        share.iter_mut().zip(first as u64..).for_each(|(v, index)| *v = philox_normal(seed, 0, index, 0));
    });
    values
}

/// Threads of one block of PyTorch's random kernels.
const CUDA_BLOCK: u64 = 256;

/// Normals that one call of the generator yields to a thread.
const PHILOX_LANES: u64 = 4;

/// Each thread of the grid makes four values per iteration and strides over the latent by the grid's width.
fn torch_cuda(seed: u64, n: usize, blocks_held: u64) -> Vec<f32> {
    let n = n as u64;
    let stride = n.div_ceil(CUDA_BLOCK).min(blocks_held) * CUDA_BLOCK;
    (0..n)
        .map(|element| {
            let (turn, thread) = (element / stride, element % stride);
            philox_normal(seed, turn / PHILOX_LANES, thread, turn % PHILOX_LANES)
        })
        .collect()
}

/// One of the four normals of `curand_normal4`: lanes 0 and 2 are sines, 1 and 3 the cosines of the same pair.
fn philox_normal(seed: u64, iteration: u64, thread: u64, lane: u64) -> f32 {
    let random = philox4x32_10(seed, iteration, thread);
    let pair = if lane < 2 { [random[0], random[1]] } else { [random[2], random[3]] };
    // The uniforms are f32 because the GPU's are; what follows is exact to f32, which the GPU's is not quite.
    let u = f64::from((pair[0] as f32).mul_add(TWO_POW_MINUS_32, TWO_POW_MINUS_32 / 2.0));
    let angle = f64::from((pair[1] as f32).mul_add(TAU_POW_MINUS_32, TAU_POW_MINUS_32 / 2.0));
    let radius = (-2.0 * ln(u)).sqrt();
    let (sin, cos) = sin_cos(angle);
    (radius * if lane.is_multiple_of(2) { sin } else { cos }) as f32
}

/// 2^-32.
const TWO_POW_MINUS_32: f32 = 1.0 / 4_294_967_296.0;

/// 2 pi 2^-32, in f32 as in `curand_normal.h`.
const TAU_POW_MINUS_32: f32 = TWO_POW_MINUS_32 * std::f32::consts::TAU;

/// Philox4x32 with ten rounds: four 32-bit values for the counter (`iteration`, `thread`) under the key `seed`.
fn philox4x32_10(seed: u64, iteration: u64, thread: u64) -> [u32; 4] {
    let mut key = [seed as u32, (seed >> 32) as u32];
    let mut counter = [iteration as u32, (iteration >> 32) as u32, thread as u32, (thread >> 32) as u32];
    for _ in 0..10 {
        let a = u64::from(counter[0]) * 0xD251_1F53;
        let b = u64::from(counter[2]) * 0xCD9E_8D57;
        counter = [(b >> 32) as u32 ^ counter[1] ^ key[0], b as u32, (a >> 32) as u32 ^ counter[3] ^ key[1], a as u32];
        key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
    }
    counter
}

/// Natural logarithm of a positive normal number, to about 1e-15, from operations that are exact everywhere.
fn ln(x: f64) -> f64 {
    // x = 2^exponent * m with m in [sqrt(1/2), sqrt(2)), so that numbers near 1 keep exponent 0 and lose no digits.
    let bits = x.to_bits();
    let mut exponent = (bits >> 52) as i32 - 1023;
    let mut m = f64::from_bits(bits & 0x000F_FFFF_FFFF_FFFF | 0x3FF0_0000_0000_0000);
    if m >= std::f64::consts::SQRT_2 {
        m /= 2.0;
        exponent += 1;
    }
    // ln m = 2 artanh(s), a series in s^2 <= 0.0295.
    let s = (m - 1.0) / (m + 1.0);
    let s2 = s * s;
    let series = (0..=10).rev().fold(0.0, |sum, k| sum * s2 + 1.0 / f64::from(2 * k + 1));
    f64::from(exponent) * LN_2 + 2.0 * s * series
}

/// Sine and cosine of an angle from 0 to a little over 2 pi, to about 1e-16, from operations that are exact everywhere.
fn sin_cos(angle: f64) -> (f64, f64) {
    // The quarter turn in two parts, the first short enough that a small multiple of it is exact.
    const QUARTER_HIGH: f64 = 1.570_796_325_802_803;
    const QUARTER_LOW: f64 = 9.920_935_796_805_404e-10;
    let quarters = (angle * (4.0 / TAU) + 0.5) as u32;
    let x = angle - f64::from(quarters) * QUARTER_HIGH - f64::from(quarters) * QUARTER_LOW;
    let x2 = x * x;
    // Taylor series to x^17 and x^16, written from the inside out; |x| <= pi / 4.
    let sin = x * (1..=8).rev().fold(1.0, |sum, k| 1.0 - x2 * sum / f64::from(2 * k * (2 * k + 1)));
    let cos = (1..=8).rev().fold(1.0, |sum, k| 1.0 - x2 * sum / f64::from(2 * k * (2 * k - 1)));
    match quarters % 4 {
        0 => (sin, cos),
        1 => (cos, -sin),
        2 => (-sin, -cos),
        _ => (-cos, sin),
    }
}

// ---- torch-cpu ----

/// Values that PyTorch's vectorised `normal_fill` makes at a time: 8 radii and 8 angles.
const TORCH_CPU_BLOCK: usize = 16;

/// `normal_fill`: uniforms first, then turned into normals block by block.
fn torch_cpu(seed: u64, n: usize) -> Vec<f32> {
    let mut generator = Mt19937::new(seed as u32);
    let mut values: Vec<f32> = (0..n).map(|_| generator.uniform_f32()).collect();
    for block in values.as_chunks_mut().0 {
        box_muller(block);
    }
    // A remainder is covered by a last block that overlaps finished values and draws anew.
    if !n.is_multiple_of(TORCH_CPU_BLOCK) {
        let mut last = [0.0; TORCH_CPU_BLOCK];
        last.fill_with(|| generator.uniform_f32());
        box_muller(&mut last);
        values[n - TORCH_CPU_BLOCK..].copy_from_slice(&last);
    }
    values
}

/// 8 uniforms for the radius and 8 for the angle become 8 cosines and 8 sines.
fn box_muller(block: &mut [f32; TORCH_CPU_BLOCK]) {
    let (radii, angles) = block.split_at_mut(TORCH_CPU_BLOCK / 2);
    for (a, b) in radii.iter_mut().zip(angles) {
        let radius = (-2.0 * cephes_ln(1.0 - *a)).sqrt();
        let (sin, cos) = cephes_sin_cos(std::f32::consts::TAU * *b);
        // PyTorch scales by one and adds zero, which turns a negative zero into a positive one.
        *a = radius * cos + 0.0;
        *b = radius * sin + 0.0;
    }
}

/// `log256_ps` of avx_mathfun.h for a positive normal number, as the compiler contracts it: each fused multiply-add and
/// each separate product below is one rounding, and the bits depend on all of them.
fn cephes_ln(x: f32) -> f32 {
    let bits = x.to_bits();
    let mut exponent = (bits >> 23) as i32 - 126;
    let mut x = f32::from_bits(bits & 0x007F_FFFF | 0x3F00_0000); // [0.5, 1)
    if x < std::f32::consts::FRAC_1_SQRT_2 {
        exponent -= 1;
        x = x - 1.0 + x;
    } else {
        x -= 1.0;
    }
    let exponent = exponent as f32;
    let z = x * x;
    let mut y = 0.070_376_836_f32;
    for coefficient in [
        -0.115_146_1,
        0.116_769_984,
        -0.124_201_41,
        0.142_493_23,
        -0.166_680_57,
        0.200_007_14,
        -0.249_999_94,
        0.333_333_3,
    ] {
        y = y.mul_add(x, coefficient);
    }
    y *= x;
    y = y.mul_add(z, exponent * -0.000_212_194_44);
    y = (-z).mul_add(0.5, y);
    exponent.mul_add(355.0 / 512.0, x + y)
}

/// `sincos256_ps` of avx_mathfun.h for an angle from 0 to 2 pi, as the compiler contracts it.
fn cephes_sin_cos(angle: f32) -> (f32, f32) {
    let octant = ((angle * (4.0 / std::f32::consts::PI)) as i32 + 1) & !1;
    let turns = octant as f32;
    let mut x = turns.mul_add(-0.785_156_25, angle);
    x = turns.mul_add(-0.000_241_875_65, x);
    x = turns.mul_add(-3.774_895e-8, x);
    let z = x * x;

    let mut cos = 2.443_315_7e-5_f32;
    cos = cos.mul_add(z, -0.001_388_731_6);
    cos = cos.mul_add(z, 0.041_666_646);
    cos *= z;
    cos = cos.mul_add(z, -(z * 0.5)) + 1.0;

    let mut sin = -0.000_195_152_96_f32;
    sin = sin.mul_add(z, 0.008_332_161);
    sin = sin.mul_add(z, -0.166_666_55);
    sin *= z;
    sin = sin.mul_add(x, x);

    match octant & 6 {
        0 => (sin, cos),
        2 => (cos, -sin),
        4 => (-sin, -cos),
        _ => (-cos, sin),
    }
}

/// Fewer elements than a block: PyTorch draws in f64, two normals from two uniforms of 53 bits.
///
/// No image is this small; it is here so that no `n` is wrong.
fn torch_cpu_few(seed: u64, n: usize) -> Vec<f32> {
    let mut generator = Mt19937::new(seed as u32);
    let mut values = Vec::with_capacity(n + 1);
    while values.len() < n {
        let (turn, u) = (generator.uniform_f64(), generator.uniform_f64());
        let radius = (-2.0 * (-u).ln_1p()).sqrt();
        let (sin, cos) = (TAU * turn).sin_cos();
        values.extend([(radius * cos) as f32, (radius * sin) as f32]);
    }
    values.truncate(n);
    values
}

/// The Mersenne Twister with 19937 bits of state.
struct Mt19937 {
    state: [u32; Self::LEN],
    next: usize,
}

impl Mt19937 {
    const LEN: usize = 624;
    const MIDDLE: usize = 397;

    fn new(seed: u32) -> Self {
        let mut state = [seed; Self::LEN];
        for i in 1..Self::LEN {
            let before = state[i - 1];
            state[i] = (before ^ before >> 30).wrapping_mul(1_812_433_253).wrapping_add(i as u32);
        }
        Self { state, next: Self::LEN }
    }

    fn next_u32(&mut self) -> u32 {
        if self.next == Self::LEN {
            self.regenerate();
        }
        let mut x = self.state[self.next];
        self.next += 1;
        x ^= x >> 11;
        x ^= x << 7 & 0x9D2C_5680;
        x ^= x << 15 & 0xEFC6_0000;
        x ^ x >> 18
    }

    fn regenerate(&mut self) {
        for i in 0..Self::LEN {
            let joined = self.state[i] & 0x8000_0000 | self.state[(i + 1) % Self::LEN] & 0x7FFF_FFFF;
            let twist = if joined & 1 == 1 { 0x9908_B0DF } else { 0 };
            self.state[i] = self.state[(i + Self::MIDDLE) % Self::LEN] ^ joined >> 1 ^ twist;
        }
        self.next = 0;
    }

    /// 24 bits, in `0.0..1.0`.
    fn uniform_f32(&mut self) -> f32 {
        (self.next_u32() & 0x00FF_FFFF) as f32 / 16_777_216.0
    }

    /// 53 bits, in `0.0..1.0`; the first draw is the high half.
    fn uniform_f64(&mut self) -> f64 {
        let bits = u64::from(self.next_u32()) << 32 | u64::from(self.next_u32());
        (bits & ((1 << 53) - 1)) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn ln_is_the_logarithm(x in 1e-10f64..=1.0) {
            // One part in 10^15, or what one ulp of an x near 1 moves the logarithm.
            prop_assert!((ln(x) - x.ln()).abs() <= 1e-15 * x.ln().abs() + 1e-17, "{} {}", ln(x), x.ln());
        }

        #[test]
        fn sin_cos_are_sine_and_cosine(angle in 0f32..=std::f32::consts::TAU) {
            let (sin, cos) = sin_cos(f64::from(angle));
            prop_assert!((sin - f64::from(angle).sin()).abs() < 4e-16, "sin {angle}: {sin}");
            prop_assert!((cos - f64::from(angle).cos()).abs() < 4e-16, "cos {angle}: {cos}");
        }
    }

    #[test]
    fn ends_of_the_ranges_are_finite() {
        let largest = f64::from((u32::MAX as f32).mul_add(TAU_POW_MINUS_32, TAU_POW_MINUS_32 / 2.0));
        assert!(sin_cos(largest).0.abs() < 1e-6 && sin_cos(largest).1 > 0.999);
        assert_eq!((ln(1.0), sin_cos(0.0)), (0.0, (0.0, 1.0)));
        assert_eq!(cephes_ln(1.0), 0.0);
        assert!((ln(2f64.powi(-33)) + 33.0 * LN_2).abs() < 1e-14);
    }

    /// Knuth's generator in the C++ standard: the 10000th value for seed 5489.
    #[test]
    fn mersenne_twister_passes_the_standard_check() {
        let mut generator = Mt19937::new(5489);
        let last = (0..10_000).map(|_| generator.next_u32()).last();
        assert_eq!(last, Some(4_123_659_995));
    }

    /// Known answers of the Random123 distribution: counter and key of zeros, of ones.
    #[test]
    fn philox_passes_the_known_answers() {
        assert_eq!(philox4x32_10(0, 0, 0), [0x6627_E8D5, 0xE169_C58D, 0xBC57_AC4C, 0x9B00_DBD8]);
        assert_eq!(philox4x32_10(u64::MAX, u64::MAX, u64::MAX), [0x408F_276D, 0x41C8_3B0E, 0xA20B_C7C6, 0x6D54_51FD]);
    }
}
