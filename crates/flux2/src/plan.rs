//! The memory a run takes, known before it begins.
//!
//! In:  a model's files, how it is to be run, the requests. Out: [`MemoryPlan`], the peak of each stage.
//!
//! A plan is a dry run: the recipe runs on a backend that allocates as usual and computes nothing. There is no second
//! account of what is in memory when, which could differ from the first.

use std::cell::RefCell;

use flux2_backend::{Backend, Format, MemoryUse};

use crate::device::Device;
use crate::engine::{EngineOptions, GpuInfo, cpu, gpu};
use crate::event::{CancelToken, Event, Observer, Phase};
use crate::pipeline::{BatchMember, Batching, MAX_PREPARED_PROMPTS, Pipeline, Residency};
use crate::request::{GenerateRequest, ResolvedRequest};
use crate::variant::Variant;
use crate::weights::{ModelFiles, Precision};
use crate::{Error, Result};

/// Host memory of the program itself, beside tensors and weights: its code, the tokenizer, threads. Measured on Linux.
pub const PROGRAM_BYTES: usize = 100 << 20;

/// The most memory that requests take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryPlan {
    /// The device whose memory it is, for people. For the CPU that is the host's memory.
    pub device: String,
    /// The peak of each stage, in the order in which stages begin.
    pub stages: Vec<StageMemory>,
    /// Bytes taken whatever the requests are: by the program itself, or on a GPU by context and libraries.
    pub program: usize,
}

/// The peak of a stage, the loading of its network included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StageMemory {
    /// The stage; never [`Phase::Load`].
    pub stage: Phase,
    /// The memory in use at its peak.
    pub memory: MemoryUse,
}

impl MemoryPlan {
    /// The stage with the highest peak.
    pub fn largest(&self) -> StageMemory {
        *self.stages.iter().max_by_key(|stage| stage.memory.total()).expect("every request has stages")
    }

    /// The highest peak in bytes, the program included.
    pub fn peak_bytes(&self) -> usize {
        self.largest().memory.total() + self.program
    }
}

/// The memory that `requests`, one after the other, take with `options`.
///
/// # Errors
/// [`Error::Device`] if there is no such device, and anything wrong with a request.
pub fn of(files: &ModelFiles, options: &EngineOptions, requests: &[GenerateRequest]) -> Result<MemoryPlan> {
    let options = options.for_model(files);
    DryRun::of(&options)?.plan(files, &options, requests)
}

/// The first way of running `requests` that takes at most `limit` bytes: as `options` say, else with fewer weights in
/// memory at a time, which gives the same pictures. If no residency will do and `may_round`, also with weights rounded
/// to a smaller format, which does not. Returns the options of that way and what it takes.
///
/// # Errors
/// [`Error::MemoryLimit`] if there is none; otherwise as [`of`].
pub fn within(
    limit: usize,
    files: &ModelFiles,
    options: &EngineOptions,
    requests: &[GenerateRequest],
    may_round: bool,
) -> Result<(EngineOptions, MemoryPlan)> {
    let options = options.for_model(files);
    DryRun::of(&options)?.within(limit, files, &options, requests, may_round)
}

/// As [`of`], for `requests` that are made [together](crate::Pipeline::generate_batch).
///
/// # Errors
/// As [`of`].
pub fn of_batch(files: &ModelFiles, options: &EngineOptions, requests: &[GenerateRequest]) -> Result<MemoryPlan> {
    let options = options.for_model(files);
    DryRun::of(&options)?.plan_batch(files, &options, requests)
}

/// How many pictures like `request`, at most `most`, can be made together within `limit` bytes; 0 if not even one.
///
/// # Errors
/// As [`of`].
pub fn largest_batch(
    limit: usize,
    files: &ModelFiles,
    options: &EngineOptions,
    request: &GenerateRequest,
    most: usize,
) -> Result<usize> {
    let options = options.for_model(files);
    DryRun::of(&options)?.largest_batch(limit, files, &options, request, most)
}

/// Whether several requests of a dry run are made one by one or together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    OneByOne,
    Together,
}

/// A device to plan for. It is never opened, and a GPU need not be there.
#[derive(Clone, Debug)]
pub enum DryRun {
    /// The CPU of this machine.
    Processor,
    /// A GPU of this description, with its number.
    Gpu(GpuInfo, usize),
}

impl DryRun {
    /// The device of a run with `options`.
    fn of(options: &EngineOptions) -> Result<Self> {
        let device = options.device;
        let gpu = match device {
            Device::Cpu => return Ok(DryRun::Processor),
            Device::Auto | Device::Cuda(_) => gpu::find(options),
        };
        match gpu {
            Ok((info, ordinal)) => Ok(DryRun::Gpu(info, ordinal)),
            Err(_) if device == Device::Auto => Ok(DryRun::Processor),
            Err(no_gpu) => Err(no_gpu.into_error(device)),
        }
    }

    /// As [`of`], on this device.
    ///
    /// # Errors
    /// If the device cannot multiply the number format of `options`, and anything wrong with a request.
    pub fn plan(
        &self,
        files: &ModelFiles,
        options: &EngineOptions,
        requests: &[GenerateRequest],
    ) -> Result<MemoryPlan> {
        self.plan_in(Order::OneByOne, files, options, requests)
    }

    /// As [`of_batch`], on this device.
    ///
    /// # Errors
    /// As [`plan`](Self::plan).
    pub fn plan_batch(
        &self,
        files: &ModelFiles,
        options: &EngineOptions,
        requests: &[GenerateRequest],
    ) -> Result<MemoryPlan> {
        self.plan_in(Order::Together, files, options, requests)
    }

    fn plan_in(
        &self,
        order: Order,
        files: &ModelFiles,
        options: &EngineOptions,
        requests: &[GenerateRequest],
    ) -> Result<MemoryPlan> {
        match self {
            DryRun::Processor => cpu::plan(files, options, requests, order),
            DryRun::Gpu(info, ordinal) => gpu::plan(info, *ordinal, files, options, requests, order),
        }
    }

    /// As [`largest_batch()`], on this device.
    ///
    /// # Errors
    /// As [`plan`](Self::plan).
    pub fn largest_batch(
        &self,
        limit: usize,
        files: &ModelFiles,
        options: &EngineOptions,
        request: &GenerateRequest,
        most: usize,
    ) -> Result<usize> {
        // Different prompts, each of which has an embedding of its own.
        let like = |i| GenerateRequest { prompt: format!("{} {i}", request.prompt), ..request.clone() };
        let requests: Vec<GenerateRequest> = (0..most).map(like).collect();
        let (mut fit, mut too_many) = (0, most + 1);
        while too_many - fit > 1 {
            let count = usize::midpoint(fit, too_many);
            match self.plan_batch(files, options, &requests[..count])?.peak_bytes() <= limit {
                true => fit = count,
                false => too_many = count,
            }
        }
        Ok(fit)
    }

    /// Formats that weights may be rounded to in order to take less memory, the best first.
    fn smaller_formats(&self) -> &'static [Format] {
        match self {
            DryRun::Processor => cpu::SMALLER_FORMATS,
            DryRun::Gpu(info, _) => gpu::smaller_formats(info),
        }
    }

    /// As [`within()`], on this device.
    ///
    /// # Errors
    /// As there.
    pub fn within(
        &self,
        limit: usize,
        files: &ModelFiles,
        options: &EngineOptions,
        requests: &[GenerateRequest],
        may_round: bool,
    ) -> Result<(EngineOptions, MemoryPlan)> {
        let compute = options.precision.compute();
        // Rounding helps only to a format that is smaller than the present one.
        let size = |format: Format| format.dtype().map_or(usize::MAX, |dtype| dtype.bytes(256));
        let formats = if may_round { self.smaller_formats() } else { &[] };
        let smaller = formats.iter().filter(|format| size(**format) < size(options.precision.blocks()));
        let rounded = smaller.filter_map(|format| Precision::new(compute, *format));
        let precisions = std::iter::once(options.precision).chain(rounded);
        let ways = precisions.flat_map(|p| options.residency.and_smaller().map(move |residency| (p, residency)));
        let mut least: Option<MemoryPlan> = None;
        for (precision, residency) in ways {
            let options = EngineOptions { precision, residency, gpu_memory: Some(limit), ..options.clone() };
            let plan = self.plan(files, &options, requests)?;
            if plan.peak_bytes() <= limit {
                return Ok((options, plan));
            }
            let is_less = |plan: &MemoryPlan| least.as_ref().is_none_or(|l| plan.peak_bytes() < l.peak_bytes());
            least = Some(plan).filter(is_less).or(least);
        }
        let least = least.expect("every residency has at least itself");
        Err(Error::MemoryLimit { limit, least: least.peak_bytes(), stage: least.largest().stage })
    }
}

/// The result of a dry run.
pub(crate) struct StagePeaks {
    /// The peak of each stage as the backend counts it.
    pub(crate) stages: Vec<StageMemory>,
    /// Host memory that reference tokens take at most, in bytes; no backend counts it.
    reference_bytes: usize,
}

/// Run `requests`, in this order, on `be`, which must be a dry-run backend.
pub(crate) fn dry_run<B: Backend>(
    be: B,
    files: &ModelFiles,
    precision: Precision,
    residency: Residency,
    requests: &[GenerateRequest],
    order: Order,
) -> Result<StagePeaks> {
    let mut pipeline = Pipeline::of_files(be.clone(), files.outline(), residency)?.with_precision(precision);
    let mut watch = StageWatch { be, stages: vec![], in_stage: false };
    let cancel = CancelToken::new();
    if order == Order::Together {
        return dry_run_together(pipeline, watch, requests);
    }
    if requests.len() > 1 {
        let prompts: Vec<&str> = requests.iter().take(MAX_PREPARED_PROMPTS).map(|r| r.prompt.as_str()).collect();
        pipeline.prepare_prompts(&prompts, &mut watch, &cancel)?;
    }
    let mut reference_bytes = 0;
    for request in requests {
        pipeline.generate(request, &mut watch, &cancel)?;
        reference_bytes = reference_bytes.max(pipeline.reference_bytes());
    }
    Ok(StagePeaks { stages: watch.stages, reference_bytes })
}

/// Run `requests` as one batch.
fn dry_run_together<B: Backend>(
    mut pipeline: Pipeline<B>,
    watch: StageWatch<B>,
    requests: &[GenerateRequest],
) -> Result<StagePeaks> {
    let (watch, cancel) = (RefCell::new(watch), CancelToken::new());
    let mut observers: Vec<_> = requests.iter().map(|_| |event: &Event| watch.borrow_mut().on_event(event)).collect();
    let members = requests.iter().zip(&mut observers);
    let members = members.map(|(request, observer)| BatchMember { request, observer, cancel: &cancel });
    let made = pipeline.generate_batch(&mut members.collect::<Vec<_>>(), Batching::SameBytes);
    made.into_iter().collect::<Result<Vec<_>>>()?;
    let reference_bytes = requests.len() * pipeline.reference_bytes();
    drop(observers);
    Ok(StagePeaks { stages: watch.into_inner().stages, reference_bytes })
}

impl StagePeaks {
    /// Add what the host holds beside the backend's tensors: the largest reference image while it is encoded, the
    /// tokens of references from then on, the finished pixels as f32.
    pub(crate) fn add_host_memory(&mut self, variant: &'static Variant, requests: &[GenerateRequest]) -> Result<()> {
        let [mut reference, mut picture] = [0; 2];
        for request in requests {
            let request = ResolvedRequest::new(request, variant)?;
            let channels = request.references.iter().map(|r| r.image().pixels().len()).max();
            reference = reference.max(channels.unwrap_or_default());
            picture = picture.max(3 * request.width as usize * request.height as usize);
        }
        for StageMemory { stage, memory } in &mut self.stages {
            memory.allocated += match stage {
                Phase::References => (size_of::<f32>() + 1) * reference, // bytes, and the f32 the encoder reads
                Phase::Decode => size_of::<f32>() * picture,
                _ => 0,
            };
            // In its text stage the first request has no tokens yet.
            if *stage != Phase::Text || requests.len() > 1 {
                memory.allocated += self.reference_bytes;
            }
        }
        Ok(())
    }
}

/// Asks the backend for its peak whenever a stage ends.
struct StageWatch<B: Backend> {
    be: B,
    stages: Vec<StageMemory>,
    in_stage: bool,
}

impl<B: Backend> Observer for StageWatch<B> {
    fn on_event(&mut self, event: &Event) {
        match *event {
            // A stage may begin with a load. Reset the peak then, so that earlier stages do not count.
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
