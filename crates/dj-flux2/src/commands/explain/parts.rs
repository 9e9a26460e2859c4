//! Pictures and plots of a page as files of their own.

use std::fs;
use std::path::Path;
use std::sync::PoisonError;

use flux2::Error;
use flux2::image::codec::{IfExists, save};
use flux2::image::{ImageFormat, RgbImage, decode, encode};
use maud::Markup;

use super::document::Document;
use super::{charts, heat, plot};
use crate::failure::Result;
use crate::output::WRITING;

/// Writes them to `folder`, which is made if it is missing. `png` is the finished picture.
pub fn write(folder: &Path, document: &Document, png: &[u8]) -> Result<()> {
    let explanation = &document.explanation;
    let _writing = WRITING.read().unwrap_or_else(PoisonError::into_inner);
    fs::create_dir_all(folder).map_err(|source| Error::Io { path: folder.to_owned(), source })?;
    let file = |name: &str, bytes: &[u8]| save(&folder.join(name), bytes, IfExists::Replace);
    let svg = |name: &str, markup: &Markup| file(name, plot::file(markup).as_bytes());
    let picture = |name: &str, image: &RgbImage| file(name, &encode(image, ImageFormat::Png, None)?);

    file("picture.png", png)?;
    svg("embedding.svg", &charts::embedding(&explanation.text))?;
    svg("schedule.svg", &charts::schedule(&explanation.schedule))?;
    svg("distances.svg", &charts::distances(&explanation.steps))?;
    svg("velocities.svg", &charts::velocities(&explanation.steps))?;
    svg("timeline.svg", &charts::timeline(document))?;
    for image in &explanation.images {
        picture(&format!("image-{}.png", image.number), &image.image)?;
    }
    picture("latents-0.png", &explanation.start.image)?;
    for step in &explanation.steps {
        picture(&format!("latents-{}.png", step.number), &step.latents.image)?;
        picture(&format!("estimate-{}.png", step.number), &step.estimate.image)?;
    }
    let Some(attention) = &explanation.attention else { return Ok(()) };
    svg("attention.svg", &charts::shares(attention, &explanation.text))?;
    let finished = decode(png, "the picture")?;
    let last = attention.steps.len() - 1;
    for (i, shown) in heat::shown(attention, &explanation.text).iter().enumerate() {
        let name: String = shown.name.chars().map(|c| if c.is_alphanumeric() { c } else { '_' }).collect();
        let map = heat::map(attention, last, shown.column);
        picture(&format!("attention-{}-{name}.png", i + 1), &heat::over(&finished, &map))?;
    }
    Ok(())
}
