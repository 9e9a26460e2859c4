//! Half blocks: a character is two pixels, the upper one in its color and the lower one in that of its background.

use std::io::{self, Write as _};

use flux2::image::RgbImage;

/// The colors that text can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colors {
    /// Any of 24 bits.
    True,
    /// xterm's 256.
    Table256,
    /// The 16 that most terminals have.
    Table16,
    /// None, or none that are wanted: shades of the text's own color.
    None,
}

/// Shades from dark to light, on a dark background.
const SHADES: [char; 5] = [' ', '░', '▒', '▓', '█'];

/// Levels of the cube in xterm's 256 colors.
const CUBE: [u8; 6] = [0, 95, 135, 175, 215, 255];

/// xterm's first 16 colors.
const FIRST: [[u8; 3]; 16] = [
    [0, 0, 0],
    [205, 0, 0],
    [0, 205, 0],
    [205, 205, 0],
    [0, 0, 238],
    [205, 0, 205],
    [0, 205, 205],
    [229, 229, 229],
    [127, 127, 127],
    [255, 0, 0],
    [0, 255, 0],
    [255, 255, 0],
    [92, 92, 255],
    [255, 0, 255],
    [0, 255, 255],
    [255, 255, 255],
];

/// Draws `picture`, two rows of pixels in each line of text.
pub fn draw(picture: &RgbImage, colors: Colors, out: &mut Vec<u8>) -> io::Result<()> {
    for y in (0..picture.height()).step_by(2) {
        let lower = |x: u32| (y + 1 < picture.height()).then(|| picture.pixel(x, y + 1));
        match colors {
            Colors::None => shades(picture, y, out)?,
            _ => {
                let mut last = String::new();
                for x in 0..picture.width() {
                    let below = lower(x).map_or("49".to_owned(), |color| code(color, colors, false));
                    let style = format!("\x1b[{};{below}m", code(picture.pixel(x, y), colors, true));
                    // Only what changes is written.
                    if style != last {
                        out.extend(style.as_bytes());
                        last = style;
                    }
                    write!(out, "▀")?;
                }
                out.extend(b"\x1b[0m");
            }
        }
        out.push(b'\n');
    }
    Ok(())
}

fn shades(picture: &RgbImage, y: u32, out: &mut Vec<u8>) -> io::Result<()> {
    for x in 0..picture.width() {
        let rows = [y, (y + 1).min(picture.height() - 1)];
        let light: f32 = rows.iter().map(|y| lightness(picture.pixel(x, *y))).sum::<f32>() / 2.0;
        let shade = (light / 256.0 * SHADES.len() as f32) as usize;
        write!(out, "{}", SHADES[shade.min(SHADES.len() - 1)])?;
    }
    Ok(())
}

/// Luma of BT.601.
fn lightness([red, green, blue]: [u8; 3]) -> f32 {
    0.299 * f32::from(red) + 0.587 * f32::from(green) + 0.114 * f32::from(blue)
}

/// The parameters of the sequence that sets `color`, of the text or of its background.
fn code(color: [u8; 3], colors: Colors, is_text: bool) -> String {
    let set = if is_text { 38 } else { 48 };
    match colors {
        Colors::True => format!("{set};2;{};{};{}", color[0], color[1], color[2]),
        Colors::Table256 => format!("{set};5;{}", of_256(color)),
        _ => {
            let nearest = (0..16).min_by_key(|i| distance(FIRST[*i], color)).unwrap_or_default();
            let first = if is_text { 30 } else { 40 };
            (if nearest < 8 { first + nearest } else { first + 60 + nearest - 8 }).to_string()
        }
    }
}

/// The nearest of the cube and the grays; the first 16 differ from terminal to terminal.
pub(super) fn of_256(color: [u8; 3]) -> u8 {
    let nearest = |level: u8| (0..6).min_by_key(|i| CUBE[*i].abs_diff(level)).unwrap_or_default();
    let [red, green, blue] = color.map(nearest);
    let in_cube = [CUBE[red], CUBE[green], CUBE[blue]];
    let mean = color.iter().map(|level| u32::from(*level)).sum::<u32>() / 3;
    let gray = (mean.saturating_sub(3) / 10).min(23) as u8;
    match distance([8 + 10 * gray; 3], color) < distance(in_cube, color) {
        true => 232 + gray,
        false => (16 + 36 * red + 6 * green + blue) as u8,
    }
}

fn distance(a: [u8; 3], b: [u8; 3]) -> u32 {
    (0..3).map(|c| u32::from(a[c].abs_diff(b[c])).pow(2)).sum()
}
