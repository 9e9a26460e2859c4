//! Kernel launches, copies between tensors, and tensors as the arguments of kernels.

use cudarc::driver::sys;

use super::driver::{Geometry, check};
use super::kernels::Source;
use crate::cuda::CudaBackend;
use crate::{DType, Result, Tensor};

impl CudaBackend {
    /// Bytes of an element in the compute dtype.
    pub(crate) fn compute_size(&self) -> usize {
        self.compute.dtype().bytes(1)
    }

    /// A tensor whose elements are whatever was in memory: every one must be written.
    pub(crate) fn empty(&self, shape: &[usize], dtype: DType) -> Result<Tensor<Self>> {
        let buffer = self.pool.take(shape.iter().product::<usize>() * dtype.bytes(1))?;
        Ok(Tensor::from_buffer(buffer, dtype, shape))
    }

    /// Queue a kernel of `source`.
    ///
    /// # Safety
    /// As [`Device::launch`].
    pub(crate) unsafe fn launch(
        &self,
        source: Source,
        name: &'static str,
        geometry: Geometry,
        arguments: &mut [Argument],
    ) -> Result<()> {
        if geometry.grid.contains(&0) || self.device.dry_run {
            return Ok(());
        }
        let function = self.kernels.function(&self.device, source, name)?;
        let mut pointers: Vec<_> = arguments.iter_mut().map(Argument::pointer).collect();
        // SAFETY: the caller vouches for the arguments.
        unsafe { self.device.launch(function, geometry, &mut pointers) }
    }

    /// Let a kernel have more shared memory than kernels have by themselves.
    pub(crate) fn allow_shared(&self, source: Source, name: &'static str, bytes: u32) -> Result<()> {
        if self.device.dry_run {
            return Ok(());
        }
        let function = self.kernels.function(&self.device, source, name)?;
        self.device.bind()?;
        let allowed = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // SAFETY: the function is loaded.
        check("cuFuncSetAttribute", unsafe {
            cudarc::driver::result::function::set_function_attribute(function, allowed, bytes as i32)
        })
    }

    /// Copy the rows of `x` to `to`, `stride` elements apart.
    pub(crate) fn copy_rows(&self, x: &Tensor<Self>, to: u64, stride: usize) -> Result<()> {
        let (rows, cols, size) = (x.rows(), x.cols(), x.dtype().bytes(1));
        if rows == 0 || cols == 0 || self.device.dry_run {
            return Ok(());
        }
        self.device.bind()?;
        if x.is_contiguous() && (stride == cols || rows == 1) {
            // SAFETY: the callers made `to` that large.
            let copied = unsafe {
                cudarc::driver::result::memcpy_dtod_async(to, x.address(), rows * cols * size, self.device.stream())
            };
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
        // SAFETY: the rows lie in `x`, and the callers made `to` that large.
        check("cuMemcpy2DAsync", unsafe { sys::cuMemcpy2DAsync_v2(&copy, self.device.stream()) }.result())
    }

    pub(crate) fn fill_with_zeros(&self, to: u64, bytes: usize) -> Result<()> {
        if self.device.dry_run {
            return Ok(());
        }
        self.device.bind()?;
        // SAFETY: the callers made `to` that large.
        check("cuMemsetD8Async", unsafe { cudarc::driver::result::memset_d8_async(to, 0, bytes, self.device.stream()) })
    }

    /// `x` without gaps between its rows: itself, or a copy.
    pub(crate) fn contiguous(&self, x: &Tensor<Self>) -> Result<Tensor<Self>> {
        if x.is_contiguous() {
            return Ok(x.clone());
        }
        let copy = self.empty(x.shape(), x.dtype())?;
        self.copy_rows(x, copy.address(), x.cols())?;
        Ok(copy)
    }

    /// Make `x` the only tensor in its memory, without gaps; copied if it was not.
    pub(crate) fn make_mut(&self, x: &mut Tensor<Self>) -> Result<()> {
        if !x.is_contiguous() || x.buffer_mut().is_none() {
            let copy = self.empty(x.shape(), x.dtype())?;
            self.copy_rows(x, copy.address(), x.cols())?;
            *x = copy;
        }
        // They are about to change.
        *x.buffer().quantized_rows() = None;
        Ok(())
    }
}

impl Tensor<CudaBackend> {
    /// Of the first element, on the GPU.
    pub(crate) fn address(&self) -> u64 {
        self.buffer().address() + (self.offset() * self.dtype().bytes(1)) as u64
    }

    /// Whether `n` neighbours at a time can be loaded of every row.
    pub(crate) fn is_wide(&self, n: usize) -> bool {
        let size = n * self.dtype().bytes(1);
        self.address().is_multiple_of(size as u64)
            && self.cols().is_multiple_of(n)
            && (self.rows() <= 1 || self.row_stride().is_multiple_of(n))
    }
}

/// An argument of a kernel.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Argument {
    /// An address on the GPU, 0 for none, or an `i64`.
    Long(u64),
    /// An `int`.
    Int(i32),
    /// A `float`.
    Float(f32),
}

impl Argument {
    fn pointer(&mut self) -> *mut std::ffi::c_void {
        match self {
            Argument::Long(value) => (&raw mut *value).cast(),
            Argument::Int(value) => (&raw mut *value).cast(),
            Argument::Float(value) => (&raw mut *value).cast(),
        }
    }
}

impl From<usize> for Argument {
    fn from(value: usize) -> Self {
        Argument::Long(value as u64)
    }
}

impl From<u64> for Argument {
    fn from(address: u64) -> Self {
        Argument::Long(address)
    }
}

impl From<i32> for Argument {
    fn from(value: i32) -> Self {
        Argument::Int(value)
    }
}

impl From<f32> for Argument {
    fn from(value: f32) -> Self {
        Argument::Float(value)
    }
}

/// The address of a tensor, of its first element.
impl From<&Tensor<CudaBackend>> for Argument {
    fn from(x: &Tensor<CudaBackend>) -> Self {
        Argument::Long(x.address())
    }
}

/// A size as the kernels' `int`.
///
/// # Panics
/// If it is none: lengths of rows are not that large.
pub(crate) fn int(size: usize) -> i32 {
    i32::try_from(size).expect("the length of a row")
}

/// Queue a kernel: `launch!(backend, source, name, geometry, [arguments])`.
macro_rules! launch {
    ($be:expr, $source:expr, $name:expr, $geometry:expr, [$($argument:expr),+ $(,)?]) => {
        $be.launch($source, $name, $geometry, &mut [$($crate::cuda::runtime::launch::Argument::from($argument)),+])
    };
}
pub(crate) use launch;
