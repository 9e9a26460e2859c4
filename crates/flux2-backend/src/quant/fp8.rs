//! OCP e4m3fn: 1 sign, 4 exponent (bias 7), 3 mantissa bits; no infinities, 0x7f and 0xff are NaN, largest value 448.
//!
//! Every e4m3 value is exact in bf16 and f32. Rounding a value within the range to e4m3 errs by at most 2^-4 relative.

/// The value of one e4m3fn byte.
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
