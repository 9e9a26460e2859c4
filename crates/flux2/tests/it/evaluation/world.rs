//! What klein-mini draws, as far as its judge must know it: subjects as thumbnails, colors, sizes, places.
//!
//! In:  `fixtures/mini/world.json` and `glyphs.png`, made by `tools/train/fixture.py`.
//! Out: [`World`], which puts a picture together as `tools/train/data.py` does, from the thumbnails.
//!
//! A picture is 128x128. Values are 0 to 255 in f32, [`Rgb`] or, premultiplied, [`Rgba`].

use serde::Deserialize;

use super::repository;

/// Side of a picture in pixels: what the model was mostly trained on.
pub const SIDE: usize = 128;
/// Cells along a side of a thumbnail. Every size in pixels is a multiple of it.
pub const CELLS: usize = 16;

/// Red, green, blue.
pub type Rgb = [f32; 3];
/// Red, green, blue times coverage, and coverage.
pub type Rgba = [f32; 4];

/// What a picture shows, as indices into the lists of [`World`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Picture {
    /// Of the background.
    pub color: usize,
    /// Of the background.
    pub pattern: usize,
    /// What stands before it.
    pub subject: usize,
    /// `None` where the caption leaves it to the seed.
    pub layout: Option<Layout>,
}

/// How large the subject is, how often and where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Index into [`World::sizes`].
    pub size: usize,
    /// One to three; more than one of the largest size do not fit.
    pub count: usize,
    /// Row by row, 0 to 8; several things are always around the middle.
    pub place: usize,
}

/// The lists that a [`Picture`] points into.
#[derive(Deserialize)]
pub struct World {
    /// Plain, gradient, striped.
    pub patterns: Vec<String>,
    /// Names of the nine places.
    pub places: Vec<String>,
    /// From small to large.
    pub sizes: Vec<Size>,
    /// Of backgrounds.
    #[serde(rename = "colours")]
    pub colors: Vec<Color>,
    /// Everything it draws.
    pub subjects: Vec<Subject>,
    /// `[subject][row * CELLS + column]`.
    #[serde(skip)]
    glyphs: Vec<Vec<Rgba>>,
}

/// A named size.
#[derive(Deserialize)]
pub struct Size {
    /// As captions say it.
    pub name: String,
    /// Side of the box the subject fills.
    pub px: usize,
    /// Distance of the outermost boxes from the picture's edge.
    pub inset: usize,
}

/// A named color.
#[derive(Deserialize)]
pub struct Color {
    /// As captions say it.
    pub name: String,
    /// Itself.
    pub rgb: Rgb,
    /// Lower end of its gradient, every other one of its stripes.
    pub fades_to: Rgb,
}

/// A named thing.
#[derive(Deserialize)]
pub struct Subject {
    /// As captions say it.
    pub name: String,
    /// Several of it.
    pub plural: String,
}

impl World {
    /// Read the fixtures.
    ///
    /// # Panics
    /// If they are missing or do not belong together.
    pub fn load() -> Self {
        let text = std::fs::read_to_string(repository("fixtures/mini/world.json")).expect("fixtures/mini/world.json");
        let mut world: World = serde_json::from_str(&text).expect("world.json");
        let file = std::fs::File::open(repository("fixtures/mini/glyphs.png")).expect("fixtures/mini/glyphs.png");
        let mut reader = png::Decoder::new(std::io::BufReader::new(file)).read_info().expect("glyphs.png");
        let columns = reader.info().width as usize / CELLS;
        assert_eq!(reader.output_color_type(), (png::ColorType::Rgba, png::BitDepth::Eight));
        let mut bytes = vec![0; reader.output_buffer_size().expect("a small picture")];
        reader.next_frame(&mut bytes).expect("glyphs.png");
        let cell = |subject: usize, i: usize| {
            let (row, column) = (subject / columns * CELLS + i / CELLS, subject % columns * CELLS + i % CELLS);
            let at = (row * columns * CELLS + column) * 4;
            std::array::from_fn(|c| f32::from(bytes[at + c]))
        };
        world.glyphs = (0..world.subjects.len()).map(|s| (0..CELLS * CELLS).map(|i| cell(s, i)).collect()).collect();
        world
    }

    /// The thumbnail of a subject, with each cell the mean of its area: `[n * n]`, row by row.
    pub fn glyph(&self, subject: usize, n: usize) -> Vec<Rgba> {
        // Cell i of n covers i/n to (i+1)/n of the side: how much of thumbnail cell j that is.
        let weight = |i: usize, j: usize| {
            let (scale, low, high) = (CELLS as f32 / n as f32, i as f32, (i + 1) as f32);
            ((high * scale).min((j + 1) as f32) - (low * scale).max(j as f32)).max(0.0) / scale
        };
        let weights: Vec<f32> = (0..n * CELLS).map(|k| weight(k / CELLS, k % CELLS)).collect();
        let mean = |k: usize| {
            let mut sum = [0.0; 4];
            for j in 0..CELLS * CELLS {
                let w = weights[k / n * CELLS + j / CELLS] * weights[k % n * CELLS + j % CELLS];
                if w > 0.0 {
                    (0..4).for_each(|c| sum[c] += w * self.glyphs[subject][j][c]);
                }
            }
            sum
        };
        (0..n * n).map(mean).collect()
    }

    /// All pixels of a background, row by row.
    pub fn background(&self, color: usize, pattern: usize) -> Vec<Rgb> {
        let Color { rgb, fades_to, .. } = &self.colors[color];
        let pixel = |i: usize| {
            let (y, x) = (i / SIDE, i % SIDE);
            let share = match self.patterns[pattern].as_str() {
                "gradient" => y as f32 / (SIDE - 1) as f32,
                "striped" => (x / 8 % 2) as f32,
                _ => 0.0,
            };
            std::array::from_fn(|c| rgb[c] + (fades_to[c] - rgb[c]) * share)
        };
        (0..SIDE * SIDE).map(pixel).collect()
    }

    /// Top left corners `[x, y]` of the boxes in which the things stand; they do not overlap.
    pub fn boxes(&self, layout: Layout) -> Vec<[usize; 2]> {
        let Size { px, inset, .. } = self.sizes[layout.size];
        let free = SIDE - px - 2 * inset;
        let at = [0, free / 2 / 16 * 16, free].map(|step| inset + step); // the middle lies on the grid of tokens
        let steps: &[[usize; 2]] = match layout.count {
            1 => &[[layout.place % 3, layout.place / 3]],
            2 => &[[0, 1], [2, 1]],
            _ => &[[1, 0], [0, 2], [2, 2]],
        };
        steps.iter().map(|[x, y]| [at[*x], at[*y]]).collect()
    }

    /// Every layout there is, those of one thing first.
    pub fn layouts(&self) -> Vec<Layout> {
        let sizes = self.sizes.len();
        let one = (0..sizes * 9).map(|i| Layout { size: i / 9, count: 1, place: i % 9 });
        let several = (0..(sizes - 1) * 2).map(|i| Layout { size: i / 2, count: 2 + i % 2, place: 4 });
        one.chain(several).collect()
    }

    /// In words, for people.
    pub fn describe(&self, picture: &Picture) -> String {
        let Picture { color, pattern, subject, layout } = *picture;
        let behind = format!("{} {}", self.patterns[pattern], self.colors[color].name);
        let subject = &self.subjects[subject];
        match layout {
            None => format!("{}, {behind}", subject.name),
            Some(Layout { size, count: 1, place }) => {
                format!("{} {}, {}, {behind}", self.sizes[size].name, subject.name, self.places[place])
            }
            Some(Layout { size, count, .. }) => {
                format!("{count} {} {}, {behind}", self.sizes[size].name, subject.plural)
            }
        }
    }
}
