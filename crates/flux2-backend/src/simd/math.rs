//! Elementary functions as branch-free f32 arithmetic, so that loops over them vectorize.

/// `e^x` to within two units in the last place; 0 below -87, infinity above 88.7.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // 1.5 * 2^23: adding it rounds to an integer, found in the low mantissa bits.
    const ROUND: f32 = 12_582_912.0;
    let clamped = x.clamp(-87.0, 88.7);
    let shifted = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    // x - n ln 2, with ln 2 split in two so that the first product is exact.
    let r = clamped - n * 0.693_359_4 - n * -2.121_944_4e-4;
    // e^r for |r| <= ln 2 / 2, with the coefficients of Cephes.
    let mut p = 1.987_569_1e-4;
    for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = p * r + c;
    }
    let y = p * (r * r) + r + 1.0;
    // Times 2^n, as two factors because n may be 128. Wrapping: overflow checks would prevent vectorization.
    let n = shifted.to_bits().wrapping_sub(ROUND.to_bits()) as i32;
    let half = n >> 1;
    let power = |n: i32| f32::from_bits((n.wrapping_add(127) as u32) << 23);
    let y = y * power(half) * power(n.wrapping_sub(half));
    if x < -87.0 {
        0.0
    } else if x > 88.7 {
        f32::INFINITY
    } else {
        y
    }
}

/// `2^x` for `x <= 0`, to within two units in the last place, at least 2^-126. Half the cost of [`exp`]; for softmax.
#[inline(always)]
pub(crate) fn exp2_of_nonpositive(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // as in `exp`
    let clamped = if x < -126.0 { -126.0 } else { x }; // keeps NaN
    let shifted = clamped + ROUND;
    let r = clamped - (shifted - ROUND);
    // 2^r for |r| <= 1/2: the minimax polynomial of degree 5, relative error 9e-8.
    let mut p = 1.326_472_6e-3;
    #[allow(clippy::approx_constant)] // the fourth is near ln 2, not equal to it
    for c in [9.671_513e-3, 5.550_733_6e-2, 2.402_224_2e-1, 6.931_47e-1, 1.0] {
        p = p * r + c;
    }
    // Times 2^n: added to the exponent bits, which stay above 0.
    let n = shifted.to_bits().wrapping_sub(ROUND.to_bits());
    f32::from_bits(f32::to_bits(p).wrapping_add(n << 23))
}

/// `x * sigmoid(x)`.
#[inline(always)]
pub(crate) fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_two_units_in_the_last_place() {
        for i in -870_000..=887_000 {
            let x = i as f32 * 1e-4;
            let expected = f64::from(x).exp();
            let error = (f64::from(exp(x)) / expected - 1.0).abs();
            assert!(error < 2.0 * f64::from(f32::EPSILON), "exp({x}) = {}, expected {expected}", exp(x));
        }
        assert_eq!(exp(0.0), 1.0);
        assert_eq!((exp(-100.0), exp(100.0)), (0.0, f32::INFINITY));
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn exp2_is_within_two_units_in_the_last_place() {
        for i in 0..=1_260_000 {
            let x = i as f32 * -1e-4;
            let expected = f64::from(x).exp2();
            let got = exp2_of_nonpositive(x);
            let error = (f64::from(got) / expected - 1.0).abs();
            assert!(error < 2.0 * f64::from(f32::EPSILON), "2^{x} = {got}, expected {expected}");
        }
        assert_eq!(exp2_of_nonpositive(0.0), 1.0);
        assert_eq!(exp2_of_nonpositive(f32::NEG_INFINITY), 2f32.powi(-126));
        assert!(exp2_of_nonpositive(f32::NAN).is_nan());
    }
}
