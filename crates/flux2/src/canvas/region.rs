//! The part of a canvas that is drawn, and its size while it is drawn.
//!
//! In:  size of the canvas, the box of the pixels to repaint, how many pixels are drawn at once.
//! Out: [`Region`].
//!
//! A canvas of few pixels is drawn as a whole. Of a larger one, the box of what is repainted is drawn with some of what
//! surrounds it, so that the model sees where it paints. Nothing is resampled unless that box alone has too many pixels.

use crate::image::resize::GRID;

/// Least width of the surroundings of the box, in pixels.
pub const CONTEXT_PX: u32 = 64;

/// A part of a canvas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// Left, top, right and bottom edge in pixels of the canvas; right and bottom are outside.
    pub edges: [u32; 4],
    /// Width and height in pixels while it is drawn, multiples of the grid of 16.
    pub drawn: [u32; 2],
    /// Whether it is drawn smaller than it is, and the result enlarged.
    pub is_reduced: bool,
}

impl Region {
    /// Width and height in pixels of the canvas.
    pub fn size(&self) -> [u32; 2] {
        let [left, top, right, bottom] = self.edges;
        [right - left, bottom - top]
    }

    /// The region of a canvas of `size` pixels where the pixels in `box` are repainted, with at least `context` pixels
    /// round it, and at most about `area` pixels while it is drawn.
    pub(super) fn new(size: [u32; 2], repainted: [u32; 4], area: u64, context: u32) -> Self {
        let pixels = |[width, height]: [u32; 2]| u64::from(width) * u64::from(height);
        let edges = match pixels(size) <= area {
            true => [0, 0, size[0], size[1]],
            false => around(size, repainted, area, context),
        };
        let mut region = Region { edges, drawn: [0; 2], is_reduced: false };
        let full = region.size();
        region.is_reduced = pixels(full) > area;
        region.drawn = match region.is_reduced {
            false => full.map(|side| side.next_multiple_of(GRID)),
            true => {
                let scale = (area as f64 / pixels(full) as f64).sqrt();
                full.map(|side| {
                    let cells = (f64::from(side) * scale / f64::from(GRID)).round_ties_even();
                    (cells as u32 * GRID).max(GRID)
                })
            }
        };
        region
    }
}

/// The box with its surroundings; with more of them, as long as there are fewer than `area` pixels.
fn around(size: [u32; 2], [left, top, right, bottom]: [u32; 4], area: u64, context: u32) -> [u32; 4] {
    let margin = context.max((right - left).max(bottom - top).div_ceil(2));
    let grown = |from: u32, to: u32, full: u32| (from.saturating_sub(margin), to.saturating_add(margin).min(full));
    let (columns, rows) = (grown(left, right, size[0]), grown(top, bottom, size[1]));
    let (width, height) = (columns.1 - columns.0, rows.1 - rows.0);
    let pixels = u64::from(width) * u64::from(height);
    if pixels > area {
        return [columns.0, rows.0, columns.1, rows.1];
    }
    let factor = (area as f64 / pixels as f64).sqrt();
    let enlarged = |(from, to): (u32, u32), full: u32| {
        let side = (f64::from(to - from) * factor) as u32 / GRID * GRID;
        let side = side.max(to - from).min(full);
        // Centered, and shifted to lie inside.
        let start = (i64::from(from) + i64::from(to) - i64::from(side)).div_euclid(2).max(0);
        let start = start.min(i64::from(full - side)) as u32;
        (start, start + side)
    };
    let (columns, rows) = (enlarged(columns, size[0]), enlarged(rows, size[1]));
    [columns.0, rows.0, columns.1, rows.1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_canvas_is_drawn_as_a_whole() {
        let region = Region::new([100, 75], [30, 20, 71, 56], 1024 * 1024, CONTEXT_PX);
        assert_eq!(region, Region { edges: [0, 0, 100, 75], drawn: [112, 80], is_reduced: false });
    }

    #[test]
    fn of_a_large_canvas_the_surroundings_of_the_box_are_drawn() {
        let region = |area| Region::new([200, 150], [120, 70, 150, 90], area, 24);
        let native = region(96 * 96);
        assert_eq!((native.edges, native.drawn, native.is_reduced), ([87, 40, 183, 120], [96, 80], false));
        let reduced = region(64 * 64);
        assert_eq!((reduced.edges, reduced.is_reduced), ([96, 46, 174, 114], true));
        assert!(reduced.drawn[0] * reduced.drawn[1] <= 80 * 64, "{reduced:?}");
    }

    #[test]
    fn a_region_lies_inside_and_holds_the_box() {
        let sizes = [[5000, 40], [40, 5000], [3000, 2000], [1025, 1025], [16384, 16]];
        for size in sizes {
            for (x, y) in [(0, 0), (size[0] - 1, size[1] - 1), (size[0] / 2, size[1] / 3)] {
                let Region { edges: [l, t, r, b], drawn, .. } = Region::new(size, [x, y, x + 1, y + 1], 256 * 256, 64);
                assert!(l <= x && t <= y && x < r && y < b && r <= size[0] && b <= size[1], "{size:?} {x},{y}");
                assert!(drawn.iter().all(|side| side.is_multiple_of(GRID) && *side >= GRID), "{drawn:?}");
                assert!(u64::from(drawn[0]) * u64::from(drawn[1]) <= 280 * 280, "{size:?}: {drawn:?}");
            }
        }
    }
}
