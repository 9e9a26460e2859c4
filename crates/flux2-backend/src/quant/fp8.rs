//! OCP e4m3fn: 1 sign, 4 exponent (bias 7), 3 mantissa bits; no infinities, 0x7f and 0xff are NaN, largest value 448.
//!
//! Every e4m3 value is exact in bf16 and f32. The relative error of rounding a normal value is at most 2^-4.
//!
//! fp8 products quantize rows of weights and of activations with one scale each: `x = scale * q`,
//! `scale = max|x| / 448`, so the largest value of a row maps to 448. The error is at most 2^-4 of a value, or
//! `scale * 2^-10` for values below `scale * 2^-6`.

/// The largest finite value.
pub const MAX: f32 = 448.0;

/// Quantizes a row into `out`, which is as long as `values`. Returns the scale, which is NaN if a value is not finite.
pub fn quantize_row(values: &[f32], out: &mut [u8]) -> f32 {
    let poison: f32 = values.iter().map(|v| v * 0.0).sum();
    let scale = values.iter().fold(0f32, |max, v| max.max(v.abs())) / MAX + poison;
    let inverse = if scale >= f32::MIN_POSITIVE { 1.0 / scale } else { 0.0 };
    for (out, value) in out.iter_mut().zip(values) {
        *out = e4m3_from_f32(value * inverse);
    }
    scale
}

/// Rounds to the nearest e4m3 value, ties to even; saturates at [`MAX`].
pub fn e4m3_from_f32(value: f32) -> u8 {
    if value.is_nan() {
        return 0x7f;
    }
    let sign = if value.is_sign_negative() { 0x80 } else { 0 };
    let magnitude = value.abs().min(MAX);
    // Subnormals, below 2^-6, are multiples of 2^-9; the eighth is the smallest normal value, 2^-6.
    let code = if magnitude < 1.0 / 64.0 {
        (magnitude * 512.0).round_ties_even() as u8
    } else {
        let bits = magnitude.to_bits();
        ((bits + 0x7_ffff + (bits >> 20 & 1)) >> 20).wrapping_sub(120 << 3) as u8
    };
    sign | code
}

/// Decodes an e4m3fn byte.
pub const fn e4m3_to_f32(byte: u8) -> f32 {
    TABLE[byte as usize]
}

const TABLE: [f32; 256] = {
    let mut table = [0.0; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = value(byte as u8);
        byte += 1;
    }
    table
};

const fn value(byte: u8) -> f32 {
    let sign = (byte as u32 >> 7) << 31;
    let exponent = byte as u32 >> 3 & 0xf;
    let mantissa = byte as u32 & 7;
    if exponent == 15 && mantissa == 7 {
        return f32::NAN;
    }
    if exponent == 0 {
        let magnitude = mantissa as f32 / 512.0;
        return if sign == 0 { magnitude } else { -magnitude };
    }
    f32::from_bits(sign | (exponent + 120) << 23 | mantissa << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_finds_the_nearest_value() {
        let values: Vec<(u8, f32)> = (0..=0x7e).map(|byte| (byte, e4m3_to_f32(byte))).collect();
        for pair in values.windows(2) {
            let [(low, a), (high, b)] = pair else { unreachable!() };
            let middle = (a + b) / 2.0;
            let even = if low % 2 == 0 { *low } else { *high };
            for (value, expected) in [(*a, *low), (middle.next_down(), *low), (middle, even), (middle.next_up(), *high)]
            {
                assert_eq!(e4m3_from_f32(value), expected, "{value}");
                assert_eq!(e4m3_from_f32(-value), expected | 0x80, "-{value}");
            }
        }
        assert_eq!([449.0, 1e30, f32::INFINITY].map(e4m3_from_f32), [0x7e; 3]);
        assert_eq!(e4m3_from_f32(f32::NAN), 0x7f);
    }

    #[test]
    fn the_largest_of_a_row_is_exact() {
        let values = [0.3, -7.0, 0.0, 1e-5];
        let mut out = [0; 4];
        let scale = quantize_row(&values, &mut out);
        assert_eq!((scale, out[1], out[2]), (7.0 / 448.0, 0xfe, 0));
        assert!(quantize_row(&[1.0, f32::INFINITY], &mut [0; 2]).is_nan());
        assert_eq!((quantize_row(&[0.0; 2], &mut out[..2]), &out[..2]), (0.0, &[0, 0][..]));
    }

    #[test]
    fn known_values() {
        for (byte, expected) in [
            (0x00, 0.0),
            (0x01, 1.0 / 512.0),
            (0x07, 7.0 / 512.0),
            (0x08, 1.0 / 64.0),
            (0x38, 1.0),
            (0x7e, 448.0),
            (0xb8, -1.0),
        ] {
            assert_eq!(e4m3_to_f32(byte), expected, "{byte:#x}");
        }
        assert!(e4m3_to_f32(0x7f).is_nan() && e4m3_to_f32(0xff).is_nan());
    }
}
