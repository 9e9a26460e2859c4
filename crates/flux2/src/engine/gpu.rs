//! NVIDIA GPUs as devices. A build without them has `no_gpu.rs` in the place of this file, with equal signatures.

use std::io;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::thread;

use flux2_backend::{CudaBackend, CudaOptions, Format, cuda};
use flux2_base::Remedy;
use flux2_base::units::Memory;

use super::opened::{OpenDevice, Opened};
use super::{Devices, EngineOptions, GpuOptions, NoGpu, SystemLibrary};
use crate::Result;
use crate::device::Device;
use crate::plan::{self, DryRun, MemoryPlan, Order};
use crate::request::GenerateRequest;
use crate::upscale::OnDevice;
use crate::weights::{ModelFiles, Precision, UpscalerFile};

pub use flux2_backend::cuda::GpuInfo;

/// Open the GPU that `options` name, else the first `most` that can be used.
///
/// # Errors
/// If there is none; of several, why the first cannot be used.
pub(super) fn open(options: &EngineOptions, most: NonZeroUsize) -> Result<Devices, NoGpu> {
    let mut ordinals = ordinals(options);
    let (mut opened, mut left_out) = (Vec::new(), Vec::new());
    while opened.len() < most.get() && !ordinals.is_empty() {
        let next: Vec<usize> = ordinals.by_ref().take(most.get() - opened.len()).collect();
        let results: Vec<Result<Box<dyn OpenDevice>, NoGpu>> = match next[..] {
            [ordinal] => vec![open_one(options, ordinal)],
            // In parallel: the driver takes a second for each.
            _ => thread::scope(|scope| {
                // Where no thread can be started, when its turn comes.
                let open = |ordinal| move || open_one(options, ordinal);
                let start = |ordinal| (ordinal, thread::Builder::new().spawn_scoped(scope, open(ordinal)));
                let threads: Vec<_> = next.iter().copied().map(start).collect();
                let finish = |(ordinal, thread): (usize, io::Result<thread::ScopedJoinHandle<'_, _>>)| {
                    thread
                        .map_or_else(|_| open(ordinal)(), |thread| thread.join().expect("opening a GPU does not panic"))
                };
                threads.into_iter().map(finish).collect()
            }),
        };
        for (ordinal, result) in next.into_iter().zip(results) {
            match result {
                Ok(gpu) => opened.push(gpu),
                Err(no_gpu) => left_out.push((Device::Cuda(Some(ordinal)), no_gpu)),
            }
        }
    }
    match opened.is_empty() {
        true => Err(left_out.swap_remove(0).1),
        false => Ok(Devices { opened, left_out }),
    }
}

fn open_one(options: &EngineOptions, ordinal: usize) -> Result<Box<dyn OpenDevice>, NoGpu> {
    let (libraries, kernel_cache) = (search(&options.gpu), options.gpu.kernel_cache.clone());
    let EngineOptions { precision, max_memory: memory_limit, .. } = *options;
    let threads = Some(options.usable_threads());
    let cuda = CudaOptions { compute: precision.compute(), ordinal, libraries, kernel_cache, memory_limit, threads };
    let be = CudaBackend::new(cuda).map_err(|error| no_gpu(&error, options))?;
    check_format(&be, precision)?;
    let place = Device::Cuda(Some(ordinal));
    let label = format!("{place}, {}", be.gpu().name);
    let dry_run = DryRun::Gpu(be.gpu().clone(), ordinal);
    Ok(Box::new(Opened { be, label, place, threads: 0, dry_run, no_gpu: None }))
}

/// The GPU that `options` name, else the first that can be used, with its number. It is not opened.
///
/// # Errors
/// As [`open`].
pub(crate) fn find(options: &EngineOptions) -> Result<(GpuInfo, usize), NoGpu> {
    let search = search(&options.gpu);
    let found = ordinals(options).map(|ordinal| match cuda::find(ordinal, &search) {
        Ok(info) => Ok((info, ordinal)),
        Err(error) => Err(no_gpu(&error, options)),
    });
    // If none can be used, the first says why.
    found.reduce(Result::or).expect("`ordinals` is never empty")
}

/// See [`DryRun::plan`].
pub(crate) fn plan(
    gpu: &GpuInfo,
    ordinal: usize,
    files: &ModelFiles,
    options: &EngineOptions,
    requests: &[GenerateRequest],
    order: Order,
) -> Result<MemoryPlan> {
    let EngineOptions { device, precision, .. } = *options;
    let be = CudaBackend::dry_run(gpu.clone(), precision.compute(), None)?;
    check_format(&be, precision).map_err(|no_gpu| no_gpu.into_error(device))?;
    let run = plan::dry_run(be, files, options, requests, order)?;
    let device = format!("{}, {}", Device::Cuda(Some(ordinal)), gpu.name);
    Ok(MemoryPlan { device, stages: run.stages, program: cuda::CONTEXT_BYTES })
}

/// See [`plan::upscaler_peak`].
pub(crate) fn upscaler_peak(
    gpu: &GpuInfo,
    file: &UpscalerFile,
    options: &EngineOptions,
    size: [usize; 2],
) -> Result<usize> {
    let be = CudaBackend::dry_run(gpu.clone(), options.precision.compute(), None)?;
    Ok(OnDevice::load(&be, file)?.peak(size)?.total() + cuda::CONTEXT_BYTES)
}

/// Formats that weights may be rounded to in order to take less memory. Block formats save none: a GPU keeps weights as
/// it multiplies them, in one byte or in the compute dtype.
pub(crate) fn smaller_formats(gpu: &GpuInfo) -> &'static [Format] {
    if gpu.capability >= [8, 9] { &[Format::Fp8] } else { &[Format::Int8] }
}

/// Bytes of memory that a GPU has.
pub(super) fn memory(gpu: &GpuInfo) -> usize {
    gpu.memory
}

/// The GPUs that the driver knows, each in a line.
pub(super) fn list(options: &GpuOptions) -> Vec<String> {
    let gpus = cuda::gpus(&search(options)).unwrap_or_default();
    let line = |GpuInfo { name, capability: [major, minor], memory, multiprocessors }: &GpuInfo| {
        let memory = Memory(*memory);
        format!("{name}, compute capability {major}.{minor}, {memory}, {multiprocessors} multiprocessors")
    };
    gpus.iter().map(line).collect()
}

/// The system libraries that a GPU needs.
pub(super) fn libraries(options: &GpuOptions) -> Vec<SystemLibrary> {
    let state = |cuda::Found { library, state }: &cuda::Found| SystemLibrary {
        name: library.name(),
        state: state.as_ref().map(|loaded| (loaded.version.clone(), loaded.path.clone())).map_err(String::clone),
        install: library.install(),
    };
    cuda::libraries(&search(options)).iter().map(state).collect()
}

fn search(options: &GpuOptions) -> cuda::LibrarySearch {
    cuda::LibrarySearch { folders: options.library_folders.clone(), python_prefixes: options.python_prefixes.clone() }
}

/// Numbers of the GPUs to try: the one that `options` name, else all that the driver knows. At least one, so that there
/// is always a GPU to say what is missing.
fn ordinals(options: &EngineOptions) -> Range<usize> {
    match options.device {
        Device::Cuda(Some(ordinal)) => ordinal..ordinal + 1,
        _ => 0..cuda::gpus(&search(&options.gpu)).map_or(1, |gpus| gpus.len()),
    }
}

fn no_gpu(error: &cuda::Unavailable, options: &EngineOptions) -> NoGpu {
    let libraries = cuda::libraries(&search(&options.gpu));
    let driver = libraries.iter().find(|found| found.library == cuda::Library::Driver);
    let has_driver = driver.is_some_and(|found| found.state.is_ok());
    let remedy = match error {
        cuda::Unavailable::NoDevice { .. } => Some(Remedy::ListDevices),
        _ => error.hint().map(Remedy::advice),
    };
    NoGpu { reason: error.to_string(), remedy, has_driver }
}

fn check_format(be: &CudaBackend, precision: Precision) -> Result<(), NoGpu> {
    if be.takes(precision.blocks()) {
        return Ok(());
    }
    let GpuInfo { name, capability: [major, minor], .. } = be.gpu();
    let reason = format!("{name} (compute capability {major}.{minor}) has no products of {precision}");
    Err(NoGpu { reason, remedy: Some(Remedy::UseInt8OrBf16), has_driver: true })
}
