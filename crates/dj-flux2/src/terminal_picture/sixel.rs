//! Sixel graphics: bands of six rows, drawn once for each color in them.

use std::io::{self, Write as _};

use color_quant::NeuQuant;
use flux2::image::RgbImage;

/// Colors of a picture. Most terminals have this many.
const COLORS: usize = 256;
/// Every which pixel the colors are learned from: 1 is the best, 30 the quickest.
const SAMPLE: i32 = 3;
/// Height of a band.
const BAND: usize = 6;
/// The sixel without pixels; a sixel is this plus a bit for each of its six pixels, the lowest for the uppermost.
const EMPTY: u8 = b'?';

/// Draws `picture` at the cursor, one pixel for each of its own.
pub fn draw(picture: &RgbImage, out: &mut Vec<u8>) -> io::Result<()> {
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    let (palette, indices) = reduce(picture);
    // Pixels that no color is drawn to stay as they are; there are none.
    write!(out, "\x1bP0;1q\"1;1;{width};{height}")?;
    for (i, color) in palette.chunks_exact(3).enumerate() {
        let [red, green, blue] = [0, 1, 2].map(|channel| (u32::from(color[channel]) * 100 + 127) / 255);
        write!(out, "#{i};2;{red};{green};{blue}")?;
    }
    for band in indices.chunks(width * BAND) {
        let mut is_first = true;
        let mut is_used = [false; COLORS];
        band.iter().for_each(|index| is_used[usize::from(*index)] = true);
        for color in (0..=u8::MAX).filter(|color| is_used[usize::from(*color)]) {
            // Back to the start of the band.
            let start = if is_first { "" } else { "$" };
            write!(out, "{start}#{color}")?;
            is_first = false;
            runs(band, width, color, out)?;
        }
        out.push(b'-');
    }
    out.extend(b"\x1b\\");
    Ok(())
}

/// The sixels of one color in a band; empty ones at the end are left out.
fn runs(band: &[u8], width: usize, color: u8, out: &mut Vec<u8>) -> io::Result<()> {
    let sixel = |x: usize| {
        let rows = band.chunks_exact(width).enumerate();
        EMPTY + rows.map(|(y, row)| u8::from(row[x] == color) << y).sum::<u8>()
    };
    let mut run: (u8, usize) = (EMPTY, 0);
    for x in 0..width {
        match sixel(x) {
            next if next == run.0 => run.1 += 1,
            next => {
                write_run(run, out)?;
                run = (next, 1);
            }
        }
    }
    if run.0 == EMPTY { Ok(()) } else { write_run(run, out) }
}

fn write_run((sixel, count): (u8, usize), out: &mut Vec<u8>) -> io::Result<()> {
    match count {
        0..=3 => out.extend(std::iter::repeat_n(sixel, count)),
        _ => write!(out, "!{count}{}", char::from(sixel))?,
    }
    Ok(())
}

/// A palette, `[colors, 3]`, and the color of each pixel. What a pixel is off is spread over its neighbors (Floyd and
/// Steinberg), so that smooth colors show no steps.
fn reduce(picture: &RgbImage) -> (Vec<u8>, Vec<u8>) {
    let rgba: Vec<u8> = picture.pixels().chunks_exact(3).flat_map(|rgb| [rgb[0], rgb[1], rgb[2], u8::MAX]).collect();
    let colors = NeuQuant::new(SAMPLE, COLORS, &rgba);
    let palette = colors.color_map_rgb();
    let width = picture.width() as usize;
    // In sixteenths of a level, with a column on each side.
    let (mut this, mut below) = (vec![[0i32; 3]; width + 2], vec![[0i32; 3]; width + 2]);
    let mut indices = Vec::with_capacity(width * picture.height() as usize);
    for row in picture.pixels().chunks_exact(width * 3) {
        for (x, rgb) in row.chunks_exact(3).enumerate() {
            let wanted: [i32; 3] = std::array::from_fn(|c| i32::from(rgb[c]) + this[x + 1][c] / 16);
            let [red, green, blue] = wanted.map(|level| level.clamp(0, 255) as u8);
            let index = colors.index_of(&[red, green, blue, u8::MAX]);
            for c in 0..3 {
                let off = wanted[c].clamp(0, 255) - i32::from(palette[index * 3 + c]);
                this[x + 2][c] += off * 7;
                below[x][c] += off * 3;
                below[x + 1][c] += off * 5;
                below[x + 2][c] += off;
            }
            indices.push(index as u8);
        }
        std::mem::swap(&mut this, &mut below);
        below.fill([0; 3]);
    }
    (palette, indices)
}
