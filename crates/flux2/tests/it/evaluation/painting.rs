//! Paints into klein-mini's own pictures, and judges what is painted and what is kept.
//!
//! In:  the number of a case. Out: what a masked edit shows, how well a larger canvas continues its background.

use flux2::canvas::{Outpaint, Side, SourceOptions};
use flux2::image::{self, ImageFormat, RgbImage};
use flux2::{Engine, GenerateRequest, Result, Source};

use super::judge::Judge;
use super::world::{Layout, Picture, SIDE};
use super::{draw, looks_right};

/// Pixels round the box of the subject that are repainted with it: more than the width of the feather, in which the
/// source is still seen. And pixels added at each side.
const MARGIN: usize = 12;
const ADDED: u32 = 32;

/// A masked edit.
pub struct Replaced {
    /// Whether the subject is the one that was asked for.
    pub named: bool,
    /// Whether the whole picture looks right to the strict judge.
    pub looks_right: bool,
    /// Pixels outside of the mask that differ from the source.
    pub changed_outside: usize,
}

/// Subject of case `i`, in another order than that of the list. The step has no divisor in common with the number of
/// subjects, so that each has its turn.
fn subject(judge: &Judge, i: usize) -> usize {
    (i * 41 + 11) % judge.world.subjects.len()
}

/// A source of the model's own, and what it shows; `None` if it does not look right.
fn source(engine: &mut dyn Engine, judge: &Judge, i: usize) -> Result<Option<(Picture, RgbImage)>> {
    let layout = Some(Layout { size: 1, count: 1, place: 4 });
    let picture = Picture { color: i % judge.world.colors.len(), pattern: 0, subject: subject(judge, i), layout };
    let image = draw(engine, &judge.world.describe(&picture), &[], 4, i as u64)?;
    Ok(looks_right(&judge.world, &image, &picture).then_some((picture, image)))
}

fn png(image: &RgbImage) -> Result<Vec<u8>> {
    image::encode(image, ImageFormat::Png, None)
}

/// A white box round the subject.
fn mask_of_subject(judge: &Judge, picture: &Picture) -> Result<RgbImage> {
    let layout = picture.layout.expect("a source has its subject in the center");
    let ([left, top], px) = (judge.world.boxes(layout)[0], judge.world.sizes[layout.size].px);
    let near = |at: usize, from: usize| at + MARGIN >= from && at < from + px + MARGIN;
    let is_inside = |i: usize| near(i % SIDE, left) && near(i / SIDE, top);
    let pixels = (0..SIDE * SIDE).flat_map(|i| [if is_inside(i) { 255 } else { 0 }; 3]).collect();
    RgbImage::new(SIDE as u32, SIDE as u32, pixels)
}

/// Replaces the subject of case `i` by another: the prompt says what the whole picture shows, and the model does not see
/// the source. Returns the verdict and the picture; `None` if the source was already wrong.
///
/// # Errors
/// Any error of the engine.
pub fn replace(engine: &mut dyn Engine, judge: &Judge, i: usize) -> Result<Option<(Replaced, RgbImage)>> {
    let Some((before, image)) = source(engine, judge, i)? else { return Ok(None) };
    let expected = Picture { subject: subject(judge, i + 50), ..before };
    let mask = mask_of_subject(judge, &before)?;
    let options = SourceOptions { as_reference: false, ..Default::default() };
    let source = Source::from_bytes(&png(&image)?, "source", Some((&png(&mask)?, "mask")), options)?;
    let prompt = judge.world.describe(&expected);
    let request = GenerateRequest { prompt, source: Some(source), seed: 1000 + i as u64, ..Default::default() };
    let after = engine.generate(&request)?.image;
    let all = (0..SIDE as u32).flat_map(|y| (0..SIDE as u32).map(move |x| (x, y)));
    let changed = |(x, y): &(u32, u32)| mask.pixel(*x, *y) == [0; 3] && after.pixel(*x, *y) != image.pixel(*x, *y);
    let replaced = Replaced {
        named: judge.look(&after, &expected).subject == expected.subject,
        looks_right: looks_right(&judge.world, &after, &expected),
        changed_outside: all.filter(changed).count(),
    };
    Ok(Some((replaced, after)))
}

/// Enlarges the canvas of case `i` at all sides. Returns the mean difference, in levels, between the colors on both
/// sides of the old edge. `None` if the source was already wrong.
///
/// # Errors
/// Any error of the engine.
pub fn enlarge(engine: &mut dyn Engine, judge: &Judge, i: usize) -> Result<Option<f64>> {
    let Some((picture, image)) = source(engine, judge, i)? else { return Ok(None) };
    let options = SourceOptions { outpaint: Some(Outpaint::new([Side::Px(ADDED); 4])), ..Default::default() };
    let source = Source::from_bytes(&png(&image)?, "source", None, options)?;
    let prompt = judge.world.describe(&Picture { layout: None, ..picture });
    let request = GenerateRequest { prompt, source: Some(source), seed: 2000 + i as u64, ..Default::default() };
    Ok(Some(across_the_seam(&engine.generate(&request)?.image, ADDED, SIDE as u32)))
}

/// Mean difference in levels of the means of 8 pixels on both sides of the edge of the old picture, which begins at
/// `from` and has `side` pixels: at each of its edges, in runs of 16 pixels.
fn across_the_seam(image: &RgbImage, from: u32, side: u32) -> f64 {
    let mean = |columns: std::ops::Range<u32>, rows: std::ops::Range<u32>| -> [f64; 3] {
        let n = f64::from((columns.end - columns.start) * (rows.end - rows.start));
        let pixels = rows.flat_map(|y| columns.clone().map(move |x| image.pixel(x, y)));
        pixels.fold([0.0; 3], |sum, pixel| std::array::from_fn(|c| sum[c] + f64::from(pixel[c]) / n))
    };
    let end = from + side;
    let mut differences = Vec::new();
    for run in (from..end).step_by(16) {
        let along = run..run + 16;
        for (outside, inside) in [(from - 8..from, from..from + 8), (end..end + 8, end - 8..end)] {
            let pairs = [
                (mean(outside.clone(), along.clone()), mean(inside.clone(), along.clone())),
                (mean(along.clone(), outside.clone()), mean(along.clone(), inside.clone())),
            ];
            differences.extend(pairs.iter().flat_map(|(a, b)| (0..3).map(|c| (a[c] - b[c]).abs())));
        }
    }
    differences.iter().sum::<f64>() / differences.len() as f64
}
