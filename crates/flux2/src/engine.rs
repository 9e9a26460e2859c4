//! A model behind an object: the only place where the type of the backend is chosen and forgotten.

use std::fmt;
use std::num::NonZeroUsize;

use flux2_backend::{Backend, CpuBackend, CpuOptions, Format};

use crate::bench::{self, OpEvent, Peaks};
use crate::event::{CancelToken, Observer};
use crate::pipeline::{GeneratedImage, Pipeline, Residency};
use crate::plan::{self, MemoryPlan};
use crate::request::GenerateRequest;
use crate::text_cache::TextCache;
use crate::variant::Variant;
use crate::weights::{Lora, ModelFiles, ModelPaths, Precision};
use crate::{Error, Result};

/// A loaded model on some device.
pub trait Engine: Send {
    /// Which member of the family it is.
    fn variant(&self) -> &'static Variant;

    /// What the model is called in the parameters of its pictures.
    fn name(&self) -> &str;

    /// The LoRAs that are added to it.
    fn loras(&self) -> &[Lora];

    /// What it runs on, for people: device, instruction set, threads, number format.
    fn device(&self) -> &str;

    /// Make one picture; see [`Pipeline::generate`].
    ///
    /// # Errors
    /// [`Error::Cancelled`], anything wrong with the request, or no memory.
    fn generate(
        &mut self,
        request: &GenerateRequest,
        observer: &mut dyn Observer,
        cancel: &CancelToken,
    ) -> Result<GeneratedImage>;

    /// Encode prompts before the pictures they are for, so that the text encoder is loaded once for all of them.
    /// Only the first [`MAX_PREPARED_PROMPTS`](crate::pipeline::MAX_PREPARED_PROMPTS) are; the others are encoded when
    /// their picture comes.
    ///
    /// # Errors
    /// [`Error::Cancelled`], or no memory.
    fn prepare_prompts(&mut self, prompts: &[&str], observer: &mut dyn Observer, cancel: &CancelToken) -> Result<()>;
}

/// Where to run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Device {
    /// The fastest there is.
    #[default]
    Auto,
    /// The processor.
    Cpu,
    /// An NVIDIA GPU.
    Cuda,
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Device::Auto => "auto",
            Device::Cpu => "cpu",
            Device::Cuda => "cuda",
        })
    }
}

/// How to run a model.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Where.
    pub device: Device,
    /// In which number format.
    pub precision: Precision,
    /// CPU threads; `None` is as many as this process may use.
    pub threads: Option<NonZeroUsize>,
    /// What stays in memory between stages.
    pub residency: Residency,
    /// Where text embeddings are kept from run to run; `None` keeps none.
    pub text_cache: Option<TextCache>,
}

impl Default for EngineOptions {
    fn default() -> Self {
        EngineOptions {
            device: Device::Auto,
            precision: Precision::default(),
            threads: None,
            residency: Residency::default(),
            text_cache: None,
        }
    }
}

/// Open a model on the device of `options`.
///
/// # Errors
/// [`Error::Device`] if there is no such device; otherwise as [`Pipeline::load`].
pub fn load(paths: &ModelPaths, options: &EngineOptions) -> Result<Box<dyn Engine>> {
    let be = backend(options)?;
    loaded(be, ModelFiles::open(paths)?, options)
}

/// The same with a model that was opened before, or [one that is in no file](ModelFiles::synthetic).
///
/// # Errors
/// [`Error::Device`] if there is no such device; otherwise as [`Pipeline::of_files`].
pub fn open(files: ModelFiles, options: &EngineOptions) -> Result<Box<dyn Engine>> {
    loaded(backend(options)?, files, options)
}

fn loaded(be: CpuBackend, files: ModelFiles, options: &EngineOptions) -> Result<Box<dyn Engine>> {
    let device = describe(&be, options.precision);
    let threads = NonZeroUsize::new(be.threads()).unwrap_or(NonZeroUsize::MIN);
    let pipeline = Pipeline::of_files(be, files, options.residency)?
        .with_precision(options.precision)
        .with_threads(threads)
        .with_text_cache(options.text_cache.clone());
    Ok(Box::new(Loaded { pipeline, device }))
}

/// What `requests`, one after the other, would take of memory. Nothing is computed.
///
/// # Errors
/// [`Error::Device`] if there is no such device, and anything wrong with a request.
pub fn plan(files: &ModelFiles, options: &EngineOptions, requests: &[GenerateRequest]) -> Result<MemoryPlan> {
    plan::rehearse(cpu(options, true)?, files, options.precision, options.residency, requests)
}

/// The first way of running `requests` that needs no more than `limit` bytes: as `options` say, or with fewer weights in memory
/// at a time, which gives the same pictures; if neither will do, with weights in one of the formats that are `allowed`, the
/// first that fits.
///
/// # Errors
/// [`Error::MemoryLimit`] if there is none; otherwise as [`plan`].
pub fn within(
    limit: usize,
    files: &ModelFiles,
    options: &EngineOptions,
    requests: &[GenerateRequest],
    allowed: &[Format],
) -> Result<(EngineOptions, MemoryPlan)> {
    let compute = options.precision.compute();
    let rounded = allowed.iter().filter_map(|format| Precision::new(compute, *format));
    let precisions = std::iter::once(options.precision).chain(rounded);
    let ways = precisions.flat_map(|p| options.residency.and_smaller().map(move |residency| (p, residency)));
    let mut least: Option<MemoryPlan> = None;
    for (precision, residency) in ways {
        let options = EngineOptions { precision, residency, ..options.clone() };
        let plan = plan(files, &options, requests)?;
        if plan.peak_bytes() <= limit {
            return Ok((options, plan));
        }
        least = Some(plan).filter(|plan| least.as_ref().is_none_or(|l| plan.peak_bytes() < l.peak_bytes())).or(least);
    }
    let least = least.expect("every residency has at least itself");
    Err(Error::MemoryLimit { limit, least: least.peak_bytes(), stage: least.largest().stage })
}

/// What the device of `options` is, and what it could do at most, measured now.
///
/// # Errors
/// [`Error::Device`] if there is no such device.
pub fn peaks(options: &EngineOptions) -> Result<(String, Peaks)> {
    let be = backend(options)?;
    Ok((describe(&be, options.precision), Peaks::measure(&be, options.precision)))
}

/// Time the ops whose name and shape hold `filter` on the device of `options`, and tell `each` what happens; returns how many
/// ops these are. Without any, nothing is measured.
///
/// # Errors
/// [`Error::Device`] if there is no such device, [`Error::Cancelled`], or no memory.
pub fn time_ops(
    options: &EngineOptions,
    filter: &str,
    each: &mut dyn FnMut(OpEvent),
    cancel: &CancelToken,
) -> Result<usize> {
    let be = backend(options)?;
    let device = OpEvent::Device { name: describe(&be, options.precision), threads: be.threads() };
    bench::time_ops(&be, options.precision, device, filter, each, cancel)
}

fn describe(be: &CpuBackend, precision: Precision) -> String {
    let threads = be.threads();
    format!("cpu, {}, {threads} thread{}, {precision}", be.tier(), if threads == 1 { "" } else { "s" })
}

/// The device of `options`.
fn backend(options: &EngineOptions) -> Result<CpuBackend> {
    cpu(options, false)
}

fn cpu(options: &EngineOptions, rehearse: bool) -> Result<CpuBackend> {
    let EngineOptions { device, precision, threads, .. } = *options;
    let compute = precision.compute();
    match device {
        Device::Auto | Device::Cpu => {
            Ok(CpuBackend::new(CpuOptions { compute, threads, rehearse, ..Default::default() }))
        }
        Device::Cuda => {
            Err(Error::Device { device: Device::Cuda, reason: "this version runs on the processor only".into() })
        }
    }
}

struct Loaded<B: Backend> {
    pipeline: Pipeline<B>,
    device: String,
}

impl<B: Backend> Engine for Loaded<B> {
    fn variant(&self) -> &'static Variant {
        self.pipeline.variant()
    }

    fn name(&self) -> &str {
        self.pipeline.name()
    }

    fn loras(&self) -> &[Lora] {
        self.pipeline.loras()
    }

    fn device(&self) -> &str {
        &self.device
    }

    fn generate(
        &mut self,
        request: &GenerateRequest,
        observer: &mut dyn Observer,
        cancel: &CancelToken,
    ) -> Result<GeneratedImage> {
        self.pipeline.generate(request, observer, cancel)
    }

    fn prepare_prompts(&mut self, prompts: &[&str], observer: &mut dyn Observer, cancel: &CancelToken) -> Result<()> {
        self.pipeline.prepare_prompts(prompts, observer, cancel)
    }
}
