//! Kernel launches: a kernel by source and name, its geometry, its arguments.

use std::ffi::c_void;

use cudarc::driver::{result, sys};

use super::driver::{Geometry, check};
use super::kernels::Source;
use crate::cuda::CudaBackend;
use crate::{Result, Tensor};

impl CudaBackend {
    /// Enqueues a kernel of `source`; nothing in a dry run or if the grid is empty.
    ///
    /// # Safety
    /// `arguments` must be those the kernel takes, and memory they point to as large as it reads and writes.
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

    /// Raises the limit of dynamic shared memory of a kernel above the default 48 KiB.
    pub(crate) fn allow_shared(&self, source: Source, name: &'static str, bytes: u32) -> Result<()> {
        if self.device.dry_run {
            return Ok(());
        }
        let function = self.kernels.function(&self.device, source, name)?;
        self.device.bind()?;
        let allowed = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // SAFETY: the function is loaded.
        check("cuFuncSetAttribute", unsafe {
            result::function::set_function_attribute(function, allowed, bytes as i32)
        })
    }
}

/// A kernel argument, by the size it has on the device.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Argument {
    /// A device address (0 for a null pointer) or an `i64`.
    Long(u64),
    /// An `int`.
    Int(i32),
    /// A `float`.
    Float(f32),
}

impl Argument {
    fn pointer(&mut self) -> *mut c_void {
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

/// Device address of the first element.
impl From<&Tensor<CudaBackend>> for Argument {
    fn from(x: &Tensor<CudaBackend>) -> Self {
        Argument::Long(x.address())
    }
}

/// A size as the kernels' `int`.
///
/// # Panics
/// If it does not fit: rows are never that long.
pub(crate) fn int(size: usize) -> i32 {
    i32::try_from(size).expect("the length of a row")
}

/// Enqueues a kernel: `launch!(backend, source, name, geometry, [arguments])`.
macro_rules! launch {
    ($be:expr, $source:expr, $name:expr, $geometry:expr, [$($argument:expr),+ $(,)?]) => {
        $be.launch($source, $name, $geometry, &mut [$($crate::cuda::runtime::launch::Argument::from($argument)),+])
    };
}
pub(crate) use launch;
