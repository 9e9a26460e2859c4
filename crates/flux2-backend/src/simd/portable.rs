//! Micro-kernels without intrinsics: plain loops, vectorized by the compiler for the baseline of the architecture.

use super::RowPointers;

const ROWS: usize = 4;
const COLS: usize = 16;

/// f32, 4 x 16: see [`super::MicroKernel::run`].
pub(super) unsafe fn f32_4x16(
    segments: &[RowPointers],
    groups: usize,
    mut b: *const u32,
    c: *mut f32,
    stride: usize,
    accumulate: bool,
) {
    let mut sums = [[0f32; COLS]; ROWS];
    for rows in segments {
        for group in 0..groups {
            // SAFETY: `b` is readable for `COLS` values in every group of every segment.
            let right = unsafe { b.cast::<[f32; COLS]>().read_unaligned() };
            for (sums, row) in sums.iter_mut().zip(rows) {
                // SAFETY: the first `ROWS` rows are readable for `groups` groups.
                let left = unsafe { row.cast::<f32>().add(group).read_unaligned() };
                for (sum, right) in sums.iter_mut().zip(right) {
                    *sum += left * right;
                }
            }
            // SAFETY: at most one past the end of what is readable.
            b = unsafe { b.add(COLS) };
        }
    }
    for (i, sums) in sums.iter().enumerate() {
        // SAFETY: `c` is writable for `ROWS` rows of `COLS` values, `stride` apart.
        let out = unsafe { std::slice::from_raw_parts_mut(c.add(i * stride), COLS) };
        for (out, sum) in out.iter_mut().zip(sums) {
            *out = if accumulate { *out + sum } else { *sum };
        }
    }
}

/// int8 with i32 sums, 4 x 16: see [`super::MicroKernel::run`].
pub(super) unsafe fn int8_4x16(
    segments: &[RowPointers],
    groups: usize,
    mut b: *const u32,
    c: *mut f32,
    stride: usize,
    accumulate: bool,
) {
    let mut sums = [[0i32; COLS]; ROWS];
    for rows in segments {
        for group in 0..groups {
            // SAFETY: `b` is readable for `COLS` groups in every group of every segment.
            let right = unsafe { b.cast::<[[i8; 4]; COLS]>().read_unaligned() };
            for (sums, row) in sums.iter_mut().zip(rows) {
                // SAFETY: the first `ROWS` rows are readable for `groups` groups.
                let left = unsafe { row.cast::<[u8; 4]>().add(group).read_unaligned() };
                for (sum, right) in sums.iter_mut().zip(right) {
                    *sum += left.iter().zip(right).map(|(l, r)| i32::from(*l) * i32::from(r)).sum::<i32>();
                }
            }
            // SAFETY: at most one past the end of what is readable.
            b = unsafe { b.add(COLS) };
        }
    }
    for (i, sums) in sums.iter().enumerate() {
        // SAFETY: `c` is writable for `ROWS` rows of `COLS` values, `stride` apart, and is aligned as f32 and i32 are.
        let out = unsafe { std::slice::from_raw_parts_mut(c.cast::<i32>().add(i * stride), COLS) };
        for (out, sum) in out.iter_mut().zip(sums) {
            *out = if accumulate { *out + sum } else { *sum };
        }
    }
}
