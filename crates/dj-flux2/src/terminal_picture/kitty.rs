//! kitty's graphics protocol, which Ghostty, Konsole, WezTerm and others speak too.

use std::io::{self, Write as _};
use std::sync::atomic::{AtomicU32, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flux2::image::{ImageFormat, RgbImage, encode};

use super::size::Fit;
use super::tmux;

/// Most bytes of data in one sequence.
const CHUNK: usize = 4096;
/// Rows that placeholders can name here.
pub const MAX_ROWS: u16 = DIACRITICS.len() as u16;
/// The character that stands for a piece of a picture.
const PLACEHOLDER: char = '\u{10eeee}';

/// Terminals that draw placeholders. Others that speak the protocol show them as characters.
pub fn has_placeholders(terminal: &str) -> bool {
    let terminal = terminal.to_lowercase();
    ["kitty", "ghostty"].iter().any(|name| terminal.contains(name))
}

/// Draws `picture` at the cursor, one pixel for each of its own, and leaves the cursor where it is.
pub fn draw(picture: &RgbImage, out: &mut Vec<u8>) -> io::Result<u32> {
    let id = next_id();
    for sequence in sequences(picture, &format!("a=T,f=100,q=2,C=1,i={id}"))? {
        out.extend(sequence);
    }
    Ok(id)
}

/// Hands `picture` through tmux to the terminal around it, and writes placeholders, which tmux moves like any text.
///
/// The color of a placeholder is the lowest byte of the picture's number, and its third diacritic the highest one. The
/// first two of a line are its row and column; what follows needs none.
pub fn draw_in_tmux(picture: &RgbImage, fit: Fit, out: &mut Vec<u8>) -> io::Result<u32> {
    let id = next_id();
    let Fit { columns, rows, .. } = fit;
    for sequence in sequences(picture, &format!("a=T,U=1,f=100,q=2,i={id},c={columns},r={rows}"))? {
        tmux::through(&sequence, out);
    }
    let [high, .., low] = id.to_be_bytes();
    for row in DIACRITICS.iter().take(rows.into()) {
        write!(out, "\x1b[38;5;{low}m{PLACEHOLDER}{row}{}{}", DIACRITICS[0], DIACRITICS[usize::from(high)])?;
        (1..columns).try_for_each(|_| write!(out, "{PLACEHOLDER}"))?;
        out.extend(b"\x1b[39m\n");
    }
    Ok(id)
}

/// Removes a picture from the screen and from the terminal's memory.
pub fn delete(out: &mut Vec<u8>, id: u32, in_tmux: bool) -> io::Result<()> {
    let sequence = format!("\x1b_Ga=d,d=I,q=2,i={id}\x1b\\");
    match in_tmux {
        true => tmux::through(sequence.as_bytes(), out),
        false => out.extend(sequence.as_bytes()),
    }
    Ok(())
}

/// A picture as PNG in sequences, of which the first has `keys`.
fn sequences(picture: &RgbImage, keys: &str) -> io::Result<Vec<Vec<u8>>> {
    let file = encode(picture, ImageFormat::Png, None).map_err(io::Error::other)?;
    let data = STANDARD.encode(file);
    let chunks = data.as_bytes().chunks(CHUNK);
    let last = chunks.len() - 1;
    let sequence = |(i, chunk): (usize, &[u8])| {
        let keys = if i == 0 { format!("{keys},") } else { String::new() };
        let more = u8::from(i < last);
        [format!("\x1b_G{keys}m={more};").as_bytes(), chunk, b"\x1b\\"].concat()
    };
    Ok(chunks.enumerate().map(sequence).collect())
}

/// A number for a picture: programs before this one may have used others. The two bytes between the highest and the
/// lowest one are 0, as placeholders have no room for them.
fn next_id() -> u32 {
    static DRAWN: AtomicU32 = AtomicU32::new(0);
    let number = std::process::id().wrapping_mul(31).wrapping_add(DRAWN.fetch_add(1, Ordering::Relaxed));
    let low = number % 255 + 1;
    let high = number / 255 % DIACRITICS.len() as u32;
    high << 24 | low
}

/// Diacritics that stand for the numbers from 0, as the protocol defines them.
#[rustfmt::skip]
pub(super) const DIACRITICS: [char; 96] = [
    '\u{305}', '\u{30d}', '\u{30e}', '\u{310}', '\u{312}', '\u{33d}', '\u{33e}', '\u{33f}',
    '\u{346}', '\u{34a}', '\u{34b}', '\u{34c}', '\u{350}', '\u{351}', '\u{352}', '\u{357}',
    '\u{35b}', '\u{363}', '\u{364}', '\u{365}', '\u{366}', '\u{367}', '\u{368}', '\u{369}',
    '\u{36a}', '\u{36b}', '\u{36c}', '\u{36d}', '\u{36e}', '\u{36f}', '\u{483}', '\u{484}',
    '\u{485}', '\u{486}', '\u{487}', '\u{592}', '\u{593}', '\u{594}', '\u{595}', '\u{597}',
    '\u{598}', '\u{599}', '\u{59c}', '\u{59d}', '\u{59e}', '\u{59f}', '\u{5a0}', '\u{5a1}',
    '\u{5a8}', '\u{5a9}', '\u{5ab}', '\u{5ac}', '\u{5af}', '\u{5c4}', '\u{610}', '\u{611}',
    '\u{612}', '\u{613}', '\u{614}', '\u{615}', '\u{616}', '\u{617}', '\u{657}', '\u{658}',
    '\u{659}', '\u{65a}', '\u{65b}', '\u{65d}', '\u{65e}', '\u{6d6}', '\u{6d7}', '\u{6d8}',
    '\u{6d9}', '\u{6da}', '\u{6db}', '\u{6dc}', '\u{6df}', '\u{6e0}', '\u{6e1}', '\u{6e2}',
    '\u{6e4}', '\u{6e7}', '\u{6e8}', '\u{6eb}', '\u{6ec}', '\u{730}', '\u{732}', '\u{733}',
    '\u{735}', '\u{736}', '\u{73a}', '\u{73d}', '\u{73f}', '\u{740}', '\u{741}', '\u{743}',
];
