//! A picture, or several that are made together, timed by stages, with the loading of weights counted separately.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use crate::event::{CancelToken, Event, Observer, Phase};
use crate::pipeline::{BatchMember, Batching};
use crate::request::GenerateRequest;
use crate::weights::{ModelFiles, Part};
use crate::{Engine, EngineOptions, Result, engine};

/// How long the stages of a picture took. Unlike in [`Timings`](crate::Timings), loading is not part of the stages.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stages {
    /// Loading the tokenizer and the weights of all networks.
    pub load: Duration,
    /// Prompt to text embedding.
    pub text: Duration,
    /// References to tokens.
    pub references: Duration,
    /// Each denoising step.
    pub steps: Vec<Duration>,
    /// Time between steps in which a GPU had no work, because the host had not queued any.
    pub idle: Duration,
    /// Latents to pixels.
    pub decode: Duration,
    /// From nothing loaded to the picture, including what belongs to no stage, such as noise and modulations.
    pub total: Duration,
}

impl Stages {
    /// Count an event of a picture, the first of a batch or another. All pictures hear what the text encoder and the
    /// flow transformer do.
    fn count(&mut self, event: &Event, is_first: bool) {
        let is_shared = |phase| matches!(phase, Phase::Text | Phase::Load(Part::TextEncoder | Part::Transformer));
        match event {
            Event::PhaseFinished { phase, .. } if !is_first && is_shared(*phase) => {}
            Event::PhaseFinished { phase, elapsed } => match phase {
                Phase::Load(_) => self.load += *elapsed,
                Phase::Text => self.text += *elapsed,
                Phase::References => self.references += *elapsed,
                Phase::Decode => self.decode += *elapsed,
                // What is timed draws no enlarged picture.
                Phase::Upscale => {}
                Phase::Denoise => {}
            },
            Event::Step { elapsed, .. } if is_first => self.steps.push(*elapsed),
            _ => {}
        }
    }

    /// The total minus loading.
    pub fn working(&self) -> Duration {
        self.total.saturating_sub(self.load)
    }
}

/// Time pictures that are made together, or one, from a fresh engine: nothing loaded, nothing remembered.
///
/// # Errors
/// As [`engine::open`] and [`generate_with`].
pub fn generate(
    files: &ModelFiles,
    requests: &[GenerateRequest],
    batching: Batching,
    options: &EngineOptions,
    observer: &mut dyn Observer,
    cancel: &CancelToken,
) -> Result<Stages> {
    let start = Instant::now();
    let mut engine = engine::open(files.clone(), options)?;
    let opened = start.elapsed();
    let mut stages = generate_with(&mut *engine, requests, batching, observer, cancel)?;
    stages.load += opened;
    stages.total += opened;
    Ok(stages)
}

/// Time pictures that are made together, or one, on an engine that may have networks loaded and prompts remembered. A
/// stage of the result is that of all pictures together. `observer` gets the events of the first.
///
/// # Errors
/// The first of a picture, as [`Engine::generate_batch`] returns them.
pub fn generate_with(
    engine: &mut dyn Engine,
    requests: &[GenerateRequest],
    batching: Batching,
    observer: &mut dyn Observer,
    cancel: &CancelToken,
) -> Result<Stages> {
    let start = Instant::now();
    let shared = RefCell::new((Stages::default(), observer));
    let listen = |i: usize| {
        let shared = &shared;
        move |event: &Event| {
            let (stages, observer) = &mut *shared.borrow_mut();
            stages.count(event, i == 0);
            if i == 0 {
                observer.on_event(event);
            }
        }
    };
    let mut observers: Vec<_> = (0..requests.len()).map(listen).collect();
    let members = requests.iter().zip(&mut observers);
    let members = members.map(|(request, observer)| BatchMember { request, observer, cancel });
    let made = engine.generate_batch(&mut members.collect::<Vec<_>>(), batching);
    let made = made.into_iter().collect::<Result<Vec<_>>>()?;
    drop(observers);
    let (mut stages, _) = shared.into_inner();
    stages.idle = made.first().map(|made| made.timings.idle).unwrap_or_default();
    stages.total = start.elapsed();
    Ok(stages)
}
