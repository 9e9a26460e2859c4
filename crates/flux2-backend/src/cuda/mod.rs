//! The CUDA backend: one NVIDIA GPU, its libraries found at run time.
//!
//! | folder or file | holds |
//! |---|---|
//! | `runtime/` | libraries, driver, memory, offloaded weights, kernels, CUDA graphs |
//! | `product/` | products with weights and their epilogues: our Hopper kernels, cuBLASLt, int8 and e4m3 |
//! | `ops/` | the other ops: a launcher each, attention through cuDNN |
//! | `tensor.rs` | memory and addresses of tensors, copies between them |
//! | `peak.rs` | peak throughput, for benchmarks |
//! | `common.cuh` | what all `.cu` files share |
//!
//! Calls return when the work is enqueued; [`Runtime::wait`] and [`Runtime::download`] wait for it. No op waits. Every
//! output element is summed in one order, so the same GPU gives the same bytes.

#![allow(unsafe_code)] // calls to libraries and kernels: every block says why it is sound

mod ops;
mod peak;
mod product;
mod runtime;
mod tensor;

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::quant::encode::encode;
use crate::runtime::{KernelLog, PendingDownload};
use crate::threads::Threads;
use crate::{Compute, DType, Error, Format, HostTensor, KernelRun, MemoryUse, Result, Runtime, Tensor};

use ops::cudnn::Cudnn;
use product::cublaslt::{CublasLt, WORKSPACE};
pub use product::matrix::Matrix;
use product::quantized::{Quantized, QuantizedDType};
use runtime::download::Downloads;
use runtime::driver::{self, Device, Event, Geometry};
pub use runtime::driver::{GpuInfo, Unavailable};
use runtime::energy;
use runtime::kernels::{Kernels, Source, source};
use runtime::launch::{int, launch};
use runtime::libraries;
pub use runtime::libraries::{Found, Library, LibrarySearch, Loaded};
pub use runtime::memory::CONTEXT_BYTES;
use runtime::memory::{Buffer, Pool};
use runtime::offload::Offloader;
use runtime::replay;
pub use runtime::replay::{Mark, Recordings};
use runtime::tuning::Choices;
pub use tensor::TensorBuffer;

/// How to set up a [`CudaBackend`]. By default bf16 on the first GPU, without a cache or a limit.
#[derive(Clone, Debug)]
pub struct CudaOptions {
    /// The number format that products are computed in.
    pub compute: Compute,
    /// The number of the GPU in the driver's order, from 0.
    pub ordinal: usize,
    /// Where to look for NVIDIA's libraries. Only the first backend of a process searches.
    pub libraries: LibrarySearch,
    /// Folder that caches compiled kernels and timed algorithms. With `None` every process compiles the kernels, which
    /// takes some seconds, and uses the algorithms that cuBLASLt's heuristic picks.
    pub kernel_cache: Option<PathBuf>,
    /// Upper bound on the GPU memory of this process in bytes, [`CONTEXT_BYTES`] included.
    pub memory_limit: Option<usize>,
    /// Host threads that decode and upload weights; `None` starts as many as this process may use.
    pub threads: Option<NonZeroUsize>,
}

impl Default for CudaOptions {
    fn default() -> Self {
        CudaOptions {
            compute: Compute::Bf16,
            ordinal: 0,
            libraries: LibrarySearch::default(),
            kernel_cache: None,
            memory_limit: None,
            threads: None,
        }
    }
}

/// An NVIDIA GPU as a [`Backend`](crate::Backend).
#[derive(Clone)]
pub struct CudaBackend {
    // Dropped in this order: what uses the context before the context.
    cudnn: Option<Arc<Cudnn>>,
    cublaslt: Arc<CublasLt>,
    kernels: Arc<Kernels>,
    offloader: Arc<Offloader>,
    pool: Arc<Pool>,
    downloads: Downloads,
    device: Arc<Device>,
    threads: Arc<Threads>,
    compute: Compute,
    log: KernelLog,
    /// Scratch for weights that are quantized on the GPU. Kept from one to the next: freeing it each time fragments
    /// memory.
    staging: Arc<Mutex<Option<Buffer>>>,
}

/// What differs between a real GPU and a dry run.
struct Parts {
    device: Arc<Device>,
    compute: Compute,
    kernels: Kernels,
    choices: Option<Arc<Choices>>,
    cudnn: Option<Arc<Cudnn>>,
    threads: Threads,
}

/// NVIDIA's libraries as this process found them; loads them at the first call.
pub fn libraries(search: &LibrarySearch) -> &'static [Found] {
    libraries::load(search)
}

/// The GPUs of this machine, in the driver's order.
///
/// # Errors
/// If there is no driver or no GPU.
pub fn gpus(search: &LibrarySearch) -> Result<Vec<GpuInfo>, Unavailable> {
    if let Some(Found { library, state: Err(reason) }) =
        libraries::load(search).iter().find(|found| found.library == Library::Driver)
    {
        return Err(Unavailable::Library { library: *library, reason: reason.clone() });
    }
    let mut gpus = vec![driver::info(0)?];
    while let Ok(next) = driver::info(gpus.len()) {
        gpus.push(next);
    }
    Ok(gpus)
}

/// The properties of GPU `ordinal`, if everything needed to use it is present. Does not open it.
///
/// # Errors
/// As [`CudaBackend::new`].
pub fn find(ordinal: usize, search: &LibrarySearch) -> Result<GpuInfo, Unavailable> {
    driver::find(ordinal, search)
}

impl CudaBackend {
    /// Opens a GPU.
    ///
    /// # Errors
    /// If it does not exist or is too old, or a library is missing.
    pub fn new(options: CudaOptions) -> Result<Self, Unavailable> {
        let CudaOptions { compute, ordinal, libraries, kernel_cache, memory_limit, threads } = options;
        let device = Device::open(ordinal, &libraries)?;
        let choices = kernel_cache.as_deref().map(|folder| Choices::of(folder, &device.info, compute));
        let cudnn = (compute == Compute::Bf16).then(|| Cudnn::new(&device)).flatten().map(Arc::new);
        let kernels = Kernels::new(device.info.capability, compute, kernel_cache);
        let threads = Threads::new(threads).map_err(Unavailable::Driver)?;
        let parts = Parts { device, compute, kernels, choices, cudnn, threads };
        Self::assemble(parts, memory_limit).map_err(Unavailable::Driver)
    }

    /// A dry run on a GPU like `gpu`, which need not be present: ops allocate what they would and compute nothing.
    ///
    /// # Errors
    /// None is expected: within any limit there is room for what every run needs.
    pub fn dry_run(gpu: GpuInfo, compute: Compute, memory_limit: Option<usize>) -> Result<Self> {
        let kernels = Kernels::new(gpu.capability, compute, None);
        let device = Device::described(gpu);
        let parts = Parts { device, compute, kernels, choices: None, cudnn: None, threads: Threads::idle(None) };
        Self::assemble(parts, memory_limit)
    }

    fn assemble(parts: Parts, memory_limit: Option<usize>) -> Result<Self> {
        let Parts { device, compute, kernels, choices, cudnn, threads } = parts;
        let threads = Arc::new(threads);
        // A zero limit still creates the backend, with its workspace; the planner refuses what does not fit.
        let limit = memory_limit.map(|bytes| bytes.saturating_sub(CONTEXT_BYTES).max(WORKSPACE));
        let pool = Pool::new(Arc::clone(&device), limit, Arc::clone(&threads))?;
        let cublaslt = Arc::new(CublasLt::new(compute, &pool, choices)?);
        let offloader = Arc::new(Offloader::new(&device, &pool, &threads));
        let (kernels, log, staging) = (Arc::new(kernels), KernelLog::default(), Arc::default());
        let downloads = Downloads::default();
        Ok(CudaBackend { cudnn, cublaslt, kernels, offloader, pool, downloads, device, threads, compute, log, staging })
    }

    /// Properties of the GPU.
    pub fn gpu(&self) -> &GpuInfo {
        &self.device.info
    }

    /// Whether this GPU can multiply weights in `format`.
    pub fn takes(&self, format: Format) -> bool {
        QuantizedDType::of(format).is_none_or(|code| self.multiplies(code))
    }

    /// Logs a product of `op` by `kernel` in the compute dtype.
    fn note(&self, op: &'static str, kernel: &str) {
        let weights = (op != "attention").then_some(self.compute.dtype());
        self.log().note(op, weights, &format!("{kernel} {}", self.compute));
    }

    /// Logs a product by `kernel` with a quantized weight.
    fn note_quantized(&self, kernel: &str, weight: &Quantized) {
        self.log().note("linear", Some(weight.dtype.dtype()), &format!("{kernel} {}", weight.dtype));
    }

    /// The log of this thread's calls: while a graph is captured that of the graph.
    fn log(&self) -> KernelLog {
        replay::capture_log().unwrap_or_else(|| self.log.clone())
    }
}

impl Runtime for CudaBackend {
    type Buffer = TensorBuffer;
    type Matrix = Matrix;
    type Mark = Mark;
    type Recordings = Recordings;

    fn compute(&self) -> Compute {
        self.compute
    }

    fn kernels(&self) -> String {
        let versions = libraries::load(&LibrarySearch::default()).iter().filter_map(|found| found.state.as_ref().ok());
        let versions: Vec<_> = versions.map(|loaded| loaded.version.as_str()).collect();
        format!("cuda, {}, {}, {}", self.device.info.name, versions.join(", "), self.compute)
    }

    fn peak_flops(&self, format: Format) -> Option<f64> {
        peak::flops(self, format).ok()
    }

    fn peak_attention_flops(&self) -> Option<f64> {
        peak::attention_flops(self).ok()
    }

    fn peak_bandwidth(&self) -> Option<f64> {
        peak::bandwidth(self).ok()
    }

    fn energy(&self) -> Option<f64> {
        energy::total_joules(&self.device)
    }

    fn is_asynchronous(&self) -> bool {
        true
    }

    fn wait(&self) -> Result<()> {
        self.device.synchronize()
    }

    fn mark(&self) -> Result<Mark> {
        let event = Event::timed(&self.device)?;
        event.record(self.device.stream())?;
        Ok(Mark(event))
    }

    fn is_done(&self, mark: &Mark) -> Result<bool> {
        mark.0.is_done()
    }

    fn wait_for(&self, mark: &Mark) -> Result<()> {
        mark.0.wait()
    }

    fn between(&self, from: &Mark, to: &Mark) -> Result<Duration> {
        to.0.since(&from.0)
    }

    fn replay<E: From<Error>>(
        &self,
        recordings: &Recordings,
        inputs: &[&Tensor<Self>],
        work: impl FnMut(&[Tensor<Self>]) -> Result<Tensor<Self>, E>,
    ) -> Result<Tensor<Self>, E> {
        replay::replay(self, recordings, inputs, work)
    }

    fn upload(&self, shape: &[usize], values: &[f32]) -> Result<Tensor<Self>> {
        if shape.iter().product::<usize>() != values.len() {
            return Err(Error::ByteCount { bytes: 4 * values.len(), dtype: DType::F32, shape: shape.to_vec() });
        }
        let x = self.empty(shape, DType::F32)?;
        let bytes: &[u8] = bytemuck::cast_slice(values);
        const UNIT: usize = 64 << 10;
        self.pool.upload(&x.buffer().memory, bytes.len(), UNIT, |i, out| {
            out.copy_from_slice(&bytes[i * UNIT..][..out.len()])
        })?;
        Ok(x)
    }

    fn download(&self, x: &Tensor<Self>) -> Result<Vec<f32>> {
        let x = if x.dtype() == DType::F32 { self.contiguous(x)? } else { ops::cast::cast(self, x, DType::F32)? };
        let mut values = vec![0.0; x.rows() * x.cols()];
        if x.offset() == 0 {
            self.pool.download(&x.buffer().memory, &mut values)?;
        } else {
            let whole = self.empty(x.shape(), DType::F32)?;
            self.copy_rows(&x, whole.address(), x.cols())?;
            self.pool.download(&whole.buffer().memory, &mut values)?;
        }
        Ok(values)
    }

    fn start_download(&self, x: &Tensor<Self>) -> Result<PendingDownload> {
        let x = if x.dtype() == DType::F32 { self.contiguous(x)? } else { ops::cast::cast(self, x, DType::F32)? };
        let count = x.rows() * x.cols();
        if self.device.dry_run {
            return Ok(Box::new(move || Ok(vec![0.0; count])));
        }
        self.downloads.start(&self.device, x.address(), count)
    }

    fn load_matrix(&self, matrix: HostTensor, format: Format) -> Result<Matrix> {
        if let Some(code) = QuantizedDType::of(format) {
            return self.load_quantized(&matrix, code);
        }
        let placement = matrix.placement();
        let matrix = match format.dtype() {
            // Rounded to `dtype` as on the CPU, then multiplied in the compute dtype.
            Some(dtype) if !self.device.dry_run => encode(&matrix, dtype, &self.threads)?,
            _ => matrix,
        };
        self.load_dense(matrix, placement)
    }

    fn trim(&self) {
        self.offloader.clear();
        self.downloads.clear();
        *self.staging.lock().expect("no panic while the lock is held") = None;
        // An error here will surface at the next driver call.
        let _ = self.pool.trim();
    }

    fn take_memory_peak(&self) -> MemoryUse {
        MemoryUse { allocated: self.pool.take_peak(), mapped: 0 }
    }

    fn take_kernels_run(&self) -> Vec<KernelRun> {
        self.log.take()
    }
}

#[cfg(test)]
mod tests;
