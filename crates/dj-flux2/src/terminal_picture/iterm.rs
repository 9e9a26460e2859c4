//! iTerm2's inline images, which mintty, WezTerm and others take too.

use std::io::{self, Write as _};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flux2::image::{ImageFormat, RgbImage, encode};

use super::answers::Answers;
use super::environment::Environment;
use super::size::Fit;

/// Parts of the names of terminals that take them.
const NAMES: [&str; 5] = ["iterm", "wezterm", "mintty", "rio", "warpterminal"];

/// Whether the terminal says by its name that it takes them. There is no question about it.
pub fn is_spoken(environment: &Environment, answers: &Answers) -> bool {
    let [program, handed_on] = &environment.programs;
    [program, handed_on, &answers.name].iter().any(|text| {
        let text = text.to_lowercase();
        let name = text.split([' ', '(', '.']).next().unwrap_or_default();
        NAMES.iter().any(|known| name.starts_with(known))
    })
}

/// Draws `picture` in the columns and rows of `fit`, from the cursor.
pub fn draw(picture: &RgbImage, fit: Fit, out: &mut Vec<u8>) -> io::Result<()> {
    let file = encode(picture, ImageFormat::Png, None).map_err(io::Error::other)?;
    let Fit { columns, rows, .. } = fit;
    let bytes = file.len();
    let keys = "preserveAspectRatio=1;doNotMoveCursor=1";
    write!(out, "\x1b]1337;File=inline=1;size={bytes};width={columns};height={rows};{keys}:")?;
    write!(out, "{}\x07", STANDARD.encode(file))
}
