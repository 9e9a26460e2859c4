//! Memory of the GPU: buffers from a stream-ordered pool, and copies to and from the host.
//!
//! The pool is the driver's. A buffer that is dropped can be taken again at once by whatever is called next, since all work
//! is on one stream; the system gets memory back only in [`Pool::trim`].
//!
//! Large copies go through pinned memory in pieces: several threads fill one piece, decoding what the GPU does not multiply
//! as it is stored, while the GPU fetches the other.

use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use cudarc::driver::{result, sys};
use rayon::prelude::*;

use super::bytes::RoundedRows;
use super::driver::{Device, check};
use crate::{Error, Result};

/// Bytes of a pinned piece.
const PIECE: usize = 16 << 20;
/// Copies of no more bytes than this do not go through pinned memory: the driver has its own for them.
const SMALL: usize = 64 << 10;
/// The part of the GPU's memory that [`Pool::trim`] leaves beside what is in use: taking memory anew costs milliseconds a
/// gigabyte, and the next stage needs about as much.
const KEPT_PART: usize = 8;

/// Memory on the GPU that a tensor or a weight lives in.
pub struct Buffer {
    pool: Arc<Pool>,
    address: sys::CUdeviceptr,
    bytes: usize,
    /// The rows of the tensor that fills this, in bytes, once they are known: several products read the same rows.
    rounded: Mutex<Option<Arc<RoundedRows>>>,
}

impl Buffer {
    /// Of the first byte, on the GPU.
    pub(super) fn address(&self) -> u64 {
        self.address
    }

    /// The rows in bytes; `None` before they are known.
    pub(super) fn rounded(&self) -> MutexGuard<'_, Option<Arc<RoundedRows>>> {
        self.rounded.lock().expect("no panic while the lock is held")
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.pool.used.fetch_sub(self.bytes, Ordering::Relaxed);
        // Nothing can be done about an error here; what caused it is reported by the next call.
        let _ = self.pool.device.bind();
        // SAFETY: taken in `take`, and whatever still uses it was called before on the same stream.
        let _ = unsafe { result::free_async(self.address, self.pool.device.stream()) };
    }
}

/// Where buffers come from.
pub(super) struct Pool {
    device: Arc<Device>,
    pool: sys::CUmemoryPool,
    used: AtomicUsize,
    peak: AtomicUsize,
    staging: Mutex<Option<[Piece; 2]>>,
}

// SAFETY: pools of the driver may be used from any thread.
unsafe impl Send for Pool {}
// SAFETY: as above.
unsafe impl Sync for Pool {}

impl Pool {
    pub(super) fn new(device: Arc<Device>, ordinal: usize) -> Result<Arc<Self>> {
        use sys::CUmemPool_attribute_enum::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        device.bind()?;
        // SAFETY: a plain struct, for which the driver asks for zeros in what is not set here.
        let mut properties: sys::CUmemPoolProps = unsafe { std::mem::zeroed() };
        properties.allocType = sys::CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED;
        properties.location.type_ = sys::CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE;
        properties.location.id = ordinal as i32;
        // SAFETY: `properties` outlives the call.
        let pool = check("cuMemPoolCreate", unsafe { result::mem_pool::create(&properties) })?;
        let mut threshold = u64::MAX;
        // SAFETY: this attribute is a u64, which outlives the call.
        check("cuMemPoolSetAttribute", unsafe {
            result::mem_pool::set_attribute(pool, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, (&raw mut threshold).cast())
        })?;
        let (used, peak) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Ok(Arc::new(Pool { device, pool, used, peak, staging: Mutex::new(None) }))
    }

    /// A buffer of `bytes`; in it is whatever was there before.
    pub(super) fn take(self: &Arc<Self>, bytes: usize) -> Result<Buffer> {
        self.device.bind()?;
        let mut address = 0;
        // SAFETY: pool and stream live as long as `self`, `address` outlives the call.
        let status =
            unsafe { sys::cuMemAllocFromPoolAsync(&mut address, bytes.max(1), self.pool, self.device.stream()) };
        if status == sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY {
            return Err(Error::OutOfMemory { bytes });
        }
        check("cuMemAllocFromPoolAsync", status.result())?;
        let used = self.used.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.peak.fetch_max(used, Ordering::Relaxed);
        Ok(Buffer { pool: Arc::clone(self), address, bytes, rounded: Mutex::default() })
    }

    /// The most that buffers took at once since the last call, in bytes.
    pub(super) fn take_peak(&self) -> usize {
        self.peak.swap(self.used.load(Ordering::Relaxed), Ordering::Relaxed)
    }

    /// Give what no buffer uses back to the system, but for one [`KEPT_PART`]th of all memory.
    pub(super) fn trim(&self) -> Result<()> {
        self.device.synchronize()?;
        let kept = self.used.load(Ordering::Relaxed) + self.device.info.memory / KEPT_PART;
        // SAFETY: the pool lives as long as `self`.
        check("cuMemPoolTrimTo", unsafe { result::mem_pool::trim_to(self.pool, kept) })
    }

    /// Fill `to` from `at` on with `bytes` bytes in units of `unit`, the last one perhaps shorter: `fill(index, out)` makes
    /// each, on several threads.
    pub(super) fn upload(
        &self,
        to: &Buffer,
        bytes: usize,
        unit: usize,
        fill: impl Fn(usize, &mut [u8]) + Sync,
    ) -> Result<()> {
        assert!(bytes <= to.bytes, "{bytes} bytes for a buffer of {}", to.bytes);
        if bytes <= SMALL || unit > PIECE {
            let mut values = vec![0; bytes];
            values.chunks_mut(unit.max(1)).enumerate().for_each(|(i, out)| fill(i, out));
            self.device.bind()?;
            // SAFETY: `to` is large enough, and pageable memory is read before the call returns.
            return check("cuMemcpyHtoDAsync", unsafe {
                result::memcpy_htod_async(to.address, &values, self.device.stream())
            });
        }
        let units = PIECE / unit;
        // As many to a task as make it worth starting one.
        let at_least = (SMALL / unit).max(1);
        self.with_pieces(|pieces| {
            for (i, from) in (0..bytes).step_by(units * unit).enumerate() {
                let (piece, count) = (&mut pieces[i % 2], (units * unit).min(bytes - from));
                piece.wait()?;
                let values = &mut piece.bytes()[..count];
                let tasks = values.par_chunks_mut(unit).enumerate().with_min_len(at_least);
                tasks.for_each(|(j, out)| fill(i * units + j, out));
                // SAFETY: `to` is large enough; the piece is left alone until `wait` saw the copy end.
                check("cuMemcpyHtoDAsync", unsafe {
                    result::memcpy_htod_async(to.address + from as u64, values, self.device.stream())
                })?;
                piece.record(&self.device)?;
            }
            Ok(())
        })
    }

    /// The first `out.len()` values at `from`.
    pub(super) fn download(&self, from: &Buffer, out: &mut [f32]) -> Result<()> {
        let out: &mut [u8] = bytemuck::cast_slice_mut(out);
        assert!(out.len() <= from.bytes, "{} bytes of a buffer of {}", out.len(), from.bytes);
        if out.len() <= SMALL {
            self.device.bind()?;
            // SAFETY: `from` is large enough, and `out` is not used before the stream is done.
            check("cuMemcpyDtoHAsync", unsafe { result::memcpy_dtoh_async(out, from.address, self.device.stream()) })?;
            return self.device.synchronize();
        }
        let len = out.len();
        self.with_pieces(|pieces| {
            let fetch = |piece: &mut Piece, at: usize| {
                piece.wait()?;
                let values = &mut piece.bytes()[..PIECE.min(len - at)];
                // SAFETY: `from` is large enough; the piece is left alone until `wait` saw the copy end.
                check("cuMemcpyDtoHAsync", unsafe {
                    result::memcpy_dtoh_async(values, from.address + at as u64, self.device.stream())
                })?;
                piece.record(&self.device)
            };
            fetch(&mut pieces[0], 0)?;
            for (i, out) in out.chunks_mut(PIECE).enumerate() {
                if (i + 1) * PIECE < len {
                    fetch(&mut pieces[(i + 1) % 2], (i + 1) * PIECE)?;
                }
                let piece = &mut pieces[i % 2];
                piece.wait()?;
                let values = &piece.bytes()[..out.len()];
                out.par_chunks_mut(SMALL * 8).zip(values.par_chunks(SMALL * 8)).for_each(|(o, v)| o.copy_from_slice(v));
            }
            Ok(())
        })
    }

    /// Call `work` with the pinned pieces, which are made when they are first needed.
    fn with_pieces(&self, work: impl FnOnce(&mut [Piece; 2]) -> Result<()>) -> Result<()> {
        self.device.bind()?;
        let mut staging = self.staging.lock().expect("no panic while the lock is held");
        if staging.is_none() {
            *staging = Some([Piece::new()?, Piece::new()?]);
        }
        work(staging.as_mut().expect("made above"))
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // Nothing can be done about an error here.
        let _ = self.device.synchronize();
        *self.staging.lock().expect("no panic while the lock is held") = None;
        // SAFETY: every buffer holds the pool, so none is left.
        let _ = unsafe { result::mem_pool::destroy(self.pool) };
    }
}

/// Pinned memory of [`PIECE`] bytes, and the event behind the last copy that uses it.
struct Piece {
    memory: NonNull<c_void>,
    event: sys::CUevent,
}

// SAFETY: memory and events of the driver may be used from any thread.
unsafe impl Send for Piece {}

impl Piece {
    fn new() -> Result<Self> {
        // SAFETY: the context is bound.
        let memory = check("cuMemHostAlloc", unsafe { result::malloc_host(PIECE, 0) })?;
        let event = result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING);
        let memory = NonNull::new(memory).ok_or(Error::OutOfMemory { bytes: PIECE })?;
        Ok(Piece { memory, event: check("cuEventCreate", event)? })
    }

    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: PIECE bytes that only `self` refers to; pinned memory comes from the system, which zeroes it.
        unsafe { std::slice::from_raw_parts_mut(self.memory.as_ptr().cast(), PIECE) }
    }

    /// Remember the copy that was just called.
    fn record(&self, device: &Device) -> Result<()> {
        // SAFETY: event and stream are alive.
        check("cuEventRecord", unsafe { result::event::record(self.event, device.stream()) })
    }

    /// Until the last copy is done.
    fn wait(&self) -> Result<()> {
        // SAFETY: the event is alive; one that was never recorded counts as done.
        check("cuEventSynchronize", unsafe { result::event::synchronize(self.event) })
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        // Nothing can be done about an error here.
        let _ = self.wait();
        // SAFETY: made in `new`, and no copy uses them any more.
        unsafe {
            let _ = result::event::destroy(self.event);
            let _ = result::free_host(self.memory.as_ptr());
        }
    }
}
