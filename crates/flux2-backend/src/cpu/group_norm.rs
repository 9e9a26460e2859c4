//! `group_norm`: the map is read from memory twice, for the statistics and for the result.
//!
//! Statistics are computed over chunks of pixels that fit in the cache: the mean first, then deviations from it, both
//! summed per channel in f32. Chunks are merged in f64 in a fixed order, so maps of 10^9 values lose no precision. A
//! chunk is a piece of one row of the map, so the result depends neither on the number of threads nor on the height of
//! bands.

use std::ops::Range;
use std::sync::Mutex;

use super::CpuBackend;
use super::conv2d::{BAND_BYTES, Rows, raw_rows};
use super::simd::{self, Element, vectorize, with_element};
use crate::{ConvInput, GroupNorm, Result, Tensor};

/// Approximate elements per chunk.
const CHUNK: usize = 32 * 1024;
/// Most pixels per chunk, which is the number of terms of the f32 sums.
const CHUNK_PIXELS: usize = 256;

pub(super) fn group_norm(
    be: &CpuBackend,
    x: &Tensor<CpuBackend>,
    norm: &GroupNorm<CpuBackend>,
) -> Result<Tensor<CpuBackend>> {
    let statistics = group_norm_statistics(be, &x.into(), norm)?;
    let [means, scales, biases] = [0, 1, 2].map(|i| statistics.row::<f32>(i));
    with_element!(x.dtype(), T => {
        be.build_rows(x.shape(), |i, out: &mut [T]| normalize(be.tier, x.row(i), means, scales, biases, out))
    })
}

pub(super) fn group_norm_statistics(
    be: &CpuBackend,
    x: &ConvInput<CpuBackend>,
    norm: &GroupNorm<CpuBackend>,
) -> Result<Tensor<CpuBackend>> {
    let [h, w, channels] = x.size()?;
    // A map in memory is one band; the result of another convolution is computed in bands.
    let row_bytes = be.compute.dtype().bytes(w * channels);
    let height = if x.after.is_some() { (BAND_BYTES / row_bytes).clamp(1, h) } else { h };
    let mut moments = vec![Moments::default(); norm.groups];
    for start in (0..h).step_by(height) {
        let rows = start..(start + height).min(h);
        let band = raw_rows(be, x, rows.clone())?;
        with_element!(band.pixels.dtype(), T => add_rows::<T>(be, &band, rows, w, &mut moments));
    }
    let (weight, bias) = (norm.weight.elements::<f32>(), norm.bias.elements::<f32>());
    be.build(&[3, channels], |out| {
        let (means, rest) = out.split_at_mut(channels);
        let (scales, biases) = rest.split_at_mut(channels);
        for i in 0..channels {
            let group = moments[i / (channels / norm.groups)];
            let scale = group.inverse_deviation(norm.eps) * f64::from(weight[i]);
            (means[i], scales[i]) = (group.mean as f32, scale as f32);
            // The rounding error of the f32 mean goes into the bias: it matters if the mean is much larger than the
            // deviation.
            let rest = group.mean - f64::from(means[i]);
            biases[i] = (f64::from(bias[i]) - rest * scale) as f32;
        }
        Ok(())
    })
}

/// Count, mean, and sum of squared deviations from the mean of a set of values.
#[derive(Clone, Copy, Default)]
struct Moments {
    count: f64,
    mean: f64,
    squares: f64,
}

impl Moments {
    /// Moments of the union of both sets (Chan et al.).
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

/// Merges rows `rows` of a map, `w` pixels wide, into the `moments` of each group.
fn add_rows<T: Element>(be: &CpuBackend, band: &Rows, rows: Range<usize>, w: usize, moments: &mut [Moments]) {
    let (x, groups) = (&band.pixels, moments.len());
    let pixels = (CHUNK / x.cols()).clamp(1, CHUNK_PIXELS);
    let row_chunks = w.div_ceil(pixels);
    let partial = Mutex::new(vec![Moments::default(); rows.len() * row_chunks * groups]);
    let scratch = || (vec![0f32; x.cols()], [vec![0f32; x.cols()], vec![0f32; x.cols()]]);
    be.threads.run(rows.len() * row_chunks, scratch, |(means, sums), chunk| {
        let row = (rows.start - band.first + chunk / row_chunks) * w;
        let start = chunk % row_chunks * pixels;
        let pixels = row + start..row + (start + pixels).min(w);
        let moments = chunk_moments::<T>(be, x, pixels, groups, means, sums);
        let mut partial = partial.lock().expect("no panic while the lock is held");
        partial[chunk * groups..][..groups].copy_from_slice(&moments);
    });
    let partial = partial.into_inner().expect("no panic while the lock was held");
    for chunk in partial.chunks_exact(groups) {
        moments.iter_mut().zip(chunk).for_each(|(all, chunk)| *all = all.join(*chunk));
    }
}

fn chunk_moments<T: Element>(
    be: &CpuBackend,
    x: &Tensor<CpuBackend>,
    rows: Range<usize>,
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
    // The sum of the deviations corrects the rounding of the first mean.
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

vectorize! {
    fn add_pixel<T: Element>(x: &[T], sums: &mut [f32]) {
        for (sum, x) in sums.iter_mut().zip(x) {
            *sum += x.to_f32();
        }
    }
}

vectorize! {
    fn add_deviations<T: Element>(x: &[T], means: &[f32], sums: &mut [f32], squares: &mut [f32]) {
        for (((x, mean), sum), square) in x.iter().zip(means).zip(sums).zip(squares) {
            let deviation = x.to_f32() - mean;
            *sum += deviation;
            *square += deviation * deviation;
        }
    }
}

vectorize! {
    fn normalize<T: Element>(x: &[T], means: &[f32], scales: &[f32], biases: &[f32], out: &mut [T]) {
        let parameters = means.iter().zip(scales).zip(biases);
        for ((out, x), ((mean, scale), bias)) in out.iter_mut().zip(x).zip(parameters) {
            *out = T::from_f32((x.to_f32() - mean) * scale + bias);
        }
    }
}

vectorize! {
    /// As [`normalize`], followed by SiLU and conversion to another dtype.
    pub(super) fn norm_silu<S: Element, T: Element>(
        x: &[S],
        means: &[f32],
        scales: &[f32],
        biases: &[f32],
        out: &mut [T],
    ) {
        let parameters = means.iter().zip(scales).zip(biases);
        for ((out, x), ((mean, scale), bias)) in out.iter_mut().zip(x).zip(parameters) {
            *out = T::from_f32(simd::silu((x.to_f32() - mean) * scale + bias));
        }
    }
}
