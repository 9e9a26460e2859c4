//! The CPU as a device.

use flux2_backend::cpu::Tier;
use flux2_backend::{CpuBackend, CpuOptions, Format};
use flux2_base::Remedy;

use super::opened::{OpenDevice, Opened};
use super::{EngineOptions, NoGpu};
use crate::device::Device;
use crate::plan::{self, DryRun, MemoryPlan, Order};
use crate::request::GenerateRequest;
use crate::upscale::OnDevice;
use crate::weights::{ModelFiles, UpscalerFile};
use crate::{Error, Result};

/// Formats that weights may be rounded to in order to take less memory, the most exact first.
pub(crate) const SMALLER_FORMATS: &[Format] = &[Format::Q8_0, Format::Q4K];

/// Open the CPU. `no_gpu` says why it is not a GPU, if one was looked for.
///
/// # Errors
/// [`Error::Device`] if it cannot multiply the format of `options`.
pub(super) fn open(options: &EngineOptions, no_gpu: Option<NoGpu>) -> Result<Box<dyn OpenDevice>> {
    check_format(options, no_gpu.as_ref())?;
    let be = backend(options, false)?;
    let threads = be.threads();
    let label = format!("cpu, {}, {threads} thread{}", be.tier(), if threads == 1 { "" } else { "s" });
    Ok(Box::new(Opened { be, label, place: Device::Cpu, threads, dry_run: DryRun::Processor, no_gpu }))
}

/// See [`DryRun::plan`].
pub(crate) fn plan(
    files: &ModelFiles,
    options: &EngineOptions,
    requests: &[GenerateRequest],
    order: Order,
) -> Result<MemoryPlan> {
    check_format(options, None)?;
    let mut run = plan::dry_run(backend(options, true)?, files, options, requests, order)?;
    let decodes_previews = options.previews.decoder_for(&files.vae.config).is_some();
    run.add_host_memory(files.variant, requests, order, decodes_previews)?;
    Ok(MemoryPlan { device: Device::Cpu.to_string(), stages: run.stages, program: plan::program_bytes(files)? })
}

/// See [`plan::upscaler_peak`].
pub(crate) fn upscaler_peak(file: &UpscalerFile, options: &EngineOptions, size: [usize; 2]) -> Result<usize> {
    Ok(OnDevice::load(&backend(options, true)?, file)?.peak(size)?.total() + plan::CODE_BYTES)
}

/// Instruction set of the kernels and number of threads.
pub(super) fn describe(options: &EngineOptions) -> (String, usize) {
    (Tier::detect().to_string(), options.usable_threads().get())
}

fn backend(options: &EngineOptions, dry_run: bool) -> Result<CpuBackend> {
    let (compute, threads) = (options.precision.compute(), Some(options.usable_threads()));
    Ok(CpuBackend::new(CpuOptions { compute, threads, dry_run, ..Default::default() })?)
}

fn check_format(options: &EngineOptions, no_gpu: Option<&NoGpu>) -> Result<()> {
    if options.precision.blocks() != Format::Fp8 {
        return Ok(());
    }
    let reason = no_gpu.map_or_else(|| "no processor has products of fp8".into(), |no_gpu| no_gpu.reason.clone());
    Err(Error::Device { device: options.device, reason, remedy: Some(Remedy::UseInt8OnProcessor) })
}
