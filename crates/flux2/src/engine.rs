//! A model behind an object: the only room that names backends.
//!
//! | file | holds |
//! |---|---|
//! | `unavailable` | why a GPU cannot be used |
//! | `opened` | an opened device, its backend's type erased |
//! | `host_limit` | a limit for the host's memory |
//! | `cpu`, `gpu` | the two kinds of device; `no_gpu` is the second in a build without GPUs |
//! | `machine` | what this machine offers |
//! | `together` | how many pictures a device should draw in one pass |

pub(crate) mod cpu;
#[cfg(all(feature = "cuda", target_os = "linux"))]
pub(crate) mod gpu;
#[cfg(not(all(feature = "cuda", target_os = "linux")))]
#[path = "engine/no_gpu.rs"]
pub(crate) mod gpu;
mod host_limit;
mod machine;
mod opened;
mod together;
mod unavailable;

use std::num::NonZeroUsize;
use std::path::PathBuf;

use flux2_backend::Format;

use crate::Result;
use crate::device::Device;
use crate::event::{CancelToken, Event, Observer};
use crate::explain::{ExplainOptions, Explanation};
use crate::pipeline::{BatchMember, Batching, DecodedImage, GeneratedImage, Residency};
use crate::plan::MemoryPlan;
use crate::preview::PreviewOptions;
use crate::request::GenerateRequest;
use crate::text_cache::TextCache;
use crate::variant::Variant;
use crate::weights::{Lora, ModelFiles, ModelPaths, Precision};

pub use flux2_base::parallel::{all_threads, usable_threads};
pub use gpu::GpuInfo;
pub use machine::{Machine, SystemLibrary, machine};
pub(crate) use opened::OpenDevice;
pub use together::{MAX_USEFUL_BATCH, useful_batch};
pub use unavailable::NoGpu;

/// A loaded model on some device.
pub trait Engine: Send {
    /// The member of the family it is.
    fn variant(&self) -> &'static Variant;

    /// The name of the model in the parameters of its pictures.
    fn name(&self) -> &str;

    /// The LoRAs that are added to it.
    fn loras(&self) -> &[Lora];

    /// The device, for people: its kind, instruction set, threads and number format.
    fn device(&self) -> &str;

    /// The device as an option would name it: the CPU, or a GPU by its number.
    fn place(&self) -> Device;

    /// Why it runs on the CPU, if a GPU was looked for.
    fn why_no_gpu(&self) -> Option<&NoGpu>;

    /// Bytes of memory that a GPU has; `None` for the processor, which shares the host's.
    fn device_memory(&self) -> Option<usize> {
        None
    }

    /// Energy that the device has used since some time in the past, in joules; `None` where that is not measured. The
    /// counter may advance in steps of up to 100 ms.
    fn energy(&self) -> Option<f64> {
        None
    }

    /// Make one picture.
    ///
    /// # Errors
    /// Anything wrong with the request, or no memory.
    fn generate(&mut self, request: &GenerateRequest) -> Result<GeneratedImage> {
        self.generate_with(request, &mut |_: &Event| {}, &CancelToken::new())
    }

    /// As [`generate`](Self::generate), with the events of the run, and a token that stops it; see
    /// [`Pipeline::generate`](crate::Pipeline::generate).
    ///
    /// # Errors
    /// As there; [`Error::Cancelled`](crate::Error::Cancelled) once `cancel` is cancelled.
    fn generate_with(
        &mut self,
        request: &GenerateRequest,
        observer: &mut dyn Observer,
        cancel: &CancelToken,
    ) -> Result<GeneratedImage> {
        let members = &mut [BatchMember { request, observer, cancel }];
        self.generate_batch(members, Batching::SameBytes).swap_remove(0)
    }

    /// Make several pictures, those of one size and number of steps in one pass; see
    /// [`Pipeline::generate_batch`](crate::Pipeline::generate_batch). Returns a result for each member, in their order.
    fn generate_batch(&mut self, members: &mut [BatchMember], batching: Batching) -> Vec<Result<GeneratedImage>> {
        self.draw_batch(members, batching).into_iter().map(|drawn| drawn?.convert()).collect()
    }

    /// As [`generate_batch`](Self::generate_batch), without the conversion to 8-bit colors: another thread can do it
    /// while the next pictures are drawn.
    fn draw_batch(&mut self, members: &mut [BatchMember], batching: Batching) -> Vec<Result<DecodedImage>>;

    /// Make one picture and explain it; see [`Pipeline::explain`](crate::Pipeline::explain).
    ///
    /// # Errors
    /// As there.
    fn explain(
        &mut self,
        request: &GenerateRequest,
        options: &ExplainOptions,
        observer: &mut dyn Observer,
        cancel: &CancelToken,
    ) -> Result<(GeneratedImage, Explanation)>;

    /// Encode prompts before the pictures they are for, so that the text encoder is loaded once for all of them.
    ///
    /// Only the first [`MAX_PREPARED_PROMPTS`](crate::pipeline::MAX_PREPARED_PROMPTS) are; the others are encoded with
    /// their pictures.
    ///
    /// # Errors
    /// [`Error::Cancelled`](crate::Error::Cancelled), or no memory.
    fn prepare_prompts(&mut self, prompts: &[&str], observer: &mut dyn Observer, cancel: &CancelToken) -> Result<()>;
}

/// How to run a model.
#[derive(Clone, Debug, Default)]
pub struct EngineOptions {
    /// The device, by default the one that draws soonest: see [`for_model`](Self::for_model).
    pub device: Device,
    /// The number format.
    pub precision: Precision,
    /// CPU threads; `None` is as many as run at once. More than that would only wait for each other, so no more are
    /// started.
    pub threads: Option<NonZeroUsize>,
    /// Where a GPU's libraries and compiled kernels are.
    pub gpu: GpuOptions,
    /// What stays in memory between stages.
    pub residency: Residency,
    /// Most bytes to take of the device's memory: of the host's where the CPU draws, of each GPU's otherwise. Fewer
    /// weights are kept in memory for it, and a request that cannot be drawn within it is refused.
    pub max_memory: Option<usize>,
    /// Where text embeddings are kept from run to run; `None` keeps none.
    pub text_cache: Option<TextCache>,
    /// How previews are made for an [`Observer`] that wants them.
    pub previews: PreviewOptions,
}

/// Parameters of the text encoder below which [`Device::Auto`] is the CPU. A process takes 0.7 s to a picture of
/// klein-mini on an H200, most of it to start, and 0.1 s on two cores of a server.
const FEWEST_PARAMETERS_FOR_A_GPU: u64 = 50_000_000;

impl EngineOptions {
    /// The number of CPU threads that are used: as many as are asked for, at most as many as run at once.
    pub fn usable_threads(&self) -> NonZeroUsize {
        usable_threads(self.threads)
    }

    /// These options for one model: where the choice of the device is left open, a small model runs on the CPU, which
    /// has drawn before a GPU has started.
    pub fn for_model(&self, files: &ModelFiles) -> Self {
        let is_small = files.text_encoder.config.layer_parameters() < FEWEST_PARAMETERS_FOR_A_GPU;
        let cpu_takes_format = self.precision.blocks() != Format::Fp8;
        let device = match self.device {
            Device::Auto if is_small && cpu_takes_format => Device::Cpu,
            device => device,
        };
        EngineOptions { device, ..self.clone() }
    }
}

/// Where the parts of a GPU's runtime are. The CPU needs none of it.
#[derive(Clone, Debug, Default)]
pub struct GpuOptions {
    /// Folders with NVIDIA's libraries, searched before the usual ones.
    pub library_folders: Vec<PathBuf>,
    /// Prefixes of Python installations, since pip has packages of the libraries.
    pub python_prefixes: Vec<PathBuf>,
    /// Where compiled kernels are kept from run to run; `None` compiles them each time.
    pub kernel_cache: Option<PathBuf>,
}

/// Open a model on the device of `options`.
///
/// # Errors
/// [`Error::Device`](crate::Error::Device) if there is no such device; otherwise as
/// [`Pipeline::load`](crate::Pipeline::load).
pub fn load(paths: &ModelPaths, options: &EngineOptions) -> Result<Box<dyn Engine>> {
    open(ModelFiles::open(paths)?, options)
}

/// As [`load`], with a model that was opened before or [that is in no file](ModelFiles::synthetic).
///
/// # Errors
/// [`Error::Device`](crate::Error::Device) if there is no such device; otherwise as
/// [`Pipeline::of_files`](crate::Pipeline::of_files).
pub fn open(files: ModelFiles, options: &EngineOptions) -> Result<Box<dyn Engine>> {
    let options = options.for_model(&files);
    open_device(&options)?.into_engine(files, &options, 1, &[])
}

/// Engines of one model, one on each device.
pub struct Engines {
    /// At least one engine.
    pub engines: Vec<Box<dyn Engine>>,
    /// GPUs that were tried as well and cannot be used.
    pub left_out: Vec<(Device, NoGpu)>,
}

/// As [`open`], on at most `most` of the devices that `options` allow: all GPUs, unless one of them or the CPU is
/// named. Memory-mapped weights are shared.
///
/// # Errors
/// As [`open`].
pub fn open_all(files: &ModelFiles, options: &EngineOptions, most: NonZeroUsize) -> Result<Engines> {
    let options = options.for_model(files);
    open_devices(&options, most)?.into_engines(files, &options, &[])
}

/// As [`open_all`], in the first way of running `requests` that takes at most `limit` bytes of the host's memory, or of
/// each GPU's; see [`plan::within`](crate::plan::within). Returns the options of that way and what it takes.
///
/// # Errors
/// As [`open_all`] and [`plan::within`](crate::plan::within).
pub fn open_within(
    limit: usize,
    files: &ModelFiles,
    options: &EngineOptions,
    requests: &[GenerateRequest],
    may_round: bool,
    most: NonZeroUsize,
) -> Result<(Engines, EngineOptions, MemoryPlan)> {
    let options = EngineOptions { max_memory: Some(limit), ..options.for_model(files) };
    let devices = open_devices(&options, most)?;
    let (options, plan) = devices.opened[0].dry_run().within(limit, files, &options, requests, may_round)?;
    Ok((devices.into_engines(files, &options, requests)?, options, plan))
}

/// The devices of a run.
pub(crate) struct Devices {
    /// At least one device.
    opened: Vec<Box<dyn OpenDevice>>,
    /// GPUs that were tried and cannot be used.
    left_out: Vec<(Device, NoGpu)>,
}

impl Devices {
    fn into_engines(self, files: &ModelFiles, options: &EngineOptions, planned: &[GenerateRequest]) -> Result<Engines> {
        let Devices { opened, left_out } = self;
        let count = opened.len();
        let engines = opened.into_iter().map(|device| device.into_engine(files.clone(), options, count, planned));
        Ok(Engines { engines: engines.collect::<Result<_>>()?, left_out })
    }
}

/// Open the device of `options`.
///
/// # Errors
/// [`Error::Device`](crate::Error::Device) if there is no such device.
pub(crate) fn open_device(options: &EngineOptions) -> Result<Box<dyn OpenDevice>> {
    Ok(open_devices(options, NonZeroUsize::MIN)?.opened.swap_remove(0))
}

/// Open the devices of `options`, at most `most`.
fn open_devices(options: &EngineOptions, most: NonZeroUsize) -> Result<Devices> {
    let no_gpu = match options.device {
        Device::Cpu => None,
        device => match gpu::open(options, most) {
            Ok(gpus) => return Ok(gpus),
            Err(no_gpu) if device == Device::Auto => Some(no_gpu),
            Err(no_gpu) => return Err(no_gpu.into_error(device)),
        },
    };
    Ok(Devices { opened: vec![cpu::open(options, no_gpu)?], left_out: Vec::new() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_model_is_drawn_by_the_cpu_unless_a_gpu_is_named() {
        let files = |name| ModelFiles::synthetic(Variant::by_name(name).unwrap()).unwrap();
        let device = |device, precision, name| {
            EngineOptions { device, precision, ..Default::default() }.for_model(&files(name)).device
        };
        let bf16 = Precision::BF16;
        assert_eq!(device(Device::Auto, bf16, "klein-mini"), Device::Cpu);
        assert_eq!(device(Device::Auto, bf16, "klein-4b"), Device::Auto);
        assert_eq!(device(Device::Cuda(None), bf16, "klein-mini"), Device::Cuda(None));
        assert_eq!(device(Device::Auto, Precision::FP8, "klein-mini"), Device::Auto);
    }
}
