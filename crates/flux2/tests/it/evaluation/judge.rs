//! Decides what a picture shows by nearest neighbor: each question is answered by the possible answer with the smallest
//! distance, so a picture is right only if no other answer explains it better.
//!
//! In:  a picture of 128x128 pixels and what it should show. Out: what it shows, field by field.
//!
//! | question | nearest of | compared where | given |
//! |---|---|---|---|
//! | background | all colors and patterns | cells outside the boxes | layout |
//! | subject | all subjects, also mirrored | the boxes, 16x16 cells each | background, layout |
//! | layout | all sizes, counts and places | the whole picture | background, subject |
//! | background, no layout | all colors and patterns | the best-fitting two fifths of the picture | nothing |
//! | subject, no layout | all subjects, sizes and places, also mirrored | the whole picture | that background |
//!
//! Distances are sums of squares over cells, each the mean of its pixels. A box has 16x16 cells, so finer detail is
//! not looked at: a blurred subject is still the nearest. Whether a picture looks right is for [`super::strict`].

use flux2::image::RgbImage;

use super::world::{CELLS, Layout, Picture, Rgb, Rgba, SIDE, World};

/// Side of a cell in pixels when the whole picture is compared: sizes, places and stripes are multiples of it.
const CELL: usize = 4;
/// Cells per side of the picture.
const GRID: usize = SIDE / CELL;

/// Precomputed answers to all questions.
pub struct Judge {
    /// The lists that answers index.
    pub world: World,
    /// Indexed by `color * patterns + pattern`.
    backgrounds: Vec<Background>,
    /// Thumbnail of every subject, for the boxes.
    glyphs: Vec<Vec<Rgba>>,
    /// Thumbnails by `[size][subject]`, at the resolution of the whole picture.
    glyphs_by_size: Vec<Vec<Vec<Rgba>>>,
}

struct Background {
    pixels: Vec<Rgb>,
    cells: Vec<Rgb>,
}

impl Judge {
    /// Reads the fixtures and prepares the answers.
    ///
    /// # Panics
    /// If the fixtures are missing or damaged.
    pub fn load() -> Self {
        let world = World::load();
        let patterns = world.patterns.len();
        let background = |i: usize| {
            let pixels = world.background(i / patterns, i % patterns);
            Background { cells: pool(&pixels, [0, 0], CELL, GRID), pixels }
        };
        let all = |n: usize| (0..world.subjects.len()).map(|s| world.glyph(s, n)).collect::<Vec<_>>();
        Judge {
            backgrounds: (0..world.colors.len() * patterns).map(background).collect(),
            glyphs: all(CELLS),
            glyphs_by_size: world.sizes.iter().map(|size| all(size.px / CELL)).collect(),
            world,
        }
    }

    /// What `image` shows, answered as the table above says: with a layout expected, each field is judged with the
    /// others taken as expected; without one, nothing of `expected` is looked at.
    ///
    /// # Panics
    /// If the picture is not 128x128.
    pub fn look(&self, image: &RgbImage, expected: &Picture) -> Picture {
        assert_eq!([image.width(), image.height()], [SIDE as u32; 2], "size of a judged picture");
        let pixels: Vec<Rgb> =
            image.pixels().chunks_exact(3).map(|p| std::array::from_fn(|c| f32::from(p[c]))).collect();
        match expected.layout {
            Some(layout) => self.look_placed(&pixels, expected, layout),
            None => self.look_unplaced(&pixels),
        }
    }

    fn look_placed(&self, pixels: &[Rgb], expected: &Picture, layout: Layout) -> Picture {
        let cells = pool(pixels, [0, 0], CELL, GRID);
        let boxes = self.world.boxes(layout);
        let px = self.world.sizes[layout.size].px;

        // One cell around each box is excluded too, because the decoder blurs edges.
        let inside = |at: usize, from: usize| at + CELL >= from && at < from + px + CELL;
        let outside = |i: usize| {
            let (y, x) = (i / GRID * CELL, i % GRID * CELL);
            !boxes.iter().any(|[bx, by]| inside(x, *bx) && inside(y, *by))
        };
        let [color, pattern] = self.nearest_background(|background| {
            (0..GRID * GRID).filter(|i| outside(*i)).map(|i| distance(cells[i], background[i])).sum()
        });

        let behind = self.background(expected.color, expected.pattern);
        let views: Vec<_> =
            boxes.iter().map(|corner| [pixels, &behind.pixels].map(|p| pool(p, *corner, px / CELLS, CELLS))).collect();
        let subject = nearest(self.glyphs.len(), |subject| {
            either_way_round(|mirrored| {
                let glyph = &self.glyphs[subject];
                let of = |[seen, behind]: &[Vec<Rgb>; 2]| over(glyph, CELLS, mirrored, behind, CELLS, [0, 0], seen);
                views.iter().map(of).sum()
            })
        });

        let whole = Whole::new(&cells, &behind.cells);
        let layouts = self.world.layouts();
        let seen = nearest(layouts.len(), |i| self.error_of(&whole, expected.subject, layouts[i]));
        Picture { color, pattern, subject, layout: Some(layouts[seen]) }
    }

    fn look_unplaced(&self, pixels: &[Rgb]) -> Picture {
        let cells = pool(pixels, [0, 0], CELL, GRID);
        // The subject covers less than three fifths of the cells at any place.
        let [color, pattern] = self.nearest_background(|background| {
            let mut errors: Vec<f32> = cells.iter().zip(background).map(|(a, b)| distance(*a, *b)).collect();
            *errors.select_nth_unstable_by(GRID * GRID * 2 / 5, f32::total_cmp).1
        });
        let whole = Whole::new(&cells, &self.background(color, pattern).cells);
        let layouts: Vec<Layout> = self.world.layouts().into_iter().filter(|layout| layout.count == 1).collect();
        let subject = nearest(self.glyphs.len(), |subject| {
            layouts.iter().map(|layout| self.error_of(&whole, subject, *layout)).fold(f32::INFINITY, f32::min)
        });
        Picture { color, pattern, subject, layout: None }
    }

    fn background(&self, color: usize, pattern: usize) -> &Background {
        &self.backgrounds[color * self.world.patterns.len() + pattern]
    }

    /// Color and pattern of the background that minimizes `error(cells)`.
    fn nearest_background(&self, error: impl Fn(&[Rgb]) -> f32) -> [usize; 2] {
        let best = nearest(self.backgrounds.len(), |i| error(&self.backgrounds[i].cells));
        [best / self.world.patterns.len(), best % self.world.patterns.len()]
    }

    /// Distance of the whole picture from `subject` in `layout`, mirrored or not, whichever is smaller.
    fn error_of(&self, whole: &Whole, subject: usize, layout: Layout) -> f32 {
        let glyph = &self.glyphs_by_size[layout.size][subject];
        let n = self.world.sizes[layout.size].px / CELL;
        let corners: Vec<[usize; 2]> =
            self.world.boxes(layout).iter().map(|corner| corner.map(|px| px / CELL)).collect();
        let bare: f32 = corners.iter().map(|corner| whole.bare_inside(*corner, n)).sum();
        let things = either_way_round(|mirrored| {
            corners.iter().map(|corner| over(glyph, n, mirrored, whole.behind, GRID, *corner, whole.seen)).sum()
        });
        whole.bare_total - bare + things
    }
}

/// A picture and its expected background, in cells, and their squared differences.
struct Whole<'a> {
    seen: &'a [Rgb],
    behind: &'a [Rgb],
    bare: Vec<f32>,
    bare_total: f32,
}

impl<'a> Whole<'a> {
    fn new(seen: &'a [Rgb], behind: &'a [Rgb]) -> Self {
        let bare: Vec<f32> = seen.iter().zip(behind).map(|(a, b)| distance(*a, *b)).collect();
        Whole { bare_total: bare.iter().sum(), seen, behind, bare }
    }

    fn bare_inside(&self, [x, y]: [usize; 2], n: usize) -> f32 {
        (y..y + n).map(|row| self.bare[row * GRID + x..][..n].iter().sum::<f32>()).sum()
    }
}

/// Distance of `seen` from a glyph of `n` x `n` cells over `behind`, at `[x, y]`; rows are `width` cells long.
fn over(
    glyph: &[Rgba],
    n: usize,
    mirrored: bool,
    behind: &[Rgb],
    width: usize,
    [x, y]: [usize; 2],
    seen: &[Rgb],
) -> f32 {
    let mut sum = 0.0;
    for (row, glyph) in glyph.chunks_exact(n).enumerate() {
        let at = (y + row) * width + x;
        let (behind, seen) = (&behind[at..at + n], &seen[at..at + n]);
        for column in 0..n {
            let [r, g, b, a] = glyph[if mirrored { n - 1 - column } else { column }];
            let through = 1.0 - a / 255.0;
            let [br, bg, bb] = behind[column];
            sum += distance(seen[column], [r + br * through, g + bg * through, b + bb * through]);
        }
    }
    sum
}

/// Means of `n` x `n` squares of `side` pixels each, starting at `[x, y]` of a picture.
fn pool(pixels: &[Rgb], [x, y]: [usize; 2], side: usize, n: usize) -> Vec<Rgb> {
    let mean = |i: usize| {
        let (top, left) = (y + i / n * side, x + i % n * side);
        let mut sum = [0.0; 3];
        for row in top..top + side {
            for pixel in &pixels[row * SIDE + left..][..side] {
                (0..3).for_each(|c| sum[c] += pixel[c]);
            }
        }
        sum.map(|v| v / (side * side) as f32)
    };
    (0..n * n).map(mean).collect()
}

fn distance(a: Rgb, b: Rgb) -> f32 {
    let [r, g, b] = [a[0] - b[0], a[1] - b[1], a[2] - b[2]];
    r * r + g * g + b * b
}

fn either_way_round(error: impl Fn(bool) -> f32) -> f32 {
    error(false).min(error(true))
}

/// Index of the answer, of `n`, with the smallest error.
fn nearest(n: usize, error: impl Fn(usize) -> f32) -> usize {
    let errors: Vec<f32> = (0..n).map(error).collect();
    (0..n).min_by(|a, b| errors[*a].total_cmp(&errors[*b])).expect("there are answers")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A picture composed from the thumbnails, with noise of up to `noise` levels per channel.
    fn compose(world: &World, picture: &Picture, mirrored: bool, noise: f32) -> RgbImage {
        let mut pixels = world.background(picture.color, picture.pattern);
        let layout = picture.layout.unwrap();
        let px = world.sizes[layout.size].px;
        let glyph = world.glyph(picture.subject, px);
        for [x, y] in world.boxes(layout) {
            for (i, [r, g, b, a]) in glyph.iter().enumerate() {
                let column = if mirrored { px - 1 - i % px } else { i % px };
                let pixel = &mut pixels[(y + i / px) * SIDE + x + column];
                *pixel = std::array::from_fn(|c| [r, g, b][c] + pixel[c] * (1.0 - a / 255.0));
            }
        }
        let mut state = 1u32;
        let mut random = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        let bytes = pixels.iter().flatten().map(|v| (v + noise * random()).round() as u8).collect();
        RgbImage::new(SIDE as u32, SIDE as u32, bytes).unwrap()
    }

    /// Every subject once, cycling through the other fields; no shape on a background of its own color.
    fn one_of_each(world: &World) -> Vec<Picture> {
        let layouts = world.layouts();
        let picture = |subject: usize| Picture {
            color: subject * 5 % world.colors.len(),
            pattern: subject % world.patterns.len(),
            subject,
            layout: Some(layouts[subject * 7 % layouts.len()]),
        };
        let seen = |p: &Picture| !world.subjects[p.subject].name.starts_with(&world.colors[p.color].name);
        (0..world.subjects.len()).map(picture).filter(seen).collect()
    }

    fn named(judge: &Judge, subject: &str) -> usize {
        judge.world.subjects.iter().position(|s| s.name == subject).unwrap()
    }

    fn a_cat(judge: &Judge) -> Picture {
        let layout = Layout { size: 1, count: 1, place: 0 };
        Picture { color: 4, pattern: 0, subject: named(judge, "cat"), layout: Some(layout) }
    }

    #[test]
    fn every_subject_is_judged_right_whichever_way_round_it_is_drawn() {
        let judge = Judge::load();
        for picture in one_of_each(&judge.world) {
            for mirrored in [false, true] {
                let image = compose(&judge.world, &picture, mirrored, 25.0);
                assert_eq!(judge.look(&image, &picture), picture, "{}", judge.world.describe(&picture));
            }
        }
    }

    #[test]
    fn every_subject_is_found_where_nothing_says_where_it_is() {
        let judge = Judge::load();
        for picture in one_of_each(&judge.world).iter().filter(|p| p.layout.unwrap().count == 1) {
            let expected = Picture { layout: None, ..*picture };
            let image = compose(&judge.world, picture, true, 10.0);
            assert_eq!(judge.look(&image, &expected), expected, "{}", judge.world.describe(picture));
        }
    }

    #[test]
    fn another_subject_is_not_taken_for_the_expected_one() {
        let judge = Judge::load();
        let cat = a_cat(&judge);
        let dog = Picture { subject: named(&judge, "dog"), ..cat };
        assert_eq!(judge.look(&compose(&judge.world, &dog, false, 0.0), &cat).subject, dog.subject);
    }

    #[test]
    fn colors_and_patterns_are_told_apart() {
        let judge = Judge::load();
        for (color, pattern) in [(0, 0), (4, 1), (4, 2)] {
            let other = Picture { color, pattern, ..a_cat(&judge) };
            let seen = judge.look(&compose(&judge.world, &other, false, 10.0), &a_cat(&judge));
            assert_eq!((seen.color, seen.pattern), (color, pattern));
        }
    }

    #[test]
    fn sizes_counts_and_places_are_told_apart() {
        let judge = Judge::load();
        for layout in judge.world.layouts() {
            let other = Picture { layout: Some(layout), ..a_cat(&judge) };
            assert_eq!(judge.look(&compose(&judge.world, &other, true, 10.0), &a_cat(&judge)).layout, Some(layout));
        }
    }
}
