//! Tensors on the GPU: their memory, device addresses, alignment, copies of rows.

use std::sync::{Arc, Mutex, MutexGuard};

use cudarc::driver::{result, sys};

use super::CudaBackend;
use super::product::quantized::QuantizedRows;
use super::runtime::driver::check;
use super::runtime::memory::Buffer;
use crate::{DType, Result, Tensor};

/// The memory of a tensor, and its rows in int8 or e4m3 once they have been quantized: several products read the same
/// rows.
pub struct TensorBuffer {
    pub(super) memory: Buffer,
    quantized: Mutex<Option<Arc<QuantizedRows>>>,
}

impl TensorBuffer {
    /// The quantized rows of the one tensor that fills this buffer; `None` until they have been made.
    pub(super) fn quantized_rows(&self) -> MutexGuard<'_, Option<Arc<QuantizedRows>>> {
        self.quantized.lock().expect("no panic while the lock is held")
    }
}

impl Tensor<CudaBackend> {
    /// Device address of the first element.
    pub(super) fn address(&self) -> u64 {
        self.buffer().memory.address() + (self.offset() * self.dtype().bytes(1)) as u64
    }

    /// Whether every row can be loaded as vectors of `n` elements: aligned, and a multiple of `n` long.
    pub(super) fn is_wide(&self, n: usize) -> bool {
        let size = n * self.dtype().bytes(1);
        self.address().is_multiple_of(size as u64)
            && self.cols().is_multiple_of(n)
            && (self.rows() <= 1 || self.row_stride().is_multiple_of(n))
    }
}

impl CudaBackend {
    /// Bytes of an element in the compute dtype.
    pub(super) fn compute_size(&self) -> usize {
        self.compute.dtype().bytes(1)
    }

    /// An uninitialized tensor: the caller writes every element.
    pub(super) fn empty(&self, shape: &[usize], dtype: DType) -> Result<Tensor<Self>> {
        let memory = self.pool.take(shape.iter().product::<usize>() * dtype.bytes(1))?;
        Ok(Tensor::from_buffer(TensorBuffer { memory, quantized: Mutex::default() }, dtype, shape))
    }

    /// Enqueues a copy of the rows of `x` to address `to`, where rows are `stride` elements apart.
    pub(super) fn copy_rows(&self, x: &Tensor<Self>, to: u64, stride: usize) -> Result<()> {
        let (rows, cols, size) = (x.rows(), x.cols(), x.dtype().bytes(1));
        if rows == 0 || cols == 0 || self.device.dry_run {
            return Ok(());
        }
        self.device.bind()?;
        if x.is_contiguous() && (stride == cols || rows == 1) {
            // SAFETY: the callers allocated as much at `to`.
            let copied =
                unsafe { result::memcpy_dtod_async(to, x.address(), rows * cols * size, self.device.stream()) };
            return check("cuMemcpyDtoDAsync", copied);
        }
        let device = sys::CUmemorytype::CU_MEMORYTYPE_DEVICE;
        let copy = sys::CUDA_MEMCPY2D {
            srcXInBytes: 0,
            srcY: 0,
            srcMemoryType: device,
            srcHost: std::ptr::null(),
            srcDevice: x.address(),
            srcArray: std::ptr::null_mut(),
            srcPitch: x.row_stride() * size,
            dstXInBytes: 0,
            dstY: 0,
            dstMemoryType: device,
            dstHost: std::ptr::null_mut(),
            dstDevice: to,
            dstArray: std::ptr::null_mut(),
            dstPitch: stride * size,
            WidthInBytes: cols * size,
            Height: rows,
        };
        // SAFETY: the rows lie in `x`, and the callers allocated as much at `to`.
        check("cuMemcpy2DAsync", unsafe { sys::cuMemcpy2DAsync_v2(&copy, self.device.stream()) }.result())
    }

    /// Enqueues a copy of `items` items of `x`, the rows of each together, into a batch `[items, rows, cols]` without
    /// gaps. `to` is the address of the first item's rows in it.
    pub(super) fn copy_items(&self, x: &Tensor<Self>, to: u64, [items, rows, cols]: [usize; 3]) -> Result<()> {
        if items <= 1 {
            return self.copy_rows(x, to, cols);
        }
        let (own_rows, size) = (x.rows() / items, x.dtype().bytes(1));
        if own_rows == 0 || cols == 0 || self.device.dry_run {
            return Ok(());
        }
        if x.is_contiguous() {
            // The rows of an item are one long row.
            return self.copy_rows(&x.reshape("items", [items, own_rows * cols])?, to, rows * cols);
        }
        self.device.bind()?;
        let device = sys::CUmemorytype::CU_MEMORYTYPE_DEVICE;
        let copy = sys::CUDA_MEMCPY3D {
            srcXInBytes: 0,
            srcY: 0,
            srcZ: 0,
            srcLOD: 0,
            srcMemoryType: device,
            srcHost: std::ptr::null(),
            srcDevice: x.address(),
            srcArray: std::ptr::null_mut(),
            reserved0: std::ptr::null_mut(),
            srcPitch: x.row_stride() * size,
            srcHeight: own_rows,
            dstXInBytes: 0,
            dstY: 0,
            dstZ: 0,
            dstLOD: 0,
            dstMemoryType: device,
            dstHost: std::ptr::null_mut(),
            dstDevice: to,
            dstArray: std::ptr::null_mut(),
            reserved1: std::ptr::null_mut(),
            dstPitch: cols * size,
            dstHeight: rows,
            WidthInBytes: cols * size,
            Height: own_rows,
            Depth: items,
        };
        // SAFETY: the rows lie in `x`, and the callers allocated the batch.
        check("cuMemcpy3DAsync", unsafe { sys::cuMemcpy3DAsync_v2(&copy, self.device.stream()) }.result())
    }

    /// Enqueues zeroing `bytes` bytes at address `to`.
    pub(super) fn fill_with_zeros(&self, to: u64, bytes: usize) -> Result<()> {
        if self.device.dry_run {
            return Ok(());
        }
        self.device.bind()?;
        // SAFETY: the callers allocated as much at `to`.
        check("cuMemsetD8Async", unsafe { result::memset_d8_async(to, 0, bytes, self.device.stream()) })
    }

    /// `x` without gaps between its rows: shared if it has none, else copied.
    pub(super) fn contiguous(&self, x: &Tensor<Self>) -> Result<Tensor<Self>> {
        if x.is_contiguous() {
            return Ok(x.clone());
        }
        let copy = self.empty(x.shape(), x.dtype())?;
        self.copy_rows(x, copy.address(), x.cols())?;
        Ok(copy)
    }

    /// Makes `x` the only tensor in its buffer, without gaps, ready to be written: copied unless it is so already.
    pub(super) fn make_mut(&self, x: &mut Tensor<Self>) -> Result<()> {
        if !x.is_contiguous() || x.buffer_mut().is_none() {
            let copy = self.empty(x.shape(), x.dtype())?;
            self.copy_rows(x, copy.address(), x.cols())?;
            *x = copy;
        }
        // The rows are about to change.
        *x.buffer().quantized_rows() = None;
        Ok(())
    }
}
