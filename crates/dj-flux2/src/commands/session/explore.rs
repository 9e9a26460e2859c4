//! Several seeds on a numbered sheet, to pick from.

use std::path::{Path, PathBuf};

use flux2::image::codec::{self, IfExists};
use flux2::image::{ImageFormat, decode, encode};
use flux2::sheet::{Sheet, SheetSpec};
use flux2::{Error, image::RgbImage};

use super::draw::{Ask, Target, Timed};
use super::shell::Shell;
use super::shortened;
use crate::failure::{Failure, Result};
use crate::output::Output;

/// Pictures that wait to be picked.
pub struct Explored {
    drawn: Vec<Timed>,
    target: Target,
    parent: Option<u64>,
}

impl Shell {
    /// Draws a prompt several times, and writes and shows the sheet.
    pub fn explore(&mut self, ask: &Ask, count: u32) -> Result<()> {
        let mut drawn: Vec<Timed> = Vec::new();
        let target = self.each(ask, Some(count), |_, _, picture| {
            drawn.push(picture);
            Ok(())
        })?;
        let sheet = sheet(&drawn, &ask.text)?;
        let bytes = encode(&sheet, ImageFormat::Png, None)?;
        let path = write(&bytes, &target.output)?;
        self.display(&bytes);
        self.say.file("sheet", &shortened(&path))?;
        let all = drawn.len();
        self.explored = Some(Explored { drawn, target, parent: ask.parent() });
        if self.is_terminal {
            self.say.text(&format!("type 1 to {all} to keep one, or several, as in 1 3"))?;
        }
        Ok(())
    }

    /// Keeps pictures of the sheet, by their numbers from 1.
    pub fn pick(&mut self, numbers: &[u32]) -> Result<()> {
        let Some(explored) = &self.explored else {
            return Err(Failure::usage("there is no sheet to pick from", "make one with !explore"));
        };
        let mut picked = Vec::new();
        for number in numbers {
            let at = (*number as usize).checked_sub(1);
            let found = at.and_then(|at| explored.drawn.get(at)).ok_or_else(|| {
                let message = format!("the sheet has no picture {number}");
                Failure::usage(message, format!("pick one of 1 to {}", explored.drawn.len()))
            });
            picked.push(found?.clone());
        }
        let (target, parent) = (explored.target.clone(), explored.parent);
        picked.into_iter().try_for_each(|picture| self.keep(picture, &target, parent))
    }
}

/// The pictures with their numbers and seeds.
fn sheet(drawn: &[Timed], prompt: &str) -> Result<RgbImage> {
    let pictures = drawn.iter().map(|(drawn, _)| decode(&drawn.bytes, "the picture"));
    let pictures = pictures.collect::<flux2::Result<Vec<_>>>().map_err(Failure::image)?;
    let side = |side: fn(&RgbImage) -> u32| pictures.iter().map(side).max().unwrap_or(1);
    let label = |(number, (drawn, _)): (usize, &Timed)| vec![format!("{}: seed {}", number + 1, drawn.made.seed)];
    let spec = SheetSpec {
        cells: pictures.len(),
        cell_px: [side(RgbImage::width), side(RgbImage::height)],
        header: Some(prompt.to_owned()).filter(|prompt| !prompt.is_empty()).into_iter().collect(),
        labels: drawn.iter().enumerate().map(label).collect(),
        ..SheetSpec::default()
    };
    let mut sheet = Sheet::new(&spec)?;
    for (cell, picture) in pictures.iter().enumerate() {
        sheet.picture(cell, picture)?;
    }
    Ok(sheet.finish()?)
}

/// Writes a sheet beside the pictures, under a name that no file has.
fn write(bytes: &[u8], output: &Output) -> Result<PathBuf> {
    let picture = output.path(1, 0).unwrap_or_default();
    let folder = picture.parent().unwrap_or(Path::new("")).to_owned();
    if !folder.as_os_str().is_empty() {
        std::fs::create_dir_all(&folder).map_err(|source| Error::Io { path: folder.clone(), source })?;
    }
    for number in 1u64.. {
        let name = if number == 1 { "sheet.png".to_owned() } else { format!("sheet-{number}.png") };
        let path = folder.join(name);
        match codec::save(&path, bytes, IfExists::Fail) {
            Err(Error::OutputExists { .. }) => {}
            result => return result.map(|()| path).map_err(Failure::from),
        }
    }
    unreachable!("a folder does not hold 2^64 files")
}
