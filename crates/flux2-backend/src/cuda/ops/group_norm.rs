//! `group_norm` and its statistics. A map that another convolution computes is reduced a band of rows at a time.

use super::conv2d;
use crate::cuda::runtime::driver::{Geometry, blocks};
use crate::cuda::{CudaBackend, Source, int, launch, source};
use crate::{ConvInput, DType, GroupNorm, Result, Tensor};

const GROUP_NORM: Source = source!("group_norm.cu");

/// Threads of a block that computes moments.
const THREADS: usize = 256;
/// Upper bound on the values that a thread adds in f32.
const TERMS: usize = 32;
/// Channels of a vector load.
const WIDE: usize = 8;

pub(crate) fn group_norm(
    be: &CudaBackend,
    x: &Tensor<CudaBackend>,
    norm: &GroupNorm<CudaBackend>,
) -> Result<Tensor<CudaBackend>> {
    let statistics = statistics(be, x.rows(), x.is_wide(WIDE), [Ok(x.clone())], norm)?;
    normalize(be, x, &statistics, ["group_norm", "group_norm_wide"])
}

pub(crate) fn group_norm_statistics(
    be: &CudaBackend,
    x: &ConvInput<CudaBackend>,
    norm: &GroupNorm<CudaBackend>,
) -> Result<Tensor<CudaBackend>> {
    let [h, w, c] = x.size()?;
    let (wide, rows) = match x.after {
        None => (x.map.is_wide(WIDE), h),
        // Bands of whole blocks, so that sums do not depend on the bands.
        Some(_) => {
            let wide = c.is_multiple_of(WIDE);
            let block = pixels_a_block(if wide { c / WIDE } else { c });
            (wide, conv2d::band_rows(be, [w, c], block / gcd(w, block)))
        }
    };
    let bands = (0..h).step_by(rows.max(1)).map(|first| conv2d::raw_rows(be, x, first..(first + rows).min(h)));
    statistics(be, h * w, wide, bands, norm)
}

/// `silu((x - mean) * scale + bias)`; mean, scale and bias are the rows of `statistics`.
pub(crate) fn norm_silu(
    be: &CudaBackend,
    x: &Tensor<CudaBackend>,
    statistics: &Tensor<CudaBackend>,
) -> Result<Tensor<CudaBackend>> {
    normalize(be, x, statistics, ["group_norm_silu", "group_norm_silu_wide"])
}

fn normalize(
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

/// The statistics of a map of `pixels`, given as bands of rows. `wide`: channels are loaded as vectors.
fn statistics(
    be: &CudaBackend,
    pixels: usize,
    wide: bool,
    bands: impl IntoIterator<Item = Result<Tensor<CudaBackend>>>,
    norm: &GroupNorm<CudaBackend>,
) -> Result<Tensor<CudaBackend>> {
    let c = norm.weight.cols();
    let pixels_a_block = pixels_a_block(if wide { c / WIDE } else { c });
    let name = if wide { "group_moments_wide" } else { "group_moments" };
    let all_blocks = blocks(pixels, pixels_a_block) as usize;
    let partial = be.pool.take(all_blocks * norm.groups * 2 * 8)?;
    let groups = int(norm.groups);
    let (mut done, mut first): (usize, Option<Tensor<CudaBackend>>) = (0, None);
    for band in bands {
        let band = band?;
        let summing = blocks(band.rows(), pixels_a_block);
        let geometry = Geometry { grid: [summing, 1, 1], block: THREADS as u32, shared: int(8 * c) as u32 };
        let to = partial.address() + (done * norm.groups * 2 * 8) as u64;
        let shift = match &first {
            Some(first) => first.clone(),
            None if band.rows() == pixels => band.clone(),
            None => {
                let copy = be.empty(&[1, c], band.dtype())?;
                be.copy_rows(&band.reshape("group_norm: band", [band.rows(), c])?.slice_rows(0..1), copy.address(), c)?;
                copy
            }
        };
        let (rows, row_stride) = (band.rows(), band.row_stride());
        // SAFETY: `partial` holds two sums for each group of each block, and the shift is a pixel at least.
        unsafe {
            launch!(
                be,
                GROUP_NORM,
                name,
                geometry,
                [rows, int(pixels_a_block), int(c), groups, &band, row_stride, &shift, to]
            )?;
        }
        done += summing as usize;
        first = Some(shift);
    }
    let shift = first.expect("a map has a pixel");
    let statistics = be.empty(&[3, c], DType::F32)?;
    let geometry = Geometry::block_each(norm.groups, THREADS as u32);
    let (sums, weight, bias) = (partial.address(), &norm.weight, &norm.bias);
    // SAFETY: `partial` holds two sums for each group of each block, `statistics` three values for each channel.
    unsafe {
        launch!(
            be,
            GROUP_NORM,
            "group_statistics",
            geometry,
            [pixels, int(all_blocks), int(c), groups, &shift, sums, weight, bias, norm.eps, &statistics]
        )?;
    }
    Ok(statistics)
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Pixels of a block, such that no thread adds more than [`TERMS`] values of a channel if a pixel takes `lanes`
/// threads.
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
