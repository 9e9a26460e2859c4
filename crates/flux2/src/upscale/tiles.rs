//! The tiles of a picture: which pixels the network sees, and which of its result are kept.
//!
//! Sides of what the network sees are multiples of its unshuffle; beyond the right and lower edge of the picture it
//! sees pixels mirrored at the last one. Where a tile touches an edge of the picture it ends there too, so that the
//! zeros around it are the same as for the whole picture.

use std::num::NonZeroUsize;
use std::ops::Range;

use flux2_base::parallel::in_shares;

use crate::image::RgbImage;
use crate::weights::UpscalerConfig;
use crate::{Error, Result};

/// Pixels by which tiles of an RRDBNet overlap on each side, unless it looks at fewer. Half of what it looks at would
/// be 170 for the usual 23 blocks; beyond 64 the largest difference is two levels of 255 in a few pixels.
pub const RRDB_OVERLAP: usize = 64;

/// How large a part of a picture is computed at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tiling {
    /// Pixels of a picture that an RRDBNet still sees as a whole.
    pub whole: usize,
    /// Side of a tile in pixels, without what it overlaps.
    pub side: usize,
}

/// The tiles of a picture.
pub(super) struct Plan {
    /// Rows of tiles from the top, each from the left.
    pub tiles: Vec<Tile>,
    /// Whether the result is that of the whole picture.
    pub is_exact: bool,
}

/// A part of a picture. Ranges are columns, then rows.
pub(super) struct Tile {
    /// Pixels that the network sees.
    pub seen: [Range<usize>; 2],
    /// Pixels whose result is kept, all of them in the picture.
    pub kept: [Range<usize>; 2],
}

/// The tiles of a picture of `size`, width and height.
pub(super) fn plan(config: &UpscalerConfig, size: [u32; 2], tiling: Tiling) -> Plan {
    let unit = config.unshuffle();
    let size = size.map(|side| side as usize);
    let padded = size.map(|side| side.next_multiple_of(unit));
    let (side, radius) = (tiling.side.next_multiple_of(unit), config.radius());
    let (overlap, is_whole) = match config {
        UpscalerConfig::Rrdb(_) => (radius.min(RRDB_OVERLAP), padded[0] * padded[1] <= tiling.whole),
        UpscalerConfig::Srvgg(_) => (radius, false),
    };
    let overlap = overlap.next_multiple_of(unit);
    let is_one = is_whole || padded.iter().all(|length| *length <= side);
    // Along one axis: what is kept, and what is seen for it.
    let parts = |axis: usize| -> Vec<[Range<usize>; 2]> {
        if is_one {
            return vec![[0..size[axis], 0..padded[axis]]];
        }
        let part = |start: usize| {
            let end = (start + side).min(size[axis]);
            [start..end, start.saturating_sub(overlap)..(start + side + overlap).min(padded[axis])]
        };
        (0..size[axis]).step_by(side).map(part).collect()
    };
    let (columns, rows) = (parts(0), parts(1));
    let tiles = rows.iter().flat_map(|[kept_rows, seen_rows]| {
        columns.iter().map(|[kept_columns, seen_columns]| Tile {
            seen: [seen_columns.clone(), seen_rows.clone()],
            kept: [kept_columns.clone(), kept_rows.clone()],
        })
    });
    // At an edge of the picture a tile ends where the picture does.
    let sees_all = |axis: usize, [kept, seen]: &[Range<usize>; 2]| {
        let (before, behind) = (kept.start - seen.start, seen.end.saturating_sub(kept.end));
        (seen.start == 0 || before >= radius) && (seen.end == padded[axis] || behind >= radius)
    };
    let is_exact = columns.iter().all(|part| sees_all(0, part)) && rows.iter().all(|part| sees_all(1, part));
    Plan { tiles: tiles.collect(), is_exact }
}

impl Tile {
    /// Height and width of what the network sees.
    pub fn size(&self) -> [usize; 2] {
        [self.seen[1].len(), self.seen[0].len()]
    }

    /// What the network sees: `[height, width, 3]` in 0..=1.
    pub fn values(&self, image: &RgbImage) -> Vec<f32> {
        let (width, height) = (image.width() as usize, image.height() as usize);
        let [columns, rows] = &self.seen;
        let mut values = Vec::with_capacity(columns.len() * rows.len() * 3);
        for y in rows.clone() {
            let row = &image.pixels()[mirrored(y, height) * width * 3..][..width * 3];
            for x in columns.clone() {
                let pixel = &row[mirrored(x, width) * 3..][..3];
                values.extend(pixel.iter().map(|&byte| f32::from(byte) / 255.0));
            }
        }
        values
    }

    /// Puts what is kept of some rows of the result, from row `first` on, into `band`: the pixels of this row of tiles,
    /// `width` of them in a row. A value becomes `round(255 * clamp(value, 0, 1))`, halves rounded to even.
    ///
    /// # Errors
    /// [`Error::NotFinite`] for a value that is no number.
    pub fn place(
        &self,
        first: usize,
        values: &[f32],
        scale: usize,
        band: &mut [u8],
        width: usize,
        threads: NonZeroUsize,
    ) -> Result<()> {
        let [columns, rows] = &self.kept;
        // In pixels of the result.
        let seen_width = self.seen[0].len() * scale;
        let skipped = [columns.start - self.seen[0].start, rows.start - self.seen[1].start].map(|n| n * scale);
        let kept_rows = rows.len() * scale;
        let mut bytes = vec![0u8; values.len()];
        in_shares(&mut bytes, threads, SHARE, |from, share| {
            share.iter_mut().zip(&values[from..]).for_each(|(byte, value)| *byte = to_byte(*value));
        });
        if !values.iter().all(|value| value.is_finite()) {
            return Err(Error::NotFinite);
        }
        for (i, row) in bytes.chunks_exact(seen_width * 3).enumerate() {
            let Some(to) = (first + i).checked_sub(skipped[1]).filter(|to| *to < kept_rows) else { continue };
            let kept = &row[skipped[0] * 3..][..columns.len() * scale * 3];
            band[(to * width + columns.start * scale) * 3..][..kept.len()].copy_from_slice(kept);
        }
        Ok(())
    }
}

/// Fewest values that are worth a thread.
const SHARE: usize = 1 << 18;

/// Adding 2^23 rounds to the nearest integer, halves to even, and leaves it in the low bits.
fn to_byte(value: f32) -> u8 {
    const ROUND: f32 = 8_388_608.0;
    (value.clamp(0.0, 1.0) * 255.0 + ROUND).to_bits() as u8
}

/// The position inside `0..length` that `i` shows when what lies beyond the last one is its mirror image.
fn mirrored(i: usize, length: usize) -> usize {
    match i.checked_sub(length) {
        None => i,
        Some(beyond) => length.saturating_sub(2 + beyond),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::{RrdbConfig, SrvggConfig};

    const SMALL: UpscalerConfig = UpscalerConfig::Srvgg(SrvggConfig { convolutions: 3, features: 8, scale: 4 });

    fn rrdb(blocks: usize, unshuffle: usize) -> UpscalerConfig {
        UpscalerConfig::Rrdb(RrdbConfig { blocks, features: 8, growth: 4, unshuffle, stages: 2 })
    }

    /// Every pixel is kept once, and is seen with all that the network looks at.
    #[test]
    fn tiles_cover_a_picture_once() {
        for (config, size, side) in
            [(SMALL, [100, 70], 32), (SMALL, [1, 200], 16), (rrdb(1, 2), [65, 33], 16), (rrdb(2, 4), [70, 71], 30)]
        {
            let Plan { tiles, is_exact } = plan(&config, size, Tiling { whole: 0, side });
            assert!(is_exact && tiles.len() > 1);
            let [w, h] = size.map(|n| n as usize);
            let mut kept = vec![0; w * h];
            for tile in &tiles {
                let r = config.radius();
                for (axis, length) in [w, h].into_iter().enumerate() {
                    let (seen, kept) = (&tile.seen[axis], &tile.kept[axis]);
                    assert!(
                        seen.start.is_multiple_of(config.unshuffle()) && seen.len().is_multiple_of(config.unshuffle())
                    );
                    assert!(seen.start == 0 || seen.start + r <= kept.start);
                    assert!(seen.end >= length || seen.end >= kept.end + r);
                }
                for y in tile.kept[1].clone() {
                    tile.kept[0].clone().for_each(|x| kept[y * w + x] += 1);
                }
            }
            assert!(kept.iter().all(|count| *count == 1), "{size:?}");
        }
    }

    #[test]
    fn a_large_network_overlaps_less_than_it_looks_at_and_says_so() {
        let large = rrdb(23, 1);
        let tiling = Tiling { whole: 256 * 256, side: 128 };
        assert!(plan(&large, [256, 256], tiling).is_exact, "seen as a whole");
        let tiles = plan(&large, [257, 256], tiling);
        assert!(!tiles.is_exact);
        assert_eq!(tiles.tiles[0].seen, [0..192, 0..192]);
        assert!(plan(&large, [100, 128], Tiling { whole: 0, side: 128 }).is_exact, "no larger than a tile");
    }

    #[test]
    fn what_lies_beyond_the_picture_mirrors_it() {
        let shown: Vec<usize> = (0..8).map(|i| mirrored(i, 5)).collect();
        assert_eq!(shown, [0, 1, 2, 3, 4, 3, 2, 1]);
        assert_eq!([mirrored(1, 1), mirrored(3, 1), mirrored(4, 2)], [0, 0, 0]);
    }

    #[test]
    fn halves_are_rounded_to_even() {
        let half = |n: f32| (n + 0.5) / 255.0;
        assert_eq!([0.0, 1.0, -0.3, 1.2, half(4.0)].map(to_byte)[..4], [0, 255, 0, 255]);
        assert!([2, 3].contains(&to_byte(2.4999 / 255.0)));
    }
}
