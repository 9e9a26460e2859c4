//! OCP e2m1: 1 sign, 2 exponent (bias 1), 1 mantissa bit. Values are 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives.
//! Two values share a byte, the first in the high nibble.
//!
//! The element format of NVFP4, in which 16 values share an e4m3 scale and a matrix has one f32 scale. The error of
//! rounding is at most a sixth of the value, or 0.25 below 1.
//!
//! Sources: OCP Microscaling Formats 1.0; `dequantize_nvfp4` in comfy-kitchen.

/// The value of the low four bits of `code`.
pub const fn e2m1_to_f32(code: u8) -> f32 {
    let (exponent, mantissa) = (code as i32 >> 1 & 3, code as i32 & 1);
    // In units of 0.5; branch-free, so that loops over codes vectorize.
    let normal = (2 + mantissa) << (exponent - (exponent != 0) as i32) as u32;
    let halves = normal - 2 * (exponent == 0) as i32;
    let sign = 1 - (code as i32 >> 2 & 2);
    (sign * halves) as f32 * 0.5
}

/// Decodes `out.len()` values of a row, starting at value `from`.
#[inline(always)]
pub fn decode(row: &[u8], from: usize, out: &mut [f32]) {
    let (mut bytes, mut out) = (&row[from / 2..], out);
    if from % 2 == 1 && !out.is_empty() {
        out[0] = e2m1_to_f32(bytes[0]);
        (bytes, out) = (&bytes[1..], &mut out[1..]);
    }
    let whole = out.len() / 2;
    let (pairs, last) = out.split_at_mut(2 * whole);
    for (pair, byte) in pairs.chunks_exact_mut(2).zip(bytes) {
        (pair[0], pair[1]) = (e2m1_to_f32(byte >> 4), e2m1_to_f32(byte & 15));
    }
    if let [last] = last {
        *last = e2m1_to_f32(bytes[whole] >> 4);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_its_value() {
        let magnitudes = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
        for code in 0..16u8 {
            let magnitude = magnitudes[usize::from(code & 7)];
            assert_eq!(e2m1_to_f32(code), if code < 8 { magnitude } else { -magnitude }, "{code}");
        }
    }

    #[test]
    fn any_window_of_a_row_is_the_row_there() {
        let row: Vec<u8> = (0..=255).map(|b: u8| b.wrapping_mul(37)).collect();
        let mut whole = vec![0.0; 512];
        decode(&row, 0, &mut whole);
        assert_eq!(whole[..4], [0, 0, 2, 5].map(e2m1_to_f32));
        for (from, len) in [(0, 1), (1, 1), (1, 2), (2, 3), (3, 8), (511, 1), (17, 0), (100, 411)] {
            let mut window = vec![9.0; len];
            decode(&row, from, &mut window);
            assert_eq!(window, whole[from..from + len], "{len} from {from}");
        }
    }
}
