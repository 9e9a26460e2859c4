//! GGML's blocks: 32 or 256 values in a row, with scales of their own. The number formats of GGUF files.
//!
//! | | values | bytes | bits a value | value |
//! |---|---|---|---|---|
//! | `Q8_0` | 32 | 34 | 8.5 | `d * q`, q in -128..=127 |
//! | `Q4_0` | 32 | 18 | 4.5 | `d * (q - 8)`, q in 0..=15 |
//! | `Q4_1` | 32 | 20 | 5.0 | `d * q + m` |
//! | `Q5_0` | 32 | 22 | 5.5 | `d * (q - 16)`, q in 0..=31 |
//! | `Q5_1` | 32 | 24 | 6.0 | `d * q + m` |
//! | `Q4K` | 256 | 144 | 4.5 | `d * s * q - dmin * m`, q in 0..=15; s and m in 0..=63, one of each for 32 values |
//! | `Q5K` | 256 | 176 | 5.5 | the same with q in 0..=31 |
//! | `Q6K` | 256 | 210 | 6.5625 | `d * s * (q - 32)`, q in 0..=63; s in -128..=127, one for 16 values |
//!
//! `d`, `dmin` and the `m` of `Q4_1` and `Q5_1` are f16. Source: `ggml-quants.c` and `ggml-common.h` in ggml-org/ggml, of
//! which these are another writing; the same products in the same order, so decoded values are equal to the bit.

/// How a format's blocks are laid out and decoded.
pub trait Block {
    /// Values of a block.
    const LEN: usize;
    /// Bytes of a block.
    const BYTES: usize;
    /// Values that can be decoded without their neighbours.
    const UNIT: usize;

    /// The `UNIT` values of unit `unit` of a block.
    fn decode_unit(block: &[u8], unit: usize, out: &mut [f32]);
}

/// Values of a row of blocks, from value `from` on.
#[inline(always)]
pub fn decode<B: Block>(row: &[u8], from: usize, out: &mut [f32]) {
    let unit = |at: usize| (&row[at / B::LEN * B::BYTES..][..B::BYTES], at % B::LEN / B::UNIT);
    let mut at = from;
    let mut rest = out;
    // Units that are wanted only in part, at either end, go through a buffer.
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

/// The f16 at byte `at`.
#[inline(always)]
fn f16_at(block: &[u8], at: usize) -> f32 {
    let bits = u32::from(u16::from_le_bytes([block[at], block[at + 1]]));
    // The exponent's bias is 112 less; a product sets subnormal numbers right as well. All its bits set mean what they do
    // in f32.
    let magnitude = f32::from_bits((bits & 0x7fff) << 13) * f32::from_bits((127 + 112) << 23);
    let special = if bits & 0x7c00 == 0x7c00 { 0x7f80_0000 } else { 0 };
    f32::from_bits(magnitude.to_bits() | special | (bits & 0x8000) << 16)
}

/// See the [table](self).
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

/// 16 bytes that hold the first half of a block in their low, the other in their high nibbles.
#[inline(always)]
fn nibbles(bytes: &[u8], out: &mut [f32], value: impl Fn(usize, u8) -> f32) {
    let (bytes, (low, high)) = (&bytes[..16], out[..32].split_at_mut(16));
    for i in 0..16 {
        low[i] = value(i, bytes[i] & 15);
        high[i] = value(i + 16, bytes[i] >> 4);
    }
}

/// Bit `i` of a block's 32 fifth bits, as 16 or 0.
#[inline(always)]
fn fifth(bits: u32, i: usize) -> u8 {
    ((bits >> i & 1) << 4) as u8
}

#[inline(always)]
fn u32_at(block: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]])
}

/// See the [table](self).
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

/// See the [table](self).
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

/// See the [table](self).
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

/// See the [table](self).
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

/// Scale and minimum of 32 values, of the eight that 12 bytes hold with 6 bits each: the first four of both in the low bits
/// of four bytes each, the low nibbles of the other four in the last four bytes, their high bits in the spare ones.
#[inline(always)]
fn scale_min(packed: &[u8], i: usize) -> (f32, f32) {
    let (scale, min) = match i {
        0..4 => (packed[i] & 63, packed[i + 4] & 63),
        _ => (packed[i + 4] & 15 | packed[i - 4] >> 6 << 4, packed[i + 4] >> 4 | packed[i] >> 6 << 4),
    };
    (f32::from(scale), f32::from(min))
}

/// See the [table](self).
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

/// See the [table](self).
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

/// See the [table](self).
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
        // Four runs of 32: low and high nibbles of the two halves of `low`, bits of `high` from the lowest on.
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
