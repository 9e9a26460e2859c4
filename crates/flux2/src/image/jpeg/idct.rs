//! Inverse DCT of an 8x8 block: the accurate integer one of libjpeg, to the bit.
//!
//! Source: `jidctint.c`, libjpeg-turbo; the algorithm of Loeffler, Ligtenberg and Moschytz, ICASSP 1989.

use super::scan::ZIGZAG;

/// Fraction bits of the constants, and of the values between the passes.
const CONST_BITS: u32 = 13;
const PASS1_BITS: u32 = 2;

/// Samples of `block` (row-major coefficients) to 8 rows of `out`. `steps` are in zigzag order.
pub(super) fn transform(block: &[i16; 64], steps: &[u16; 64], out: &mut [u8], stride: usize) {
    let mut values = [0i32; 64];
    for (&place, &step) in ZIGZAG.iter().zip(steps) {
        values[usize::from(place)] = i32::from(block[usize::from(place)]).wrapping_mul(step.into());
    }
    if values[1..].iter().all(|&value| value == 0) {
        let sample = sample(values[0] << PASS1_BITS, PASS1_BITS + 3);
        (0..8).for_each(|y| out[y * stride..y * stride + 8].fill(sample));
        return;
    }
    for x in 0..8 {
        let column = one_dimension(std::array::from_fn(|y| values[y * 8 + x]));
        for (y, value) in column.into_iter().enumerate() {
            values[y * 8 + x] = descale(value, CONST_BITS - PASS1_BITS);
        }
    }
    for y in 0..8 {
        let row = one_dimension(std::array::from_fn(|x| values[y * 8 + x]));
        let out = &mut out[y * stride..y * stride + 8];
        out.iter_mut().zip(row).for_each(|(out, value)| *out = sample(value, CONST_BITS + PASS1_BITS + 3));
    }
}

fn descale(value: i32, bits: u32) -> i32 {
    value.wrapping_add(1 << (bits - 1)) >> bits
}

fn sample(value: i32, bits: u32) -> u8 {
    (descale(value, bits) + 128).clamp(0, 255) as u8
}

/// Eight values, scaled by 2^[`CONST_BITS`]. Only broken files reach values that wrap.
fn one_dimension(v: [i32; 8]) -> [i32; 8] {
    let mul = |value: i32, constant: i32| value.wrapping_mul(constant);
    let add = |a: i32, b: i32| a.wrapping_add(b);
    let sub = |a: i32, b: i32| a.wrapping_sub(b);

    // Even part.
    let z1 = mul(add(v[2], v[6]), 4433); // 0.541196100
    let tmp2 = add(z1, mul(v[6], -15137)); // 1.847759065
    let tmp3 = add(z1, mul(v[2], 6270)); // 0.765366865
    let tmp0 = mul(add(v[0], v[4]), 1 << CONST_BITS);
    let tmp1 = mul(sub(v[0], v[4]), 1 << CONST_BITS);
    let even = [add(tmp0, tmp3), add(tmp1, tmp2), sub(tmp1, tmp2), sub(tmp0, tmp3)];

    // Odd part.
    let [tmp0, tmp1, tmp2, tmp3] = [v[7], v[5], v[3], v[1]];
    let (z3, z4) = (add(tmp0, tmp2), add(tmp1, tmp3));
    let z5 = mul(add(z3, z4), 9633); // 1.175875602
    let z1 = mul(add(tmp0, tmp3), -7373); // 0.899976223
    let z2 = mul(add(tmp1, tmp2), -20995); // 2.562915447
    let z3 = add(mul(z3, -16069), z5); // 1.961570560
    let z4 = add(mul(z4, -3196), z5); // 0.390180644
    let odd = [
        add(mul(tmp3, 12299), add(z1, z4)), // 1.501321110
        add(mul(tmp2, 25172), add(z2, z3)), // 3.072711026
        add(mul(tmp1, 16819), add(z2, z4)), // 2.053119869
        add(mul(tmp0, 2446), add(z1, z3)),  // 0.298631336
    ];
    std::array::from_fn(|i| match i {
        0..4 => add(even[i], odd[i]),
        _ => sub(even[7 - i], odd[7 - i]),
    })
}
