//! Reductions over a row with 16 partial sums: an order of additions that vectorizes and is the same on every tier.

use super::simd::Element;

const LANES: usize = 16;

/// Sum of `term(value)` over `values`, in f32.
#[inline(always)]
pub(super) fn sum<T: Element>(values: &[T], term: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let chunks = values.chunks_exact(LANES);
    let tail = chunks.remainder();
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += term(value.to_f32());
        }
    }
    for (lane, value) in lanes.iter_mut().zip(tail) {
        *lane += term(value.to_f32());
    }
    lanes.iter().sum()
}

/// `1 / sqrt(mean(x^2) + eps)`.
#[inline(always)]
pub(super) fn inverse_rms<T: Element>(x: &[T], eps: f32) -> f32 {
    1.0 / (sum(x, |v| v * v) / x.len() as f32 + eps).sqrt()
}
