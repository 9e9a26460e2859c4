//! An opened device with its backend type erased: users of this trait are not generic over backends.

use std::num::NonZeroUsize;
use std::sync::Once;

use flux2_backend::Backend;

use super::{Device, Engine, EngineOptions, NoGpu, gpu};
use crate::Result;
use crate::bench::{self, OpEvent, Peaks, Rates};
use crate::event::{CancelToken, Event, Observer, Warning};
use crate::pipeline::{BatchMember, Batching, GeneratedImage, Pipeline, Residency};
use crate::plan::DryRun;
use crate::request::GenerateRequest;
use crate::upscale::{Enlarge, OnDevice};
use crate::variant::Variant;
use crate::weights::{Lora, ModelFiles, Precision, UpscalerFile};

/// A device that is ready to run a model or to be timed.
pub(crate) trait OpenDevice: Send {
    /// For people: device, instruction set, threads, number format.
    fn describe(&self, precision: Precision) -> String;

    /// This device for a dry run.
    fn dry_run(&self) -> DryRun;

    /// The device as an option would name it.
    fn place(&self) -> Device;

    /// Why it is the CPU, if a GPU was looked for.
    fn why_no_gpu(&self) -> Option<NoGpu>;

    /// See [`bench::peaks`].
    fn peaks(&self, precision: Precision) -> Peaks;

    /// See [`bench::rates`].
    ///
    /// # Errors
    /// If there is no memory.
    fn rates(&self, precision: Precision) -> Result<Rates>;

    /// See [`bench::time_ops`].
    ///
    /// # Errors
    /// [`Error::Cancelled`](crate::Error::Cancelled), or no memory.
    fn time_ops(
        &self,
        precision: Precision,
        filter: &str,
        each: &mut dyn FnMut(OpEvent),
        cancel: &CancelToken,
    ) -> Result<usize>;

    /// An engine on this device, one of `count` that share the host's threads.
    ///
    /// # Errors
    /// As [`Pipeline::of_files`].
    fn into_engine(
        self: Box<Self>,
        files: ModelFiles,
        options: &EngineOptions,
        count: usize,
    ) -> Result<Box<dyn Engine>>;

    /// An upscaler on this device.
    ///
    /// # Errors
    /// As [`OnDevice::load`].
    fn into_upscaler(self: Box<Self>, file: &UpscalerFile) -> Result<Box<dyn Enlarge>>;
}

/// The one implementation.
pub(super) struct Opened<B> {
    pub(super) be: B,
    /// For people, without the number format.
    pub(super) label: String,
    /// The device as one would ask for it.
    pub(super) place: Device,
    /// CPU threads that the backend computes with; 0 for a GPU.
    pub(super) threads: usize,
    pub(super) dry_run: DryRun,
    /// Why it is the CPU, if a GPU was looked for.
    pub(super) no_gpu: Option<NoGpu>,
}

impl<B: Backend> OpenDevice for Opened<B> {
    fn describe(&self, precision: Precision) -> String {
        format!("{}, {precision}", self.label)
    }

    fn dry_run(&self) -> DryRun {
        self.dry_run.clone()
    }

    fn place(&self) -> Device {
        self.place
    }

    fn why_no_gpu(&self) -> Option<NoGpu> {
        self.no_gpu.clone()
    }

    fn peaks(&self, precision: Precision) -> Peaks {
        Peaks::measure(&self.be, precision)
    }

    fn rates(&self, precision: Precision) -> Result<Rates> {
        Rates::measure(&self.be, precision)
    }

    fn time_ops(
        &self,
        precision: Precision,
        filter: &str,
        each: &mut dyn FnMut(OpEvent),
        cancel: &CancelToken,
    ) -> Result<usize> {
        let device = OpEvent::Device { name: self.describe(precision), threads: self.threads };
        bench::time_ops_on(&self.be, precision, device, filter, each, cancel)
    }

    fn into_engine(
        self: Box<Self>,
        files: ModelFiles,
        options: &EngineOptions,
        count: usize,
    ) -> Result<Box<dyn Engine>> {
        let device = self.describe(options.precision);
        // A GPU's memory is counted by its allocator.
        let limit = options.max_memory.filter(|_| self.place == Device::Cpu);
        let limit = limit.map(|bytes| HostLimit { bytes, dry_run: self.dry_run.clone(), options: options.clone() });
        // A GPU has none: what it does not do is done by the host, for all engines.
        let threads = NonZeroUsize::new(self.threads).unwrap_or(options.usable_threads());
        let threads = NonZeroUsize::new(threads.get() / count).unwrap_or(NonZeroUsize::MIN);
        let pipeline = Pipeline::of_files(self.be, files, options.residency)?
            .with_precision(options.precision)
            .with_threads(threads)
            .with_text_cache(options.text_cache.clone());
        let memory = match &self.dry_run {
            DryRun::Processor => None,
            DryRun::Gpu(info, _) => Some(gpu::memory(info)),
        };
        Ok(Box::new(Loaded { pipeline, device, place: self.place, memory, no_gpu: self.no_gpu, limit }))
    }

    fn into_upscaler(self: Box<Self>, file: &UpscalerFile) -> Result<Box<dyn Enlarge>> {
        Ok(Box::new(OnDevice::load(&self.be, file)?))
    }
}

/// Done once the process was told that its kernels are slow.
static UNOPTIMIZED: Once = Once::new();

fn warn_if_unoptimized(is_optimized: bool, told: &Once, observer: &mut dyn Observer) {
    if !is_optimized {
        told.call_once(|| observer.on_event(&Event::Warning(Warning::Unoptimized)));
    }
}

/// A pipeline without its type parameter.
struct Loaded<B: Backend> {
    pipeline: Pipeline<B>,
    device: String,
    place: Device,
    memory: Option<usize>,
    no_gpu: Option<NoGpu>,
    limit: Option<HostLimit>,
}

/// A limit for the memory of the host, kept by planning each request before it runs.
struct HostLimit {
    bytes: usize,
    dry_run: DryRun,
    /// With the residency that the requests so far have needed.
    options: EngineOptions,
}

impl HostLimit {
    /// What may stay in memory so that `request` keeps within the limit too.
    ///
    /// # Errors
    /// [`Error::MemoryLimit`](crate::Error::MemoryLimit) if nothing is little enough.
    fn residency(&mut self, files: &ModelFiles, request: &GenerateRequest) -> Result<Residency> {
        let requests = std::slice::from_ref(request);
        let fits = self.dry_run.plan(files, &self.options, requests)?.peak_bytes() <= self.bytes;
        if fits {
            return Ok(self.options.residency);
        }
        (self.options, _) = self.dry_run.within(self.bytes, files, &self.options, requests, false)?;
        Ok(self.options.residency)
    }
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

    fn place(&self) -> Device {
        self.place
    }

    fn why_no_gpu(&self) -> Option<&NoGpu> {
        self.no_gpu.as_ref()
    }

    fn device_memory(&self) -> Option<usize> {
        self.memory
    }

    fn energy(&self) -> Option<f64> {
        self.pipeline.backend().energy()
    }

    fn generate_with(
        &mut self,
        request: &GenerateRequest,
        observer: &mut dyn Observer,
        cancel: &CancelToken,
    ) -> Result<GeneratedImage> {
        warn_if_unoptimized(flux2_backend::IS_OPTIMIZED, &UNOPTIMIZED, observer);
        if let Some(limit) = &mut self.limit {
            let before = limit.options.residency;
            let residency = limit.residency(self.pipeline.files(), request)?;
            if residency != before {
                self.pipeline.set_residency(residency);
            }
        }
        self.pipeline.generate(request, observer, cancel)
    }

    fn generate_batch(&mut self, members: &mut [BatchMember], batching: Batching) -> Vec<Result<GeneratedImage>> {
        if self.limit.is_some() {
            // The limit is kept for one picture at a time.
            let alone = |member: &mut BatchMember| self.generate_with(member.request, member.observer, member.cancel);
            return members.iter_mut().map(alone).collect();
        }
        members.iter_mut().for_each(|m| warn_if_unoptimized(flux2_backend::IS_OPTIMIZED, &UNOPTIMIZED, m.observer));
        self.pipeline.generate_batch(members, batching)
    }

    fn prepare_prompts(&mut self, prompts: &[&str], observer: &mut dyn Observer, cancel: &CancelToken) -> Result<()> {
        self.pipeline.prepare_prompts(prompts, observer, cancel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_without_optimization_says_so_once() {
        let mut warnings = Vec::new();
        let mut observer = |event: &Event| warnings.push(event.clone());
        let (slow, fast) = (Once::new(), Once::new());
        for _ in 0..2 {
            warn_if_unoptimized(false, &slow, &mut observer);
            warn_if_unoptimized(true, &fast, &mut observer);
        }
        assert!(matches!(warnings[..], [Event::Warning(Warning::Unoptimized)]), "{warnings:?}");
    }
}
