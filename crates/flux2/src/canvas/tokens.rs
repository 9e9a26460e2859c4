//! How much of each token is repainted, and so at which denoising step it is let go.
//!
//! In:  the mask of a region while it is drawn. Out: [`TokenMask`], one value for each token.
//!
//! A token is as strong as the strongest pixel in its cell, so that a line of one pixel is not lost. A value between 0
//! and 1 is a strength: the token is held until the step at which a picture of that strength would start.

use super::TOKEN_PX;

/// One value, 0 to 1, for each token: row by row.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenMask {
    /// 0 keeps the source, 1 repaints it.
    pub values: Vec<f64>,
}

impl TokenMask {
    /// The largest value in each cell of a mask `[height, width]`; all of a picture without one.
    pub(super) fn of_largest(mask: Option<&[u8]>, size: [u32; 2]) -> Self {
        let largest = |mask: &[u8], width: usize, [x, y]: [usize; 2]| {
            let rows = (0..TOKEN_PX).map(|row| &mask[(y + row) * width + x..][..TOKEN_PX]);
            f64::from(rows.flatten().copied().max().unwrap_or(0)) / 255.0
        };
        TokenMask { values: of_cells(mask, size, largest) }
    }

    /// The mean of the four pixels at the center of each cell, as bilinear interpolation without antialiasing gives it.
    pub(super) fn of_centers(mask: Option<&[u8]>, size: [u32; 2]) -> Self {
        let mean = |mask: &[u8], width: usize, [x, y]: [usize; 2]| {
            let center = [TOKEN_PX / 2 - 1, TOKEN_PX / 2];
            let pixels = center.map(|row| center.map(|column| f64::from(mask[(y + row) * width + x + column])));
            pixels.as_flattened().iter().sum::<f64>() / 4.0 / 255.0
        };
        TokenMask { values: of_cells(mask, size, mean) }
    }

    /// For a dry run of a picture with or without a mask: something is held, and something drawn at every step.
    pub(super) fn outline(size: [u32; 2], has_mask: bool) -> Self {
        let mut values = of_cells(None, size, |_, _, _| 1.0);
        if has_mask && values.len() > 1 {
            values[0] = 0.0;
        }
        TokenMask { values }
    }

    /// The step, from 0 to `steps`, at which each token is let go: `steps` if it is held to the end.
    pub fn starts(&self, steps: u32) -> Vec<u32> {
        self.values.iter().map(|&value| if value > 0.0 { start_of(value, steps) } else { steps }).collect()
    }
}

/// The step at which a picture of this strength, over 0, starts; with a strength of 1 the first one.
pub(crate) fn start_of(strength: f64, steps: u32) -> u32 {
    let all = f64::from(steps);
    // The order of operations is that of diffusers, so that the same numbers are rounded.
    let start = (all - (all * strength).min(all)).max(0.0) as u32;
    start.min(steps.saturating_sub(1))
}

fn of_cells(mask: Option<&[u8]>, size: [u32; 2], value: impl Fn(&[u8], usize, [usize; 2]) -> f64) -> Vec<f64> {
    let [width, height] = size.map(|side| side as usize);
    let cells = (0..height).step_by(TOKEN_PX).flat_map(|y| (0..width).step_by(TOKEN_PX).map(move |x| [x, y]));
    match mask {
        Some(mask) => cells.map(|cell| value(mask, width, cell)).collect(),
        None => vec![1.0; cells.count()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_one_pixel_is_not_lost() {
        let mut mask = vec![0; 32 * 16];
        mask[3 * 32 + 20] = 255;
        assert_eq!(TokenMask::of_largest(Some(&mask), [32, 16]).values, [0.0, 1.0]);
        assert_eq!(TokenMask::of_centers(Some(&mask), [32, 16]).values, [0.0, 0.0]);
        mask[7 * 32 + 23] = 255;
        assert_eq!(TokenMask::of_centers(Some(&mask), [32, 16]).values, [0.0, 0.25]);
        assert_eq!(TokenMask::of_largest(None, [32, 16]).values, [1.0, 1.0]);
    }

    #[test]
    fn a_value_is_the_strength_of_its_token() {
        let mask = |values: &[f64]| TokenMask { values: values.to_vec() };
        let values = [0.0, 0.01, 0.25, 0.26, 0.5, 0.51, 0.75, 0.76, 1.0];
        assert_eq!(mask(&values).starts(4), [4, 3, 3, 2, 2, 1, 1, 0, 0]);
        assert_eq!(mask(&[1e-300]).starts(4), [3], "a step is left");
    }

    /// A strength of 0.8 in f32, widened, would start 5 steps at the first one.
    #[test]
    fn strength_is_not_rounded_to_f32() {
        assert_eq!(start_of(0.8, 5), 1);
        assert_eq!(start_of(f64::from(0.8f32), 5), 0);
    }
}
