//! `W + Σ factor · up · down`, in f32, over weights stored in any format.
//!
//! Weights of 16 bits or fewer become bf16, rounded to nearest even; f32 stays f32. One thread sums each element, rank
//! by rank, and adds the sum to the weight, so the result does not depend on the number of threads.

use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::Arc;

use flux2_backend::{DType, HostBytes, HostTensor};
use flux2_base::parallel::for_each;

use super::Patch;
use crate::Result;

/// Rows and columns of a tile whose sums stay in registers on every processor of the architecture.
const ROWS: usize = 2;
const COLS: usize = 16;
/// Rows that are multiplied with a panel of `down` while it is in the L1 cache.
const GROUP: usize = 16;
/// Multiplications below which another thread does not pay.
const FEW: usize = 1 << 20;

/// The dtype of a merged matrix.
pub(crate) fn merged_dtype(base: DType) -> DType {
    if base == DType::F32 { DType::F32 } else { DType::Bf16 }
}

/// Whether all values of a matrix are finite.
pub(super) fn is_finite(matrix: &HostTensor) -> bool {
    let &[rows, cols] = matrix.shape() else { unreachable!("a factor is a matrix") };
    let mut values = vec![0f32; cols];
    // Infinities and NaN times zero are NaN. A sum vectorizes, a search that may end early does not.
    (0..rows).all(|row| {
        matrix.decode_row(row, 0, &mut values);
        values.iter().map(|value| value * 0.0).sum::<f32>() == 0.0
    })
}

/// The matrix `base` with `patches` added.
pub(super) fn merge(base: &HostTensor, patches: &[&Patch], threads: NonZeroUsize) -> Result<HostTensor> {
    let &[rows, cols] = base.shape() else { unreachable!("LoRA is for matrices") };
    let dtype = merged_dtype(base.dtype());
    let row_bytes = dtype.bytes(cols);
    let mut merged = vec![0; rows * row_bytes];
    // All rows between two bounds have the same patches.
    let mut bounds = vec![0, rows];
    bounds.extend(patches.iter().flat_map(|patch| [patch.rows.start, patch.rows.end]));
    bounds.sort_unstable();
    bounds.dedup();
    let mut rest = &mut merged[..];
    for rows in bounds.windows(2).map(|b| b[0]..b[1]) {
        let (here, below) = rest.split_at_mut(rows.len() * row_bytes);
        let product = Product::of(patches, rows, cols);
        match dtype {
            DType::F32 => product.add_to(base, here, threads, f32::to_le_bytes),
            _ => product.add_to(base, here, threads, bf16),
        }
        rest = below;
    }
    Ok(HostTensor::new(dtype, [rows, cols], HostBytes::new(Arc::new(merged)))?)
}

/// The factors of all patches of some rows, concatenated by rank.
struct Product {
    rows: Range<usize>,
    cols: usize,
    /// Sum of the ranks of all patches.
    rank: usize,
    /// `[rows, rank]`, with the factors multiplied in.
    up: Vec<f32>,
    /// `down` in panels of [`COLS`] columns: `[ceil(cols / COLS), rank, COLS]`.
    down: Vec<[f32; COLS]>,
}

impl Product {
    fn of(patches: &[&Patch], rows: Range<usize>, cols: usize) -> Self {
        let patches = || patches.iter().filter(|p| p.rows.start <= rows.start && rows.end <= p.rows.end);
        let rank: usize = patches().map(|patch| patch.down.shape()[0]).sum();
        let mut up = vec![0.0; rows.len() * rank];
        let mut down = vec![[0f32; COLS]; cols.div_ceil(COLS) * rank];
        let mut values = vec![0f32; cols];
        let mut first = 0;
        for patch in patches() {
            let of_patch = patch.down.shape()[0];
            for r in 0..of_patch {
                patch.down.decode_row(r, 0, &mut values);
                for (panel, values) in values.chunks(COLS).enumerate() {
                    down[panel * rank + first + r][..values.len()].copy_from_slice(values);
                }
            }
            for (i, row) in rows.clone().enumerate() {
                let up = &mut up[i * rank + first..][..of_patch];
                patch.up.decode_row(row - patch.rows.start, 0, up);
                up.iter_mut().for_each(|v| *v *= patch.factor);
            }
            first += of_patch;
        }
        Product { rows, cols, rank, up, down }
    }

    /// Writes rows of `base` plus this product, encoded by `encode`. Scoped threads, as in [`flux2_base::parallel`]; a
    /// share is whole groups of rows.
    fn add_to<const N: usize>(
        &self,
        base: &HostTensor,
        out: &mut [u8],
        threads: NonZeroUsize,
        encode: impl Fn(f32) -> [u8; N] + Copy + Sync,
    ) {
        let work = self.rows.len() * self.cols * (self.rank + 1);
        let shares = threads.get().min(work / FEW).max(1);
        let share = self.rows.len().div_ceil(shares).next_multiple_of(GROUP);
        let part = |(i, out): (usize, &mut [u8])| self.add_from(base, i * share, out, encode);
        for_each(out.chunks_mut(share * self.cols * N).enumerate(), threads, part);
    }

    fn add_from<const N: usize>(
        &self,
        base: &HostTensor,
        from: usize,
        out: &mut [u8],
        encode: impl Fn(f32) -> [u8; N],
    ) {
        let Product { rows, cols, rank, up, down } = self;
        let mut values = vec![0f32; GROUP * cols];
        // `[GROUP / ROWS, rank, ROWS]`.
        let mut up_tiles = vec![[0f32; ROWS]; GROUP / ROWS * rank];
        for (i, out) in out.chunks_mut(GROUP * cols * N).enumerate() {
            let (first, height) = (from + i * GROUP, out.len() / (cols * N));
            for r in 0..height {
                base.decode_row(rows.start + first + r, 0, &mut values[r * cols..][..*cols]);
                let up = &up[(first + r) * rank..][..*rank];
                let tile = &mut up_tiles[r / ROWS * rank..][..*rank];
                tile.iter_mut().zip(up).for_each(|(tile, up)| tile[r % ROWS] = *up);
            }
            for (panel, down) in down.chunks_exact((*rank).max(1)).enumerate() {
                for (up, values) in up_tiles.chunks_exact(*rank).zip(values.chunks_mut(ROWS * cols)) {
                    for (values, sums) in values.chunks_exact_mut(*cols).zip(&tile(up, down)) {
                        values[panel * COLS..].iter_mut().zip(sums).for_each(|(value, sum)| *value += sum);
                    }
                }
            }
            for (bytes, value) in out.chunks_exact_mut(N).zip(&values) {
                bytes.copy_from_slice(&encode(*value));
            }
        }
    }
}

/// Sums over the ranks for [`ROWS`] rows and [`COLS`] columns.
fn tile(up: &[[f32; ROWS]], down: &[[f32; COLS]]) -> [[f32; COLS]; ROWS] {
    let mut sums = [[0.0; COLS]; ROWS];
    for (up, down) in up.iter().zip(down) {
        for (sums, up) in sums.iter_mut().zip(up) {
            sums.iter_mut().zip(down).for_each(|(sum, down)| *sum += up * down);
        }
    }
    sums
}

/// Rounds to bf16, to nearest even. NaN stays NaN.
fn bf16(value: f32) -> [u8; 2] {
    let bits = value.to_bits();
    let rounded = (bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16) as u16;
    let no_number = (bits >> 16) as u16 | 0x40;
    if value.is_nan() { no_number } else { rounded }.to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bf16_rounds_to_nearest_even() {
        for (value, expected) in [
            (1.0, 0x3f80),
            (1.0 + 1.0 / 256.0, 0x3f80), // a tie, down
            (1.0 + 3.0 / 256.0, 0x3f82), // a tie, up
            (1.0 + 1.01 / 256.0, 0x3f81),
            (-1.0 - 3.0 / 256.0, 0xbf82),
            (f32::MAX, 0x7f80),
            (f32::NEG_INFINITY, 0xff80),
            (0.0, 0),
        ] {
            assert_eq!(u16::from_le_bytes(bf16(value)), expected, "{value}");
            assert_eq!(u16::from_le_bytes(bf16(value)), half::bf16::from_f32(value).to_bits());
        }
        for bits in [0x7f80_0001u32, 0xffff_ffff] {
            let back = f32::from_bits(u32::from(u16::from_le_bytes(bf16(f32::from_bits(bits)))) << 16);
            assert!(back.is_nan());
        }
    }

    /// Values in -1..=1 that look random.
    fn values(seed: usize, count: usize) -> Vec<f32> {
        (0..count).map(|i| ((seed * 7919 + i).wrapping_mul(2_654_435_761) % 2001) as f32 / 1000.0 - 1.0).collect()
    }

    fn patch(seed: usize, rows: Range<usize>, rank: usize, cols: usize, factor: f32) -> Patch {
        let down = HostTensor::from_f32([rank, cols], &values(seed, rank * cols));
        let up = HostTensor::from_f32([rows.len(), rank], &values(seed + 1, rows.len() * rank));
        Patch { rows, down, up, factor }
    }

    #[test]
    fn overlapping_patches_add_up_whatever_the_number_of_threads() {
        let (rows, cols) = (150, 203); // of no tile
        let base = HostTensor::from_f32([rows, cols], &values(1, rows * cols));
        let patches =
            [patch(10, 0..50, 5, cols, 0.5), patch(20, 30..150, 70, cols, -0.25), patch(30, 90..91, 1, cols, 3.0)];
        let patches: Vec<&Patch> = patches.iter().collect();
        let merged = |threads| merge(&base, &patches, NonZeroUsize::new(threads).unwrap()).unwrap();
        let got = merged(1).to_f32();
        for threads in [2, 3, 64] {
            assert!(merged(threads).bytes()[..] == merged(1).bytes()[..], "{threads} threads");
        }
        let (base, cell) =
            (base.to_f32(), |t: &HostTensor, row: usize, col: usize| f64::from(t.to_f32()[row * t.shape()[1] + col]));
        for (row, col) in [(0, 0), (29, 202), (30, 100), (49, 7), (50, 8), (90, 16), (91, 15), (149, 202)] {
            let mut expected = f64::from(base[row * cols + col]);
            for p in patches.iter().filter(|p| p.rows.contains(&row)) {
                let product = |k| cell(&p.up, row - p.rows.start, k) * cell(&p.down, k, col);
                expected += f64::from(p.factor) * (0..p.down.shape()[0]).map(product).sum::<f64>();
            }
            let found = f64::from(got[row * cols + col]);
            // 76 products of at most 1, each rounded once to 2^-24 of a sum below 8.
            assert!(
                (found - expected).abs() < 76.0 * 8.0 / f64::from(1 << 24),
                "[{row}, {col}]: {found} for {expected}"
            );
        }
    }
}
