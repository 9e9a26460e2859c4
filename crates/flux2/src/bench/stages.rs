//! A picture timed by stages, with the loading of weights apart.

use std::time::{Duration, Instant};

use crate::event::{CancelToken, Event, Observer, Phase};
use crate::request::GenerateRequest;
use crate::weights::ModelFiles;
use crate::{Engine, EngineOptions, Result, engine};

/// How long the stages of a picture took. Unlike [`Timings`](crate::Timings), loading counts by itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stages {
    /// Tokenizer and weights of all networks.
    pub load: Duration,
    /// Prompt to text embedding.
    pub text: Duration,
    /// References to tokens.
    pub references: Duration,
    /// Each denoising step.
    pub steps: Vec<Duration>,
    /// What a GPU had nothing to do between steps, waiting for the host.
    pub idle: Duration,
    /// Latents to pixels.
    pub decode: Duration,
    /// From nothing loaded to the picture; what no stage counts, such as noise and modulations, is in here too.
    pub total: Duration,
}

impl Stages {
    /// The total without loading.
    pub fn working(&self) -> Duration {
        self.total.saturating_sub(self.load)
    }
}

/// Make a picture from nothing loaded and nothing remembered.
///
/// # Errors
/// As [`engine::open`] and [`Engine::generate`].
pub fn generate(
    files: &ModelFiles,
    request: &GenerateRequest,
    options: &EngineOptions,
    observer: &mut dyn Observer,
    cancel: &CancelToken,
) -> Result<Stages> {
    let start = Instant::now();
    let mut engine = engine::open(files.clone(), options)?;
    let opened = start.elapsed();
    let mut stages = generate_with(&mut *engine, request, observer, cancel)?;
    stages.load += opened;
    stages.total += opened;
    Ok(stages)
}

/// Make a picture with a model that may have made others.
///
/// # Errors
/// As [`Engine::generate`].
pub fn generate_with(
    engine: &mut dyn Engine,
    request: &GenerateRequest,
    observer: &mut dyn Observer,
    cancel: &CancelToken,
) -> Result<Stages> {
    let start = Instant::now();
    let mut stages = Stages::default();
    let mut listen = |event: &Event| {
        match event {
            Event::PhaseFinished { phase, elapsed } => match phase {
                Phase::Load(_) => stages.load += *elapsed,
                Phase::Text => stages.text += *elapsed,
                Phase::References => stages.references += *elapsed,
                Phase::Decode => stages.decode += *elapsed,
                Phase::Denoise => {}
            },
            Event::Step { elapsed, .. } => stages.steps.push(*elapsed),
            _ => {}
        }
        observer.on_event(event);
    };
    let made = engine.generate(request, &mut listen, cancel)?;
    stages.idle = made.timings.idle;
    stages.total = start.elapsed();
    Ok(stages)
}
