//! `philox` and `torch-cuda`: values that depend on the seed and a counter alone, four for each counter.
//!
//! Sources: `PhiloxCudaState` and `DistributionTemplates.h` (CUDA) of PyTorch; Salmon et al. 2011 for Philox.

use std::f64::consts::{LN_2, TAU};
use std::num::NonZeroUsize;

use flux2_base::parallel::in_shares;

/// Kind `philox`: the counter is the index of the element. On several threads, since a megapixel has half a million.
pub(super) fn philox(threads: NonZeroUsize, seed: u64, n: usize) -> Vec<f32> {
    /// Fewer values are not worth a thread.
    const SHARE: usize = 16_384;
    let mut values = vec![0.0; n];
    in_shares(&mut values, threads, SHARE, |first, share| {
        share.iter_mut().zip(first as u64..).for_each(|(v, index)| *v = philox_normal(seed, 0, index, 0));
    });
    values
}

/// Threads in a block of PyTorch's random kernels.
pub(super) const CUDA_BLOCK: u64 = 256;

/// Normal values that one call of the generator gives to a thread.
const PHILOX_LANES: u64 = 4;

/// Kind `torch-cuda`: each thread of the grid makes four values per iteration and strides over the latent by the width
/// of the grid, which depends on the GPU.
pub(super) fn torch_cuda(seed: u64, n: usize, [sms, threads_per_sm]: [u32; 2]) -> Vec<f32> {
    let n = n as u64;
    let blocks_held = (u64::from(sms) * u64::from(threads_per_sm / CUDA_BLOCK as u32)).max(1);
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
    // The uniforms are f32 as on the GPU. The rest is exact to f32; the GPU's fast sine is not.
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

/// Natural logarithm of a positive normal number, to about 1e-15, from operations that are the same on every platform.
fn ln(x: f64) -> f64 {
    // x = 2^exponent * m with m in [sqrt(1/2), sqrt(2)): numbers near 1 have exponent 0, so nothing cancels.
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

/// Sine and cosine of an angle from 0 to a little over 2 pi, to about 1e-16, from operations that are the same on every
/// platform.
fn sin_cos(angle: f64) -> (f64, f64) {
    // A quarter turn as a sum, of which the first term is short enough for small multiples of it to be exact.
    const QUARTER_HIGH: f64 = 1.570_796_325_802_803;
    const QUARTER_LOW: f64 = 9.920_935_796_805_404e-10;
    let quarters = (angle * (4.0 / TAU) + 0.5) as u32;
    let x = angle - f64::from(quarters) * QUARTER_HIGH - f64::from(quarters) * QUARTER_LOW;
    let x2 = x * x;
    // Taylor series to x^17 and x^16 in Horner form; |x| <= pi / 4.
    let sin = x * (1..=8).rev().fold(1.0, |sum, k| 1.0 - x2 * sum / f64::from(2 * k * (2 * k + 1)));
    let cos = (1..=8).rev().fold(1.0, |sum, k| 1.0 - x2 * sum / f64::from(2 * k * (2 * k - 1)));
    match quarters % 4 {
        0 => (sin, cos),
        1 => (cos, -sin),
        2 => (-sin, -cos),
        _ => (-cos, sin),
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
        assert!((ln(2f64.powi(-33)) + 33.0 * LN_2).abs() < 1e-14);
    }

    /// Known answers of the Random123 distribution: counter and key of zeros, of ones.
    #[test]
    fn philox_passes_the_known_answers() {
        assert_eq!(philox4x32_10(0, 0, 0), [0x6627_E8D5, 0xE169_C58D, 0xBC57_AC4C, 0x9B00_DBD8]);
        assert_eq!(philox4x32_10(u64::MAX, u64::MAX, u64::MAX), [0x408F_276D, 0x41C8_3B0E, 0xA20B_C7C6, 0x6D54_51FD]);
    }
}
