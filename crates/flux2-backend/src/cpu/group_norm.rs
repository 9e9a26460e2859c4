//! `group_norm`: the map is read from memory twice, once for the statistics and once for the result.
//!
//! Statistics are gathered over chunks of pixels that fit in the cache: a mean first, then sums around it, both in f32
//! channel by channel. Chunks are joined in f64 and in order, so a map of 10^9 values loses nothing, and the result
//! does not depend on the number of threads.

use std::sync::Mutex;

use super::CpuBackend;
use super::simd::{self, Element, vectorised, with_element};
use crate::{Result, Tensor};

/// Elements of a chunk, about.
const CHUNK: usize = 32 * 1024;
/// Pixels of a chunk, at most: the length of the f32 sums.
const CHUNK_PIXELS: usize = 256;

pub(super) fn group_norm(
    be: &CpuBackend,
    x: &Tensor<CpuBackend>,
    groups: usize,
    weight: &Tensor<CpuBackend>,
    bias: &Tensor<CpuBackend>,
    eps: f32,
    silu: bool,
) -> Result<Tensor<CpuBackend>> {
    let (weight, bias) = (weight.elements::<f32>(), bias.elements::<f32>());
    with_element!(x.dtype(), T => {
        let statistics = statistics::<T>(be, x, groups);
        let channels = weight.iter().zip(bias).enumerate().map(|(i, (weight, bias))| {
            let group = statistics[i / (x.cols() / groups)];
            let scale = group.inverse_deviation(eps) * f64::from(*weight);
            // What f32 cannot hold of the mean goes into the bias: it matters where the mean dwarfs the deviation.
            let rest = group.mean - f64::from(group.mean as f32);
            (group.mean as f32, (scale as f32, (f64::from(*bias) - rest * scale) as f32))
        });
        let (means, (scales, biases)): (Vec<f32>, (Vec<f32>, Vec<f32>)) = channels.unzip();
        be.build_rows(x.shape(), |i, out: &mut [T]| row(be.tier, x.row(i), &means, &scales, &biases, silu, out))
    })
}

/// Number, mean, and sum of squares around the mean of some values.
#[derive(Clone, Copy, Default)]
struct Moments {
    count: f64,
    mean: f64,
    squares: f64,
}

impl Moments {
    /// Of both sets of values together.
    fn join(self, other: Moments) -> Moments {
        if self.count == 0.0 {
            return other;
        }
        let count = self.count + other.count;
        let apart = other.mean - self.mean;
        Moments {
            count,
            mean: self.mean + apart * other.count / count,
            squares: self.squares + other.squares + apart * apart * self.count * other.count / count,
        }
    }

    fn inverse_deviation(&self, eps: f32) -> f64 {
        1.0 / (self.squares / self.count + f64::from(eps)).sqrt()
    }
}

/// Of each group.
fn statistics<T: Element>(be: &CpuBackend, x: &Tensor<CpuBackend>, groups: usize) -> Vec<Moments> {
    let pixels = (CHUNK / x.cols()).clamp(1, CHUNK_PIXELS);
    let chunks = x.rows().div_ceil(pixels);
    let partial = Mutex::new(vec![Moments::default(); chunks * groups]);
    let scratch = || (vec![0f32; x.cols()], [vec![0f32; x.cols()], vec![0f32; x.cols()]]);
    be.threads.run(chunks, scratch, |(means, sums), chunk| {
        let rows = chunk * pixels..((chunk + 1) * pixels).min(x.rows());
        let moments = chunk_moments::<T>(be, x, rows, groups, means, sums);
        let mut partial = partial.lock().expect("no panic while the lock is held");
        partial[chunk * groups..][..groups].copy_from_slice(&moments);
    });
    let partial = partial.into_inner().expect("no panic while the lock was held");
    let mut all = vec![Moments::default(); groups];
    for chunk in partial.chunks_exact(groups) {
        all.iter_mut().zip(chunk).for_each(|(all, chunk)| *all = all.join(*chunk));
    }
    all
}

fn chunk_moments<T: Element>(
    be: &CpuBackend,
    x: &Tensor<CpuBackend>,
    rows: std::ops::Range<usize>,
    groups: usize,
    means: &mut [f32],
    [sums, squares]: &mut [Vec<f32>; 2],
) -> Vec<Moments> {
    let width = x.cols() / groups;
    let count = (rows.len() * width) as f64;
    let group_sum = |sums: &[f32]| sums.iter().map(|s| f64::from(*s)).sum::<f64>();

    sums.fill(0.0);
    for i in rows.clone() {
        add_pixel(be.tier, x.row::<T>(i), sums);
    }
    for (means, sums) in means.chunks_exact_mut(width).zip(sums.chunks_exact(width)) {
        means.fill((group_sum(sums) / count) as f32);
    }
    sums.fill(0.0);
    squares.fill(0.0);
    for i in rows {
        add_deviations(be.tier, x.row::<T>(i), means, sums, squares);
    }
    // What the deviations sum to corrects the rounding of the first mean.
    let sums = sums.chunks_exact(width).zip(squares.chunks_exact(width));
    let moments = means.chunks_exact(width).zip(sums).map(|(means, (sums, squares))| {
        let sum = group_sum(sums);
        Moments {
            count,
            mean: f64::from(means[0]) + sum / count,
            squares: (group_sum(squares) - sum * sum / count).max(0.0),
        }
    });
    moments.collect()
}

vectorised! {
    fn add_pixel<T: Element>(x: &[T], sums: &mut [f32]) {
        for (sum, x) in sums.iter_mut().zip(x) {
            *sum += x.to_f32();
        }
    }
}

vectorised! {
    fn add_deviations<T: Element>(x: &[T], means: &[f32], sums: &mut [f32], squares: &mut [f32]) {
        for (((x, mean), sum), square) in x.iter().zip(means).zip(sums).zip(squares) {
            let deviation = x.to_f32() - mean;
            *sum += deviation;
            *square += deviation * deviation;
        }
    }
}

vectorised! {
    fn row<T: Element>(x: &[T], means: &[f32], scales: &[f32], bias: &[f32], silu: bool, out: &mut [T]) {
        let parameters = means.iter().zip(scales).zip(bias);
        for ((out, x), ((mean, scale), bias)) in out.iter_mut().zip(x).zip(parameters) {
            let y = (x.to_f32() - mean) * scale + bias;
            *out = T::from_f32(if silu { simd::silu(y) } else { y });
        }
    }
}
