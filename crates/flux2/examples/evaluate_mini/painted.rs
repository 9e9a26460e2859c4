//! Figures of masked edits and larger canvases, for docs/guide/editing.md, and the limits that they must keep.

use std::path::Path;

use flux2::image::{self, ImageFormat, RgbImage, codec::IfExists};

use crate::evaluation::judge::Judge;
use crate::evaluation::painting::{Replaced, enlarge, replace};
use crate::{Args, Failure};

/// Share of masked edits that must look right to the strict judge, in percent.
const LOOKS_RIGHT: usize = 90;
/// Mean difference across the seam of a larger canvas that must not be reached, in levels.
const SEAM: f64 = 6.0;

/// Prints them.
///
/// # Errors
/// If one of them is beyond its limit.
pub fn print(args: &Args, judge: &Judge) -> Result<(), Failure> {
    let mut engine = args.drawing.engine()?;
    let count = args.count.min(100);
    let (mut replaced, mut levels): (Vec<Replaced>, Vec<f64>) = (Vec::new(), Vec::new());
    for i in 0..count {
        if let Some((made, picture)) = replace(engine.as_mut(), judge, i)? {
            if let Some(folder) = &args.keep {
                keep(folder, i, &made, &picture)?;
            }
            replaced.push(made);
        }
        levels.extend(enlarge(engine.as_mut(), judge, i)?);
    }
    let share = |right: fn(&&Replaced) -> bool| {
        let right = replaced.iter().filter(right).count();
        format!("{:.0} % of {}", 100.0 * right as f64 / replaced.len() as f64, replaced.len())
    };
    let changed: usize = replaced.iter().map(|made| made.changed_outside).sum();
    println!("masked edits: subject right {}", share(|made| made.named));
    println!("masked edits: looks right {}", share(|made| made.looks_right));
    println!("masked edits: {changed} pixels outside of the masks changed");
    levels.sort_by(f64::total_cmp);
    let mean = levels.iter().sum::<f64>() / levels.len() as f64;
    let [middle, most] = [levels.len() / 2, levels.len() - 1].map(|i| levels[i]);
    println!("larger canvases: {mean:.2} levels across the seam in the mean of {}", levels.len());
    println!("larger canvases: {middle:.2} in the middle, {most:.2} at most");
    let right = replaced.iter().filter(|made| made.looks_right).count();
    let beyond = [
        (100 * right < LOOKS_RIGHT * replaced.len()).then(|| format!("under {LOOKS_RIGHT} % look right")),
        (changed > 0).then(|| "pixels outside of a mask changed".to_owned()),
        (mean >= SEAM).then(|| format!("not under {SEAM} levels across the seam")),
    ];
    let beyond: Vec<String> = beyond.into_iter().flatten().collect();
    if beyond.is_empty() { Ok(()) } else { Err(beyond.join("; ").into()) }
}

/// Keeps an edit as FOLDER/NUMBER-right.png or -wrong.png.
fn keep(folder: &Path, i: usize, made: &Replaced, picture: &RgbImage) -> Result<(), Failure> {
    std::fs::create_dir_all(folder)?;
    let verdict = if made.looks_right { "right" } else { "wrong" };
    let bytes = image::encode(picture, ImageFormat::Png, None)?;
    Ok(image::save(&folder.join(format!("{i}-{verdict}.png")), &bytes, IfExists::Replace)?)
}
