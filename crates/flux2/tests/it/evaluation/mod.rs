//! Does klein-mini draw what it is told? Requests with their answers, drawn by our own engine and judged.
//!
//! In:  `fixtures/mini/cases.jsonl`, made by `tools/train/fixture.py`. Out: [`Outcome`] of each request.
//!
//! The tests hold a few requests to it, the example `evaluate_mini` all of them.

pub mod judge;
pub mod padded;
pub mod world;

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use flux2::image::RgbImage;
use flux2::{
    CancelToken, Engine, EngineOptions, Event, GenerateRequest, ModelPaths, Precision, Reference, Residency, Result,
};
use serde::Deserialize;

use judge::Judge;
use world::{Layout, Picture, SIDE};

/// The model that is evaluated where nothing else is asked for.
pub fn mini() -> ModelPaths {
    ModelPaths { model: repository("assets/mini").into(), ..Default::default() }
}

/// A file of the repository.
fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A picture with everything said.
    Text,
    /// A picture; size and place are left to the seed.
    Unplaced,
    /// The same in a sentence unlike any that was trained.
    Wording,
    /// Another background for a picture.
    Background,
    /// Another subject.
    Replace,
    /// Larger or smaller.
    Size,
    /// One more of it.
    Add,
    /// Another place.
    Move,
    /// The subject of one picture on the background of another.
    #[serde(rename = "two references")]
    TwoReferences,
}

/// A request and what it should show.
#[derive(Deserialize)]
pub struct Case {
    /// Its line in the file, from 0: the same for a part of the requests as for all.
    #[serde(skip)]
    pub number: usize,
    /// What it asks for.
    pub kind: Kind,
    /// The prompt.
    pub caption: String,
    /// What should be seen.
    #[serde(deserialize_with = "picture")]
    pub target: Picture,
    /// What the references show, in order. They are drawn first, by the same model.
    #[serde(default)]
    pub sources: Vec<Source>,
}

/// A reference to draw before it is used.
#[derive(Deserialize)]
pub struct Source {
    /// The prompt.
    pub caption: String,
    /// What should be seen.
    #[serde(deserialize_with = "picture")]
    pub picture: Picture,
}

/// `[color, pattern, subject]`, and where all is said `[..., size, count, place, mirrored]`.
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

/// All requests there are, at most as many of each kind as `most` says.
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

/// A picture that was made as asked, and what it shows; `None` if a reference was already wrong, so that it would tell nothing.
pub type Outcome = Option<(RgbImage, Picture)>;

/// How requests are drawn.
#[derive(Clone)]
pub struct Drawing {
    /// The model.
    pub model: ModelPaths,
    /// Number format.
    pub precision: Precision,
    /// Denoising steps.
    pub steps: u32,
    /// Of the request on the first line; every line has one of its own, counted from here.
    pub seed: u64,
}

impl Drawing {
    /// An engine for pictures as small as these, which are drawn fastest by one thread each.
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

    /// Draw and judge all of `cases`, one engine to a core. `done` is told the number of finished requests.
    ///
    /// # Errors
    /// The first of an engine's.
    pub fn outcomes(&self, judge: &Judge, cases: &[Case], done: &(dyn Fn(usize) + Sync)) -> Result<Vec<Outcome>> {
        let workers = std::thread::available_parallelism().map_or(1, NonZeroUsize::get).min(cases.len());
        let (next, finished) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let outcomes = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            let work = || -> Result<()> {
                let mut engine = self.engine()?;
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    let Some(case) = cases.get(i) else { return Ok(()) };
                    let outcome = self.outcome(engine.as_mut(), judge, case)?;
                    outcomes.lock().expect("no worker panicked").push((i, outcome));
                    done(finished.fetch_add(1, Ordering::Relaxed) + 1);
                }
            };
            let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
            workers.into_iter().try_for_each(|worker| worker.join().expect("no worker panicked"))
        })?;
        let mut outcomes = outcomes.into_inner().expect("no worker panicked");
        outcomes.sort_by_key(|(i, _)| *i);
        Ok(outcomes.into_iter().map(|(_, outcome)| outcome).collect())
    }

    fn outcome(&self, engine: &mut dyn Engine, judge: &Judge, case: &Case) -> Result<Outcome> {
        let seed = self.seed + case.number as u64;
        let mut sources = Vec::new();
        for (k, Source { caption, picture }) in case.sources.iter().enumerate() {
            // Far from the seeds of other requests, and never that of the edit itself.
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

/// One picture of 128x128.
///
/// # Errors
/// The engine's.
pub fn draw(engine: &mut dyn Engine, prompt: &str, references: &[RgbImage], steps: u32, seed: u64) -> Result<RgbImage> {
    let request = GenerateRequest {
        prompt: prompt.into(),
        references: references.iter().cloned().map(Reference::from_image).collect(),
        width: Some(SIDE as u32),
        height: Some(SIDE as u32),
        steps: Some(steps),
        seed,
        ..Default::default()
    };
    Ok(engine.generate(&request, &mut |_: &Event| {}, &CancelToken::new())?.image)
}

/// Peak signal-to-noise ratio of two pictures of one size, in dB.
pub fn psnr(a: &RgbImage, b: &RgbImage) -> f64 {
    let square = |(a, b): (&u8, &u8)| (f64::from(*a) - f64::from(*b)).powi(2);
    let mean = a.pixels().iter().zip(b.pixels()).map(square).sum::<f64>() / a.pixels().len() as f64;
    10.0 * (255.0f64.powi(2) / mean).log10()
}
