//! Samples of the components to pixels: upsampling and color conversion as libjpeg-turbo does them, to the bit.
//!
//! Source: `jdsample.c` with fancy upsampling, `jdcolor.c`; for CMYK to RGB, `Convert.c` of Pillow.

use super::markers::{Component, Frame};

/// What the components of a frame mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Color {
    Gray,
    Rgb,
    YCbCr,
    Cmyk,
    Ycck,
}

/// Call `each` with the rows of a complete frame: `[width]` if gray, else `[width, 3]`.
pub(super) fn rows(mut frame: Frame, color: Color, mut each: impl FnMut(&[u8])) {
    if frame.is_progressive {
        frame.components.iter_mut().for_each(Component::transform);
    }
    let width = frame.width as usize;
    let mut out = vec![0; width * if color == Color::Gray { 1 } else { 3 }];
    // Upsampling writes whole samples of the widest component, which may end after the picture.
    let mut rows = vec![vec![0; width + 4]; frame.components.len()];
    for y in 0..frame.height as usize {
        for (component, row) in frame.components.iter().zip(&mut rows) {
            upsample(component, (frame.h_max / component.h, frame.v_max / component.v), y, row);
        }
        convert(color, &rows, &mut out);
        each(&out);
    }
}

/// Row `y` of the picture from the samples of a component that has `1 / scale_x` of its columns and `1 / scale_y` of its
/// rows. Factors of two are interpolated with a triangle filter, others are repeated.
fn upsample(component: &Component, (scale_x, scale_y): (usize, usize), y: usize, out: &mut [u8]) {
    let stride = component.blocks_wide * 8;
    let samples = |y: usize| &component.samples[y * stride..y * stride + component.width];
    let near = samples(y / scale_y);
    // The row above for an upper half, the row below for a lower half; at the edges, the same.
    let is_upper = y.is_multiple_of(2);
    let far = || samples(if is_upper { (y / 2).saturating_sub(1) } else { (y / 2 + 1).min(component.height - 1) });
    match (scale_x, scale_y) {
        (1, 1) => out[..near.len()].copy_from_slice(near),
        (1, 2) => {
            let bias = if is_upper { 1 } else { 2 };
            for ((out, &near), &far) in out.iter_mut().zip(near).zip(far()) {
                *out = ((3 * u16::from(near) + u16::from(far) + bias) >> 2) as u8;
            }
        }
        (2, 1) if near.len() > 2 => {
            interpolate(near.len(), out, |i| near[i].into(), (1, 2), 2);
        }
        (2, 2) if near.len() > 2 => {
            let far = far();
            interpolate(near.len(), out, |i| 3 * u16::from(near[i]) + u16::from(far[i]), (8, 7), 4);
        }
        _ => out.iter_mut().enumerate().for_each(|(x, out)| *out = near[(x / scale_x).min(near.len() - 1)]),
    }
}

/// Twice as many samples: three parts of the nearest, one of the next. At the ends, the next is the nearest.
fn interpolate(count: usize, out: &mut [u8], sample: impl Fn(usize) -> u16, (left, right): (u16, u16), bits: u32) {
    let mut put = |x: usize, value: u16| {
        if let Some(out) = out.get_mut(x) {
            *out = (value >> bits) as u8;
        }
    };
    for i in 0..count {
        let near = sample(i);
        let (before, after) = (sample(i.saturating_sub(1)), sample((i + 1).min(count - 1)));
        put(2 * i, 3 * near + before + left);
        put(2 * i + 1, 3 * near + after + right);
    }
}

/// One row of all components to pixels.
fn convert(color: Color, rows: &[Vec<u8>], out: &mut [u8]) {
    if color == Color::Gray {
        out.copy_from_slice(&rows[0][..out.len()]);
        return;
    }
    for (x, pixel) in out.as_chunks_mut::<3>().0.iter_mut().enumerate() {
        let first = [rows[0][x], rows[1][x], rows[2][x]];
        *pixel = match color {
            Color::Gray | Color::Rgb => first,
            Color::YCbCr => rgb(first),
            // Files hold inverted inks, as Adobe's programs write them. YCCK is YCbCr of the inks, not inverted.
            Color::Cmyk => over_black(first, rows[3][x]),
            Color::Ycck => over_black(rgb(first).map(|ink| 255 - ink), rows[3][x]),
        };
    }
}

/// Source: `jdcolor.c`.
fn rgb([y, cb, cr]: [u8; 3]) -> [u8; 3] {
    const HALF: i32 = 1 << 15;
    let (y, cb, cr) = (i32::from(y), i32::from(cb) - 128, i32::from(cr) - 128);
    let red = y + ((91_881 * cr + HALF) >> 16); // 1.40200
    let green = y + ((-22_554 * cb - 46_802 * cr + HALF) >> 16); // 0.34414, 0.71414
    let blue = y + ((116_130 * cb + HALF) >> 16); // 1.77200
    [red, green, blue].map(|value| value.clamp(0, 255) as u8)
}

/// Inverted inks and inverted black to RGB. Source: `cmyk2rgb`, Pillow.
fn over_black(inks: [u8; 3], black: u8) -> [u8; 3] {
    let black = i32::from(black);
    inks.map(|ink| {
        let product = i32::from(255 - ink) * black + 128;
        (black - ((product + (product >> 8)) >> 8)).clamp(0, 255) as u8
    })
}
