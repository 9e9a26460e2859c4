//! The strict judge: whether a picture looks right to an eye, compared with the true picture of a scene.
//!
//! In:  a picture of any size and the [`Scene`] it should show. Out: [`Measures`].
//!
//! | measure | of what | catches |
//! |---|---|---|
//! | lost | squared error of a thing, relative to that of the bare background; the worst thing | another subject, half a one |
//! | hole | largest mean squared error of 4x4 cells of a thing | smears, a missing part |
//! | blur | squared error of differences of neighboring cells, relative to their squares | blurred, melted subjects |
//! | residue | share of 4x4 px cells outside all boxes that differ visibly from the background | rests, a second subject |
//!
//! A thing is compared in cells of two pixels, at most [`GRID`] a side: about what an eye resolves. Values are in 0..=1.
//! `tools/train/strict.py` measures the same with whole glyphs.

use flux2::image::RgbImage;

use super::scene::{Scene, Thing};
use super::world::{Rgb, World, resample};

/// Largest number of cells per side of a thing.
const GRID: usize = 32;
/// Least contrast and least edges per cell, so that little is not asked of what can hardly be seen.
const LEAST_CONTRAST: f32 = 0.004;
const LEAST_EDGES: f32 = 0.002;
/// Pixels per side of the cells outside the boxes, and distance from the boxes where they begin.
const CELL: usize = 4;
/// Difference from the background that is seen, in one channel.
const VISIBLE: f32 = 0.1;

/// How far a picture is from the true one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Measures {
    pub lost: f32,
    pub hole: f32,
    pub blur: f32,
    pub residue: f32,
}

/// The limits that agree with what an eye said of the pictures of `fixtures/mini/labels.tsv`.
pub const LIMITS: Measures = Measures { lost: 0.12, hole: 0.15, blur: 0.31, residue: 0.004 };

impl Measures {
    /// Whether all are within [`LIMITS`].
    pub fn right(&self) -> bool {
        self.flaws().is_empty()
    }

    /// Names of the measures beyond their limit.
    pub fn flaws(&self) -> Vec<&'static str> {
        let Measures { lost, hole, blur, residue } = LIMITS;
        let all = [
            ("lost", self.lost, lost),
            ("hole", self.hole, hole),
            ("blur", self.blur, blur),
            ("residue", self.residue, residue),
        ];
        all.iter().filter(|(_, value, limit)| value > limit).map(|(name, ..)| *name).collect()
    }

    fn worse(self, other: Self) -> Self {
        Measures {
            lost: self.lost.max(other.lost),
            hole: self.hole.max(other.hole),
            blur: self.blur.max(other.blur),
            residue: self.residue.max(other.residue),
        }
    }
}

/// Measures `image` against `scene`. Things of one kind may be mirrored, all alike.
pub fn measure(world: &World, image: &RgbImage, scene: &Scene) -> Measures {
    let size = [image.width() as usize, image.height() as usize];
    let seen: Vec<Rgb> =
        image.pixels().chunks_exact(3).map(|p| std::array::from_fn(|c| f32::from(p[c]) / 255.0)).collect();
    let bare: Vec<Rgb> =
        world.background_of(scene.color, scene.pattern, size).iter().map(|p| p.map(|v| v / 255.0)).collect();

    let mut all = Measures { residue: residue(world, &seen, &bare, scene, size), ..Measures::default() };
    let mut kinds: Vec<usize> = scene.things.iter().map(|thing| thing.subject).collect();
    kinds.sort_unstable();
    kinds.dedup();
    for kind in kinds {
        let of_kind = |thing: &&Thing| thing.subject == kind;
        let either = [false, true].map(|mirrored| {
            let measured = |thing: &Thing| measure_thing(world, [&seen, &bare], thing, mirrored, size);
            scene.things.iter().filter(of_kind).map(measured).collect::<Vec<_>>()
        });
        let lost = |things: &[Measures]| things.iter().map(|m| m.lost).sum::<f32>();
        let [plain, mirrored] = &either;
        let best = if lost(plain) <= lost(mirrored) { plain } else { mirrored };
        all = best.iter().fold(all, |all, thing| all.worse(*thing));
    }
    all
}

fn measure_thing(
    world: &World,
    [seen, bare]: [&[Rgb]; 2],
    thing: &Thing,
    mirrored: bool,
    size: [usize; 2],
) -> Measures {
    let ([left, top], px) = world.thing_box(thing, size);
    let n = GRID.min(px / 2);
    let cells = |pixels: &[Rgb]| {
        let rows = pixels[top * size[0]..].chunks_exact(size[0]).take(px);
        resample(&rows.flat_map(|row| row[left..left + px].to_vec()).collect::<Vec<_>>(), px, n)
    };
    let (seen, bare) = (cells(seen), cells(bare));
    let glyph = world.tinted_glyph(thing, n);
    let pixel = |i: usize| {
        let [r, g, b, a] = glyph[if mirrored { i / n * n + n - 1 - i % n } else { i }].map(|v| v / 255.0);
        std::array::from_fn(|c| [r, g, b][c] + bare[i][c] * (1.0 - a))
    };
    let truth: Vec<Rgb> = (0..n * n).map(pixel).collect();

    let squares = |a: &[Rgb], b: &[Rgb]| a.iter().zip(b).map(|(a, b)| square(*a, *b)).collect::<Vec<_>>();
    let mean = |values: &[f32]| values.iter().sum::<f32>() / values.len() as f32;
    let error = squares(&seen, &truth);
    let window = |k: usize| {
        let (y, x) = (k / (n - 3), k % (n - 3));
        (0..16).map(|i| error[(y + i / 4) * n + x + i % 4]).sum::<f32>() / 16.0
    };
    let (edges, true_edges, bare_edges) = (edges(&seen, n), edges(&truth, n), edges(&bare, n));
    Measures {
        lost: mean(&error) / mean(&squares(&bare, &truth)).max(LEAST_CONTRAST),
        hole: (0..(n - 3) * (n - 3)).map(window).fold(0.0, f32::max),
        blur: mean(&squares(&edges, &true_edges)) / mean(&squares(&true_edges, &bare_edges)).max(LEAST_EDGES),
        residue: 0.0,
    }
}

/// Differences of neighboring cells of `n` x `n`, to the right and downward.
fn edges(cells: &[Rgb], n: usize) -> Vec<Rgb> {
    let inner = (0..(n - 1) * (n - 1)).map(|k| k / (n - 1) * n + k % (n - 1));
    let difference = |a: Rgb, b: Rgb| std::array::from_fn(|c| a[c] - b[c]);
    inner.flat_map(|i| [difference(cells[i + 1], cells[i]), difference(cells[i + n], cells[i])]).collect()
}

fn residue(world: &World, seen: &[Rgb], bare: &[Rgb], scene: &Scene, size: [usize; 2]) -> f32 {
    let [width, height] = size.map(|side| side / CELL);
    let boxes: Vec<_> = scene.things.iter().map(|thing| world.thing_box(thing, size)).collect();
    let near = |x: usize, y: usize| {
        let overlaps = |at: usize, from: usize, px: usize| at + 2 * CELL > from && at < from + px + CELL;
        boxes.iter().any(|([left, top], px)| overlaps(x, *left, *px) && overlaps(y, *top, *px))
    };
    let differs = |x: usize, y: usize| {
        let mut sum = [0.0f32; 3];
        for i in (0..CELL * CELL).map(|i| (y + i / CELL) * size[0] + x + i % CELL) {
            (0..3).for_each(|c| sum[c] += seen[i][c] - bare[i][c]);
        }
        sum.iter().any(|v| v.abs() / (CELL * CELL) as f32 > VISIBLE)
    };
    let cells = (0..width * height).map(|i| (i % width * CELL, i / width * CELL));
    cells.filter(|(x, y)| !near(*x, *y) && differs(*x, *y)).count() as f32 / (width * height) as f32
}

/// Mean squared difference of the channels.
fn square(a: Rgb, b: Rgb) -> f32 {
    (0..3).map(|c| (a[c] - b[c]).powi(2)).sum::<f32>() / 3.0
}

#[cfg(test)]
mod tests {
    use super::super::repository;
    use super::*;

    /// A picture of `scene` made of thumbnails, drawn with `change`d pixels.
    fn compose(
        world: &World,
        scene: &Scene,
        [width, height]: [usize; 2],
        change: impl Fn(usize, usize, Rgb) -> Rgb,
    ) -> RgbImage {
        let mut pixels = world.background_of(scene.color, scene.pattern, [width, height]);
        for thing in &scene.things {
            let ([left, top], px) = world.thing_box(thing, [width, height]);
            for (i, [r, g, b, a]) in world.tinted_glyph(thing, px).into_iter().enumerate() {
                let pixel = &mut pixels[(top + i / px) * width + left + i % px];
                *pixel = std::array::from_fn(|c| [r, g, b][c] + pixel[c] * (1.0 - a / 255.0));
            }
        }
        let changed = pixels.iter().enumerate().flat_map(|(i, p)| change(i % width, i / width, *p));
        RgbImage::new(width as u32, height as u32, changed.map(|v| v.round() as u8).collect()).unwrap()
    }

    fn thing(world: &World, name: &str, size: usize, column: usize, row: usize) -> Thing {
        let subject = world.subjects.iter().position(|subject| subject.name == name).unwrap();
        Thing { subject, size, column, row, tint: None }
    }

    fn a_cat_and_a_dog(world: &World) -> Scene {
        Scene { color: 4, pattern: 0, things: vec![thing(world, "cat", 1, 0, 1), thing(world, "dog", 1, 2, 1)] }
    }

    #[test]
    fn the_limits_agree_with_an_eye() {
        let text = std::fs::read_to_string(repository("fixtures/mini/labels.tsv")).unwrap();
        let agrees = |line: &str| {
            let columns: Vec<&str> = line.split('\t').collect();
            let [lost, hole, blur, residue] = [1, 2, 3, 4].map(|i| columns[i].parse().unwrap());
            let measures = Measures { lost, hole, blur, residue };
            assert!(["right", "wrong"].contains(&columns[0]), "{line}");
            measures.right() == (columns[0] == "right")
        };
        let lines: Vec<bool> = text.lines().skip(1).map(agrees).collect();
        let share = lines.iter().filter(|agrees| **agrees).count() as f64 / lines.len() as f64;
        assert!(lines.len() >= 200 && share >= 0.95, "{share:.3} of {} labels", lines.len());
    }

    const SIZES: [[usize; 2]; 6] = [[96, 96], [128, 128], [192, 192], [256, 256], [256, 128], [96, 192]];

    #[test]
    fn true_pictures_of_all_sizes_are_right() {
        let world = World::load();
        for size in SIZES {
            let measures = measure(
                &world,
                &compose(&world, &a_cat_and_a_dog(&world), size, |_, _, p| p),
                &a_cat_and_a_dog(&world),
            );
            assert!(measures.right(), "{size:?}: {measures:?}");
        }
    }

    #[test]
    fn every_flaw_is_seen() {
        let world = World::load();
        let scene = a_cat_and_a_dog(&world);
        let flaws = |image: &RgbImage| measure(&world, image, &scene).flaws();
        for size in SIZES {
            let ([left, top], px) = world.thing_box(&scene.things[0], size);
            let blue = world.colors[4].rgb;

            let alone = Scene { things: scene.things[..1].to_vec(), ..scene.clone() };
            assert!(flaws(&compose(&world, &alone, size, |_, _, p| p)).contains(&"lost"), "{size:?}: no dog");

            let eye = |x: usize, y: usize| x >= left + px / 2 && x < left + px && y >= top + px / 2 && y < top + px;
            let hole = compose(&world, &scene, size, |x, y, p| if eye(x, y) { blue } else { p });
            assert!(flaws(&hole).contains(&"hole"), "{size:?}: a quarter of the cat is missing");

            let whole = compose(&world, &scene, size, |_, _, p| p);
            let smeared = compose(&world, &scene, size, |x, y, _| {
                let reach = (px / 10) as i64;
                let mut sum = [0.0; 3];
                for (dx, dy) in (-reach..=reach).flat_map(|dx| (-reach..=reach).map(move |dy| (dx, dy))) {
                    let at = |v: usize, d: i64, most: usize| (v as i64 + d).clamp(0, most as i64 - 1) as u32;
                    let pixel = whole.pixel(at(x, dx, size[0]), at(y, dy, size[1]));
                    (0..3).for_each(|c| sum[c] += f32::from(pixel[c]));
                }
                sum.map(|v| v / (2 * reach + 1).pow(2) as f32)
            });
            assert!(flaws(&smeared).contains(&"blur"), "{size:?}: smeared");
        }

        let cat = Scene { things: scene.things[..1].to_vec(), ..scene.clone() };
        let both = compose(&world, &scene, [256, 256], |_, _, p| p);
        assert_eq!(measure(&world, &both, &cat).flaws(), ["residue"], "a dog that should not be there");
    }

    #[test]
    fn another_tint_is_seen() {
        let world = World::load();
        let cat = Scene { color: 9, pattern: 0, things: vec![thing(&world, "cat", 2, 1, 1)] };
        let blue = Scene { things: vec![Thing { tint: Some(4), ..cat.things[0] }], ..cat.clone() };
        let image = compose(&world, &blue, [128, 128], |_, _, p| p);
        assert!(measure(&world, &image, &blue).right());
        assert!(!measure(&world, &image, &cat).right());
    }
}
