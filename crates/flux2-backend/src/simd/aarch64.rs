//! Micro-kernels for aarch64: the accumulators of a tile stay in registers, multiplied by one element of the left
//! operand.
//!
//! NEON has 32 registers: 6 x 4 accumulators, 4 for the right operand, 2 for the left one in alternation.

use std::arch::aarch64::*;
use std::arch::asm;

use super::RowPointers;

const ROWS: usize = 6;
const VECTORS: usize = 4;
const LANES: usize = 4;

/// Instantiates a 6 x 16 micro-kernel from the instruction that multiplies one left group with four right groups.
macro_rules! micro_kernel {
    ($(#[$doc:meta])* $name:ident, $features:literal, multiply_add: $multiply_add:expr, add: $add:expr) => {
        $(#[$doc])*
        #[target_feature(enable = $features)]
        pub(super) unsafe fn $name(
            segments: &[RowPointers],
            groups: usize,
            mut b: *const u32,
            c: *mut f32,
            stride: usize,
            accumulate: bool,
        ) {
            // SAFETY: every load and store stays within what the caller guarantees: `ROWS` pointers readable for
            // `groups` groups, `b` for 16 columns of every group, `c` writable for the tile.
            unsafe {
                let mut sums = [[vdupq_n_f32(0.0); VECTORS]; ROWS];
                for rows in segments {
                    for group in 0..groups {
                        let mut right = [vdupq_n_f32(0.0); VECTORS];
                        for v in 0..VECTORS {
                            right[v] = vld1q_f32(b.add(v * LANES).cast());
                        }
                        for r in 0..ROWS {
                            let left = rows[r].add(group).cast::<f32>().read_unaligned();
                            for v in 0..VECTORS {
                                sums[r][v] = $multiply_add(sums[r][v], left, right[v]);
                            }
                        }
                        b = b.add(VECTORS * LANES);
                    }
                }
                for r in 0..ROWS {
                    for v in 0..VECTORS {
                        let out = c.add(r * stride + v * LANES);
                        let sum = if accumulate { $add(vld1q_f32(out), sums[r][v]) } else { sums[r][v] };
                        vst1q_f32(out, sum);
                    }
                }
            }
        }
    };
}

micro_kernel!(
    /// f32 with fused multiply-add.
    neon_f32_6x16, "neon",
    multiply_add: |sum, left: f32, right| vfmaq_n_f32(sum, right, left),
    add: |a, b| vaddq_f32(a, b)
);

micro_kernel!(
    /// bf16 pairs, held as the f32 with the same bits: adds two products at a time to each f32 sum.
    ///
    /// `bfdot` rounds both its sums to odd: the error is up to one unit in the last place instead of half a unit, and
    /// unbiased. It flushes denormals to zero. FPCR affects neither unless a process enables FEAT_EBF16.
    neon_bf16_6x16, "neon,bf16",
    multiply_add: |mut sum: float32x4_t, left: f32, right: float32x4_t| {
        // Inline assembly because the intrinsic `vbfdotq_lane_f32` is unstable.
        asm!(
            "bfdot {sum:v}.4s, {right:v}.8h, {left:v}.2h[0]",
            sum = inout(vreg) sum,
            right = in(vreg) right,
            left = in(vreg) left,
            options(pure, nomem, nostack, preserves_flags)
        );
        sum
    },
    add: |a, b| vaddq_f32(a, b)
);

micro_kernel!(
    /// int8, held as the f32 with the same bits: adds four products at a time to each i32 sum.
    neon_int8_6x16, "neon,i8mm",
    multiply_add: |mut sum: float32x4_t, left: f32, right: float32x4_t| {
        // Inline assembly because the intrinsic `vsudotq_lane_s32` is unstable. Signed times unsigned bytes.
        asm!(
            "sudot {sum:v}.4s, {right:v}.16b, {left:v}.4b[0]",
            sum = inout(vreg) sum,
            right = in(vreg) right,
            left = in(vreg) left,
            options(pure, nomem, nostack, preserves_flags)
        );
        sum
    },
    add: |a, b| vreinterpretq_f32_s32(vaddq_s32(vreinterpretq_s32_f32(a), vreinterpretq_s32_f32(b)))
);

/// Transposes 8 rows of 4 groups: `out[g * stride + r] = rows[r][g]`.
#[target_feature(enable = "neon")]
pub(super) unsafe fn transpose_8x4(rows: [*const u32; 8], out: *mut u32, stride: usize) {
    // SAFETY: the caller guarantees 4 readable groups a row and 4 writable rows of 8 groups, `stride` apart.
    unsafe {
        for half in 0..2 {
            let mut r = [vdupq_n_u32(0); 4];
            for i in 0..4 {
                r[i] = vreinterpretq_u32_u8(vld1q_u8(rows[4 * half + i].cast())); // as bytes: rows may be unaligned
            }
            let [a, b, c, d] = r;
            let (ac, bd) = (vzipq_u32(a, c), vzipq_u32(b, d));
            let (low, high) = (vzipq_u32(ac.0, bd.0), vzipq_u32(ac.1, bd.1));
            for (g, v) in [low.0, low.1, high.0, high.1].into_iter().enumerate() {
                vst1q_u32(out.add(g * stride + 4 * half), v);
            }
        }
    }
}
