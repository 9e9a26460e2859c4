//! The CPU backend: a thread pool over shared memory, with SIMD kernels selected at run time.
//!
//! | file | holds |
//! |---|---|
//! | `buffer.rs` | tensor memory: buffers and the pool that recycles them |
//! | `gemm.rs` | blocked matrix product behind `linear`, its fused forms and `conv2d` |
//! | `matrix.rs`, `int8.rs` | weights as loaded: in their stored format, or quantized to int8 and packed |
//! | `lanes.rs` | reductions over a row |
//! | `peak.rs` | measured peak throughput of the processor, for benchmarks |
//! | the others | one op each |
//!
//! Results do not depend on the number of threads: each output element is summed by one thread, in a fixed order.

#![allow(unsafe_code)] // kernels: each block has a SAFETY comment

mod add_scaled;
mod attention;
mod buffer;
mod cast;
mod concat_cols;
mod concat_rows;
mod conv2d;
mod embedding;
mod euler_step;
mod gemm;
mod group_norm;
mod guide;
mod int8;
mod lanes;
mod linear;
mod linear_add;
mod linear_swiglu;
mod matrix;
mod modulated_layer_norm;
mod norm_rope;
mod patchify;
mod peak;
mod pixel_shuffle;
mod prelu;
mod rms_norm;
mod silu;

use std::num::NonZeroUsize;
use std::sync::Arc;

use bytemuck::Pod;

use crate::runtime::KernelLog;
use crate::{
    AttentionInput, Backend, Compute, ConvInput, Convolution, DType, Error, Format, GroupNorm, HostTensor, KernelRun,
    MemoryUse, ModulatedLayerNorm, Result, Rope, Runtime, Tensor, Weight,
};

use crate::quant::encode::encode_on;
pub use crate::simd::Tier;
use crate::simd::{self, Element, with_element};
use crate::threads::Threads;
use buffer::BufferPool;
pub use buffer::{Buffer, keep_freed_memory, return_freed_memory};
use int8::Int8Matrix;
pub use matrix::Matrix;
use matrix::StoredMatrix;

/// Options of a [`CpuBackend`].
#[derive(Clone, Copy, Debug)]
pub struct CpuOptions {
    /// Number format of the operands of matrix products.
    pub compute: Compute,
    /// Number of threads; `None` uses all that affinity and cgroup limits allow.
    pub threads: Option<NonZeroUsize>,
    /// SIMD tier; `None` detects the best one.
    pub tier: Option<Tier>,
    /// Dry run: ops allocate their buffers but compute nothing, to measure how much memory a run needs.
    pub dry_run: bool,
}

impl Default for CpuOptions {
    fn default() -> Self {
        CpuOptions { compute: Compute::Bf16, threads: None, tier: None, dry_run: false }
    }
}

/// The processor as a [`Backend`].
#[derive(Clone)]
pub struct CpuBackend {
    compute: Compute,
    tier: Tier,
    threads: Arc<Threads>,
    buffers: Arc<BufferPool>,
    log: KernelLog,
}

impl CpuBackend {
    /// Starts the threads.
    ///
    /// A `tier` the processor does not support falls back to the best supported tier below it.
    ///
    /// # Errors
    /// [`Error::NoThreads`] if the system starts none.
    pub fn new(options: CpuOptions) -> Result<Self> {
        Ok(CpuBackend {
            compute: options.compute,
            tier: options.tier.map_or_else(Tier::detect, Tier::lowered),
            threads: Arc::new(if options.dry_run {
                Threads::idle(options.threads)
            } else {
                Threads::new(options.threads)?
            }),
            buffers: Arc::default(),
            log: KernelLog::default(),
        })
    }

    /// The SIMD tier in use.
    pub fn tier(&self) -> Tier {
        self.tier
    }

    /// The number of threads in use.
    pub fn threads(&self) -> usize {
        self.threads.count()
    }

    /// Peak memory of tensors and scratch since the last [`Runtime::trim`], in bytes. Buffers in use and buffers kept
    /// for reuse together never exceed this by more than 128 MiB.
    pub fn peak_bytes(&self) -> usize {
        self.buffers.peak_bytes()
    }

    /// A buffer for `shape` with arbitrary contents: the caller must write every element.
    fn buffer(&self, dtype: DType, shape: &[usize]) -> Result<Buffer> {
        self.buffers.take(dtype.bytes(shape.iter().product()))
    }

    /// A new tensor filled by `fill`, which must write every element.
    fn build<T: Element>(&self, shape: &[usize], fill: impl FnOnce(&mut [T]) -> Result<()>) -> Result<Tensor<Self>> {
        let mut buffer = self.buffer(T::DTYPE, shape)?;
        fill(buffer.as_mut_slice(shape.iter().product()))?;
        Ok(Tensor::from_buffer(buffer, T::DTYPE, shape))
    }

    /// A new tensor whose rows are filled by `row(index, output row)`, on all threads.
    fn build_rows<T: Element>(
        &self,
        shape: &[usize],
        row: impl Fn(usize, &mut [T]) + Send + Sync,
    ) -> Result<Tensor<Self>> {
        let cols = *shape.last().expect("a tensor has at least one axis");
        self.build(shape, |out| {
            self.threads.for_rows(out, cols, row);
            Ok(())
        })
    }

    /// All elements of `x`, mutable and contiguous. Copies `x` first if its buffer is shared or `x` is a window.
    fn make_mut<'a, T: Element>(&self, x: &'a mut Tensor<Self>) -> Result<&'a mut [T]> {
        let whole = x.offset() == 0 && x.is_contiguous();
        if !whole || x.buffer_mut().is_none() {
            let copy = self.build_rows(x.shape(), |i, out: &mut [T]| out.copy_from_slice(x.row(i)))?;
            *x = copy;
        }
        let len = x.rows() * x.cols();
        Ok(x.buffer_mut().expect("made unique above").as_mut_slice(len))
    }
}

impl Tensor<CpuBackend> {
    /// Row `i` (all axes but the last flattened).
    fn row<T: Pod>(&self, i: usize) -> &[T] {
        let start = self.offset() + i * self.row_stride();
        &self.buffer().as_slice()[start..start + self.cols()]
    }

    /// All elements of a contiguous tensor.
    fn elements<T: Pod>(&self) -> &[T] {
        debug_assert!(self.is_contiguous());
        &self.buffer().as_slice()[self.offset()..self.offset() + self.rows() * self.cols()]
    }
}

impl Runtime for CpuBackend {
    type Buffer = Buffer;
    type Matrix = Matrix;
    type Mark = ();
    type Recordings = ();

    fn compute(&self) -> Compute {
        self.compute
    }

    // The number of threads is left out: it does not affect results.
    fn kernels(&self) -> String {
        format!("cpu, {}, {}", self.tier, self.compute)
    }

    fn peak_flops(&self, format: Format) -> Option<f64> {
        peak::flops(self.tier, self.compute, format, &self.threads)
    }

    fn peak_bandwidth(&self) -> Option<f64> {
        Some(peak::bandwidth(&self.threads))
    }

    fn mark(&self) -> Result<()> {
        Ok(())
    }

    fn is_done(&self, (): &()) -> Result<bool> {
        Ok(true)
    }

    fn wait_for(&self, (): &()) -> Result<()> {
        Ok(())
    }

    fn upload(&self, shape: &[usize], values: &[f32]) -> Result<Tensor<Self>> {
        if shape.iter().product::<usize>() != values.len() {
            return Err(Error::ByteCount { bytes: 4 * values.len(), dtype: DType::F32, shape: shape.to_vec() });
        }
        self.build(shape, |out| {
            out.copy_from_slice(values);
            Ok(())
        })
    }

    fn download(&self, x: &Tensor<Self>) -> Result<Vec<f32>> {
        let mut out = vec![0.0; x.rows() * x.cols()];
        with_element!(x.dtype(), T => self.threads.for_rows(&mut out, x.cols(), |i, out| {
            gemm::convert(self.tier, x.row::<T>(i), out);
        }));
        Ok(out)
    }

    fn load_matrix(&self, matrix: HostTensor, format: Format) -> Result<Matrix> {
        let stored = match format {
            Format::Int8 => return Ok(Matrix::Int8(Int8Matrix::new(self, &matrix)?)),
            Format::Fp8 => return Err(Error::Unsupported { what: "e4m3 products on the CPU" }),
            Format::AsStored => matrix,
            Format::Bf16 => encode_on(&self.threads, self.tier, &matrix, DType::Bf16)?,
            Format::Q8_0 => encode_on(&self.threads, self.tier, &matrix, DType::Q8_0)?,
            Format::Q4K => encode_on(&self.threads, self.tier, &matrix, DType::Q4K)?,
        };
        Ok(Matrix::Stored(StoredMatrix::new(stored, &self.buffers)))
    }

    fn trim(&self) {
        self.buffers.clear();
    }

    fn take_memory_peak(&self) -> MemoryUse {
        self.buffers.take_peak()
    }

    fn take_kernels_run(&self) -> Vec<KernelRun> {
        self.log.take()
    }
}

impl Backend for CpuBackend {
    fn linear(
        &self,
        x: &Tensor<Self>,
        weight: &Weight<Self>,
        bias: Option<&Tensor<Self>>,
        out: DType,
    ) -> Result<Tensor<Self>> {
        linear::linear(self, x, weight.matrix(), bias, out)
    }

    fn linear_add(
        &self,
        x: &mut Tensor<Self>,
        gate: Option<&Tensor<Self>>,
        y: &[&Tensor<Self>],
        weight: &Weight<Self>,
    ) -> Result<()> {
        linear_add::linear_add(self, x, gate, y, weight.matrix())
    }

    fn linear_swiglu(&self, x: &Tensor<Self>, gate: &Weight<Self>, up: &Weight<Self>) -> Result<Tensor<Self>> {
        linear_swiglu::linear_swiglu(self, x, gate.matrix(), up.matrix())
    }

    fn attention(&self, operands: &AttentionInput<Self>) -> Result<Tensor<Self>> {
        attention::attention(self, operands)
    }

    fn conv2d(&self, x: &ConvInput<Self>, conv: &Convolution<Self>, out: DType) -> Result<Tensor<Self>> {
        conv2d::conv2d(self, x, conv, out)
    }

    fn conv2d_add(&self, y: &mut Tensor<Self>, x: &ConvInput<Self>, conv: &Convolution<Self>) -> Result<()> {
        conv2d::conv2d_add(self, y, x, conv)
    }

    fn cast(&self, x: &Tensor<Self>, dtype: DType) -> Result<Tensor<Self>> {
        cast::cast(self, x, dtype)
    }

    fn concat_cols(&self, parts: &[&Tensor<Self>]) -> Result<Tensor<Self>> {
        concat_cols::concat_cols(self, parts)
    }

    fn concat_rows(&self, parts: &[&Tensor<Self>]) -> Result<Tensor<Self>> {
        concat_rows::concat_rows(self, parts)
    }

    fn embedding(&self, table: &Weight<Self>, ids: &[u32]) -> Result<Tensor<Self>> {
        embedding::embedding(self, table.matrix().stored().peek(), ids)
    }

    fn rms_norm(&self, x: &Tensor<Self>, weight: &Tensor<Self>, eps: f32) -> Result<Tensor<Self>> {
        rms_norm::rms_norm(self, x, weight, eps)
    }

    fn modulated_layer_norm(&self, x: &Tensor<Self>, norm: &ModulatedLayerNorm<Self>) -> Result<Tensor<Self>> {
        modulated_layer_norm::modulated_layer_norm(self, x, norm)
    }

    fn norm_rope(&self, x: &Tensor<Self>, weight: &Tensor<Self>, rope: &Rope<Self>, eps: f32) -> Result<Tensor<Self>> {
        norm_rope::norm_rope(self, x, weight, rope, eps)
    }

    fn silu(&self, x: &Tensor<Self>) -> Result<Tensor<Self>> {
        silu::silu(self, x)
    }

    fn guide(&self, uncond: &Tensor<Self>, cond: &Tensor<Self>, guidance: f32) -> Result<Tensor<Self>> {
        guide::guide(self, uncond, cond, guidance)
    }

    fn group_norm(&self, x: &Tensor<Self>, norm: &GroupNorm<Self>) -> Result<Tensor<Self>> {
        group_norm::group_norm(self, x, norm)
    }

    fn group_norm_statistics(&self, x: &ConvInput<Self>, norm: &GroupNorm<Self>) -> Result<Tensor<Self>> {
        group_norm::group_norm_statistics(self, x, norm)
    }

    fn patchify(&self, x: &Tensor<Self>, mean: &Tensor<Self>, std: &Tensor<Self>) -> Result<Tensor<Self>> {
        patchify::patchify(self, x, mean, std)
    }

    fn unpatchify(
        &self,
        tokens: &Tensor<Self>,
        size: [usize; 2],
        mean: &Tensor<Self>,
        std: &Tensor<Self>,
    ) -> Result<Tensor<Self>> {
        patchify::unpatchify(self, tokens, size, mean, std)
    }

    fn euler_step(&self, x: &mut Tensor<Self>, velocity: &Tensor<Self>, dt: f32) -> Result<()> {
        euler_step::euler_step(self, x, velocity, dt)
    }

    fn prelu(&self, x: &mut Tensor<Self>, slope: &Tensor<Self>) -> Result<()> {
        prelu::prelu(self, x, slope)
    }

    fn add_scaled(&self, x: &mut Tensor<Self>, y: &Tensor<Self>, scale: f32) -> Result<()> {
        add_scaled::add_scaled(self, x, y, scale)
    }

    fn pixel_shuffle(&self, x: &Tensor<Self>, base: &Tensor<Self>, scale: usize) -> Result<Tensor<Self>> {
        pixel_shuffle::pixel_shuffle(self, x, base, scale)
    }
}
