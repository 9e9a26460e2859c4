//! Micro-kernels for x86-64: the accumulators of a tile stay in registers, the left operand is broadcast.
//!
//! AVX-512 has 32 registers: 8 x 3 accumulators, 3 for the right operand, 1 for the broadcast. AVX2 has 16: 6 x 2, 2
//! and 1. The kernels are bound by the multiply-add units: a group takes 24 multiply-adds and 11 loads, which run in
//! parallel. Narrower tiles serve the remaining columns; 12 x 2 tiles divide attention heads of 128 channels.

use std::arch::x86_64::*;

use super::RowPointers;

/// Instantiates a micro-kernel from its vector type and the intrinsics that differ.
macro_rules! micro_kernel {
    ($(#[$doc:meta])* $name:ident, $features:literal, vectors of $lanes:literal,
     zero: $zero:expr, load_right: $load_right:expr, broadcast: $broadcast:expr, multiply_add: $fma:expr,
     load: $load:expr, store: $store:expr, add: $add:expr) => {
        $(#[$doc])*
        #[target_feature(enable = $features)]
        pub(super) unsafe fn $name<const ROWS: usize, const VECTORS: usize>(
            segments: &[RowPointers],
            groups: usize,
            mut b: *const u32,
            c: *mut f32,
            stride: usize,
            accumulate: bool,
        ) {
            // SAFETY: every load and store stays within what the caller guarantees: `ROWS` pointers readable for
            // `groups` groups, `b` for all columns of every group, `c` writable for the tile.
            unsafe {
                let mut sums = [[$zero; VECTORS]; ROWS];
                for rows in segments {
                    for group in 0..groups {
                        let mut right = [$load_right(b); VECTORS];
                        for v in 1..VECTORS {
                            right[v] = $load_right(b.add(v * $lanes));
                        }
                        for r in 0..ROWS {
                            let left = $broadcast(rows[r].add(group));
                            for v in 0..VECTORS {
                                sums[r][v] = $fma(sums[r][v], left, right[v]);
                            }
                        }
                        b = b.add(VECTORS * $lanes);
                    }
                }
                for r in 0..ROWS {
                    for v in 0..VECTORS {
                        let out = c.add(r * stride + v * $lanes);
                        let sum = if accumulate { $add($load(out), sums[r][v]) } else { sums[r][v] };
                        $store(out, sum);
                    }
                }
            }
        }
    };
}

micro_kernel!(
    /// bf16: adds two products at a time to each f32 sum.
    avx512_bf16, "avx512f,avx512bf16", vectors of 16,
    zero: _mm512_setzero_ps(),
    load_right: |p: *const u32| _mm512_loadu_si512(p.cast()),
    broadcast: |p: *const u32| _mm512_set1_epi32(p.cast::<i32>().read_unaligned()),
    multiply_add: |sum, left: __m512i, right: __m512i| {
        let bf16 = |v: __m512i| std::mem::transmute::<__m512i, __m512bh>(v);
        _mm512_dpbf16_ps(sum, bf16(left), bf16(right))
    },
    load: |p: *const f32| _mm512_loadu_ps(p),
    store: |p: *mut f32, v| _mm512_storeu_ps(p, v),
    add: |a, b| _mm512_add_ps(a, b)
);

micro_kernel!(
    /// f32 with fused multiply-add.
    avx512_f32, "avx512f", vectors of 16,
    zero: _mm512_setzero_ps(),
    load_right: |p: *const u32| _mm512_loadu_ps(p.cast()),
    broadcast: |p: *const u32| _mm512_set1_ps(p.cast::<f32>().read_unaligned()),
    multiply_add: |sum, left, right| _mm512_fmadd_ps(left, right, sum),
    load: |p: *const f32| _mm512_loadu_ps(p),
    store: |p: *mut f32, v| _mm512_storeu_ps(p, v),
    add: |a, b| _mm512_add_ps(a, b)
);

micro_kernel!(
    /// f32 with fused multiply-add.
    avx2_f32, "avx2,fma", vectors of 8,
    zero: _mm256_setzero_ps(),
    load_right: |p: *const u32| _mm256_loadu_ps(p.cast()),
    broadcast: |p: *const u32| _mm256_set1_ps(p.cast::<f32>().read_unaligned()),
    multiply_add: |sum, left, right| _mm256_fmadd_ps(left, right, sum),
    load: |p: *const f32| _mm256_loadu_ps(p),
    store: |p: *mut f32, v| _mm256_storeu_ps(p, v),
    add: |a, b| _mm256_add_ps(a, b)
);

micro_kernel!(
    /// int8: adds four products at a time to each i32 sum.
    avx512_int8, "avx512f,avx512vnni", vectors of 16,
    zero: _mm512_setzero_si512(),
    load_right: |p: *const u32| _mm512_loadu_si512(p.cast()),
    broadcast: |p: *const u32| _mm512_set1_epi32(p.cast::<i32>().read_unaligned()),
    multiply_add: |sum, left, right| _mm512_dpbusd_epi32(sum, left, right),
    load: |p: *const f32| _mm512_loadu_si512(p.cast()),
    store: |p: *mut f32, v| _mm512_storeu_si512(p.cast(), v),
    add: |a, b| _mm512_add_epi32(a, b)
);

micro_kernel!(
    /// int8: adds four products at a time to each i32 sum.
    avx2_vnni_int8, "avx2,avxvnni", vectors of 8,
    zero: _mm256_setzero_si256(),
    load_right: |p: *const u32| _mm256_loadu_si256(p.cast()),
    broadcast: |p: *const u32| _mm256_set1_epi32(p.cast::<i32>().read_unaligned()),
    multiply_add: |sum, left, right| _mm256_dpbusd_avx_epi32(sum, left, right),
    load: |p: *const f32| _mm256_loadu_si256(p.cast()),
    store: |p: *mut f32, v| _mm256_storeu_si256(p.cast(), v),
    add: |a, b| _mm256_add_epi32(a, b)
);

/// int8 without a dot-product instruction: bytes are widened to 16 bits and multiplied in pairs, which is exact in i32.
/// (`vpmaddubsw`, which multiplies bytes directly, saturates.) A register holds two partial sums for each of 4 columns,
/// joined at the end.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn avx2_int8_3x16(
    segments: &[RowPointers],
    groups: usize,
    mut b: *const u32,
    c: *mut f32,
    stride: usize,
    accumulate: bool,
) {
    const ROWS: usize = 3;
    const VECTORS: usize = 4;
    // SAFETY: every load and store stays within what the caller guarantees, as in `micro_kernel!`.
    unsafe {
        let mut sums = [[_mm256_setzero_si256(); VECTORS]; ROWS];
        for rows in segments {
            for group in 0..groups {
                let mut right = [_mm256_setzero_si256(); VECTORS];
                for (v, right) in right.iter_mut().enumerate() {
                    *right = _mm256_cvtepi8_epi16(_mm_loadu_si128(b.add(4 * v).cast()));
                }
                for r in 0..ROWS {
                    let quad = _mm_set1_epi32(rows[r].add(group).cast::<i32>().read_unaligned());
                    let left = _mm256_cvtepu8_epi16(quad);
                    for v in 0..VECTORS {
                        sums[r][v] = _mm256_add_epi32(sums[r][v], _mm256_madd_epi16(left, right[v]));
                    }
                }
                b = b.add(4 * VECTORS);
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            for (v, halves) in sums.iter().enumerate() {
                // The horizontal sum has columns 0, 1 in the lower and 2, 3 in the upper half.
                let pairs = _mm256_hadd_epi32(*halves, *halves);
                let columns = _mm256_castsi256_si128(_mm256_permute4x64_epi64::<0b1000>(pairs));
                let out = c.add(r * stride + 4 * v).cast::<__m128i>();
                let sum = if accumulate { _mm_add_epi32(_mm_loadu_si128(out), columns) } else { columns };
                _mm_storeu_si128(out, sum);
            }
        }
    }
}

/// Transposes 8 rows of 8 groups: `out[g * stride + r] = rows[r][g]`.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn transpose_8x8(rows: [*const u32; 8], out: *mut u32, stride: usize) {
    // SAFETY: the caller guarantees 8 readable groups a row and 8 writable rows of 8 groups, `stride` apart.
    unsafe {
        let r = rows.map(|p| _mm256_loadu_ps(p.cast()));
        let pair = |a, b| (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
        let (t0, t1) = pair(r[0], r[1]);
        let (t2, t3) = pair(r[2], r[3]);
        let (t4, t5) = pair(r[4], r[5]);
        let (t6, t7) = pair(r[6], r[7]);
        let low = |a, b| _mm256_shuffle_ps::<0x44>(a, b);
        let high = |a, b| _mm256_shuffle_ps::<0xee>(a, b);
        let (u0, u1, u2, u3) = (low(t0, t2), high(t0, t2), low(t1, t3), high(t1, t3));
        let (u4, u5, u6, u7) = (low(t4, t6), high(t4, t6), low(t5, t7), high(t5, t7));
        let store = |g: usize, v| _mm256_storeu_ps(out.add(g * stride).cast(), v);
        for (g, (a, b)) in [(u0, u4), (u1, u5), (u2, u6), (u3, u7)].into_iter().enumerate() {
            store(g, _mm256_permute2f128_ps::<0x20>(a, b));
            store(g + 4, _mm256_permute2f128_ps::<0x31>(a, b));
        }
    }
}
