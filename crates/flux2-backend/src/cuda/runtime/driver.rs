//! A GPU as this process uses it: context, stream, cuBLASLt's handle, and driver calls with their errors.
//!
//! All work goes to one stream: later calls see the results of earlier ones, and freed memory can be handed out again
//! at once.

use std::cell::Cell;
use std::ffi::c_void;
use std::ptr;
use std::sync::Arc;
use std::time::Duration;

use cudarc::cublaslt::{result as cublaslt, sys as cublaslt_sys};
use cudarc::driver::{DriverError, result, sys};

use super::compiled;
use super::kernels::architecture;
use super::libraries::{self, Found, Library, LibrarySearch};
use crate::{Compute, Error, Result};

/// Why no GPU can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unavailable {
    /// A library is missing or cannot be loaded.
    #[error("{} cannot be used: {reason}", library.name())]
    Library {
        /// The library.
        library: Library,
        /// The loader's message.
        reason: String,
    },
    /// The driver has no GPU of this number.
    #[error("there is no GPU {ordinal}: the driver knows {count}")]
    NoDevice {
        /// The number asked for, from 0.
        ordinal: usize,
        /// The number of GPUs.
        count: usize,
    },
    /// The GPU lacks the instructions the kernels are made of.
    #[error("{name} has compute capability {}.{}, and 8.0 is needed", capability[0], capability[1])]
    TooOld {
        /// The name of the GPU.
        name: String,
        /// Its compute capability, major and minor.
        capability: [i32; 2],
    },
    /// A driver call failed.
    #[error("{0}")]
    Driver(Error),
}

impl Unavailable {
    /// What to do about it, as one sentence.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Unavailable::Library { library, .. } => Some(library.install()),
            Unavailable::NoDevice { .. } => Some("name one of the GPUs that the driver knows"),
            _ => None,
        }
    }
}

/// Properties of a GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GpuInfo {
    /// Product name as the driver reports it.
    pub name: String,
    /// Compute capability, major and minor.
    pub capability: [i32; 2],
    /// Total memory in bytes.
    pub memory: usize,
    /// Number of streaming multiprocessors.
    pub multiprocessors: u32,
}

/// A context on a GPU, alive as long as anything in it; in a dry run only the description of a GPU.
pub(crate) struct Device {
    pub(crate) info: GpuInfo,
    /// Dry run: never calls the driver, so libraries and GPU need not be there.
    pub(crate) dry_run: bool,
    context: sys::CUcontext,
    stream: sys::CUstream,
    pub(crate) cublaslt: cublaslt_sys::cublasLtHandle_t,
    pub(crate) ordinal: sys::CUdevice,
}

thread_local! {
    /// The device that this thread captures a graph for, and the capturing stream.
    static CAPTURING: Cell<Option<(*const Device, sys::CUstream)>> = const { Cell::new(None) };
}

// SAFETY: contexts, streams and cuBLASLt handles may be used from any thread.
unsafe impl Send for Device {}
// SAFETY: as above; the driver serializes calls on one stream.
unsafe impl Sync for Device {}

impl Device {
    pub(crate) fn open(ordinal: usize, search: &LibrarySearch) -> Result<Arc<Self>, Unavailable> {
        let info = find(ordinal, search)?;
        let refused = |call| move |error| Unavailable::Driver(driver_error(call, error));
        let ordinal = result::device::get(ordinal as i32).map_err(refused("cuDeviceGet"))?;
        // SAFETY: `ordinal` is a device of this driver.
        let context = unsafe { result::primary_ctx::retain(ordinal) }.map_err(refused("cuDevicePrimaryCtxRetain"))?;
        // SAFETY: the context was retained above.
        unsafe { result::ctx::set_current(context) }.map_err(refused("cuCtxSetCurrent"))?;
        let stream =
            result::stream::create(result::stream::StreamKind::NonBlocking).map_err(refused("cuStreamCreate"))?;
        let cublaslt = cublaslt::create_handle().map_err(|error| {
            Unavailable::Driver(Error::Device { call: "cublasLtCreate", reason: error.to_string() })
        })?;
        Ok(Arc::new(Device { info, dry_run: false, context, stream, cublaslt, ordinal }))
    }

    /// A device described by `info` that never calls the driver: for dry runs.
    pub(crate) fn described(info: GpuInfo) -> Arc<Self> {
        let [context, stream, cublaslt] = [ptr::null_mut(), ptr::null_mut(), ptr::null_mut::<c_void>()];
        let (context, stream, cublaslt) = (context.cast(), stream.cast(), cublaslt.cast());
        Arc::new(Device { info, dry_run: true, context, stream, cublaslt, ordinal: 0 })
    }

    /// The stream that this thread enqueues on: the device's, or the capturing one during [`capture`](Self::capture).
    pub(crate) fn stream(&self) -> sys::CUstream {
        match CAPTURING.get() {
            Some((device, stream)) if ptr::eq(device, self) => stream,
            _ => self.stream,
        }
    }

    /// Whether this thread is capturing a graph.
    pub(crate) fn is_capturing(&self) -> bool {
        CAPTURING.get().is_some_and(|(device, _)| ptr::eq(device, self))
    }

    /// Captures what `work` enqueues on this thread as a graph, without running it. Other threads are not affected;
    /// `work` must not synchronize.
    pub(crate) fn capture<T>(&self, work: impl FnOnce() -> T) -> Result<(T, Result<sys::CUgraph>)> {
        struct Capturing(sys::CUstream);
        impl Drop for Capturing {
            fn drop(&mut self) {
                CAPTURING.set(None);
                if !self.0.is_null() {
                    // SAFETY: created below; nothing runs on it. Errors cannot be handled here.
                    let _ = unsafe { result::stream::destroy(self.0) };
                }
            }
        }
        if self.dry_run {
            let capturing = Capturing(ptr::null_mut());
            CAPTURING.set(Some((self, capturing.0)));
            return Ok((work(), Ok(ptr::null_mut())));
        }
        self.bind()?;
        let stream = result::stream::create(result::stream::StreamKind::NonBlocking);
        let stream = Capturing(check("cuStreamCreate", stream)?);
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        // SAFETY: the stream was created above.
        check("cuStreamBeginCapture", unsafe { result::stream::begin_capture(stream.0, mode) })?;
        CAPTURING.set(Some((self, stream.0)));
        let done = work();
        CAPTURING.set(None);
        self.bind()?;
        // SAFETY: the stream is alive.
        let graph = check("cuStreamEndCapture", unsafe { result::stream::end_capture(stream.0) });
        Ok((done, graph))
    }

    /// Makes this device's context current on the calling thread.
    pub(crate) fn bind(&self) -> Result<()> {
        if self.dry_run {
            return Ok(());
        }
        // SAFETY: the context lives as long as `self`.
        check("cuCtxSetCurrent", unsafe { result::ctx::set_current(self.context) })
    }

    /// Waits until all enqueued work has finished.
    pub(crate) fn synchronize(&self) -> Result<()> {
        if self.dry_run {
            return Ok(());
        }
        self.bind()?;
        // SAFETY: the stream lives as long as `self`.
        check("cuStreamSynchronize", unsafe { result::stream::synchronize(self.stream) })
    }

    /// Enqueues a kernel.
    ///
    /// # Safety
    /// `arguments` must be those the kernel takes, and memory they point to as large as it reads and writes.
    pub(crate) unsafe fn launch(
        &self,
        function: sys::CUfunction,
        geometry: Geometry,
        arguments: &mut [*mut c_void],
    ) -> Result<()> {
        self.bind()?;
        let Geometry { grid: [x, y, z], block, shared } = geometry;
        // SAFETY: the caller vouches for the arguments; the stream lives as long as `self`.
        let launched =
            unsafe { result::launch_kernel(function, (x, y, z), (block, 1, 1), shared, self.stream(), arguments) };
        check("cuLaunchKernel", launched)
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if self.dry_run {
            return;
        }
        // Errors cannot be handled here.
        // SAFETY: created in `open`, and nothing that uses them outlives `self`.
        unsafe {
            let _ = result::ctx::set_current(self.context);
            let _ = result::stream::synchronize(self.stream);
            let _ = cublaslt::destroy_handle(self.cublaslt);
            let _ = result::stream::destroy(self.stream);
            let _ = result::primary_ctx::release(self.ordinal);
        }
    }
}

/// A CUDA stream beside the device's own.
pub(crate) struct Stream {
    stream: sys::CUstream,
    device: Arc<Device>,
}

// SAFETY: streams may be used from any thread.
unsafe impl Send for Stream {}

impl Stream {
    pub(crate) fn new(device: &Arc<Device>) -> Result<Self> {
        let device = Arc::clone(device);
        device.bind()?;
        let stream = match device.dry_run {
            true => ptr::null_mut(),
            false => check("cuStreamCreate", result::stream::create(result::stream::StreamKind::NonBlocking))?,
        };
        Ok(Stream { stream, device })
    }

    pub(crate) fn raw(&self) -> sys::CUstream {
        self.stream
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if !self.device.dry_run {
            // Errors cannot be handled here.
            let _ = self.device.bind();
            // SAFETY: created in `new`; synchronized before it is destroyed.
            unsafe {
                let _ = result::stream::synchronize(self.stream);
                let _ = result::stream::destroy(self.stream);
            }
        }
    }
}

/// A CUDA event; complete if never recorded.
pub(crate) struct Event {
    event: sys::CUevent,
    device: Arc<Device>,
}

// SAFETY: events may be used from any thread.
unsafe impl Send for Event {}
// SAFETY: as above.
unsafe impl Sync for Event {}

impl Event {
    pub(crate) fn new(device: &Arc<Device>) -> Result<Self> {
        Self::with(device, sys::CUevent_flags::CU_EVENT_DISABLE_TIMING)
    }

    /// An event with a time stamp.
    pub(crate) fn timed(device: &Arc<Device>) -> Result<Self> {
        Self::with(device, sys::CUevent_flags::CU_EVENT_DEFAULT)
    }

    fn with(device: &Arc<Device>, flags: sys::CUevent_flags) -> Result<Self> {
        let device = Arc::clone(device);
        device.bind()?;
        let event = match device.dry_run {
            true => ptr::null_mut(),
            false => check("cuEventCreate", result::event::create(flags))?,
        };
        Ok(Event { event, device })
    }

    /// The time from `earlier` to this event; both have time stamps and are complete.
    pub(crate) fn since(&self, earlier: &Event) -> Result<Duration> {
        if self.device.dry_run {
            return Ok(Duration::ZERO);
        }
        self.device.bind()?;
        // SAFETY: both events are alive and complete.
        let milliseconds = check("cuEventElapsedTime", unsafe { result::event::elapsed(earlier.event, self.event) })?;
        Ok(Duration::from_secs_f32(milliseconds.max(0.0) / 1e3))
    }

    /// Records the event behind all work enqueued on `stream` so far.
    pub(crate) fn record(&self, stream: sys::CUstream) -> Result<()> {
        if self.device.dry_run {
            return Ok(());
        }
        self.device.bind()?;
        // SAFETY: event and stream are alive.
        check("cuEventRecord", unsafe { result::event::record(self.event, stream) })
    }

    /// Makes work enqueued on `stream` from now on wait for the event.
    pub(crate) fn block_stream(&self, stream: sys::CUstream) -> Result<()> {
        if self.device.dry_run {
            return Ok(());
        }
        self.device.bind()?;
        let flags = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
        // SAFETY: event and stream are alive.
        check("cuStreamWaitEvent", unsafe { result::stream::wait_event(stream, self.event, flags) })
    }

    /// Whether the work before the event has finished.
    pub(crate) fn is_done(&self) -> Result<bool> {
        if self.device.dry_run {
            return Ok(true);
        }
        self.device.bind()?;
        // SAFETY: the event is alive.
        match unsafe { result::event::query(self.event) } {
            Err(error) if error.0 == sys::CUresult::CUDA_ERROR_NOT_READY => Ok(false),
            other => check("cuEventQuery", other).map(|()| true),
        }
    }

    /// Waits for the event on the host.
    pub(crate) fn wait(&self) -> Result<()> {
        if self.device.dry_run {
            return Ok(());
        }
        self.device.bind()?;
        // SAFETY: the event is alive.
        check("cuEventSynchronize", unsafe { result::event::synchronize(self.event) })
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if !self.device.dry_run {
            // Errors cannot be handled here.
            let _ = self.device.bind();
            // SAFETY: created in `with`; the driver frees it once it is complete.
            let _ = unsafe { result::event::destroy(self.event) };
        }
    }
}

/// The launch geometry of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    /// Blocks in x, y and z.
    pub(crate) grid: [u32; 3],
    /// Threads of a block.
    pub(crate) block: u32,
    /// Dynamic shared memory in bytes.
    pub(crate) shared: u32,
}

impl Geometry {
    /// One thread for each of `items`, 256 in a block.
    pub(crate) fn each(items: usize) -> Self {
        Geometry { grid: [blocks(items, 256), 1, 1], block: 256, shared: 0 }
    }

    /// One block of `block` threads for each of `items`.
    pub(crate) fn block_each(items: usize, block: u32) -> Self {
        Geometry { grid: [blocks(items, 1), 1, 1], block, shared: 0 }
    }

    /// One warp for each of `items`, eight in a block.
    pub(crate) fn warp_each(items: usize) -> Self {
        Geometry { grid: [blocks(items, 8), 1, 1], block: 256, shared: 0 }
    }
}

/// The number of blocks for `items`, `each` in one block.
///
/// # Panics
/// If it exceeds the limit of a grid: no tensor of a model is that large.
pub(crate) fn blocks(items: usize, each: usize) -> u32 {
    let blocks = items.div_ceil(each);
    assert!(blocks <= i32::MAX as usize, "a grid of {blocks} blocks");
    blocks as u32
}

/// Properties of GPU `ordinal`, if everything needed to use it is present.
pub(crate) fn find(ordinal: usize, search: &LibrarySearch) -> Result<GpuInfo, Unavailable> {
    for Found { library, state } in libraries::load(search) {
        if let (Err(reason), true) = (state, library.is_required()) {
            return Err(Unavailable::Library { library: *library, reason: reason.clone() });
        }
    }
    let info = info(ordinal)?;
    if info.capability[0] < 8 {
        return Err(Unavailable::TooOld { name: info.name, capability: info.capability });
    }
    let is_compiled = compiled::archive(&architecture(info.capability), Compute::Bf16).is_some();
    let nvrtc = libraries::load(search).iter().find(|found| found.library == Library::Nvrtc);
    if let (false, Some(Found { library, state: Err(reason) })) = (is_compiled, nvrtc) {
        return Err(Unavailable::Library { library: *library, reason: reason.clone() });
    }
    Ok(info)
}

/// Properties of GPU `ordinal` from the driver. The libraries must be loaded.
pub(crate) fn info(ordinal: usize) -> Result<GpuInfo, Unavailable> {
    use sys::CUdevice_attribute_enum as Attribute;
    let refused = |call| move |error| Unavailable::Driver(driver_error(call, error));
    result::init().map_err(refused("cuInit"))?;
    let count = result::device::get_count().map_err(refused("cuDeviceGetCount"))? as usize;
    if ordinal >= count {
        return Err(Unavailable::NoDevice { ordinal, count });
    }
    let device = result::device::get(ordinal as i32).map_err(refused("cuDeviceGet"))?;
    // SAFETY: `device` is one of this driver's.
    let attribute =
        |which| unsafe { result::device::get_attribute(device, which) }.map_err(refused("cuDeviceGetAttribute"));
    Ok(GpuInfo {
        name: result::device::get_name(device).map_err(refused("cuDeviceGetName"))?,
        capability: [
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ],
        // SAFETY: as above.
        memory: unsafe { result::device::total_mem(device) }.map_err(refused("cuDeviceTotalMem"))?,
        multiprocessors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)? as u32,
    })
}

/// Converts the result of the driver call named `call`.
pub(crate) fn check<T>(call: &'static str, result: Result<T, DriverError>) -> Result<T> {
    result.map_err(|error| driver_error(call, error))
}

fn driver_error(call: &'static str, error: DriverError) -> Error {
    let text = |text: Result<&std::ffi::CStr, DriverError>| text.map(|t| t.to_string_lossy().into_owned());
    let reason = text(error.error_string()).unwrap_or_else(|_| format!("error {}", error.0 as u32));
    Error::Device { call, reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grids_cover_every_item_and_no_block_is_empty() {
        for items in [1, 255, 256, 257, 100_000] {
            let grid = Geometry::each(items).grid[0] as usize;
            assert!(grid * 256 >= items && (grid - 1) * 256 < items, "{items} in {grid} blocks");
        }
        assert_eq!(Geometry::warp_each(17).grid, [3, 1, 1]);
        assert_eq!(Geometry::block_each(5, 128), Geometry { grid: [5, 1, 1], block: 128, shared: 0 });
    }
}
