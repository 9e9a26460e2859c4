//! Group norm over a map of pixels: `y = (x - mean) / sqrt(var + eps) * weight + bias`, with mean and variance over all
//! pixels and all channels of a group. A group is a run of consecutive channels.
//!
//! Used by the autoencoder before its attention, and with SiLU before its convolutions. Convolutions apply it while
//! they read their input ([`ConvInput`]) and only need the statistics.

use crate::{Backend, ConvInput, Result, Tensor};

/// The parameters of group norm.
pub struct GroupNorm<B: Backend> {
    /// Number of groups: runs of consecutive channels that share a mean and a variance.
    pub groups: usize,
    /// Scale of each channel, f32 `[c]`.
    pub weight: Tensor<B>,
    /// Shift of each channel, f32 `[c]`.
    pub bias: Tensor<B>,
    /// Added to the variance before the square root.
    pub eps: f32,
}

/// `x` compute `[h, w, c]` -> compute `[h, w, c]`.
///
/// # Errors
/// [`crate::Error::Shape`] or [`crate::Error::DType`] if the arguments are not as above or `c` is not a multiple of the
/// groups.
pub fn group_norm<B: Backend>(be: &B, x: &Tensor<B>, norm: &GroupNorm<B>) -> Result<Tensor<B>> {
    check(be, &x.into(), norm)?;
    be.group_norm(x, norm)
}

/// Per-channel parameters of group norm on `x`: f32 `[3, c]`, rows mean, scale and bias of
/// `y = (x - mean) * scale + bias`.
///
/// # Errors
/// As [`group_norm`].
pub fn group_norm_statistics<B: Backend>(be: &B, x: &ConvInput<B>, norm: &GroupNorm<B>) -> Result<Tensor<B>> {
    check(be, x, norm)?;
    be.group_norm_statistics(x, norm)
}

fn check<B: Backend>(be: &B, x: &ConvInput<B>, norm: &GroupNorm<B>) -> Result<()> {
    let [_h, _w, c] = super::conv2d::check_input(be, "group_norm: x", x)?;
    let groups = norm.groups;
    if groups == 0 || c == 0 || !c.is_multiple_of(groups) {
        return Err(x.map.wrong_shape("group_norm: x", format!("[h, w, c] with c a multiple of {groups} groups")));
    }
    super::expect_f32("group_norm: weight", &norm.weight, &[c])?;
    super::expect_f32("group_norm: bias", &norm.bias, &[c])
}

/// `x` `[pixels, c]`, `weight` and `bias` `[c]` -> `[pixels, c]`, before SiLU.
pub fn reference(x: &[f32], groups: usize, weight: &[f32], bias: &[f32], eps: f32) -> Vec<f64> {
    let c = weight.len();
    let in_group = |group: usize| {
        let of_group = move |(i, _): &(usize, &f32)| i % c / (c / groups) == group;
        x.iter().enumerate().filter(of_group).map(|(_, v)| f64::from(*v))
    };
    let n = (x.len() / groups) as f64;
    let statistics: Vec<(f64, f64)> = (0..groups)
        .map(|group| {
            let mean = in_group(group).sum::<f64>() / n;
            let variance = in_group(group).map(|v| (v - mean).powi(2)).sum::<f64>() / n;
            (mean, (variance + f64::from(eps)).sqrt())
        })
        .collect();
    let normalized = |(i, v): (usize, &f32)| {
        let (channel, (mean, deviation)) = (i % c, statistics[i % c / (c / groups)]);
        (f64::from(*v) - mean) / deviation * f64::from(weight[channel]) + f64::from(bias[channel])
    };
    x.iter().enumerate().map(normalized).collect()
}
