//! The memory a run takes, known before it begins.
//!
//! In:  a model's files, how it is to be run, the requests. Out: [`MemoryPlan`], the peak of each stage.
//!
//! A plan is a dry run: the recipe runs on a backend that allocates as usual and computes nothing. There is no second
//! account of what is in memory when, which could differ from the first.

mod host;
mod watch;

use std::cell::RefCell;

use flux2_backend::{Backend, Format, MemoryUse};

use crate::canvas::Source;
use crate::device::Device;
use crate::engine::{EngineOptions, GpuInfo, cpu, gpu};
use crate::event::{CancelToken, Phase};
use crate::pipeline::{BatchMember, Batching, MAX_PREPARED_PROMPTS, Pipeline, Residency};
use crate::request::{GenerateRequest, Reference};
use crate::text::Tokenizer;
use crate::weights::{ModelFiles, Precision, UpscalerFile};
use crate::{Error, Result};
use watch::{SharedWatch, StageWatch};

/// Host memory of the program itself, beside tensors, weights and the tokenizer: code and threads. Measured on Linux.
pub(crate) const CODE_BYTES: usize = 24 << 20;

/// Host memory that a run of the model takes whatever its requests are, in bytes: the program itself and the tokenizer.
///
/// # Errors
/// If the tokenizer's file cannot be read.
pub fn program_bytes(files: &ModelFiles) -> Result<usize> {
    Ok(CODE_BYTES + Tokenizer::memory(files.tokenizer.as_ref())?)
}

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

/// The least memory that `requests` take, in bytes: the smallest limit that [`within()`] keeps to.
///
/// # Errors
/// As [`of`].
pub fn least(
    files: &ModelFiles,
    options: &EngineOptions,
    requests: &[GenerateRequest],
    may_round: bool,
) -> Result<usize> {
    let options = options.for_model(files);
    DryRun::of(&options)?.least(files, &options, requests, may_round)
}

/// Check that a reference image that is read after the images `read` keeps to a limit of `limit` bytes, when reading it
/// takes `reading_bytes`, as [`Reference::reading_bytes_of`] says. This is before there can be a plan, which needs its
/// size. A limit for a GPU's memory leaves the host's alone.
///
/// # Errors
/// [`Error::MemoryLimit`] if it takes more; [`Error::Device`] if there is no such device.
pub fn check_reading(
    limit: usize,
    files: &ModelFiles,
    options: &EngineOptions,
    read: &[Reference],
    reading_bytes: usize,
) -> Result<()> {
    let held: usize = read.iter().map(|reference| reference.image().pixels().len()).sum();
    let least = program_bytes(files)? + held + reading_bytes;
    if least <= limit || matches!(DryRun::of(&options.for_model(files))?, DryRun::Gpu(..)) {
        return Ok(());
    }
    Err(Error::MemoryLimit { limit, least, stage: Phase::References, formats: vec![] })
}

/// The most memory of the device of `options` that an upscaler takes for `[h, w]` pixels at a time, the program
/// included.
///
/// # Errors
/// [`Error::Device`] if there is no such device, or a tensor cannot be read.
pub(crate) fn upscaler_peak(file: &UpscalerFile, options: &EngineOptions, size: [usize; 2]) -> Result<usize> {
    match DryRun::of(options)? {
        DryRun::Processor => cpu::upscaler_peak(file, options, size),
        DryRun::Gpu(info, _) => gpu::upscaler_peak(&info, file, options, size),
    }
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
            // Mostly all fit, and one plan says so.
            let count = if too_many > most { most } else { usize::midpoint(fit, too_many) };
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
        let mut least: Option<MemoryPlan> = None;
        let smaller = self.smaller_precisions(options.precision);
        let allowed = smaller.iter().copied().filter(|_| may_round);
        for precision in std::iter::once(options.precision).chain(allowed) {
            for residency in self.residencies(options.residency) {
                let attempt = |residency| {
                    let options = EngineOptions { precision, residency, max_memory: Some(limit), ..options.clone() };
                    let plan = self.plan(files, &options, requests)?;
                    Ok((options, plan))
                };
                let (within, plan) = attempt(residency)?;
                if plan.peak_bytes() > limit {
                    let is_less = |plan: &MemoryPlan| least.as_ref().is_none_or(|l| plan.peak_bytes() < l.peak_bytes());
                    least = Some(plan).filter(is_less).or(least);
                } else if residency == Residency::Blocks(0) {
                    let most = match options.residency {
                        Residency::Blocks(most) => most,
                        _ => files.transformer.config.double_blocks + files.transformer.config.single_blocks,
                    };
                    return most_blocks(most, limit, (within, plan), |count| attempt(Residency::Blocks(count)));
                } else {
                    return Ok((within, plan));
                }
            }
        }
        let least = least.expect("every residency has at least itself");
        let mut formats = Vec::new();
        for precision in smaller.into_iter().filter(|_| !may_round) {
            let options = EngineOptions { precision, residency: Residency::Smallest, ..options.clone() };
            let bytes = self.plan(files, &options, requests)?.peak_bytes();
            if bytes <= limit {
                formats.push((precision.to_string(), bytes));
            }
        }
        Err(Error::MemoryLimit { limit, least: least.peak_bytes(), stage: least.largest().stage, formats })
    }

    /// As [`least()`], on this device.
    ///
    /// # Errors
    /// As there.
    pub fn least(
        &self,
        files: &ModelFiles,
        options: &EngineOptions,
        requests: &[GenerateRequest],
        may_round: bool,
    ) -> Result<usize> {
        let smaller = self.smaller_precisions(options.precision).into_iter().filter(|_| may_round);
        let plans = std::iter::once(options.precision).chain(smaller).map(|precision| {
            let options = EngineOptions { precision, residency: Residency::Smallest, ..options.clone() };
            Ok(self.plan(files, &options, requests)?.peak_bytes())
        });
        Ok(plans.collect::<Result<Vec<_>>>()?.into_iter().min().expect("the precision of the options is one"))
    }

    /// `precision` with each smaller format of weights, the most exact first.
    fn smaller_precisions(&self, precision: Precision) -> Vec<Precision> {
        let size = |format: Format| format.dtype().map_or(usize::MAX, |dtype| dtype.bytes(256));
        let formats = self.smaller_formats().iter().filter(|format| size(**format) < size(precision.blocks()));
        formats.filter_map(|format| Precision::new(precision.compute(), *format)).collect()
    }

    /// `asked` and those that keep less, in falling order. A GPU that would keep networks for the next picture does not
    /// give them up to load all of them again: it keeps fewer blocks.
    fn residencies(&self, asked: Residency) -> impl Iterator<Item = Residency> {
        let reloads_cost = matches!(self, DryRun::Gpu(..)) && asked != Residency::OneAtATime;
        asked.and_smaller().filter(move |residency| !(reloads_cost && *residency == Residency::OneAtATime))
    }
}

/// The way of running that keeps the most blocks, at most `most`, within `limit` bytes. `none` keeps none and fits.
fn most_blocks(
    most: usize,
    limit: usize,
    none: (EngineOptions, MemoryPlan),
    attempt: impl Fn(usize) -> Result<(EngineOptions, MemoryPlan)>,
) -> Result<(EngineOptions, MemoryPlan)> {
    let (mut best, mut fits, mut may_fit) = (none, 0, most);
    while fits < may_fit {
        let count = (fits + may_fit).div_ceil(2);
        let (options, plan) = attempt(count)?;
        if plan.peak_bytes() <= limit {
            (best, fits) = ((options, plan), count);
        } else {
            may_fit = count - 1;
        }
    }
    Ok(best)
}

/// The result of a dry run.
pub(crate) struct StagePeaks {
    /// The peak of each stage as the backend counts it.
    pub(crate) stages: Vec<StageMemory>,
    /// Host memory that reference tokens take at most, in bytes; no backend counts it.
    pub(crate) reference_bytes: usize,
}

/// Run `requests`, in this order, on `be`, which must be a dry-run backend. Where a decoder for previews is given,
/// previews are made.
pub(crate) fn dry_run<B: Backend>(
    be: B,
    files: &ModelFiles,
    options: &EngineOptions,
    requests: &[GenerateRequest],
    order: Order,
) -> Result<StagePeaks> {
    let wants_previews = options.previews.decoder_for(&files.vae.config).is_some();
    let mut pipeline = Pipeline::of_files(be.clone(), files.outline(), options.residency)?
        .with_precision(options.precision)
        .with_previews(options.previews.clone());
    let mut watch = StageWatch::new(be, wants_previews);
    let cancel = CancelToken::new();
    if order == Order::Together {
        return dry_run_together(pipeline, watch, requests);
    }
    if requests.len() > 1 {
        let prompts: Vec<&str> = requests.iter().take(MAX_PREPARED_PROMPTS).map(|r| r.prompt.as_str()).collect();
        pipeline.prepare_prompts(&prompts, &mut watch, &cancel)?;
    }
    let mut reference_bytes = 0;
    for request in unlike(requests) {
        pipeline.generate(&outline(request), &mut watch, &cancel)?;
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
    let mut observers: Vec<_> = requests.iter().map(|_| SharedWatch(&watch)).collect();
    let requests: Vec<GenerateRequest> = requests.iter().map(outline).collect();
    let members = requests.iter().zip(&mut observers);
    let members = members.map(|(request, observer)| BatchMember { request, observer, cancel: &cancel });
    let made = pipeline.generate_batch(&mut members.collect::<Vec<_>>(), Batching::SameBytes);
    made.into_iter().collect::<Result<Vec<_>>>()?;
    let reference_bytes = requests.len() * pipeline.reference_bytes();
    drop(observers);
    Ok(StagePeaks { stages: watch.into_inner().stages, reference_bytes })
}

/// `requests` without those that two others before are like but for the seed: a third takes what the second took.
fn unlike(requests: &[GenerateRequest]) -> Vec<&GenerateRequest> {
    let is_like = |a: &GenerateRequest, b: &GenerateRequest| {
        let same_references = a.references.len() == b.references.len()
            && a.references.iter().zip(&b.references).all(|(a, b)| a.is_clone_of(b));
        let rest = |r: &GenerateRequest| (r.width, r.height, r.steps, r.guidance, r.noise);
        let same_size = match (&a.upscale, &b.upscale) {
            (Some(a), Some(b)) => a.upscaler.is_same(&b.upscaler) && a.size == b.size,
            (a, b) => a.is_none() && b.is_none(),
        };
        let same_source = match (&a.source, &b.source) {
            (Some(a), Some(b)) => a.is_clone_of(b),
            (a, b) => a.is_none() && b.is_none(),
        };
        same_references && same_source && same_size && a.prompt == b.prompt && rest(a) == rest(b)
    };
    let mut unlike: Vec<&GenerateRequest> = Vec::new();
    for request in requests {
        if unlike.iter().filter(|before| is_like(before, request)).count() < 2 {
            unlike.push(request);
        }
    }
    unlike
}

/// A request whose source has no pixels, since nothing is drawn.
fn outline(request: &GenerateRequest) -> GenerateRequest {
    GenerateRequest { source: request.source.as_ref().map(Source::outline), ..request.clone() }
}
