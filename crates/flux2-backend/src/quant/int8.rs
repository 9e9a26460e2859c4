//! int8 with one scale per row, for weights and activations of int8 products.
//!
//! A row of weights is quantized symmetrically: `w = scale * q`, q in -127..=127, `scale = max|w| / 127`; the error is
//! at most `scale / 2`. A row of activations is quantized asymmetrically, with a zero point: `x = scale * (q - zero)`,
//! q in 0..=255, `scale = (max - min) / 255`, where 0 counts among the values. Its error is at most `scale / 2`, up to
//! `scale` at the ends of the range, because the zero point is rounded to an integer.
//!
//! A product of both is `scale * scale_w * (sum(q * q_w) - zero * sum(q_w))`. Its sums are exact in i32 up to
//! 2^31 / (255 * 127) = 66,000 terms; the models have at most 12,288.

/// Most terms of a sum that cannot overflow i32.
pub const MAX_TERMS: usize = i32::MAX as usize / (255 * 127);

/// Quantizes a row of weights into `out`, which is as long as `values`. Returns the scale, which is NaN if a value is
/// not finite.
#[inline(always)]
pub fn quantize_weights(values: &[f32], out: &mut [i8]) -> f32 {
    let (min, max) = range(values, |v| *v);
    let scale = if -min > max { -min } else { max };
    let scale = scale / 127.0;
    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    for (out, value) in out.iter_mut().zip(values) {
        *out = nearest(value * inverse).clamp(-127, 127) as i8;
    }
    scale
}

/// Minimum and maximum of `values` and 0; both are NaN if a value is not finite.
#[inline(always)]
pub fn range<T>(values: &[T], to_f32: impl Fn(&T) -> f32) -> (f32, f32) {
    // Lanes, since the compiler may not reorder f32 comparisons; each written as the min or max instruction computes
    // it. Comparisons drop NaN, so `poison` collects it: 0 times a value that is not finite is NaN.
    const LANES: usize = 16;
    let (mut min, mut max, mut poison) = ([0f32; LANES], [0f32; LANES], [0f32; LANES]);
    let mut take = |i: usize, value: f32| {
        min[i] = if value < min[i] { value } else { min[i] };
        max[i] = if value > max[i] { value } else { max[i] };
        poison[i] += value * 0.0;
    };
    let chunks = values.chunks_exact(LANES);
    let tail = chunks.remainder();
    for chunk in chunks {
        for (i, value) in chunk.iter().enumerate() {
            take(i, to_f32(value));
        }
    }
    for value in tail {
        take(0, to_f32(value));
    }
    let poison = poison.into_iter().sum::<f32>();
    (min.into_iter().fold(0.0, f32::min) + poison, max.into_iter().fold(0.0, f32::max) + poison)
}

/// Scale and zero point of a row of activations in `min..=max`, where `min <= 0 <= max`. NaN in either gives a NaN
/// scale.
#[inline(always)]
pub fn activation_range(min: f32, max: f32) -> (f32, i32) {
    let scale = (max - min) / 255.0;
    (scale, if scale > 0.0 { nearest(-min / scale).clamp(0, 255) } else { 0 })
}

/// Quantizes an activation.
#[inline(always)]
pub fn quantize_activation(value: f32, inverse_scale: f32, zero: i32) -> u8 {
    nearest(value * inverse_scale).wrapping_add(zero).clamp(0, 255) as u8
}

/// Rounds a value below 2^22 to the nearest integer, ties to even; plain arithmetic, so that loops vectorize.
#[inline(always)]
pub(super) fn nearest(value: f32) -> i32 {
    // 1.5 * 2^23: adding it rounds to an integer, found in the low mantissa bits.
    const ROUND: f32 = 12_582_912.0;
    (value + ROUND).to_bits().wrapping_sub(ROUND.to_bits()) as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_err_by_half_a_step() {
        let values: Vec<f32> = (0..1000).map(|i| ((i * 7919 % 2003) as f32 - 1001.0) * 1.7e-3).collect();
        let mut q = vec![0; values.len()];
        let scale = quantize_weights(&values, &mut q);
        assert!(q.contains(&127) || q.contains(&-127));
        for (v, q) in values.iter().zip(&q) {
            assert!((v - scale * f32::from(*q)).abs() <= 0.500_01 * scale, "{v} became {q} * {scale}");
        }
    }

    #[test]
    fn activations_err_by_half_a_step_wherever_zero_lies() {
        for (low, high) in [(-1.0f32, 3.0f32), (0.5, 2.0), (-7.0, -1.0), (-1e-3, 1e3), (-0.2, 0.1)] {
            let values: Vec<f32> = (0..=500).map(|i| low + (high - low) * i as f32 / 500.0).collect();
            let (scale, zero) = activation_range(low.min(0.0), high.max(0.0));
            for v in values {
                let q = quantize_activation(v, 1.0 / scale, zero);
                // At the ends of the range, the rounding of the zero point adds up to half a step.
                let error = (v - scale * (i32::from(q) - zero) as f32).abs();
                assert!(error <= 1.000_1 * scale, "{v} in {low}..{high} became {q} - {zero} times {scale}");
            }
            assert_eq!(i32::from(quantize_activation(0.0, 1.0 / scale, zero)), zero, "0 is exact");
        }
    }

    #[test]
    fn a_row_of_zeros_stays_one() {
        let mut q = [5; 3];
        assert_eq!(quantize_weights(&[0.0; 3], &mut q), 0.0);
        assert_eq!(q, [0; 3]);
        assert_eq!(activation_range(0.0, 0.0), (0.0, 0));
        assert_eq!(quantize_activation(0.0, 0.0, 0), 0);
    }
}
