//! Memory of the GPU: buffers from a stream-ordered pool, and copies to and from the host.
//!
//! The pool is the driver's. A buffer that is dropped can be taken again at once by whatever is called next, since all work
//! is on one stream; the system gets memory back only in [`Pool::trim`], and where there is none left.
//!
//! What is in use is counted here, also on a GPU that is only described: there nothing else is done.
//!
//! Large copies go through pinned memory in pieces: several threads fill one piece, decoding what the GPU does not multiply
//! as it is stored, while the GPU fetches the other.

use std::ffi::c_void;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use cudarc::driver::{result, sys};
use rayon::prelude::*;

use crate::cuda::product::quantized::QuantizedRows;
use super::driver::{Device, Event, check};
use crate::cuda::product::cublaslt::WORKSPACE;
use crate::{Error, Result};

/// Bytes of a pinned piece.
const PIECE: usize = 16 << 20;
/// Memory of the host that is left to others: what is pinned cannot be taken back, and a system without any ends processes.
const HOST_KEPT: usize = 1 << 30;
/// Copies of no more bytes than this do not go through pinned memory: the driver has its own for them.
const SMALL: usize = 64 << 10;
/// The part of the GPU's memory that [`Pool::trim`] leaves beside what is in use: taking memory anew costs milliseconds a
/// gigabyte, and the next stage needs about as much.
const KEPT_PART: usize = 8;

/// What a process takes of a GPU's memory before anything is in it: context, libraries, compiled kernels. By nvidia-smi 570 to 595
/// MiB on an H100.
pub const CONTEXT_BYTES: usize = 600 << 20;
/// Where memory of a described GPU is, all of it: somewhere, aligned as the driver aligns.
const SOMEWHERE: u64 = 1 << 20;

/// Memory on the GPU that a tensor or a weight lives in.
pub struct Buffer {
    address: sys::CUdeviceptr,
    share: Share,
    /// The rows of the tensor that fills this, in bytes, once they are known: several products read the same rows.
    rounded: Mutex<Option<Arc<QuantizedRows>>>,
}

impl Buffer {
    /// Of the first byte, on the GPU.
    pub(crate) fn address(&self) -> u64 {
        self.address
    }

    /// How large it is.
    pub(crate) fn bytes(&self) -> usize {
        self.share.bytes
    }

    /// The rows in bytes; `None` before they are known.
    pub(crate) fn quantized_rows(&self) -> MutexGuard<'_, Option<Arc<QuantizedRows>>> {
        self.rounded.lock().expect("no panic while the lock is held")
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let device = &self.share.pool.device;
        if device.dry_run {
            return;
        }
        // Nothing can be done about an error here; what caused it is reported by the next call.
        let _ = device.bind();
        // SAFETY: taken in `take`, and whatever still uses it was called before on the same stream.
        let _ = unsafe { result::free_async(self.address, device.stream()) };
    }
}

/// Memory of the GPU that counts as in use.
struct Share {
    pool: Arc<Pool>,
    bytes: usize,
}

impl Drop for Share {
    fn drop(&mut self) {
        self.pool.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// The same of memory that is not the driver's pool's.
pub(crate) struct Elsewhere(Share);

impl Drop for Elsewhere {
    fn drop(&mut self) {
        self.0.pool.elsewhere.fetch_sub(self.0.bytes, Ordering::Relaxed);
    }
}

/// Where buffers come from.
pub(crate) struct Pool {
    device: Arc<Device>,
    pool: sys::CUmemoryPool,
    used: AtomicUsize,
    peak: AtomicUsize,
    /// The part of what is in use that is not the driver's pool's: that of graphs.
    elsewhere: AtomicUsize,
    /// The most that may be in use.
    limit: Option<usize>,
    staging: Mutex<Option<[Piece; 2]>>,
}

// SAFETY: pools of the driver may be used from any thread.
unsafe impl Send for Pool {}
// SAFETY: as above.
unsafe impl Sync for Pool {}

impl Pool {
    /// All of it may take `limit` bytes of the GPU, [`CONTEXT_BYTES`] included.
    pub(crate) fn new(device: Arc<Device>, limit: Option<usize>) -> Result<Arc<Self>> {
        // A GPU can be opened within any limit: it is the planner that refuses what cannot be done there.
        let limit = limit.map(|bytes| bytes.saturating_sub(CONTEXT_BYTES).max(WORKSPACE));
        let pool = if device.dry_run { ptr::null_mut() } else { Self::of_driver(&device, limit)? };
        let (used, peak, elsewhere) = Default::default();
        Ok(Arc::new(Pool { device, pool, used, peak, elsewhere, limit, staging: Mutex::new(None) }))
    }

    fn of_driver(device: &Device, limit: Option<usize>) -> Result<sys::CUmemoryPool> {
        use sys::CUmemPool_attribute_enum::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        device.bind()?;
        // SAFETY: a plain struct, for which the driver asks for zeros in what is not set here.
        let mut properties: sys::CUmemPoolProps = unsafe { std::mem::zeroed() };
        properties.allocType = sys::CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED;
        properties.location.type_ = sys::CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE;
        properties.location.id = device.ordinal;
        properties.maxSize = limit.unwrap_or(0);
        // SAFETY: `properties` outlives the call.
        let mut pool = unsafe { result::mem_pool::create(&properties) };
        if pool.is_err() && limit.is_some() {
            // Drivers before 12.2 know no largest size; what is in use is counted here in any case.
            properties.maxSize = 0;
            // SAFETY: as above.
            pool = unsafe { result::mem_pool::create(&properties) };
        }
        let pool = check("cuMemPoolCreate", pool)?;
        let mut threshold = u64::MAX;
        // SAFETY: this attribute is a u64, which outlives the call.
        check("cuMemPoolSetAttribute", unsafe {
            result::mem_pool::set_attribute(pool, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, (&raw mut threshold).cast())
        })?;
        Ok(pool)
    }

    /// A buffer of `bytes`; in it is whatever was there before.
    pub(crate) fn take(self: &Arc<Self>, bytes: usize) -> Result<Buffer> {
        // What is recorded is counted as a whole, by whoever records it.
        if !self.device.is_recording() && !self.has_room_for(bytes) {
            return Err(Error::OutOfMemory { bytes });
        }
        let address = if self.device.dry_run { SOMEWHERE } else { self.allocate(bytes)? };
        Ok(Buffer { address, share: self.share(bytes), rounded: Mutex::default() })
    }

    fn allocate(&self, bytes: usize) -> Result<sys::CUdeviceptr> {
        self.device.bind()?;
        self.make_room(bytes)?;
        let mut address = 0;
        // SAFETY: pool and stream live as long as `self`, `address` outlives the call.
        let mut allocate =
            || unsafe { sys::cuMemAllocFromPoolAsync(&mut address, bytes.max(1), self.pool, self.device.stream()) };
        let mut status = allocate();
        if status == sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY && !self.device.is_recording() {
            self.release()?;
            status = allocate();
        }
        if status == sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY {
            return Err(Error::OutOfMemory { bytes });
        }
        check("cuMemAllocFromPoolAsync", status.result())?;
        Ok(address)
    }

    /// Keep the pool, with what it has for later, within the limit when it grows by `bytes`. The driver sees to that alone where nothing
    /// is elsewhere.
    fn make_room(&self, bytes: usize) -> Result<()> {
        use sys::CUmemPool_attribute_enum::{CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT, CU_MEMPOOL_ATTR_USED_MEM_CURRENT};
        let elsewhere = self.elsewhere.load(Ordering::Relaxed);
        let Some(limit) = self.limit.filter(|_| elsewhere > 0 && !self.device.is_recording()) else { return Ok(()) };
        let ask = |attribute| {
            let mut value = 0u64;
            // SAFETY: these attributes are u64; the pool lives as long as `self`.
            check("cuMemPoolGetAttribute", unsafe {
                result::mem_pool::get_attribute(self.pool, attribute, (&raw mut value).cast())
            })?;
            Ok::<_, Error>(value as usize)
        };
        let (held, used) = (ask(CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT)?, ask(CU_MEMPOOL_ATTR_USED_MEM_CURRENT)?);
        if held - used < bytes && held + bytes + elsewhere > limit { self.release() } else { Ok(()) }
    }

    /// Whether `bytes` more may be in use.
    pub(crate) fn has_room_for(&self, bytes: usize) -> bool {
        self.limit.is_none_or(|limit| self.used.load(Ordering::Relaxed) + bytes <= limit)
    }

    /// Whether there is a limit.
    pub(crate) fn is_limited(&self) -> bool {
        self.limit.is_some()
    }

    fn share(self: &Arc<Self>, bytes: usize) -> Share {
        let used = self.used.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.peak.fetch_max(used, Ordering::Relaxed);
        Share { pool: Arc::clone(self), bytes }
    }

    /// Count `bytes` as in use that are not the driver's pool's.
    pub(crate) fn share_elsewhere(self: &Arc<Self>, bytes: usize) -> Elsewhere {
        self.elsewhere.fetch_add(bytes, Ordering::Relaxed);
        Elsewhere(self.share(bytes))
    }

    /// `work`, and what it took at once beside what was in use before.
    pub(crate) fn most_of<T>(&self, work: impl FnOnce() -> T) -> (T, usize) {
        let before = self.used.load(Ordering::Relaxed);
        let earlier = self.peak.swap(before, Ordering::Relaxed);
        let done = work();
        let most = self.peak.fetch_max(earlier, Ordering::Relaxed);
        (done, most.saturating_sub(before))
    }

    /// The most that buffers took at once since the last call, in bytes.
    pub(crate) fn take_peak(&self) -> usize {
        self.peak.swap(self.used.load(Ordering::Relaxed), Ordering::Relaxed)
    }

    /// Give what no buffer uses back to the system: but for one [`KEPT_PART`]th of all memory, unless there is a limit. Near one, what
    /// is kept in pieces is missing where it is wanted as a whole.
    pub(crate) fn trim(&self) -> Result<()> {
        match self.limit {
            None => self.trim_to(self.used.load(Ordering::Relaxed) + self.device.info.memory / KEPT_PART),
            Some(_) => self.release(),
        }
    }

    /// Give all that no buffer uses back to the system.
    pub(crate) fn release(&self) -> Result<()> {
        self.trim_to(0)
    }

    fn trim_to(&self, kept: usize) -> Result<()> {
        if self.device.dry_run {
            return Ok(());
        }
        self.device.synchronize()?;
        // SAFETY: the pool lives as long as `self`.
        check("cuMemPoolTrimTo", unsafe { result::mem_pool::trim_to(self.pool, kept) })
    }

    /// Fill `to` from `at` on with `bytes` bytes in units of `unit`, the last one perhaps shorter: `fill(index, out)` makes
    /// each, on several threads.
    pub(crate) fn upload(
        &self,
        to: &Buffer,
        bytes: usize,
        unit: usize,
        fill: impl Fn(usize, &mut [u8]) + Sync,
    ) -> Result<()> {
        let room = to.share.bytes;
        assert!(bytes <= room, "{bytes} bytes for a buffer of {room}");
        if self.device.dry_run {
            return Ok(());
        }
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
                piece.event.wait()?;
                let values = &mut piece.bytes()[..count];
                let tasks = values.par_chunks_mut(unit).enumerate().with_min_len(at_least);
                tasks.for_each(|(j, out)| fill(i * units + j, out));
                // SAFETY: `to` is large enough; the piece is left alone until `wait` saw the copy end.
                check("cuMemcpyHtoDAsync", unsafe {
                    result::memcpy_htod_async(to.address + from as u64, values, self.device.stream())
                })?;
                piece.event.record(self.device.stream())?;
            }
            Ok(())
        })
    }

    /// The first `out.len()` values at `from`.
    pub(crate) fn download(&self, from: &Buffer, out: &mut [f32]) -> Result<()> {
        let out: &mut [u8] = bytemuck::cast_slice_mut(out);
        assert!(out.len() <= from.share.bytes, "{} bytes of a buffer of {}", out.len(), from.share.bytes);
        if self.device.dry_run {
            return Ok(());
        }
        if out.len() <= SMALL {
            self.device.bind()?;
            // SAFETY: `from` is large enough, and `out` is not used before the stream is done.
            check("cuMemcpyDtoHAsync", unsafe { result::memcpy_dtoh_async(out, from.address, self.device.stream()) })?;
            return self.device.synchronize();
        }
        let len = out.len();
        self.with_pieces(|pieces| {
            let fetch = |piece: &mut Piece, at: usize| {
                piece.event.wait()?;
                let values = &mut piece.bytes()[..PIECE.min(len - at)];
                // SAFETY: `from` is large enough; the piece is left alone until `wait` saw the copy end.
                check("cuMemcpyDtoHAsync", unsafe {
                    result::memcpy_dtoh_async(values, from.address + at as u64, self.device.stream())
                })?;
                piece.event.record(self.device.stream())
            };
            fetch(&mut pieces[0], 0)?;
            for (i, out) in out.chunks_mut(PIECE).enumerate() {
                if (i + 1) * PIECE < len {
                    fetch(&mut pieces[(i + 1) % 2], (i + 1) * PIECE)?;
                }
                let piece = &mut pieces[i % 2];
                piece.event.wait()?;
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
            *staging = Some([Piece::new(&self.device)?, Piece::new(&self.device)?]);
        }
        work(staging.as_mut().expect("made above"))
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        if self.device.dry_run {
            return;
        }
        // Nothing can be done about an error here.
        let _ = self.device.synchronize();
        *self.staging.lock().expect("no panic while the lock is held") = None;
        // SAFETY: every buffer holds the pool, so none is left.
        let _ = unsafe { result::mem_pool::destroy(self.pool) };
    }
}

/// Pinned memory of [`PIECE`] bytes, and the event behind the last copy that uses it.
struct Piece {
    memory: Pinned,
    event: Event,
}

impl Piece {
    fn new(device: &Arc<Device>) -> Result<Self> {
        Ok(Piece { memory: Pinned::new(device, PIECE, |_| Ok(()))?, event: Event::new(device)? })
    }

    fn bytes(&mut self) -> &mut [u8] {
        self.memory.bytes_mut()
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        // Nothing can be done about an error here.
        let _ = self.event.wait();
    }
}

/// Memory of the host that the system leaves where it is, so that the GPU can read and write it by itself.
///
/// It is ordinary memory that is pinned when it has been filled: several threads fault its pages in, large ones where the system
/// has them. The driver's own comes from one thread, a second for 2 GB.
pub(crate) struct Pinned {
    memory: NonNull<c_void>,
    bytes: usize,
    device: Arc<Device>,
}

// SAFETY: memory of the host may be used from any thread.
unsafe impl Send for Pinned {}
// SAFETY: as above; what is shared is only read.
unsafe impl Sync for Pinned {}

impl Pinned {
    /// `bytes` of memory, at least one, that `fill` is given zeroed.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] if the system has none, or does not let this process pin it; those of `fill`.
    pub(crate) fn new(device: &Arc<Device>, bytes: usize, fill: impl FnOnce(&mut [u8]) -> Result<()>) -> Result<Self> {
        use rustix::mm::{self, Advice, MapFlags, ProtFlags};
        let out_of_memory = || Error::OutOfMemory { bytes };
        let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
        // SAFETY: pages of its own, wherever the system likes, which are asked for large ones; a system without refuses, which is fine.
        let memory = unsafe {
            let memory = mm::mmap_anonymous(ptr::null_mut(), bytes, protection, flags).map_err(|_| out_of_memory())?;
            let _ = mm::madvise(memory, bytes, Advice::LinuxHugepage);
            NonNull::new(memory).ok_or_else(out_of_memory)?
        };
        // SAFETY: as many bytes, that nobody else refers to.
        let filled = fill(unsafe { std::slice::from_raw_parts_mut(memory.as_ptr().cast(), bytes) });
        let pinned = filled.and_then(|()| {
            device.bind()?;
            // SAFETY: the memory is there until it is unregistered.
            let status = unsafe { sys::cuMemHostRegister_v2(memory.as_ptr(), bytes, 0) };
            status.result().map_err(|_| out_of_memory())
        });
        if let Err(error) = pinned {
            // SAFETY: mapped above, and nobody refers to it.
            let _ = unsafe { mm::munmap(memory.as_ptr(), bytes) };
            return Err(error);
        }
        Ok(Pinned { memory, bytes, device: Arc::clone(device) })
    }

    /// Whether the system has `bytes` to spare for as long as a network stays.
    pub(crate) fn can_spare(bytes: usize) -> bool {
        let available = std::fs::read_to_string("/proc/meminfo").ok().and_then(|meminfo| available(&meminfo));
        available.is_none_or(|available| available >= bytes + HOST_KEPT)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: as many bytes, that nobody writes.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr().cast(), self.bytes) }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as many bytes that only `self` refers to.
        unsafe { std::slice::from_raw_parts_mut(self.memory.as_ptr().cast(), self.bytes) }
    }
}

/// Bytes that the system could give to processes without taking them from others.
fn available(meminfo: &str) -> Option<usize> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kilobytes: usize = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(1024 * kilobytes)
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // Nothing can be done about an error here.
        let _ = self.device.bind();
        // SAFETY: mapped and registered in `new`; its owners see to it that no copy uses it any more.
        unsafe {
            let _ = sys::cuMemHostUnregister(self.memory.as_ptr()).result();
            let _ = rustix::mm::munmap(self.memory.as_ptr(), self.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_has_to_spare_is_read() {
        let meminfo =
            "MemTotal:       24576000 kB\nMemFree:          123456 kB\nMemAvailable:   20480000 kB\nBuffers: 1 kB\n";
        assert_eq!(available(meminfo), Some(20_480_000 * 1024));
        assert_eq!(available("MemTotal: 5 kB\n"), None);
        assert_eq!(available("MemAvailable: much\n"), None);
    }
}
