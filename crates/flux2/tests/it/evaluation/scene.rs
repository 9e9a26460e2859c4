//! Scenes: up to four things at their places, on a background, in a picture of any size.
//!
//! As in `tools/train/scenes.py` and `data.py`, which train and compose them.

use serde::{Deserialize, Deserializer};

use super::world::{Layout, Picture, Rgba, World};

/// Content of a picture, as indices into the lists of [`World`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scene {
    /// Color of the background.
    pub color: usize,
    /// Pattern of the background.
    pub pattern: usize,
    /// At most four, which do not overlap.
    pub things: Vec<Thing>,
}

/// A subject and where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thing {
    /// The number of subjects stands for the card that is drawn for unknown words.
    pub subject: usize,
    /// 0 to 2.
    pub size: usize,
    /// 0 to 2, in halves of the free width.
    pub column: usize,
    /// 0 to 2, in halves of the free height.
    pub row: usize,
    /// A color that replaces the subject's own.
    pub tint: Option<usize>,
}

impl Scene {
    /// The scene of a picture in one layout.
    pub fn of(picture: &Picture, layout: Layout) -> Self {
        let steps: &[[usize; 2]] = match layout.count {
            1 => &[[layout.place % 3, layout.place / 3]],
            2 => &[[0, 1], [2, 1]],
            _ => &[[1, 0], [0, 2], [2, 2]],
        };
        let thing = |[column, row]: &[usize; 2]| Thing {
            subject: picture.subject,
            size: layout.size,
            column: *column,
            row: *row,
            tint: None,
        };
        Scene { color: picture.color, pattern: picture.pattern, things: steps.iter().map(thing).collect() }
    }
}

/// Parses `[color, pattern, subject, size, column, row, mirrored, tint, subject, ...]`; -1 is no subject or tint.
impl<'de> Deserialize<'de> for Scene {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let numbers = Vec::<i64>::deserialize(from)?;
        if numbers.len() < 2 || numbers.len() % 6 != 2 {
            return Err(serde::de::Error::invalid_length(numbers.len(), &"two numbers and six for each thing"));
        }
        let index = |v: i64| usize::try_from(v).ok();
        let thing = |t: &[i64]| {
            let [subject, size, column, row] = [t[0], t[1], t[2], t[3]].map(index);
            Some(Thing { subject: subject?, size: size?, column: column?, row: row?, tint: index(t[5]) })
        };
        let [color, pattern] = [numbers[0], numbers[1]].map(|v| index(v).unwrap_or_default());
        Ok(Scene { color, pattern, things: numbers[2..].chunks_exact(6).filter_map(thing).collect() })
    }
}

impl World {
    /// Top left corner `[x, y]` and side of a thing's box, in a picture of `[width, height]` pixels.
    pub fn thing_box(&self, thing: &Thing, size: [usize; 2]) -> ([usize; 2], usize) {
        let [width, height] = size;
        let scale = self.scales.iter().find(|scale| width.min(height) < scale.below).expect("the last has no limit");
        let px = scale.px[thing.size];
        // A glyph has one offset modulo 16 at all places, so that it gives the same tokens; but two have to fit.
        let inset = if px % 32 == 16 && width.min(height) > 2 * px { 8 } else { 0 };
        let at = |side: usize, step: usize| {
            let free = side - px - 2 * inset;
            inset + [0, free / 2 / 16 * 16, free][step]
        };
        ([at(width, thing.column), at(height, thing.row)], px)
    }

    /// A thing's thumbnail, resampled to `n` x `n` cells, in its tint.
    pub fn tinted_glyph(&self, thing: &Thing, n: usize) -> Vec<Rgba> {
        let mut glyph = self.glyph(thing.subject, n);
        if let Some(tint) = thing.tint {
            let color = self.colors[tint].rgb;
            glyph.iter_mut().for_each(|pixel| *pixel = tinted(*pixel, color));
        }
        glyph
    }

    /// Description for people.
    pub fn describe_scene(&self, scene: &Scene) -> String {
        let thing = |thing: &Thing| {
            let name = self.subjects.get(thing.subject).map_or("question mark", |subject| &subject.name);
            let tint = thing.tint.map_or(String::new(), |tint| format!("{} ", self.colors[tint].name));
            format!("{} {tint}{name}, {}", self.sizes[thing.size].name, self.places[thing.column + 3 * thing.row])
        };
        let things: Vec<String> = scene.things.iter().map(thing).collect();
        format!("{}, {} {}", things.join("; "), self.patterns[scene.pattern], self.colors[scene.color].name)
    }
}

/// Shades of `color`: dark stays dark, the brightest becomes pale.
fn tinted([r, g, b, a]: Rgba, color: [f32; 3]) -> Rgba {
    let light = (0.299 * r + 0.587 * g + 0.114 * b) / a.max(1.0);
    let dark = (light / 0.65).min(1.0);
    let pale = 0.7 * ((light - 0.65) / 0.35).clamp(0.0, 1.0);
    let shade = |c: f32| {
        let shade = 0.15 * c + 0.85 * c * dark;
        (shade + (255.0 - shade) * pale) * a / 255.0
    };
    [shade(color[0]), shade(color[1]), shade(color[2]), a]
}
