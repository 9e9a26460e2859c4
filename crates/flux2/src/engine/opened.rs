//! An opened device with its backend type erased: users of this trait are not generic over backends.

use std::num::NonZeroUsize;
use std::sync::Once;

use flux2_backend::Backend;
use flux2_backend::cpu::{keep_freed_memory, return_freed_memory};

use super::host_limit::HostLimit;
use super::{Device, Engine, EngineOptions, NoGpu, gpu};
use crate::Result;
use crate::bench::{self, OpEvent, Peaks, Rates};
use crate::event::{CancelToken, Event, Observer, Warning};
use crate::explain::{ExplainOptions, Explanation};
use crate::pipeline::{BatchMember, Batching, DecodedImage, GeneratedImage, Pipeline};
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

    /// An engine on this device, one of `count` that share the host's threads. With a memory limit, the requests
    /// `planned` are known to keep to it.
    ///
    /// # Errors
    /// As [`Pipeline::of_files`].
    fn into_engine(
        self: Box<Self>,
        files: ModelFiles,
        options: &EngineOptions,
        count: usize,
        planned: &[GenerateRequest],
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
        planned: &[GenerateRequest],
    ) -> Result<Box<dyn Engine>> {
        let device = self.describe(options.precision);
        // A GPU's memory is counted by its allocator.
        let limit = options.max_memory.filter(|_| self.place == Device::Cpu);
        let limit = limit.map(|bytes| HostLimit::new(bytes, self.dry_run.clone(), options.clone(), planned));
        // A GPU has none: what it does not do is done by the host, for all engines.
        let threads = NonZeroUsize::new(self.threads).unwrap_or(options.usable_threads());
        let threads = NonZeroUsize::new(threads.get() / count).unwrap_or(NonZeroUsize::MIN);
        let pipeline = Pipeline::of_files(self.be, files, options.residency)?
            .with_precision(options.precision)
            .with_threads(threads)
            .with_text_cache(options.text_cache.clone())
            .with_previews(options.previews.clone());
        match limit {
            // What planning and reading the tokenizer have left would count beside the plan.
            Some(_) => return_freed_memory(),
            None => keep_freed_memory(),
        }
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

impl<B: Backend> Loaded<B> {
    /// Keep to the limit of memory with a picture that is drawn alone.
    fn admit(&mut self, request: &GenerateRequest) -> Result<()> {
        let Some(limit) = &mut self.limit else { return Ok(()) };
        if let Some(residency) = limit.admit(self.pipeline.files(), request)? {
            self.pipeline.set_residency(residency);
        }
        Ok(())
    }

    /// Draw one picture, or several that fit together. They are converted here, to a quarter of the memory.
    fn draw_within_limit(&mut self, members: &mut [BatchMember], batching: Batching) -> Vec<Result<DecodedImage>> {
        if let [member] = &*members
            && let Err(error) = self.admit(member.request)
        {
            return vec![Err(error)];
        }
        let drawn = self.pipeline.draw_batch(members, batching);
        drawn.into_iter().map(|drawn| drawn?.convert().map(DecodedImage::from)).collect()
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

    fn draw_batch(&mut self, members: &mut [BatchMember], batching: Batching) -> Vec<Result<DecodedImage>> {
        members.iter_mut().for_each(|m| warn_if_unoptimized(flux2_backend::IS_OPTIMIZED, &UNOPTIMIZED, m.observer));
        let Some(limit) = &mut self.limit else { return self.pipeline.draw_batch(members, batching) };
        let together = match members.len() > 1 && limit.fit_together(self.pipeline.files(), members) {
            true => members.len(),
            false => 1,
        };
        let drawn = members.chunks_mut(together).flat_map(|members| self.draw_within_limit(members, batching));
        drawn.collect()
    }

    fn explain(
        &mut self,
        request: &GenerateRequest,
        options: &ExplainOptions,
        observer: &mut dyn Observer,
        cancel: &CancelToken,
    ) -> Result<(GeneratedImage, Explanation)> {
        warn_if_unoptimized(flux2_backend::IS_OPTIMIZED, &UNOPTIMIZED, observer);
        self.admit(request)?;
        self.pipeline.explain(request, options, observer, cancel)
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
