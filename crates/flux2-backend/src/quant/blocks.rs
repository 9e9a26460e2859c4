//! GGML's block formats, used by GGUF files: blocks of 32 or 256 consecutive values with their own scales.
//!
//! | | values | bytes | bits a value | value |
//! |---|---|---|---|---|
//! | `Q8_0` | 32 | 34 | 8.5 | `d * q`, q in -128..=127 |
//! | `Q4_0` | 32 | 18 | 4.5 | `d * (q - 8)`, q in 0..=15 |
//! | `Q4_1` | 32 | 20 | 5.0 | `d * q + m` |
//! | `Q5_0` | 32 | 22 | 5.5 | `d * (q - 16)`, q in 0..=31 |
//! | `Q5_1` | 32 | 24 | 6.0 | `d * q + m` |
//! | `Q4K` | 256 | 144 | 4.5 | `d * s * q - dmin * m`, q in 0..=15; s and m in 0..=63, one of each per 32 values |
//! | `Q5K` | 256 | 176 | 5.5 | as `Q4K`, q in 0..=31 |
//! | `Q6K` | 256 | 210 | 6.5625 | `d * s * (q - 32)`, q in 0..=63; s in -128..=127, one per 16 values |
//!
//! `d`, `dmin` and the `m` of `Q4_1` and `Q5_1` are f16. Source of the formats: `ggml-quants.c` and `ggml-common.h` in
//! ggml-org/ggml. Decoding multiplies in the same order, so decoded values are equal to the bit.
//!
//! `Q8_0` and `Q4K` can also be encoded. The error of `Q8_0` is at most `d / 2` with `d = max|w| / 127`, plus 2^-11 of
//! `w` for the rounding of `d`. `Q4K` searches codes, scales and minima for the least squared error, so single values
//! may have larger errors. Its mean squared error is bounded by that of plain rounding in steps of `(max - min) / 15`,
//! with scales and minima rounded to 1/63 of the largest of the block's eight.

use half::f16;

use super::int8::{nearest, range};

/// Layout and decoding of a block format.
pub trait Block {
    /// Values per block.
    const LEN: usize;
    /// Bytes per block.
    const BYTES: usize;
    /// Values per unit: the smallest run of a block that is decoded at once.
    const UNIT: usize;

    /// Decodes unit `unit` of a block: `UNIT` values.
    fn decode_unit(block: &[u8], unit: usize, out: &mut [f32]);
}

/// Decodes `out.len()` values of a row of blocks, starting at value `from`.
#[inline(always)]
pub fn decode<B: Block>(row: &[u8], from: usize, out: &mut [f32]) {
    let unit = |at: usize| (&row[at / B::LEN * B::BYTES..][..B::BYTES], at % B::LEN / B::UNIT);
    let mut at = from;
    let mut rest = out;
    // Partial units, at either end, go through a buffer.
    while !rest.is_empty() {
        let skip = at % B::UNIT;
        let n = (B::UNIT - skip).min(rest.len());
        let (now, later) = rest.split_at_mut(n);
        let (block, index) = unit(at - skip);
        if n == B::UNIT {
            B::decode_unit(block, index, now);
        } else {
            let mut whole = [0.0; 256];
            B::decode_unit(block, index, &mut whole[..B::UNIT]);
            now.copy_from_slice(&whole[skip..skip + n]);
        }
        at += n;
        rest = later;
    }
}

/// Reads the f16 at byte `at`.
#[inline(always)]
fn f16_at(block: &[u8], at: usize) -> f32 {
    let bits = u32::from(u16::from_le_bytes([block[at], block[at + 1]]));
    // The f16 exponent bias is 112 less than that of f32: a multiplication corrects it, for subnormal numbers too.
    // Infinity and NaN have all exponent bits set, as in f32.
    let magnitude = f32::from_bits((bits & 0x7fff) << 13) * f32::from_bits((127 + 112) << 23);
    let special = if bits & 0x7c00 == 0x7c00 { 0x7f80_0000 } else { 0 };
    f32::from_bits(magnitude.to_bits() | special | (bits & 0x8000) << 16)
}

/// 8-bit: see the [table](self).
pub struct Q8_0;

impl Block for Q8_0 {
    const LEN: usize = 32;
    const BYTES: usize = 34;
    const UNIT: usize = 32;

    #[inline(always)]
    fn decode_unit(block: &[u8], _: usize, out: &mut [f32]) {
        let d = f16_at(block, 0);
        for (out, q) in out[..32].iter_mut().zip(&block[2..34]) {
            *out = d * f32::from(*q as i8);
        }
    }
}

/// Decodes 16 bytes whose low nibbles are the first half of a block and whose high nibbles are the second.
#[inline(always)]
fn nibbles(bytes: &[u8], out: &mut [f32], value: impl Fn(usize, u8) -> f32) {
    let (bytes, (low, high)) = (&bytes[..16], out[..32].split_at_mut(16));
    for i in 0..16 {
        low[i] = value(i, bytes[i] & 15);
        high[i] = value(i + 16, bytes[i] >> 4);
    }
}

/// The fifth bit of code `i`: 16 or 0.
#[inline(always)]
fn fifth(bits: u32, i: usize) -> u8 {
    ((bits >> i & 1) << 4) as u8
}

#[inline(always)]
fn u32_at(block: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]])
}

/// 4-bit: see the [table](self).
pub struct Q4_0;

impl Block for Q4_0 {
    const LEN: usize = 32;
    const BYTES: usize = 18;
    const UNIT: usize = 32;

    #[inline(always)]
    fn decode_unit(block: &[u8], _: usize, out: &mut [f32]) {
        let d = f16_at(block, 0);
        nibbles(&block[2..18], out, |_, q| d * (i32::from(q) - 8) as f32);
    }
}

/// 4-bit with minimum: see the [table](self).
pub struct Q4_1;

impl Block for Q4_1 {
    const LEN: usize = 32;
    const BYTES: usize = 20;
    const UNIT: usize = 32;

    #[inline(always)]
    fn decode_unit(block: &[u8], _: usize, out: &mut [f32]) {
        let (d, m) = (f16_at(block, 0), f16_at(block, 2));
        nibbles(&block[4..20], out, |_, q| d * f32::from(q) + m);
    }
}

/// 5-bit: see the [table](self).
pub struct Q5_0;

impl Block for Q5_0 {
    const LEN: usize = 32;
    const BYTES: usize = 22;
    const UNIT: usize = 32;

    #[inline(always)]
    fn decode_unit(block: &[u8], _: usize, out: &mut [f32]) {
        let (d, bits) = (f16_at(block, 0), u32_at(block, 2));
        nibbles(&block[6..22], out, |i, q| d * (i32::from(q | fifth(bits, i)) - 16) as f32);
    }
}

/// 5-bit with minimum: see the [table](self).
pub struct Q5_1;

impl Block for Q5_1 {
    const LEN: usize = 32;
    const BYTES: usize = 24;
    const UNIT: usize = 32;

    #[inline(always)]
    fn decode_unit(block: &[u8], _: usize, out: &mut [f32]) {
        let (d, m, bits) = (f16_at(block, 0), f16_at(block, 2), u32_at(block, 4));
        nibbles(&block[8..24], out, |i, q| d * f32::from(q | fifth(bits, i)) + m);
    }
}

/// Scale and minimum number `i` of a block's eight, 6 bits each, packed in 12 bytes. Bytes 0..4 hold scales 0..4 and
/// bytes 4..8 minima 0..4, in the low 6 bits. Bytes 8..12 hold the low nibbles of scales and minima 4..8, whose upper 2
/// bits are in the upper bits of bytes 0..8.
#[inline(always)]
fn scale_min(packed: &[u8], i: usize) -> (f32, f32) {
    let (scale, min) = match i {
        0..4 => (packed[i] & 63, packed[i + 4] & 63),
        _ => (packed[i + 4] & 15 | packed[i - 4] >> 6 << 4, packed[i + 4] >> 4 | packed[i] >> 6 << 4),
    };
    (f32::from(scale), f32::from(min))
}

/// 4-bit with minimum, in super-blocks: see the [table](self).
pub struct Q4K;

impl Block for Q4K {
    const LEN: usize = 256;
    const BYTES: usize = 144;
    const UNIT: usize = 64;

    #[inline(always)]
    fn decode_unit(block: &[u8], unit: usize, out: &mut [f32]) {
        let (d, dmin) = (f16_at(block, 0), f16_at(block, 2));
        let bytes = &block[16 + 32 * unit..][..32];
        let (low, high) = out[..64].split_at_mut(32);
        for (half, out) in [low, high].into_iter().enumerate() {
            let (scale, min) = scale_min(&block[4..16], 2 * unit + half);
            let (scale, min) = (d * scale, dmin * min);
            for (out, byte) in out.iter_mut().zip(bytes) {
                *out = scale * f32::from(byte >> (4 * half) & 15) - min;
            }
        }
    }
}

/// 5-bit with minimum, in super-blocks: see the [table](self).
pub struct Q5K;

impl Block for Q5K {
    const LEN: usize = 256;
    const BYTES: usize = 176;
    const UNIT: usize = 64;

    #[inline(always)]
    fn decode_unit(block: &[u8], unit: usize, out: &mut [f32]) {
        let (d, dmin) = (f16_at(block, 0), f16_at(block, 2));
        let (fifths, bytes) = (&block[16..48], &block[48 + 32 * unit..][..32]);
        let (low, high) = out[..64].split_at_mut(32);
        for (half, out) in [low, high].into_iter().enumerate() {
            let (scale, min) = scale_min(&block[4..16], 2 * unit + half);
            let (scale, min) = (d * scale, dmin * min);
            for ((out, byte), fifth) in out.iter_mut().zip(bytes).zip(fifths) {
                let q = byte >> (4 * half) & 15 | (fifth >> (2 * unit + half) & 1) << 4;
                *out = scale * f32::from(q) - min;
            }
        }
    }
}

/// 6-bit, in super-blocks: see the [table](self).
pub struct Q6K;

impl Block for Q6K {
    const LEN: usize = 256;
    const BYTES: usize = 210;
    const UNIT: usize = 128;

    #[inline(always)]
    fn decode_unit(block: &[u8], unit: usize, out: &mut [f32]) {
        let d = f16_at(block, 208);
        let (low, high) = (&block[64 * unit..][..64], &block[128 + 32 * unit..][..32]);
        let scales = &block[192 + 8 * unit..][..8];
        // Four runs of 32 values. Low 4 bits: the low nibbles of both halves of `low`, then the high nibbles. Upper 2
        // bits: one pair of bits of `high` per run, lowest first.
        for (run, out) in out[..128].chunks_exact_mut(32).enumerate() {
            let low = &low[run % 2 * 32..][..32];
            for (part, out) in out.chunks_exact_mut(16).enumerate() {
                let scale = d * f32::from(scales[2 * run + part] as i8);
                let (low, high) = (&low[16 * part..][..16], &high[16 * part..][..16]);
                for ((out, low), high) in out.iter_mut().zip(low).zip(high) {
                    let q = low >> (run / 2 * 4) & 15 | (high >> (2 * run) & 3) << 4;
                    *out = scale * (i32::from(q) - 32) as f32;
                }
            }
        }
    }
}

// ---- encoding ----

/// Encodes whole blocks.
#[inline(always)]
pub fn encode_q8_0(values: &[f32], out: &mut [u8]) {
    for (values, block) in values.chunks_exact(Q8_0::LEN).zip(out.chunks_exact_mut(Q8_0::BYTES)) {
        let (min, max) = range(values, |v| *v);
        let d = (if -min > max { -min } else { max }) / 127.0;
        let inverse = if d > 0.0 { 1.0 / d } else { 0.0 };
        block[..2].copy_from_slice(&f16::from_f32(d).to_le_bytes());
        for (q, value) in block[2..].iter_mut().zip(values) {
            *q = nearest(value * inverse).clamp(-127, 127) as i8 as u8;
        }
    }
}

/// Length of a sub-block: values that share a scale and a minimum.
const SUB: usize = 32;
type Sub = [f32; SUB];

/// Sum over a sub-block, in an order of additions that vectorizes and is the same on every tier.
#[inline(always)]
fn sum(value: impl Fn(usize) -> f32) -> f32 {
    let mut lanes = [0f32; SUB / 2];
    for (i, lane) in lanes.iter_mut().enumerate() {
        *lane = value(i) + value(i + SUB / 2);
    }
    for width in [8, 4, 2, 1] {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
    }
    lanes[0]
}

/// Codes of the values for steps of `1 / inverse`, starting at `-min`.
#[inline(always)]
fn codes(x: &Sub, inverse: f32, min: f32) -> Sub {
    std::array::from_fn(|i| nearest((x[i] + min) * inverse).clamp(0, 15) as f32)
}

/// Encodes whole blocks, minimizing the squared error heuristically.
#[inline(always)]
pub fn encode_q4_k(values: &[f32], out: &mut [u8]) {
    for (values, block) in values.chunks_exact(Q4K::LEN).zip(out.chunks_exact_mut(Q4K::BYTES)) {
        let subs: [&Sub; 8] = std::array::from_fn(|i| values[i * SUB..][..SUB].try_into().expect("as long"));
        encode_q4_k_block(subs, block);
    }
}

#[inline(always)]
fn encode_q4_k_block(subs: [&Sub; 8], block: &mut [u8]) {
    let fitted = subs.map(fit);
    let largest = |of: fn(&(f32, f32)) -> f32| fitted.iter().map(of).fold(0f32, f32::max);
    // Comparisons drop NaN, so `poison` collects it: 0 times a value that is not finite is NaN.
    let poison: f32 = subs.iter().map(|x| sum(|i| x[i] * 0.0)).sum();
    let steps = [largest(|(scale, _)| *scale) / 63.0 + poison, largest(|(_, min)| *min) / 63.0];
    let mut best = Rounded::new(subs, &fitted, steps.map(f16::from_f32));
    for _ in 0..2 {
        let next = Rounded::new(subs, &fitted, best.better_steps(subs).map(f16::from_f32));
        if next.error >= best.error || next.error.is_nan() {
            break;
        }
        best = next;
    }
    best.pack(block);
}

/// Non-negative scale and minimum for which 4-bit codes approximate `x` best. Tries several step sizes; for the codes
/// of each, fits scale and minimum by linear regression.
#[inline(always)]
fn fit(x: &Sub) -> (f32, f32) {
    let low = x.iter().fold(0f32, |m, v| if *v < m { *v } else { m });
    let high = x.iter().fold(f32::MIN, |m, v| if *v > m { *v } else { m });
    let width = high - low;
    if width.is_nan() || width <= 0.0 {
        return (0.0, -low);
    }
    let (sum_x, sum_xx) = (sum(|i| x[i]), sum(|i| x[i] * x[i]));
    let mut best = (width / 15.0, -low);
    let mut least = f32::MAX;
    let mut attempt = |q: Sub| {
        let (sum_q, sum_qq, sum_xq) = (sum(|i| q[i]), sum(|i| q[i] * q[i]), sum(|i| x[i] * q[i]));
        let n = SUB as f32;
        let determinant = n * sum_qq - sum_q * sum_q;
        let mut scale = (n * sum_xq - sum_q * sum_x) / determinant;
        let mut min = (scale * sum_q - sum_x) / n;
        if min < 0.0 {
            (scale, min) = (sum_xq / sum_qq, 0.0);
        }
        let error = sum_xx - scale * sum_xq + min * sum_x;
        if determinant > 0.0 && scale > 0.0 && error < least {
            (best, least) = ((scale, min), error);
        }
        best
    };
    for i in 0..20 {
        attempt(codes(x, (14.0 + 0.2 * i as f32) / width, -low));
    }
    let (scale, min) = attempt(codes(x, 15.0 / width, -low));
    let (scale, min) = attempt(codes(x, 1.0 / scale, min));
    attempt(codes(x, 1.0 / scale, min))
}

/// A candidate encoding of a `Q4K` block, and its squared error.
struct Rounded {
    steps: [f16; 2],
    scales: [u8; 8],
    mins: [u8; 8],
    codes: [Sub; 8],
    error: f32,
}

impl Rounded {
    /// Rounds scales and minima to multiples of `steps`; tries the adjacent multiples too and keeps the best.
    #[inline(always)]
    fn new(subs: [&Sub; 8], fitted: &[(f32, f32); 8], steps: [f16; 2]) -> Self {
        let [d, dmin] = steps.map(f16::to_f32);
        let mut rounded = Rounded { steps, scales: [0; 8], mins: [0; 8], codes: [[0.0; SUB]; 8], error: 0.0 };
        for (i, x) in subs.into_iter().enumerate() {
            let whole = |value: f32, step: f32| if step > 0.0 { nearest((value / step).min(63.0)) } else { 0 };
            let (scale, min) = (whole(fitted[i].0, d), whole(fitted[i].1, dmin));
            let mut least = f32::INFINITY;
            for s in (scale - 1).max(0)..=(scale + 1).min(63) {
                for m in (min - 1).max(0)..=(min + 1).min(63) {
                    let (size, low) = (d * s as f32, dmin * m as f32);
                    let q = codes(x, if size > 0.0 { 1.0 / size } else { 0.0 }, low);
                    let error = sum(|i| {
                        let error = size * q[i] - low - x[i];
                        error * error
                    });
                    if error < least {
                        (least, rounded.scales[i], rounded.mins[i], rounded.codes[i]) = (error, s as u8, m as u8, q);
                    }
                }
            }
            rounded.error += least;
        }
        rounded
    }

    /// The `d` and `dmin` that minimize the squared error of `d * s * q - dmin * m`, all else fixed.
    #[inline(always)]
    fn better_steps(&self, subs: [&Sub; 8]) -> [f32; 2] {
        let (mut aa, mut ab, mut bb, mut ax, mut bx) = (0f32, 0f32, 0f32, 0f32, 0f32);
        for (i, x) in subs.into_iter().enumerate() {
            let (s, m, q) = (f32::from(self.scales[i]), f32::from(self.mins[i]), &self.codes[i]);
            let (sum_q, sum_x) = (sum(|i| q[i]), sum(|i| x[i]));
            aa += s * s * sum(|i| q[i] * q[i]);
            ab -= s * m * sum_q;
            bb += m * m * SUB as f32;
            ax += s * sum(|i| q[i] * x[i]);
            bx -= m * sum_x;
        }
        let determinant = aa * bb - ab * ab;
        match determinant > 0.0 {
            true => [(ax * bb - bx * ab) / determinant, ((bx * aa - ax * ab) / determinant).max(0.0)],
            false => self.steps.map(f16::to_f32),
        }
    }

    /// Writes the layout that [`scale_min`] and [`Q4K`] read.
    #[inline(always)]
    fn pack(&self, block: &mut [u8]) {
        let Rounded { steps, scales, mins, codes, .. } = self;
        block[..2].copy_from_slice(&steps[0].to_le_bytes());
        block[2..4].copy_from_slice(&steps[1].to_le_bytes());
        for i in 0..4 {
            block[4 + i] = scales[i] | scales[i + 4] >> 4 << 6;
            block[8 + i] = mins[i] | mins[i + 4] >> 4 << 6;
            block[12 + i] = scales[i + 4] & 15 | (mins[i + 4] & 15) << 4;
        }
        for (pair, bytes) in codes.chunks_exact(2).zip(block[16..].chunks_exact_mut(SUB)) {
            for (i, byte) in bytes.iter_mut().enumerate() {
                *byte = pair[0][i] as u8 | (pair[1][i] as u8) << 4;
            }
        }
    }
}
