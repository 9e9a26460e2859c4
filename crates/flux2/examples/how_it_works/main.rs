//! Draws the pictures and plots of docs/how-it-works.md with klein-mini: `just explain`, or
//!
//! ```sh
//! cargo run --release -p flux2 --example how_it_works                  # into docs/images/how-it-works
//! cargo run --release -p flux2 --example how_it_works -- FOLDER [NAME] # elsewhere, or only the file of that name
//! ```
//!
//! | file | holds |
//! |---|---|
//! | `lab` | klein-mini on the CPU in f32, with its inputs and weights open to changes |
//! | `mistakes` | what goes wrong when a stage is done slightly wrong |
//! | `stages` | what the stages do when they are right |
//! | `plots` | plots as SVG |
//!
//! Everything here changes copies of the weights or the inputs of public functions; the engine is the usual one.

mod lab;
mod mistakes;
mod plots;
mod stages;

use std::error::Error;
use std::path::PathBuf;

use flux2::image::{self, ImageFormat, RgbImage, codec::IfExists};
use flux2::sheet::{Sheet, SheetSpec};

/// Makes the bytes of a file.
type Make = fn() -> Result<Vec<u8>, Box<dyn Error>>;

/// The files of the chapters.
pub const FILES: [(&str, Make); 16] = [
    ("template.png", mistakes::template),
    ("taps.png", mistakes::taps),
    ("references.png", mistakes::references),
    ("noise.png", mistakes::noise),
    ("schedule.svg", plots::schedule),
    ("schedule.png", mistakes::schedule),
    ("steps.png", stages::steps),
    ("trajectory.svg", stages::trajectory),
    ("estimate.svg", stages::estimate),
    ("step-counts.png", stages::step_counts),
    ("modulation.png", mistakes::modulation),
    ("statistics.png", mistakes::statistics),
    ("tiles.png", mistakes::tiles),
    ("formats.png", stages::formats),
    ("time.svg", plots::time),
    ("memory.svg", plots::memory),
];

#[allow(clippy::print_stdout)] // the names of what it wrote
fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let folder = args.next().map_or_else(|| lab::repository("docs/images/how-it-works"), PathBuf::from);
    let only = args.next();
    std::fs::create_dir_all(&folder)?;
    for (name, make) in FILES.iter().filter(|(name, _)| only.as_deref().is_none_or(|only| only == *name)) {
        let path = folder.join(name);
        image::save(&path, &make()?, IfExists::Replace)?;
        println!("{}", path.display());
    }
    Ok(())
}

/// Pictures in a row, each with lines of text below it, as a PNG.
fn sheet(pictures: &[(&str, &RgbImage)], columns: usize) -> Result<Vec<u8>, Box<dyn Error>> {
    let first = pictures[0].1;
    // A part that does not fit beside the one before goes on the next line.
    let labels = pictures.iter().map(|(label, _)| label.split(": ").map(str::to_owned).collect()).collect();
    let cell_px = [first.width(), first.height()];
    let spec = SheetSpec { cells: pictures.len(), cell_px, columns: Some(columns), labels, ..SheetSpec::default() };
    let mut sheet = Sheet::new(&spec)?;
    for (cell, (_, picture)) in pictures.iter().enumerate() {
        sheet.picture(cell, picture)?;
    }
    Ok(image::encode(&sheet.finish()?, ImageFormat::Png, None)?)
}
