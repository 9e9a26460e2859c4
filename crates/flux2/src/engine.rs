//! A model behind an object: the only place where the type of the backend is chosen and forgotten.

use std::fmt;
use std::num::NonZeroUsize;
#[cfg(all(feature = "cuda", target_os = "linux"))]
use std::ops::Range;
use std::path::PathBuf;
use std::str::FromStr;
use std::thread;

use flux2_backend::{Backend, CpuBackend, CpuOptions, Format};
#[cfg(all(feature = "cuda", target_os = "linux"))]
use flux2_backend::{CudaBackend, CudaOptions, cuda};

use crate::bench::{self, OpEvent, Peaks};
use crate::event::{CancelToken, Observer};
use crate::pipeline::{GeneratedImage, Pipeline, Residency};
use crate::plan::{self, MemoryPlan, PROGRAM_BYTES};
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

    /// The same as one would ask for it: the processor, or a GPU by its number.
    fn place(&self) -> Device;

    /// Why it is not a GPU that it runs on, if one might have been expected.
    fn why_no_gpu(&self) -> Option<&NoGpu>;

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
    /// An NVIDIA GPU: the one of this number, as the driver counts from 0, else the first that can be used.
    Cuda(Option<usize>),
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Auto => f.write_str("auto"),
            Device::Cpu => f.write_str("cpu"),
            Device::Cuda(None) => f.write_str("cuda"),
            Device::Cuda(Some(ordinal)) => write!(f, "cuda:{ordinal}"),
        }
    }
}

/// A name that is no [`Device`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a device is auto, cpu, cuda, or one GPU by its number, as in cuda:1")]
pub struct ParseDeviceError;

/// As printed.
impl FromStr for Device {
    type Err = ParseDeviceError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "auto" => Ok(Device::Auto),
            "cpu" => Ok(Device::Cpu),
            "cuda" => Ok(Device::Cuda(None)),
            _ => {
                let number = name.strip_prefix("cuda:").filter(|n| n.bytes().all(|digit| digit.is_ascii_digit()));
                let ordinal = number.and_then(|number| number.parse().ok()).ok_or(ParseDeviceError)?;
                Ok(Device::Cuda(Some(ordinal)))
            }
        }
    }
}

/// Why [`Device::Auto`] is the processor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoGpu {
    /// In a line.
    pub reason: String,
    /// What would help.
    pub hint: Option<String>,
    /// Whether there is a driver, so that somebody meant this machine to have a GPU.
    pub has_driver: bool,
}

/// What a GPU needs of this machine. Nothing here matters to the processor.
#[derive(Clone, Debug, Default)]
pub struct GpuOptions {
    /// Folders with NVIDIA's libraries, searched before the usual ones.
    pub library_folders: Vec<PathBuf>,
    /// Where Pythons are installed: pip has packages of the libraries.
    pub python_prefixes: Vec<PathBuf>,
    /// Where compiled kernels are kept from run to run; `None` compiles them each time.
    pub kernel_cache: Option<PathBuf>,
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
    /// For GPUs.
    pub gpu: GpuOptions,
    /// What stays in memory between stages.
    pub residency: Residency,
    /// The most bytes that may be taken of each GPU's memory. Of the processor's memory, [`open_within`] keeps to a limit.
    pub gpu_memory: Option<usize>,
    /// Where text embeddings are kept from run to run; `None` keeps none.
    pub text_cache: Option<TextCache>,
}

impl Default for EngineOptions {
    fn default() -> Self {
        EngineOptions {
            device: Device::Auto,
            precision: Precision::default(),
            threads: None,
            gpu: GpuOptions::default(),
            residency: Residency::default(),
            gpu_memory: None,
            text_cache: None,
        }
    }
}

/// Evaluate an expression on whichever backend was chosen.
macro_rules! on_backend {
    ($chosen:expr, $be:ident => $work:expr) => {
        match $chosen {
            Chosen::Cpu($be, _) => $work,
            #[cfg(all(feature = "cuda", target_os = "linux"))]
            Chosen::Cuda($be, _) => $work,
        }
    };
}
/// Open a model on the device of `options`.
///
/// # Errors
/// [`Error::Device`] if there is no such device; otherwise as [`Pipeline::load`].
pub fn load(paths: &ModelPaths, options: &EngineOptions) -> Result<Box<dyn Engine>> {
    let backend = Chosen::new(options)?;
    backend.engine(ModelFiles::open(paths)?, options, 1)
}

/// The same with a model that was opened before, or [one that is in no file](ModelFiles::synthetic).
///
/// # Errors
/// [`Error::Device`] if there is no such device; otherwise as [`Pipeline::of_files`].
pub fn open(files: ModelFiles, options: &EngineOptions) -> Result<Box<dyn Engine>> {
    Chosen::new(options)?.engine(files, options, 1)
}

/// Engines of one model, one on each device; see [`fleet`](crate::fleet).
pub struct Engines {
    /// At least one.
    pub engines: Vec<Box<dyn Engine>>,
    /// GPUs that were tried beside them and cannot be used.
    pub left_out: Vec<(Device, NoGpu)>,
}

/// As [`open`], on each of the devices that `options` allow, at most `most`: on all GPUs, unless one of them or the processor is
/// named. Memory-mapped weights are shared.
///
/// # Errors
/// As [`open`].
pub fn open_all(files: &ModelFiles, options: &EngineOptions, most: NonZeroUsize) -> Result<Engines> {
    Chosen::all(options, most)?.engines(files, options)
}

/// The same in the first way of running `requests` that takes no more than `limit` bytes of the processor's memory, or of each GPU's;
/// see [`within`].
///
/// # Errors
/// As [`open_all`] and [`within`].
pub fn open_within(
    limit: usize,
    files: &ModelFiles,
    options: &EngineOptions,
    requests: &[GenerateRequest],
    may_round: bool,
    most: NonZeroUsize,
) -> Result<(Engines, EngineOptions, MemoryPlan)> {
    let options = EngineOptions { gpu_memory: Some(limit), ..options.clone() };
    let devices = Chosen::all(&options, most)?;
    let (options, plan) = devices.chosen[0].dry_run().within(limit, files, &options, requests, may_round)?;
    Ok((devices.engines(files, &options)?, options, plan))
}

/// What `requests`, one after the other, would take of memory. Nothing is computed.
///
/// # Errors
/// [`Error::Device`] if there is no such device, and anything wrong with a request.
pub fn plan(files: &ModelFiles, options: &EngineOptions, requests: &[GenerateRequest]) -> Result<MemoryPlan> {
    DryRun::new(options)?.plan(files, options, requests)
}

/// The first way of running `requests` that needs no more than `limit` bytes: as `options` say, or with fewer weights in memory
/// at a time, which gives the same pictures; if neither will do and it `may` be, with weights rounded to the first format that
/// fits.
///
/// # Errors
/// [`Error::MemoryLimit`] if there is none; otherwise as [`plan`].
pub fn within(
    limit: usize,
    files: &ModelFiles,
    options: &EngineOptions,
    requests: &[GenerateRequest],
    may_round: bool,
) -> Result<(EngineOptions, MemoryPlan)> {
    DryRun::new(options)?.within(limit, files, options, requests, may_round)
}

/// A device for a dry run: the processor, or a GPU known by its description alone.
pub enum DryRun {
    /// This one.
    Processor,
    /// With its number.
    #[cfg(all(feature = "cuda", target_os = "linux"))]
    Gpu(cuda::GpuInfo, usize),
}

impl DryRun {
    /// That of a run with `options`.
    fn new(options: &EngineOptions) -> Result<Self> {
        let device = options.device;
        match device {
            Device::Cpu => Ok(DryRun::Processor),
            Device::Auto => Ok(Self::gpu(options).unwrap_or(DryRun::Processor)),
            Device::Cuda(_) => {
                Self::gpu(options).map_err(|NoGpu { reason, hint, .. }| Error::Device { device, reason, hint })
            }
        }
    }

    /// The GPU that `options` name, else the first that can be used.
    #[cfg(all(feature = "cuda", target_os = "linux"))]
    fn gpu(options: &EngineOptions) -> Result<Self, NoGpu> {
        let search = search(&options.gpu);
        let found = ordinals(options).map(|ordinal| match cuda::find(ordinal, &search) {
            Ok(info) => Ok(DryRun::Gpu(info, ordinal)),
            Err(error) => Err(no_gpu(&error, options)),
        });
        // Where none can be used, the first says why.
        found.reduce(Result::or).expect("there is a GPU to ask for")
    }

    #[cfg(not(all(feature = "cuda", target_os = "linux")))]
    fn gpu(_options: &EngineOptions) -> Result<Self, NoGpu> {
        Err(NoGpu { reason: "this program was built without GPUs".into(), hint: None, has_driver: false })
    }

    /// See [`plan()`].
    ///
    /// # Errors
    /// As there.
    pub fn plan(
        &self,
        files: &ModelFiles,
        options: &EngineOptions,
        requests: &[GenerateRequest],
    ) -> Result<MemoryPlan> {
        let EngineOptions { device, precision, threads, residency, .. } = *options;
        let compute = precision.compute();
        match self {
            DryRun::Processor => {
                if precision.blocks() == Format::Fp8 {
                    let reason = "no processor has products of fp8".into();
                    return Err(Error::Device { device, reason, hint: Some(NO_FP8.into()) });
                }
                let be = CpuBackend::new(CpuOptions { compute, threads, dry_run: true, ..Default::default() });
                let mut stages = plan::dry_run(be, files, precision, residency, requests)?;
                plan::add_pictures(&mut stages, files.variant, requests)?;
                Ok(MemoryPlan { device: Device::Cpu.to_string(), stages, program: PROGRAM_BYTES })
            }
            #[cfg(all(feature = "cuda", target_os = "linux"))]
            DryRun::Gpu(gpu, ordinal) => {
                let be = CudaBackend::dry_run(gpu.clone(), compute, None)?;
                check_format(&be, precision).map_err(|NoGpu { reason, hint, .. }| Error::Device {
                    device,
                    reason,
                    hint,
                })?;
                let stages = plan::dry_run(be, files, precision, residency, requests)?;
                let device = format!("cuda:{ordinal}, {}", gpu.name);
                Ok(MemoryPlan { device, stages, program: cuda::CONTEXT_BYTES })
            }
        }
    }

    /// Formats that weights may be rounded to, to take less, the best first.
    fn smaller_formats(&self) -> &'static [Format] {
        match self {
            DryRun::Processor => &[Format::Q8_0, Format::Q4K],
            // In blocks they are no smaller: a GPU multiplies bytes or the compute dtype.
            #[cfg(all(feature = "cuda", target_os = "linux"))]
            DryRun::Gpu(gpu, _) if gpu.capability >= [8, 9] => &[Format::Fp8],
            #[cfg(all(feature = "cuda", target_os = "linux"))]
            DryRun::Gpu(..) => &[Format::Int8],
        }
    }

    /// See [`within()`].
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
        // No format is any use that is no smaller than the one there is.
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

/// What the device of `options` is, and what it could do at most, measured now.
///
/// # Errors
/// [`Error::Device`] if there is no such device.
pub fn peaks(options: &EngineOptions) -> Result<(String, Peaks)> {
    let (chosen, precision) = (Chosen::new(options)?, options.precision);
    let peaks = on_backend!(&chosen, be => Peaks::measure(be, precision));
    Ok((chosen.describe(precision), peaks))
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
    let (chosen, precision) = (Chosen::new(options)?, options.precision);
    let device = OpEvent::Device { name: chosen.describe(precision), threads: chosen.threads() };
    on_backend!(&chosen, be => bench::time_ops(be, precision, device, filter, each, cancel))
}

/// What this machine could run a model on.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Instruction set of the processor's kernels.
    pub processor: String,
    /// Threads of the processor.
    pub threads: usize,
    /// The GPUs that the driver knows.
    pub gpus: Vec<String>,
    /// What a GPU needs.
    pub libraries: Vec<SystemLibrary>,
    /// Why [`Device::Auto`] is not a GPU, if it is not.
    pub no_gpu: Option<NoGpu>,
}

/// A library of the system that a GPU needs.
#[derive(Clone, Debug)]
pub struct SystemLibrary {
    /// What people call it.
    pub name: &'static str,
    /// Its version and where it is, or why it cannot be used.
    pub state: Result<(String, PathBuf), String>,
    /// The command that installs it.
    pub install: &'static str,
}

/// What this machine could run a model on with `options`.
pub fn machine(options: &EngineOptions) -> Machine {
    let (compute, threads) = (options.precision.compute(), options.threads);
    let cpu = CpuBackend::new(CpuOptions { compute, threads, ..Default::default() });
    let no_gpu = Chosen::gpus(options, NonZeroUsize::MIN).err();
    let (libraries, gpus) = gpu_parts(options);
    Machine { processor: cpu.tier().to_string(), threads: cpu.threads(), gpus, libraries, no_gpu }
}

#[cfg(all(feature = "cuda", target_os = "linux"))]
fn gpu_parts(options: &EngineOptions) -> (Vec<SystemLibrary>, Vec<String>) {
    let search = search(&options.gpu);
    let libraries = cuda::libraries(&search).iter().map(|cuda::Found { library, state }| SystemLibrary {
        name: library.name(),
        state: state.as_ref().map(|loaded| (loaded.version.clone(), loaded.path.clone())).map_err(String::clone),
        install: library.install(),
    });
    let gpus = cuda::gpus(&search).unwrap_or_default();
    let gpus = gpus.iter().map(|cuda::GpuInfo { name, capability: [major, minor], memory, multiprocessors }| {
        let memory = plan::Memory(*memory);
        format!("{name}, compute capability {major}.{minor}, {memory}, {multiprocessors} multiprocessors")
    });
    (libraries.collect(), gpus.collect())
}

#[cfg(not(all(feature = "cuda", target_os = "linux")))]
fn gpu_parts(_options: &EngineOptions) -> (Vec<SystemLibrary>, Vec<String>) {
    (Vec::new(), Vec::new())
}

#[cfg(all(feature = "cuda", target_os = "linux"))]
fn search(gpu: &GpuOptions) -> cuda::LibrarySearch {
    cuda::LibrarySearch { folders: gpu.library_folders.clone(), python_prefixes: gpu.python_prefixes.clone() }
}

/// The backend of a run.
enum Chosen {
    Cpu(CpuBackend, Option<NoGpu>),
    /// With its number.
    #[cfg(all(feature = "cuda", target_os = "linux"))]
    Cuda(CudaBackend, usize),
}

/// The backends of a run on several devices, at least one, and the GPUs that were tried and cannot be used.
struct Devices {
    chosen: Vec<Chosen>,
    left_out: Vec<(Device, NoGpu)>,
}

impl Devices {
    fn engines(self, files: &ModelFiles, options: &EngineOptions) -> Result<Engines> {
        let Devices { chosen, left_out } = self;
        let count = chosen.len();
        let engines = chosen.into_iter().map(|chosen| chosen.engine(files.clone(), options, count));
        Ok(Engines { engines: engines.collect::<Result<_>>()?, left_out })
    }
}

/// The GPUs to be tried: the one that `options` name, else all, at least one.
#[cfg(all(feature = "cuda", target_os = "linux"))]
fn ordinals(options: &EngineOptions) -> Range<usize> {
    match options.device {
        Device::Cuda(Some(ordinal)) => ordinal..ordinal + 1,
        // Where the driver knows none, the first says why.
        _ => 0..cuda::gpus(&search(&options.gpu)).map_or(1, |gpus| gpus.len()),
    }
}

/// Why a GPU cannot be used.
#[cfg(all(feature = "cuda", target_os = "linux"))]
fn no_gpu(error: &cuda::Unavailable, options: &EngineOptions) -> NoGpu {
    let libraries = cuda::libraries(&search(&options.gpu));
    let driver = libraries.iter().find(|found| found.library == cuda::Library::Driver);
    let has_driver = driver.is_some_and(|found| found.state.is_ok());
    NoGpu { reason: error.to_string(), hint: error.hint().map(str::to_owned), has_driver }
}

/// Refuse a format that a GPU does not multiply.
#[cfg(all(feature = "cuda", target_os = "linux"))]
fn check_format(be: &CudaBackend, precision: Precision) -> Result<(), NoGpu> {
    if be.takes(precision.blocks()) {
        return Ok(());
    }
    let cuda::GpuInfo { name, capability: [major, minor], .. } = be.gpu();
    let reason = format!("{name} (compute capability {major}.{minor}) has no products of {precision}");
    Err(NoGpu { reason, hint: Some("use --dtype int8, or bf16".into()), has_driver: true })
}

/// What to do about fp8 on a processor.
const NO_FP8: &str = "fp8 is for GPUs; on a processor --dtype int8 is as small, and fast";

impl Chosen {
    /// The device of `options`.
    fn new(options: &EngineOptions) -> Result<Self> {
        Ok(Self::all(options, NonZeroUsize::MIN)?.chosen.swap_remove(0))
    }

    /// The devices of `options`, `most` of them where there are more.
    fn all(options: &EngineOptions, most: NonZeroUsize) -> Result<Devices> {
        let device = options.device;
        let no_gpu = match device {
            Device::Cpu => None,
            Device::Auto | Device::Cuda(_) => match Self::gpus(options, most) {
                Ok(gpus) => return Ok(gpus),
                Err(no_gpu) if device == Device::Auto => Some(no_gpu),
                Err(NoGpu { reason, hint, .. }) => return Err(Error::Device { device, reason, hint }),
            },
        };
        let EngineOptions { precision, threads, .. } = *options;
        if precision.blocks() == Format::Fp8 {
            let reason = no_gpu.map_or_else(|| "no processor has products of fp8".into(), |no_gpu| no_gpu.reason);
            return Err(Error::Device { device, reason, hint: Some(NO_FP8.into()) });
        }
        let compute = precision.compute();
        let cpu = CpuBackend::new(CpuOptions { compute, threads, ..Default::default() });
        Ok(Devices { chosen: vec![Chosen::Cpu(cpu, no_gpu)], left_out: Vec::new() })
    }

    /// The GPU that `options` name, else the first `most` that can be used.
    #[cfg(all(feature = "cuda", target_os = "linux"))]
    fn gpus(options: &EngineOptions, most: NonZeroUsize) -> Result<Devices, NoGpu> {
        let mut ordinals = ordinals(options);
        let (mut chosen, mut left_out) = (Vec::new(), Vec::new());
        while chosen.len() < most.get() && !ordinals.is_empty() {
            let next: Vec<usize> = ordinals.by_ref().take(most.get() - chosen.len()).collect();
            let opened: Vec<Result<Chosen, NoGpu>> = match next[..] {
                [ordinal] => vec![Self::gpu(options, ordinal)],
                // At once, since the driver takes its time for each.
                _ => thread::scope(|scope| {
                    let open = |ordinal| scope.spawn(move || Self::gpu(options, ordinal));
                    let threads: Vec<_> = next.iter().copied().map(open).collect();
                    threads.into_iter().map(|thread| thread.join().expect("opening a GPU does not panic")).collect()
                }),
            };
            for (ordinal, opened) in next.into_iter().zip(opened) {
                match opened {
                    Ok(gpu) => chosen.push(gpu),
                    Err(no_gpu) => left_out.push((Device::Cuda(Some(ordinal)), no_gpu)),
                }
            }
        }
        match chosen.is_empty() {
            true => Err(left_out.swap_remove(0).1),
            false => Ok(Devices { chosen, left_out }),
        }
    }

    /// One GPU.
    #[cfg(all(feature = "cuda", target_os = "linux"))]
    fn gpu(options: &EngineOptions, ordinal: usize) -> Result<Self, NoGpu> {
        let (libraries, kernel_cache) = (search(&options.gpu), options.gpu.kernel_cache.clone());
        let EngineOptions { precision, threads, gpu_memory: memory_limit, .. } = *options;
        let compute = precision.compute();
        let cuda = CudaOptions { compute, ordinal, libraries, kernel_cache, memory_limit, threads };
        let backend = CudaBackend::new(cuda).map_err(|error| no_gpu(&error, options))?;
        check_format(&backend, precision)?;
        Ok(Chosen::Cuda(backend, ordinal))
    }

    #[cfg(not(all(feature = "cuda", target_os = "linux")))]
    fn gpus(_options: &EngineOptions, _most: NonZeroUsize) -> Result<Devices, NoGpu> {
        Err(NoGpu { reason: "this program was built without GPUs".into(), hint: None, has_driver: false })
    }

    /// For people: device, instruction set, threads, number format.
    fn describe(&self, precision: Precision) -> String {
        match self {
            Chosen::Cpu(be, _) => {
                let threads = be.threads();
                format!("cpu, {}, {threads} thread{}, {precision}", be.tier(), if threads == 1 { "" } else { "s" })
            }
            #[cfg(all(feature = "cuda", target_os = "linux"))]
            Chosen::Cuda(be, ordinal) => format!("cuda:{ordinal}, {}, {precision}", be.gpu().name),
        }
    }

    /// Of the processor that compute; a GPU's are not counted.
    fn threads(&self) -> usize {
        match self {
            Chosen::Cpu(be, _) => be.threads(),
            #[cfg(all(feature = "cuda", target_os = "linux"))]
            Chosen::Cuda(..) => 0,
        }
    }

    /// What is like this device.
    fn dry_run(&self) -> DryRun {
        match self {
            Chosen::Cpu(..) => DryRun::Processor,
            #[cfg(all(feature = "cuda", target_os = "linux"))]
            Chosen::Cuda(be, ordinal) => DryRun::Gpu(be.gpu().clone(), *ordinal),
        }
    }

    /// The engine on this device, one of `count` that work at once.
    fn engine(self, files: ModelFiles, options: &EngineOptions, count: usize) -> Result<Box<dyn Engine>> {
        let device = self.describe(options.precision);
        let (place, no_gpu) = match &self {
            Chosen::Cpu(_, no_gpu) => (Device::Cpu, no_gpu.clone()),
            #[cfg(all(feature = "cuda", target_os = "linux"))]
            Chosen::Cuda(_, ordinal) => (Device::Cuda(Some(*ordinal)), None),
        };
        // What a GPU does not do is done by the host, for all of them.
        let threads = NonZeroUsize::new(self.threads()).or(options.threads).or(thread::available_parallelism().ok());
        let threads = threads.map_or(1, |all| all.get() / count);
        let threads = NonZeroUsize::new(threads).unwrap_or(NonZeroUsize::MIN);
        on_backend!(self, be => {
            let pipeline = Pipeline::of_files(be, files, options.residency)?
                .with_precision(options.precision)
                .with_threads(threads)
                .with_text_cache(options.text_cache.clone());
            Ok(Box::new(Loaded { pipeline, device, place, no_gpu }))
        })
    }
}

struct Loaded<B: Backend> {
    pipeline: Pipeline<B>,
    device: String,
    place: Device,
    no_gpu: Option<NoGpu>,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_read_as_they_are_printed() {
        for device in [Device::Auto, Device::Cpu, Device::Cuda(None), Device::Cuda(Some(0)), Device::Cuda(Some(15))] {
            assert_eq!(device.to_string().parse(), Ok(device));
        }
        for wrong in
            ["", "gpu", "CUDA", "cuda:", "cuda:x", "cuda:-1", "cuda:+1", "cuda: 1", "cuda1", "cpu:0", "cuda:1:2"]
        {
            assert_eq!(wrong.parse::<Device>(), Err(ParseDeviceError), "{wrong}");
        }
        assert_eq!(format!("cuda:{}0", usize::MAX).parse::<Device>(), Err(ParseDeviceError));
    }
}
