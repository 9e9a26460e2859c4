//! Evaluates how well klein-mini follows prompts: draws requests with known answers and judges the pictures.
//!
//! In:  `fixtures/mini/{cases,scenes}.jsonl`, made by `tools/train/fixture.py`. Out: the [`Outcome`] or the
//! [`strict::Measures`] of each request.
//!
//! The tests run a few requests, the example `evaluate_mini` all of them.

pub mod judge;
pub mod padded;
pub mod painting;
pub mod scene;
pub mod strict;
pub mod world;

use std::num::NonZeroUsize;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use flux2::image::RgbImage;
use flux2::{Engine, EngineOptions, GenerateRequest, ModelPaths, Precision, Reference, Residency, Result};
use flux2_backend::testing::repository;
use serde::Deserialize;

use judge::Judge;
use scene::{Scene, Thing};
use world::{Layout, Picture, SIDE, World};

/// The model evaluated by default.
pub fn mini() -> ModelPaths {
    ModelPaths { model: repository("assets/mini").into(), ..Default::default() }
}

/// Kind of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Text to image, with every field in the prompt.
    Text,
    /// Text to image; size and place are left to the seed.
    Unplaced,
    /// As above, in a sentence unlike those of the training.
    Wording,
    /// Edit: another background.
    Background,
    /// Edit: another subject.
    Replace,
    /// Edit: another size.
    Size,
    /// Edit: one more subject.
    Add,
    /// Edit: another place.
    Move,
    /// Edit: the subject of one picture on the background of another.
    #[serde(rename = "two references")]
    TwoReferences,
}

/// A request and its expected picture.
#[derive(Deserialize)]
pub struct Case {
    /// Line in the file, from 0; independent of which requests are selected.
    #[serde(skip)]
    pub number: usize,
    /// Kind of the request.
    pub kind: Kind,
    /// The prompt.
    pub caption: String,
    /// Expected content.
    #[serde(deserialize_with = "picture")]
    pub target: Picture,
    /// The references, in order. They are drawn first, by the same model.
    #[serde(default)]
    pub sources: Vec<Source>,
}

/// A reference image, drawn before it is used.
#[derive(Deserialize)]
pub struct Source {
    /// The prompt.
    pub caption: String,
    /// Expected content.
    #[serde(deserialize_with = "picture")]
    pub picture: Picture,
}

/// Parses `[color, pattern, subject]`, or `[..., size, count, place, mirrored]` if everything is specified.
fn picture<'de, D: serde::Deserializer<'de>>(from: D) -> std::result::Result<Picture, D::Error> {
    let numbers = Vec::<usize>::deserialize(from)?;
    let (color, pattern, subject, layout) = match numbers[..] {
        [color, pattern, subject] => (color, pattern, subject, None),
        [color, pattern, subject, size, count, place, _] => {
            (color, pattern, subject, Some(Layout { size, count, place }))
        }
        _ => return Err(serde::de::Error::invalid_length(numbers.len(), &"3 or 7 numbers")),
    };
    Ok(Picture { color, pattern, subject, layout })
}

/// All requests, but at most `most` of each kind.
///
/// # Panics
/// If the fixture is missing or damaged.
pub fn cases(most: impl Fn(Kind) -> usize) -> Vec<Case> {
    let text = std::fs::read_to_string(repository("fixtures/mini/cases.jsonl")).expect("fixtures/mini/cases.jsonl");
    let read = |(number, line)| Case { number, ..serde_json::from_str(line).expect("cases.jsonl") };
    let mut cases: Vec<Case> = text.lines().enumerate().map(read).collect();
    let mut taken = Vec::new();
    cases.retain(|case| {
        taken.push(case.kind);
        taken.iter().filter(|kind| **kind == case.kind).count() <= most(case.kind)
    });
    cases
}

/// A request for the strict judge.
#[derive(Deserialize)]
pub struct SceneCase {
    /// Line in the file, from 0.
    #[serde(skip)]
    pub number: usize,
    /// Row of the table.
    pub row: String,
    /// Width and height in pixels.
    pub size: [u32; 2],
    /// The prompt.
    pub caption: String,
    /// Expected content.
    pub target: Scene,
    /// Whether the prompt leaves size and place of the only thing to the seed.
    #[serde(default)]
    pub anywhere: bool,
    /// The references, in order. They are drawn first, by the same model.
    #[serde(default)]
    pub sources: Vec<SceneSource>,
}

/// A reference image, drawn before it is used.
#[derive(Deserialize)]
pub struct SceneSource {
    /// The prompt.
    pub caption: String,
    /// Expected content.
    pub scene: Scene,
}

impl SceneCase {
    /// The scenes that are right.
    fn targets(&self) -> Vec<Scene> {
        if !self.anywhere {
            return vec![self.target.clone()];
        }
        let thing = self.target.things[0];
        let somewhere = |i: usize| Thing { size: i / 9, column: i % 3, row: i / 3 % 3, ..thing };
        (0..27).map(|i| Scene { things: vec![somewhere(i)], ..self.target.clone() }).collect()
    }
}

/// All requests for the strict judge, but at most `most` of each row.
///
/// # Panics
/// If the fixture is missing or damaged.
pub fn scene_cases(most: usize) -> Vec<SceneCase> {
    let text = std::fs::read_to_string(repository("fixtures/mini/scenes.jsonl")).expect("fixtures/mini/scenes.jsonl");
    let read = |(number, line)| SceneCase { number, ..serde_json::from_str(line).expect("scenes.jsonl") };
    let mut cases: Vec<SceneCase> = text.lines().enumerate().map(read).collect();
    let mut taken: Vec<(String, [u32; 2])> = Vec::new();
    cases.retain(|case| {
        taken.push((case.row.clone(), case.size));
        taken.iter().filter(|(row, size)| (row, *size) == (&case.row, case.size)).count() <= most
    });
    cases
}

/// A picture and its measures; `None` if a reference was already wrong.
pub type Measured = Option<(RgbImage, strict::Measures)>;

/// Whether `image` looks right to the strict judge, at any size and place if `picture` leaves them to the seed.
pub fn looks_right(world: &World, image: &RgbImage, picture: &Picture) -> bool {
    let single = || world.layouts().into_iter().filter(|layout| layout.count == 1).collect();
    let layouts: Vec<Layout> = picture.layout.map_or_else(single, |layout| vec![layout]);
    layouts.into_iter().any(|layout| strict::measure(world, image, &Scene::of(picture, layout)).right())
}

/// A picture that was made as asked, and what it shows; `None` if a reference was already wrong, so that it would tell
/// nothing.
pub type Outcome = Option<(RgbImage, Picture)>;

/// How requests are drawn.
#[derive(Clone)]
pub struct Drawing {
    /// Location of the model.
    pub model: ModelPaths,
    /// Number formats of the run.
    pub precision: Precision,
    /// Number of denoising steps.
    pub steps: u32,
    /// Seed of the request on line 0; that of line `i` is larger by `i`.
    pub seed: u64,
}

impl Drawing {
    /// Loads a single-threaded engine: pictures this small are fastest with one engine per core.
    ///
    /// # Errors
    /// If the model cannot be loaded.
    pub fn engine(&self) -> Result<Box<dyn Engine>> {
        let options = EngineOptions {
            precision: self.precision,
            threads: NonZeroUsize::new(1),
            residency: Residency::KeepAll,
            ..Default::default()
        };
        flux2::engine::load(&self.model, &options)
    }

    /// Draws and judges `cases`, with one engine per core. Calls `done` with the number of finished requests.
    ///
    /// # Errors
    /// The first error of any engine.
    pub fn outcomes(&self, judge: &Judge, cases: &[Case], done: &(dyn Fn(usize) + Sync)) -> Result<Vec<Outcome>> {
        self.each(cases, done, |engine, case| self.outcome(engine, judge, case))
    }

    /// Draws and measures `cases`, as [`Drawing::outcomes`] does.
    ///
    /// # Errors
    /// The first error of any engine.
    pub fn measured(&self, world: &World, cases: &[SceneCase], done: &(dyn Fn(usize) + Sync)) -> Result<Vec<Measured>> {
        self.each(cases, done, |engine, case| self.measure(engine, world, case))
    }

    /// Results of `of` for each case, in order.
    fn each<C: Sync, T: Send>(
        &self,
        cases: &[C],
        done: &(dyn Fn(usize) + Sync),
        of: impl Fn(&mut dyn Engine, &C) -> Result<T> + Sync,
    ) -> Result<Vec<T>> {
        let workers = std::thread::available_parallelism().map_or(1, NonZeroUsize::get).min(cases.len());
        let (next, finished) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let results = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            let work = || -> Result<()> {
                let mut engine = self.engine()?;
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    let Some(case) = cases.get(i) else { return Ok(()) };
                    let result = of(engine.as_mut(), case)?;
                    results.lock().expect("no worker panicked").push((i, result));
                    done(finished.fetch_add(1, Ordering::Relaxed) + 1);
                }
            };
            let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
            workers.into_iter().try_for_each(|worker| worker.join().expect("no worker panicked"))
        })?;
        let mut results = results.into_inner().expect("no worker panicked");
        results.sort_by_key(|(i, _)| *i);
        Ok(results.into_iter().map(|(_, result)| result).collect())
    }

    fn measure(&self, engine: &mut dyn Engine, world: &World, case: &SceneCase) -> Result<Measured> {
        let seed = self.seed + case.number as u64;
        let mut sources = Vec::new();
        for (k, SceneSource { caption, scene }) in case.sources.iter().enumerate() {
            let image = draw_sized(engine, caption, &[], case.size, self.steps, seed + 1_000_000 * (k as u64 + 1))?;
            let right = strict::measure(world, &image, scene).right();
            sources.push(image);
            if !right {
                return Ok(None);
            }
        }
        let image = draw_sized(engine, &case.caption, &sources, case.size, self.steps, seed)?;
        let best = case
            .targets()
            .iter()
            .map(|scene| strict::measure(world, &image, scene))
            .min_by(|a, b| a.flaws().len().cmp(&b.flaws().len()).then(a.lost.total_cmp(&b.lost)));
        Ok(Some((image, best.expect("a case has a target"))))
    }

    fn outcome(&self, engine: &mut dyn Engine, judge: &Judge, case: &Case) -> Result<Outcome> {
        let seed = self.seed + case.number as u64;
        let mut sources = Vec::new();
        for (k, Source { caption, picture }) in case.sources.iter().enumerate() {
            // Distinct from the seeds of other requests and of the edit itself.
            let image = draw(engine, caption, &[], self.steps, seed + 1_000_000 * (k as u64 + 1))?;
            let right = judge.look(&image, picture) == *picture;
            sources.push(image);
            if !right {
                return Ok(None);
            }
        }
        let image = draw(engine, &case.caption, &sources, self.steps, seed)?;
        let seen = judge.look(&image, &case.target);
        Ok(Some((image, seen)))
    }
}

/// Draws a picture of 128x128 pixels.
///
/// # Errors
/// Any error of the engine.
pub fn draw(engine: &mut dyn Engine, prompt: &str, references: &[RgbImage], steps: u32, seed: u64) -> Result<RgbImage> {
    draw_sized(engine, prompt, references, [SIDE as u32; 2], steps, seed)
}

/// Draws a picture of `[width, height]` pixels.
///
/// # Errors
/// Any error of the engine.
pub fn draw_sized(
    engine: &mut dyn Engine,
    prompt: &str,
    references: &[RgbImage],
    [width, height]: [u32; 2],
    steps: u32,
    seed: u64,
) -> Result<RgbImage> {
    let request = GenerateRequest {
        prompt: prompt.into(),
        references: references.iter().cloned().map(Reference::from_image).collect(),
        width: Some(width),
        height: Some(height),
        steps: Some(steps),
        seed,
        ..Default::default()
    };
    Ok(engine.generate(&request)?.image)
}

/// Peak signal-to-noise ratio of two pictures of equal size, in dB.
pub fn psnr(a: &RgbImage, b: &RgbImage) -> f64 {
    let square = |(a, b): (&u8, &u8)| (f64::from(*a) - f64::from(*b)).powi(2);
    let mean = a.pixels().iter().zip(b.pixels()).map(square).sum::<f64>() / a.pixels().len() as f64;
    10.0 * (255.0f64.powi(2) / mean).log10()
}
