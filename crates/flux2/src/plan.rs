//! What a run takes of memory, known before it begins: the recipe is run on a backend that allocates and does not compute,
//! so that there is no second account of what is in memory when, which could differ from the first.
//!
//! In:  a model's files, how it is to be run, the requests. Out: [`MemoryPlan`], the most that each stage takes at once.

use flux2_backend::{Backend, MemoryUse};

use crate::Result;
use crate::event::{CancelToken, Event, Observer, Phase};
use crate::pipeline::{MAX_PREPARED_PROMPTS, Pipeline, Residency};
use crate::request::{GenerateRequest, ResolvedRequest};
use crate::variant::Variant;
use crate::weights::{ModelFiles, Precision};

/// What the program itself takes of the host's memory beside tensors and weights: its code, the tokenizer, threads. Measured on
/// Linux.
pub const PROGRAM_BYTES: usize = 100 << 20;

/// The most memory that requests take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Whose memory it is, for people: the processor's, or that of a GPU.
    pub device: String,
    /// Of each stage, in the order they come first.
    pub stages: Vec<StageMemory>,
    /// What is taken whatever the requests are: by the program itself, or by its libraries on a GPU.
    pub program: usize,
}

/// The most memory that a stage takes, the loading of its network included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StageMemory {
    /// Which; never [`Phase::Load`].
    pub stage: Phase,
    /// When it takes most.
    pub memory: MemoryUse,
}

impl MemoryPlan {
    /// The stage that takes most. There is one: no request is without a stage.
    pub fn largest(&self) -> StageMemory {
        *self.stages.iter().max_by_key(|stage| stage.memory.total()).expect("every request has stages")
    }

    /// The most that is resident at once, the program included.
    pub fn peak_bytes(&self) -> usize {
        self.largest().memory.total() + self.program
    }
}

/// Run `requests` one after the other on `be`, a dry-run backend; the stages it takes memory for.
pub(crate) fn dry_run<B: Backend>(
    be: B,
    files: &ModelFiles,
    precision: Precision,
    residency: Residency,
    requests: &[GenerateRequest],
) -> Result<Vec<StageMemory>> {
    let mut pipeline = Pipeline::of_files(be.clone(), files.outline(), residency)?.with_precision(precision);
    let mut stages = Stages { be, stages: vec![], in_stage: false };
    let cancel = CancelToken::new();
    if requests.len() > 1 {
        let prompts: Vec<&str> = requests.iter().take(MAX_PREPARED_PROMPTS).map(|r| r.prompt.as_str()).collect();
        pipeline.prepare_prompts(&prompts, &mut stages, &cancel)?;
    }
    for request in requests {
        pipeline.generate(request, &mut stages, &cancel)?;
    }
    Ok(stages.stages)
}

/// What the host holds beside the backend: the largest reference, the finished pixels as f32.
pub(crate) fn add_pictures(
    stages: &mut [StageMemory],
    variant: &'static Variant,
    requests: &[GenerateRequest],
) -> Result<()> {
    let [mut reference, mut picture] = [0; 2];
    for request in requests {
        let request = ResolvedRequest::new(request, variant)?;
        let channels = request.references.iter().map(|r| r.image().pixels().len()).max();
        reference = reference.max(channels.unwrap_or_default());
        picture = picture.max(3 * request.width as usize * request.height as usize);
    }
    for StageMemory { stage, memory } in stages {
        memory.allocated += match stage {
            Phase::References => (size_of::<f32>() + 1) * reference, // its bytes, and what the encoder reads
            Phase::Decode => size_of::<f32>() * picture,
            _ => 0,
        };
    }
    Ok(())
}

/// Asks the backend for its peak whenever a stage is over.
struct Stages<B: Backend> {
    be: B,
    stages: Vec<StageMemory>,
    in_stage: bool,
}

impl<B: Backend> Observer for Stages<B> {
    fn on_event(&mut self, event: &Event) {
        match *event {
            // What a stage before it took does not count.
            Event::PhaseStarted { .. } if !self.in_stage => {
                self.be.take_memory_peak();
                self.in_stage = true;
            }
            Event::PhaseFinished { phase: Phase::Load(_), .. } => {}
            Event::PhaseFinished { phase: stage, .. } => {
                self.in_stage = false;
                let memory = self.be.take_memory_peak();
                match self.stages.iter_mut().find(|known| known.stage == stage) {
                    Some(known) if known.memory.total() >= memory.total() => {}
                    Some(known) => known.memory = memory,
                    None => self.stages.push(StageMemory { stage, memory }),
                }
            }
            _ => {}
        }
    }
}
