//! A picture timed by stages, with the loading of weights counted separately.

use std::time::{Duration, Instant};

use crate::event::{CancelToken, Event, Observer, Phase};
use crate::request::GenerateRequest;
use crate::weights::ModelFiles;
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
    /// The total minus loading.
    pub fn working(&self) -> Duration {
        self.total.saturating_sub(self.load)
    }
}

/// Time a picture from a fresh engine: nothing loaded, nothing remembered.
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

/// Time a picture on an engine that may have networks loaded and prompts remembered.
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
    let made = engine.generate_with(request, &mut listen, cancel)?;
    stages.idle = made.timings.idle;
    stages.total = start.elapsed();
    Ok(stages)
}
