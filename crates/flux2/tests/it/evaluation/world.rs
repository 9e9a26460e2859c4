//! What klein-mini draws, as far as its judge needs it: subjects as thumbnails, colors, sizes, places.
//!
//! In:  `fixtures/mini/world.json` and `glyphs.png`, made by `tools/train/fixture.py`.
//! Out: [`World`], which composes pictures from the thumbnails as `tools/train/data.py` does from glyphs.
//!
//! A picture is 128x128 pixels. Values are f32 in 0..=255, as [`Rgb`] or premultiplied [`Rgba`].

use serde::Deserialize;

use super::repository;

/// Side of a picture in pixels: the size of most training pictures.
pub const SIDE: usize = 128;
/// Cells per side of a subject's box. Every size in pixels is a multiple of it.
pub const CELLS: usize = 16;
/// Pixels per side of a thumbnail.
const THUMBNAIL: usize = 48;

/// Red, green, blue.
pub type Rgb = [f32; 3];
/// Premultiplied red, green, blue, and coverage.
pub type Rgba = [f32; 4];

/// Content of a picture, as indices into the lists of [`World`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Picture {
    /// Color of the background.
    pub color: usize,
    /// Pattern of the background.
    pub pattern: usize,
    /// Subject in the foreground.
    pub subject: usize,
    /// `None` if the caption leaves it to the seed.
    pub layout: Option<Layout>,
}

/// Size, count and place of the subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Index into [`World::sizes`].
    pub size: usize,
    /// 1 to 3; the largest size fits only once.
    pub count: usize,
    /// 0 to 8, row by row; several subjects are always centered.
    pub place: usize,
}

/// The lists that a [`Picture`] points into.
#[derive(Deserialize)]
pub struct World {
    /// Names of the patterns: plain, gradient, striped.
    pub patterns: Vec<String>,
    /// Names of the nine places.
    pub places: Vec<String>,
    /// Sizes, ascending.
    pub sizes: Vec<Size>,
    /// Background colors.
    #[serde(rename = "colours")]
    pub colors: Vec<Color>,
    /// All subjects.
    pub subjects: Vec<Subject>,
    /// Sides in pixels of the sizes, by the shorter side of the picture: the first entry whose limit is larger.
    pub scales: Vec<Scale>,
    /// Thumbnails of the subjects and the card, `[subject][row * THUMBNAIL + column]`.
    #[serde(skip)]
    glyphs: Vec<Vec<Rgba>>,
}

/// A named size.
#[derive(Deserialize)]
pub struct Size {
    /// Name in captions.
    pub name: String,
    /// Side of the subject's box, in pixels.
    pub px: usize,
    /// Distance of the outermost boxes from the picture's edge, in pixels.
    pub inset: usize,
}

/// Sides of subjects in pictures of some sizes.
#[derive(Deserialize)]
pub struct Scale {
    /// For pictures whose shorter side is less, in pixels.
    pub below: usize,
    /// Sides of the sizes, in pixels.
    pub px: Vec<usize>,
}

/// A named color.
#[derive(Deserialize)]
pub struct Color {
    /// Name in captions.
    pub name: String,
    /// The color itself.
    pub rgb: Rgb,
    /// Color at the bottom of its gradient and of every other stripe.
    pub fades_to: Rgb,
}

/// A named subject.
#[derive(Deserialize)]
pub struct Subject {
    /// Name in captions.
    pub name: String,
    /// Plural of the name.
    pub plural: String,
}

impl World {
    /// Reads the fixtures.
    ///
    /// # Panics
    /// If they are missing or inconsistent.
    pub fn load() -> Self {
        let text = std::fs::read_to_string(repository("fixtures/mini/world.json")).expect("fixtures/mini/world.json");
        let mut world: World = serde_json::from_str(&text).expect("world.json");
        let file = std::fs::File::open(repository("fixtures/mini/glyphs.png")).expect("fixtures/mini/glyphs.png");
        let mut reader = png::Decoder::new(std::io::BufReader::new(file)).read_info().expect("glyphs.png");
        let columns = reader.info().width as usize / THUMBNAIL;
        assert_eq!(reader.output_color_type(), (png::ColorType::Rgba, png::BitDepth::Eight));
        let mut bytes = vec![0; reader.output_buffer_size().expect("a small picture")];
        reader.next_frame(&mut bytes).expect("glyphs.png");
        let pixel = |subject: usize, i: usize| {
            let (row, column) =
                (subject / columns * THUMBNAIL + i / THUMBNAIL, subject % columns * THUMBNAIL + i % THUMBNAIL);
            let at = (row * columns * THUMBNAIL + column) * 4;
            std::array::from_fn(|c| f32::from(bytes[at + c]))
        };
        // The card is behind the named subjects.
        let thumbnail = |subject| (0..THUMBNAIL * THUMBNAIL).map(|i| pixel(subject, i)).collect();
        world.glyphs = (0..=world.subjects.len()).map(thumbnail).collect();
        world
    }

    /// A subject's thumbnail resampled to `n` x `n` cells by area averaging, row by row.
    pub fn glyph(&self, subject: usize, n: usize) -> Vec<Rgba> {
        resample(&self.glyphs[subject], THUMBNAIL, n)
    }

    /// Pixels of a background of 128x128 pixels, row by row.
    pub fn background(&self, color: usize, pattern: usize) -> Vec<Rgb> {
        self.background_of(color, pattern, [SIDE, SIDE])
    }

    /// Pixels of a background of `[width, height]` pixels, row by row.
    pub fn background_of(&self, color: usize, pattern: usize, [width, height]: [usize; 2]) -> Vec<Rgb> {
        let Color { rgb, fades_to, .. } = &self.colors[color];
        let pixel = |i: usize| {
            let (y, x) = (i / width, i % width);
            let share = match self.patterns[pattern].as_str() {
                "gradient" => y as f32 / (height - 1) as f32,
                "striped" => (x / 8 % 2) as f32,
                _ => 0.0,
            };
            std::array::from_fn(|c| rgb[c] + (fades_to[c] - rgb[c]) * share)
        };
        (0..width * height).map(pixel).collect()
    }

    /// Top left corners `[x, y]` of the subjects' boxes, which do not overlap.
    pub fn boxes(&self, layout: Layout) -> Vec<[usize; 2]> {
        let Size { px, inset, .. } = self.sizes[layout.size];
        let free = SIDE - px - 2 * inset;
        let at = [0, free / 2 / 16 * 16, free].map(|step| inset + step); // the middle is aligned to the token grid
        let steps: &[[usize; 2]] = match layout.count {
            1 => &[[layout.place % 3, layout.place / 3]],
            2 => &[[0, 1], [2, 1]],
            _ => &[[1, 0], [0, 2], [2, 2]],
        };
        steps.iter().map(|[x, y]| [at[*x], at[*y]]).collect()
    }

    /// All layouts, those with one subject first.
    pub fn layouts(&self) -> Vec<Layout> {
        let sizes = self.sizes.len();
        let one = (0..sizes * 9).map(|i| Layout { size: i / 9, count: 1, place: i % 9 });
        let several = (0..(sizes - 1) * 2).map(|i| Layout { size: i / 2, count: 2 + i % 2, place: 4 });
        one.chain(several).collect()
    }

    /// Description for people.
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

/// A square of `from` x `from` values resampled to `n` x `n` by area averaging, row by row.
pub fn resample<const C: usize>(square: &[[f32; C]], from: usize, n: usize) -> Vec<[f32; C]> {
    // Overlap of cell i of n, which covers i/n to (i+1)/n of the side, with value j.
    let weight = |i: usize, j: usize| {
        let (scale, low, high) = (from as f32 / n as f32, i as f32, (i + 1) as f32);
        ((high * scale).min((j + 1) as f32) - (low * scale).max(j as f32)).max(0.0) / scale
    };
    let shares = |i: usize| (0..from).map(|j| (j, weight(i, j))).filter(|(_, w)| *w > 0.0).collect::<Vec<_>>();
    let shares: Vec<_> = (0..n).map(shares).collect();
    let mean = |k: usize| {
        let mut sum = [0.0; C];
        for (row, down) in &shares[k / n] {
            for (column, across) in &shares[k % n] {
                let value = &square[row * from + column];
                (0..C).for_each(|c| sum[c] += down * across * value[c]);
            }
        }
        sum
    };
    (0..n * n).map(mean).collect()
}
