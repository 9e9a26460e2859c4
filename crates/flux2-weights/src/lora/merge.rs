//! `W + Σ factor · update`, in f32, over weights stored in any format.
//!
//! Weights of 16 bits or fewer become bf16, rounded to nearest even; f32 stays f32. One thread sums each element, rank
//! by rank, and adds the sum to the weight, so the result does not depend on the number of threads. All low-rank
//! products of a matrix are one product; the other updates are computed a few rows at a time and never held whole.

use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::Arc;

use flux2_backend::{DType, HostBytes, HostTensor};
use flux2_base::parallel::for_each;

use super::update::{Factors, Matrix, Patch, Update};
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
        let sum = Sum::of(patches, rows, cols);
        match dtype {
            DType::F32 => sum.add_to(base, here, threads, f32::to_le_bytes),
            _ => sum.add_to(base, here, threads, bf16),
        }
        rest = below;
    }
    Ok(HostTensor::new(dtype, [rows, cols], HostBytes::new(Arc::new(merged)))?)
}

/// All that is added to some rows of a matrix.
struct Sum<'a> {
    rows: Range<usize>,
    cols: usize,
    /// The low-rank products.
    product: Product,
    others: Vec<Other<'a>>,
}

impl<'a> Sum<'a> {
    fn of(patches: &[&'a Patch], rows: Range<usize>, cols: usize) -> Self {
        let (mut terms, mut others) = (Vec::new(), Vec::new());
        for patch in patches.iter().filter(|p| p.rows.start <= rows.start && rows.end <= p.rows.end) {
            let (first, factor) = (patch.first + rows.start - patch.rows.start, patch.factor);
            let product = |factors, factor| Product::of(&[Term { factors, first, factor }], rows.len(), cols);
            match &*patch.update {
                Update::Product(factors) => terms.push(Term { factors, first, factor }),
                Update::Hadamard([a, b]) => others.push(Other::Hadamard(product(a, factor), product(b, 1.0))),
                Update::Whole(matrix) => others.push(Other::Whole { matrix, first, factor }),
                Update::Kronecker { outer, inner } => {
                    let [outer, inner] = [outer, inner].map(Rows::of);
                    others.push(Other::Kronecker { outer, inner, first, factor });
                }
            }
        }
        let product = Product::of(&terms, rows.len(), cols);
        Sum { rows, cols, product, others }
    }

    /// Writes rows of `base` plus this sum, encoded by `encode`. Scoped threads, as in [`flux2_base::parallel`]; a
    /// share is whole groups of rows.
    fn add_to<const N: usize>(
        &self,
        base: &HostTensor,
        out: &mut [u8],
        threads: NonZeroUsize,
        encode: impl Fn(f32) -> [u8; N] + Copy + Sync,
    ) {
        let ranks = self.product.rank + self.others.iter().map(Other::rank).sum::<usize>();
        let work = self.rows.len() * self.cols * (ranks + 1);
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
        let Sum { rows, cols, product, others } = self;
        let mut values = vec![0f32; GROUP * cols];
        for (i, out) in out.chunks_mut(GROUP * cols * N).enumerate() {
            let first = from + i * GROUP;
            let values = &mut values[..out.len() / N];
            for (r, values) in values.chunks_exact_mut(*cols).enumerate() {
                base.decode_row(rows.start + first + r, 0, values);
            }
            product.add_rows(first, *cols, values);
            for other in others {
                other.add_rows(first, *cols, values);
            }
            for (bytes, value) in out.chunks_exact_mut(N).zip(&*values) {
                bytes.copy_from_slice(&encode(*value));
            }
        }
    }
}

/// An update that is no low-rank product. `first` is its row that is added to the first row of the sum.
enum Other<'a> {
    Whole { matrix: &'a HostTensor, first: usize, factor: f32 },
    Hadamard(Product, Product),
    Kronecker { outer: Rows<'a>, inner: Rows<'a>, first: usize, factor: f32 },
}

impl Other<'_> {
    /// Multiplications an element.
    fn rank(&self) -> usize {
        match self {
            Other::Whole { .. } => 1,
            Other::Hadamard(a, b) => a.rank + b.rank,
            Other::Kronecker { inner, .. } => 1 + inner.rank(),
        }
    }

    /// Adds rows of this update to rows of width `cols`; `row` is the first, counted from that of the sum.
    fn add_rows(&self, row: usize, cols: usize, values: &mut [f32]) {
        match self {
            Other::Whole { matrix, first, factor } => {
                let mut update = vec![0f32; cols];
                for (r, values) in values.chunks_exact_mut(cols).enumerate() {
                    matrix.decode_row(first + row + r, 0, &mut update);
                    values.iter_mut().zip(&update).for_each(|(value, update)| *value += factor * update);
                }
            }
            Other::Hadamard(a, b) => {
                let [mut of_a, mut of_b] = [vec![0f32; values.len()], vec![0f32; values.len()]];
                a.add_rows(row, cols, &mut of_a);
                b.add_rows(row, cols, &mut of_b);
                let products = of_a.iter().zip(&of_b).map(|(a, b)| a * b);
                values.iter_mut().zip(products).for_each(|(value, product)| *value += product);
            }
            Other::Kronecker { outer, inner, first, factor } => {
                let (height, width) = (inner.rows(), inner.cols());
                let mut weights = vec![0f32; outer.cols()];
                let mut update = vec![0f32; GROUP.min(height) * width];
                let mut row = first + row;
                let mut rest = values;
                // Rows that share a row of the outer matrix.
                while !rest.is_empty() {
                    let count = (rest.len() / cols).min(height - row % height).min(GROUP);
                    let (here, below) = rest.split_at_mut(count * cols);
                    outer.read(row / height, &mut weights);
                    inner.read(row % height, &mut update[..count * width]);
                    for (values, update) in here.chunks_exact_mut(cols).zip(update.chunks_exact(width)) {
                        for (values, weight) in values.chunks_exact_mut(width).zip(&weights) {
                            let weight = factor * weight;
                            values.iter_mut().zip(update).for_each(|(value, update)| *value += weight * update);
                        }
                    }
                    row += count;
                    rest = below;
                }
            }
        }
    }
}

/// A matrix that is read by rows.
enum Rows<'a> {
    Whole(&'a HostTensor),
    Product { product: Product, rows: usize, cols: usize },
}

impl<'a> Rows<'a> {
    fn of(matrix: &'a Matrix) -> Self {
        match matrix {
            Matrix::Whole(matrix) => Rows::Whole(matrix),
            Matrix::Product(factors) => {
                let (rows, cols) = (matrix.rows(), matrix.cols());
                Rows::Product {
                    product: Product::of(&[Term { factors, first: 0, factor: 1.0 }], rows, cols),
                    rows,
                    cols,
                }
            }
        }
    }

    fn rows(&self) -> usize {
        match self {
            Rows::Whole(matrix) => matrix.shape()[0],
            Rows::Product { rows, .. } => *rows,
        }
    }

    fn cols(&self) -> usize {
        match self {
            Rows::Whole(matrix) => matrix.shape()[1],
            Rows::Product { cols, .. } => *cols,
        }
    }

    /// Multiplications an element.
    fn rank(&self) -> usize {
        match self {
            Rows::Whole(_) => 0,
            Rows::Product { product, .. } => product.rank,
        }
    }

    /// Reads whole rows from `row` on.
    fn read(&self, row: usize, values: &mut [f32]) {
        match self {
            Rows::Whole(matrix) => {
                for (r, values) in values.chunks_exact_mut(self.cols()).enumerate() {
                    matrix.decode_row(row + r, 0, values);
                }
            }
            Rows::Product { product, cols, .. } => {
                values.fill(0.0);
                product.add_rows(row, *cols, values);
            }
        }
    }
}

/// A low-rank product; `first` is the row of `up` that is the first of the product.
struct Term<'a> {
    factors: &'a Factors,
    first: usize,
    factor: f32,
}

/// The factors of all terms, concatenated by rank.
struct Product {
    /// Sum of the ranks of all terms.
    rank: usize,
    /// `[rows, rank]`, with the factors multiplied in.
    up: Vec<f32>,
    /// `down` in panels of [`COLS`] columns: `[ceil(cols / COLS), rank, COLS]`.
    down: Vec<[f32; COLS]>,
}

impl Product {
    fn of(terms: &[Term], rows: usize, cols: usize) -> Self {
        let rank: usize = terms.iter().map(|term| term.factors.down.shape()[0]).sum();
        let mut up = vec![0.0; rows * rank];
        let mut down = vec![[0f32; COLS]; cols.div_ceil(COLS) * rank];
        let mut values = vec![0f32; cols];
        let mut before = 0;
        for Term { factors, first, factor } in terms {
            let of_term = factors.down.shape()[0];
            for r in 0..of_term {
                factors.down.decode_row(r, 0, &mut values);
                for (panel, values) in values.chunks(COLS).enumerate() {
                    down[panel * rank + before + r][..values.len()].copy_from_slice(values);
                }
            }
            for row in 0..rows {
                let up = &mut up[row * rank + before..][..of_term];
                factors.up.decode_row(first + row, 0, up);
                up.iter_mut().for_each(|v| *v *= factor);
            }
            before += of_term;
        }
        Product { rank, up, down }
    }

    /// Adds rows from `row` on to rows of width `cols`.
    fn add_rows(&self, row: usize, cols: usize, values: &mut [f32]) {
        let Product { rank, up, down } = self;
        if *rank == 0 {
            return;
        }
        // `[rows / ROWS, rank, ROWS]`.
        let rows = values.len() / cols;
        let mut up_tiles = vec![[0f32; ROWS]; rows.div_ceil(ROWS) * rank];
        for (r, up) in up[row * rank..].chunks_exact(*rank).take(rows).enumerate() {
            let tile = &mut up_tiles[r / ROWS * rank..][..*rank];
            tile.iter_mut().zip(up).for_each(|(tile, up)| tile[r % ROWS] = *up);
        }
        for (panel, down) in down.chunks_exact(*rank).enumerate() {
            for (up, values) in up_tiles.chunks_exact(*rank).zip(values.chunks_mut(ROWS * cols)) {
                for (values, sums) in values.chunks_exact_mut(cols).zip(&tile(up, down)) {
                    values[panel * COLS..].iter_mut().zip(sums).for_each(|(value, sum)| *value += sum);
                }
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
        Patch { rows, first: 0, update: Arc::new(Update::Product(Factors { up, down })), factor }
    }

    /// `[row, col]` of an update.
    fn element(update: &Update, row: usize, col: usize) -> f64 {
        let cell = |t: &HostTensor, row: usize, col: usize| f64::from(t.to_f32()[row * t.shape()[1] + col]);
        let product = |Factors { up, down }: &Factors, row, col| {
            (0..down.shape()[0]).map(|k| cell(up, row, k) * cell(down, k, col)).sum::<f64>()
        };
        let of_matrix = |matrix: &Matrix, row, col| match matrix {
            Matrix::Whole(matrix) => cell(matrix, row, col),
            Matrix::Product(factors) => product(factors, row, col),
        };
        match update {
            Update::Product(factors) => product(factors, row, col),
            Update::Hadamard([a, b]) => product(a, row, col) * product(b, row, col),
            Update::Whole(matrix) => cell(matrix, row, col),
            Update::Kronecker { outer, inner } => {
                let (height, width) = (inner.rows(), inner.cols());
                of_matrix(outer, row / height, col / width) * of_matrix(inner, row % height, col % width)
            }
        }
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
        let base = base.to_f32();
        for (row, col) in [(0, 0), (29, 202), (30, 100), (49, 7), (50, 8), (90, 16), (91, 15), (149, 202)] {
            let mut expected = f64::from(base[row * cols + col]);
            for p in patches.iter().filter(|p| p.rows.contains(&row)) {
                expected += f64::from(p.factor) * element(&p.update, row - p.rows.start, col);
            }
            let found = f64::from(got[row * cols + col]);
            // 76 products of at most 1, each rounded once to 2^-24 of a sum below 8.
            assert!(
                (found - expected).abs() < 76.0 * 8.0 / f64::from(1 << 24),
                "[{row}, {col}]: {found} for {expected}"
            );
        }
    }

    #[test]
    fn every_kind_of_update_is_added_at_its_rows_whatever_the_number_of_threads() {
        let (rows, cols) = (198, 210);
        let base = HostTensor::from_f32([rows, cols], &values(1, rows * cols));
        let tensor = |seed, shape: [usize; 2]| HostTensor::from_f32(shape, &values(seed, shape[0] * shape[1]));
        let factors =
            |seed, rows, rank, cols| Factors { up: tensor(seed, [rows, rank]), down: tensor(seed + 1, [rank, cols]) };
        let updates = [
            Update::Whole(tensor(2, [120, cols])),
            Update::Hadamard([factors(4, 120, 7, cols), factors(6, 120, 7, cols)]),
            Update::Kronecker { outer: Matrix::Whole(tensor(8, [4, 6])), inner: Matrix::Whole(tensor(9, [30, 35])) },
            Update::Kronecker {
                outer: Matrix::Product(factors(10, 24, 3, 70)),
                inner: Matrix::Product(factors(12, 5, 3, 3)),
            },
        ];
        for update in updates {
            // The halves of the rows are swapped, and a low-rank product lies across them.
            let update = Arc::new(update);
            let patch_at = |rows, first| Patch { rows, first, update: Arc::clone(&update), factor: -0.5 };
            let patches = [patch_at(13..73, 60), patch_at(73..133, 0), patch(20, 60..198, 5, cols, 2.0)];
            let patches: Vec<&Patch> = patches.iter().collect();
            let merged = |threads| merge(&base, &patches, NonZeroUsize::new(threads).unwrap()).unwrap();
            let got = merged(1).to_f32();
            for threads in [2, 5] {
                assert!(merged(threads).bytes()[..] == merged(1).bytes()[..], "{threads} threads");
            }
            let base = base.to_f32();
            for (row, col) in
                [(0, 0), (13, 0), (27, 34), (28, 35), (72, 209), (73, 1), (100, 105), (132, 208), (197, 3)]
            {
                let mut expected = f64::from(base[row * cols + col]);
                for p in patches.iter().filter(|p| p.rows.contains(&row)) {
                    expected += f64::from(p.factor) * element(&p.update, p.first + row - p.rows.start, col);
                }
                let found = f64::from(got[row * cols + col]);
                // At most 20 products of at most 7, each rounded once to 2^-24 of a sum below 32.
                let most = 20.0 * 32.0 / f64::from(1 << 24);
                assert!((found - expected).abs() < most, "[{row}, {col}]: {found} for {expected}");
            }
        }
    }
}
