//! `group_norm` and its statistics. A map that another convolution makes is made first.

use super::driver::{Geometry, blocks};
use super::kernels::source;
use super::{CudaBackend, Source, conv2d, int, launch};
use crate::{ConvInput, DType, GroupNorm, Result, Tensor};

const GROUP_NORM: Source = source!("group_norm.cu");

/// Threads of a block that sums.
const THREADS: usize = 256;
/// Values that a thread adds up in f32.
const TERMS: usize = 32;
/// Channels that are loaded at once.
const WIDE: usize = 8;

pub(super) fn group_norm(
    be: &CudaBackend,
    x: &Tensor<CudaBackend>,
    norm: &GroupNorm<CudaBackend>,
) -> Result<Tensor<CudaBackend>> {
    let statistics = of_map(be, x, norm)?;
    normalise(be, x, &statistics, ["group_norm", "group_norm_wide"])
}

pub(super) fn group_norm_statistics(
    be: &CudaBackend,
    x: &ConvInput<CudaBackend>,
    norm: &GroupNorm<CudaBackend>,
) -> Result<Tensor<CudaBackend>> {
    of_map(be, &conv2d::raw_map(be, x)?, norm)
}

/// `silu((x - mean) * scale + bias)` with the rows of `statistics`.
pub(super) fn norm_silu(
    be: &CudaBackend,
    x: &Tensor<CudaBackend>,
    statistics: &Tensor<CudaBackend>,
) -> Result<Tensor<CudaBackend>> {
    normalise(be, x, statistics, ["group_norm_silu", "group_norm_silu_wide"])
}

fn normalise(
    be: &CudaBackend,
    x: &Tensor<CudaBackend>,
    statistics: &Tensor<CudaBackend>,
    names: [&'static str; 2],
) -> Result<Tensor<CudaBackend>> {
    let y = be.empty(x.shape(), x.dtype())?;
    let (n, wide) = (x.rows() * x.cols(), x.is_wide(WIDE) && statistics.is_wide(WIDE));
    let geometry = Geometry::each(if wide { n / WIDE } else { n });
    let name = names[usize::from(wide)];
    // SAFETY: `y` has the shape of `x`, and `statistics` three values for each channel.
    unsafe { launch!(be, GROUP_NORM, name, geometry, [n, int(x.cols()), x, x.row_stride(), statistics, &y])? };
    Ok(y)
}

fn of_map(be: &CudaBackend, x: &Tensor<CudaBackend>, norm: &GroupNorm<CudaBackend>) -> Result<Tensor<CudaBackend>> {
    let (pixels, c) = (x.rows(), x.cols());
    let wide = x.is_wide(WIDE);
    let pixels_a_block = pixels_a_block(if wide { c / WIDE } else { c });
    let summing = blocks(pixels, pixels_a_block);
    let partial = be.pool.take(summing as usize * norm.groups * 2 * 8)?;
    let name = if wide { "group_moments_wide" } else { "group_moments" };
    let geometry = Geometry { grid: [summing, 1, 1], block: THREADS as u32, shared: int(8 * c) as u32 };
    let statistics = be.empty(&[3, c], DType::F32)?;
    let (groups, row_stride) = (int(norm.groups), x.row_stride());
    // SAFETY: `partial` holds two sums for each group of each block, `statistics` three values for each channel.
    unsafe {
        launch!(
            be,
            GROUP_NORM,
            name,
            geometry,
            [pixels, int(pixels_a_block), int(c), groups, x, row_stride, partial.address()]
        )?;
        launch!(
            be,
            GROUP_NORM,
            "group_statistics",
            Geometry::block_each(norm.groups, THREADS as u32),
            [
                pixels,
                int(summing as usize),
                int(c),
                groups,
                x,
                partial.address(),
                &norm.weight,
                &norm.bias,
                norm.eps,
                &statistics
            ]
        )?;
    }
    Ok(statistics)
}

/// So many that no thread adds up more than [`TERMS`] values of a channel, where a pixel takes `lanes` threads.
fn pixels_a_block(lanes: usize) -> usize {
    THREADS / lanes.clamp(1, THREADS) * TERMS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_takes_as_many_pixels_as_its_threads_sum() {
        assert_eq!(pixels_a_block(16), 512); // 128 channels, eight at a time
        assert_eq!(pixels_a_block(64), 128); // 512 channels
        assert_eq!(pixels_a_block(300), 32); // more than a block has threads
    }
}
