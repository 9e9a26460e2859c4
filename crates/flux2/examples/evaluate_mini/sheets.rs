//! Contact sheets of klein-mini for docs/mini.md, made by fixed requests without selection.
//!
//! In:  an engine, the lists of words. Out: PNG files in a folder.
//!
//! Pictures are written at full or half size, with the request below in letters of [`LETTERS`]. Colors are rounded to
//! every fourth level, which is invisible and makes the files smaller.

use std::path::Path;

use flux2::image::{self, ImageFormat, RgbImage, codec::IfExists};
use flux2::{Engine, Error, GenerateRequest, Reference, Result};

use crate::evaluation::world::World;

/// Write all sheets.
///
/// # Errors
/// The engine's, or if a file cannot be written.
pub fn write(engine: &mut dyn Engine, world: &World, folder: &Path) -> Result<()> {
    let mut pen = Pen { engine };
    let subjects = pen.subjects(world)?;
    let (first, second) = subjects.split_at(subjects.len().div_ceil(2));
    let sheets = [
        ("subjects-1", first.to_vec()),
        ("subjects-2", second.to_vec()),
        ("places", pen.places(world)?),
        ("backgrounds", pen.backgrounds(world)?),
        ("edits", pen.edits()?),
        ("two-references", pen.two_references()?),
        ("seeds", pen.seeds()?),
        ("sizes", pen.sizes()?),
    ];
    std::fs::create_dir_all(folder).map_err(|source| Error::Io { path: folder.into(), source })?;
    for (name, rows) in sheets {
        let bytes = image::encode(&sheet(&rows), ImageFormat::Png, None)?;
        image::save(&folder.join(name).with_extension("png"), &bytes, IfExists::Replace)?;
    }
    Ok(())
}

/// A picture and the text below it.
#[derive(Clone)]
struct Tile {
    image: RgbImage,
    label: String,
}

struct Pen<'a> {
    engine: &'a mut dyn Engine,
}

impl Pen<'_> {
    /// A picture of `[width, height]` pixels, labeled with its prompt.
    fn draw(&mut self, prompt: &str, references: &[&Tile], seed: u64, [width, height]: [u32; 2]) -> Result<Tile> {
        let request = GenerateRequest {
            prompt: prompt.into(),
            references: references.iter().map(|tile| Reference::from_image(tile.image.clone())).collect(),
            width: Some(width),
            height: Some(height),
            seed,
            ..Default::default()
        };
        let image = self.engine.generate(&request)?.image;
        Ok(Tile { image, label: prompt.into() })
    }

    fn tile(&mut self, prompt: &str, references: &[&Tile], seed: u64) -> Result<Tile> {
        self.draw(prompt, references, seed, [128, 128])
    }

    /// A picture at half its size, with its own label.
    fn small(&mut self, prompt: &str, label: &str, seed: u64) -> Result<Tile> {
        let tile = self.tile(prompt, &[], seed)?;
        Ok(Tile { image: halved(&tile.image), label: label.into() })
    }

    /// Every subject, large and in the middle, each on the next color.
    fn subjects(&mut self, world: &World) -> Result<Vec<Vec<Tile>>> {
        let colors = world.colors.len();
        let mut tiles = Vec::new();
        for (i, subject) in world.subjects.iter().enumerate() {
            // A shape is invisible on its own color.
            let mut names = (0..colors).map(|k| &world.colors[(i * 5 + k) % colors].name);
            let color = names.find(|color| !subject.name.starts_with(*color)).expect("more than one color");
            let prompt = format!("a large {} in the center on a {color} background", subject.name);
            tiles.push(self.small(&prompt, &subject.name, 1)?);
        }
        Ok(tiles.chunks(16).map(<[Tile]>::to_vec).collect())
    }

    /// Every size at every place, and counts.
    fn places(&mut self, world: &World) -> Result<Vec<Vec<Tile>>> {
        let mut rows = Vec::new();
        for size in &world.sizes {
            let mut row = Vec::new();
            for place in &world.places {
                let prompt = format!("a {} owl at the {place} on a pink background", size.name);
                row.push(self.small(&prompt, &format!("{} owl, {place}", size.name), 1)?);
            }
            rows.push(row);
        }
        let counts = [
            "two small owls",
            "three small owls",
            "two medium owls",
            "three medium owls",
            "two pears",
            "three frogs",
            "2 rockets",
            "three big red hearts",
            "a pair of tiny pigs",
        ];
        rows.push(
            counts
                .iter()
                .map(|what| self.small(&format!("{what}, white background"), what, 1))
                .collect::<Result<_>>()?,
        );
        Ok(rows)
    }

    /// Every color in every pattern.
    fn backgrounds(&mut self, world: &World) -> Result<Vec<Vec<Tile>>> {
        let mut rows = Vec::new();
        for pattern in &world.patterns {
            let of = |color: &str| match pattern.as_str() {
                "gradient" => format!("{color} gradient"),
                "striped" => format!("{color} stripes"),
                _ => format!("{color} background"),
            };
            let tile =
                |color: &str| self.small(&format!("a medium penguin in the center, {}", of(color)), &of(color), 1);
            rows.push(world.colors.iter().map(|color| color.name.as_str()).map(tile).collect::<Result<_>>()?);
        }
        Ok(rows)
    }

    /// Edits: pictures before and after.
    fn edits(&mut self) -> Result<Vec<Vec<Tile>>> {
        let edits = [
            [
                ("a large cat in the center on a blue background", "make the background red"),
                ("a large dog in the center, green stripes", "put it on a yellow gradient background"),
            ],
            [
                ("a large cat in the center on a blue background", "replace the cat with a fox"),
                ("two small apples on a white background", "replace the apples with lemons"),
            ],
            [
                ("a medium robot at the left on a pink background", "make it bigger"),
                ("a large tree in the center, turquoise background", "make it smaller"),
            ],
            [
                ("a small penguin at the top left on an orange background", "add a second one"),
                ("two medium stars on a purple background", "add a third one"),
            ],
            [
                ("a small bee at the top on a white background", "move it to the bottom right"),
                ("a medium rocket at the bottom left on a black background", "put it in the center"),
            ],
        ];
        let mut rows = Vec::new();
        for row in edits {
            let mut tiles = Vec::new();
            for (prompt, edit) in row {
                let before = self.tile(prompt, &[], 1)?;
                let after = self.tile(edit, &[&before], 2)?;
                tiles.extend([before, after]);
            }
            rows.push(tiles);
        }
        Ok(rows)
    }

    /// Two reference images and the result, in each row.
    fn two_references(&mut self) -> Result<Vec<Vec<Tile>>> {
        let requests = [
            (
                "a large lion in the center on a white background",
                "a small rose at the top, blue stripes",
                "the subject of image 1 on the background of image 2",
            ),
            (
                "a small house at the left on a pink gradient",
                "two medium crabs on a yellow background",
                "the subject of image 2 on the background of image 1",
            ),
            (
                "three small frogs on a white background",
                "a large sun in the center, brown stripes",
                "put the frogs from image 1 onto the background of image 2",
            ),
        ];
        let mut rows = Vec::new();
        for (first, second, prompt) in requests {
            let (first, second) = (self.tile(first, &[], 1)?, self.tile(second, &[], 2)?);
            let both = self.tile(prompt, &[&first, &second], 3)?;
            rows.push(vec![first, second, both]);
        }
        Ok(rows)
    }

    /// One caption with several seeds, which decide what it leaves open.
    fn seeds(&mut self) -> Result<Vec<Vec<Tile>>> {
        let mut rows = Vec::new();
        for prompt in ["cat", "an apple on a blue background", "three trees"] {
            let tile = |seed| self.small(prompt, &format!("{prompt}, seed {seed}"), seed);
            rows.push((1..=10).map(tile).collect::<Result<_>>()?);
        }
        Ok(rows)
    }

    /// One request in several sizes, at full size.
    fn sizes(&mut self) -> Result<Vec<Vec<Tile>>> {
        let mut tile = |size: [u32; 2]| {
            let tile = self.draw("a fox on a green background", &[], 1, size)?;
            Ok(Tile { label: format!("{}x{}", size[0], size[1]), ..tile })
        };
        let rows: [&[[u32; 2]]; 2] =
            [&[[64, 64], [96, 96], [128, 128], [192, 192]], &[[256, 256], [192, 96], [96, 192]]];
        rows.iter().map(|row| row.iter().map(|size| tile(*size)).collect()).collect()
    }
}

/// Half the size, by means of two by two pixels.
fn halved(image: &RgbImage) -> RgbImage {
    let (width, height) = (image.width() / 2, image.height() / 2);
    let mean = |i: u32| {
        let (x, y) = (i % width * 2, i / width * 2);
        let four = [(0, 0), (1, 0), (0, 1), (1, 1)].map(|(dx, dy)| image.pixel(x + dx, y + dy));
        <[u8; 3]>::map([0, 1, 2], |c| (four.iter().map(|p| u32::from(p[usize::from(c)])).sum::<u32>() / 4) as u8)
    };
    RgbImage::new(width, height, (0..width * height).flat_map(mean).collect()).expect("three bytes a pixel")
}

/// Pixels between pictures.
const GAP: usize = 6;
/// Pixels from one line of letters to the next.
const LINE: usize = 10;

/// All tiles on white, row below row.
fn sheet(rows: &[Vec<Tile>]) -> RgbImage {
    let rounded = |v: u8| {
        let level = v.saturating_add(2) & 0xfc;
        level | (level >> 6) // so that the highest level is white
    };
    let labels = |row: &[Tile]| row.iter().map(|t| wrap(&t.label, t.image.width() as usize)).collect::<Vec<_>>();
    let height_of = |row: &[Tile]| {
        let tallest = row.iter().map(|tile| tile.image.height() as usize).max().unwrap_or(0);
        let lines = labels(row).iter().map(Vec::len).max().unwrap_or(0);
        (tallest, tallest + 3 + lines * LINE + GAP)
    };
    let width_of = |row: &Vec<Tile>| row.iter().map(|tile| tile.image.width() as usize + GAP).sum::<usize>();
    let width = GAP + rows.iter().map(width_of).max().unwrap_or(0);
    let height = GAP + rows.iter().map(|row| height_of(row).1).sum::<usize>();
    let mut pixels = vec![255u8; width * height * 3];
    let mut top = GAP;
    for row in rows {
        let (tallest, step) = height_of(row);
        let mut left = GAP;
        for (tile, lines) in row.iter().zip(labels(row)) {
            let side = tile.image.width() as usize * 3;
            for (y, line) in tile.image.pixels().chunks_exact(side).enumerate() {
                let at = ((top + y) * width + left) * 3;
                pixels[at..at + side].iter_mut().zip(line).for_each(|(p, v)| *p = rounded(*v));
            }
            for (i, line) in lines.iter().enumerate() {
                let (mut x, y) = (left, top + tallest + 3 + i * LINE);
                for columns in line.chars().map(letter) {
                    for (dx, column) in columns.iter().enumerate() {
                        for dy in (0..8).filter(|dy| column >> dy & 1 == 1) {
                            let at = ((y + dy) * width + x + dx) * 3;
                            pixels[at..at + 3].fill(40);
                        }
                    }
                    x += columns.len() + 1;
                }
            }
            left += tile.image.width() as usize + GAP;
        }
        top += step;
    }
    RgbImage::new(width as u32, height as u32, pixels).expect("three bytes a pixel")
}

/// Break `text` at spaces into lines of at most `width` pixels where possible.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let pixels = |text: &str| text.chars().map(|c| letter(c).len() + 1).sum::<usize>();
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if pixels(line) + 4 + pixels(word) <= width => *line = format!("{line} {word}"),
            _ => lines.push(word.into()),
        }
    }
    lines
}

/// The columns of a letter, the lowest bit at the top; a gap if it is not in [`LETTERS`].
fn letter(c: char) -> &'static [u8] {
    LETTERS.iter().find(|(known, _)| *known == c).map_or(&[0, 0], |(_, columns)| columns)
}

/// A font of five by seven pixels, with descenders below.
const LETTERS: [(char, &[u8]); 40] = [
    ('a', &[0x20, 0x54, 0x54, 0x54, 0x78]),
    ('b', &[0x7f, 0x48, 0x44, 0x44, 0x38]),
    ('c', &[0x38, 0x44, 0x44, 0x44]),
    ('d', &[0x38, 0x44, 0x44, 0x48, 0x7f]),
    ('e', &[0x38, 0x54, 0x54, 0x54, 0x18]),
    ('f', &[0x08, 0x7e, 0x09, 0x01]),
    ('g', &[0x18, 0xa4, 0xa4, 0xa4, 0x7c]),
    ('h', &[0x7f, 0x08, 0x04, 0x04, 0x78]),
    ('i', &[0x44, 0x7d, 0x40]),
    ('j', &[0x80, 0x80, 0x7d]),
    ('k', &[0x7f, 0x10, 0x28, 0x44]),
    ('l', &[0x41, 0x7f, 0x40]),
    ('m', &[0x7c, 0x04, 0x18, 0x04, 0x78]),
    ('n', &[0x7c, 0x08, 0x04, 0x04, 0x78]),
    ('o', &[0x38, 0x44, 0x44, 0x44, 0x38]),
    ('p', &[0xfc, 0x24, 0x24, 0x24, 0x18]),
    ('q', &[0x18, 0x24, 0x24, 0x24, 0xfc]),
    ('r', &[0x7c, 0x08, 0x04, 0x04]),
    ('s', &[0x48, 0x54, 0x54, 0x54, 0x24]),
    ('t', &[0x04, 0x3f, 0x44, 0x40]),
    ('u', &[0x3c, 0x40, 0x40, 0x20, 0x7c]),
    ('v', &[0x1c, 0x20, 0x40, 0x20, 0x1c]),
    ('w', &[0x3c, 0x40, 0x30, 0x40, 0x3c]),
    ('x', &[0x44, 0x28, 0x10, 0x28, 0x44]),
    ('y', &[0x1c, 0xa0, 0xa0, 0xa0, 0x7c]),
    ('z', &[0x44, 0x64, 0x54, 0x4c, 0x44]),
    ('0', &[0x3e, 0x51, 0x49, 0x45, 0x3e]),
    ('1', &[0x42, 0x7f, 0x40]),
    ('2', &[0x42, 0x61, 0x51, 0x49, 0x46]),
    ('3', &[0x21, 0x41, 0x45, 0x4b, 0x31]),
    ('4', &[0x18, 0x14, 0x12, 0x7f, 0x10]),
    ('5', &[0x27, 0x45, 0x45, 0x45, 0x39]),
    ('6', &[0x3c, 0x4a, 0x49, 0x49, 0x30]),
    ('7', &[0x01, 0x71, 0x09, 0x05, 0x03]),
    ('8', &[0x36, 0x49, 0x49, 0x49, 0x36]),
    ('9', &[0x06, 0x49, 0x49, 0x29, 0x1e]),
    (',', &[0xa0, 0x60]),
    ('.', &[0x60, 0x60]),
    ('-', &[0x08, 0x08, 0x08]),
    ('\'', &[0x03]),
];
