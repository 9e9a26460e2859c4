//! GPU memory: buffers from the driver's stream-ordered pool, and copies to and from the host.
//!
//! All work is on one stream, so a dropped buffer can be handed out again at once. The system gets memory back only in
//! [`Pool::trim`], or when the pool has run out.
//!
//! What is in use is counted here, also in a dry run, where nothing else happens.
//!
//! Large copies go through two pinned staging buffers: the host's threads fill one (decoding what the GPU does not
//! multiply as stored) while the GPU copies the other.

use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use cudarc::driver::{result, sys};

use super::driver::{Device, check};
use super::pinned::Staging;
use crate::threads::Threads;
use crate::{Error, Result};

/// Bytes of a staging buffer.
const STAGING: usize = 16 << 20;
/// Copies up to this many bytes skip the staging buffers: the driver stages them itself.
const SMALL: usize = 64 << 10;
/// [`Pool::trim`] keeps this part of the GPU's memory beyond what is in use: allocating costs milliseconds a gigabyte,
/// and the next stage needs about as much.
const KEPT_PART: usize = 8;

/// GPU memory a process takes before anything is allocated: context, libraries, compiled kernels. nvidia-smi shows 570
/// to 595 MiB on an H100.
pub const CONTEXT_BYTES: usize = 600 << 20;
/// The address of every buffer in a dry run, aligned as the driver's are.
const DRY_RUN_ADDRESS: u64 = 1 << 20;

/// GPU memory from the pool, for a tensor, a weight or scratch.
pub struct Buffer {
    address: sys::CUdeviceptr,
    share: Share,
}

impl Buffer {
    /// Device address of the first byte.
    pub(crate) fn address(&self) -> u64 {
        self.address
    }

    /// Size in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.share.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let device = &self.share.pool.device;
        if device.dry_run {
            return;
        }
        // An error here will surface at the next driver call.
        let _ = device.bind();
        // SAFETY: allocated in `take`; work that still uses it was enqueued earlier on the same stream.
        let _ = unsafe { result::free_async(self.address, device.stream()) };
    }
}

/// Bytes counted as in use while this lives.
struct Share {
    pool: Arc<Pool>,
    bytes: usize,
}

impl Drop for Share {
    fn drop(&mut self) {
        self.pool.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Bytes in use outside the driver's pool, counted while this lives.
pub(crate) struct Elsewhere(Share);

impl Drop for Elsewhere {
    fn drop(&mut self) {
        self.0.pool.elsewhere.fetch_sub(self.0.bytes, Ordering::Relaxed);
    }
}

/// Hands out buffers, counts what is in use and keeps it within the limit.
pub(crate) struct Pool {
    device: Arc<Device>,
    pool: sys::CUmemoryPool,
    used: AtomicUsize,
    peak: AtomicUsize,
    /// The part of `used` outside the driver's pool: the memory of CUDA graphs.
    elsewhere: AtomicUsize,
    /// Upper bound on `used`.
    limit: Option<usize>,
    /// Allocated with the first large copy.
    staging: Mutex<Option<[Staging; 2]>>,
    /// Fill the staging buffers.
    threads: Arc<Threads>,
}

// SAFETY: pools of the driver may be used from any thread.
unsafe impl Send for Pool {}
// SAFETY: as above.
unsafe impl Sync for Pool {}

impl Pool {
    /// A pool of at most `limit` bytes, which uploads and downloads on `threads`.
    pub(crate) fn new(device: Arc<Device>, limit: Option<usize>, threads: Arc<Threads>) -> Result<Arc<Self>> {
        let pool = if device.dry_run { ptr::null_mut() } else { Self::create(&device, limit)? };
        let (used, peak, elsewhere) = Default::default();
        Ok(Arc::new(Pool { device, pool, used, peak, elsewhere, limit, staging: Mutex::new(None), threads }))
    }

    fn create(device: &Device, limit: Option<usize>) -> Result<sys::CUmemoryPool> {
        use sys::CUmemPool_attribute_enum::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        device.bind()?;
        // SAFETY: a plain struct; the driver wants zeros in the fields not set here.
        let mut properties: sys::CUmemPoolProps = unsafe { std::mem::zeroed() };
        properties.allocType = sys::CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED;
        properties.location.type_ = sys::CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE;
        properties.location.id = device.ordinal;
        properties.maxSize = limit.unwrap_or(0);
        // SAFETY: `properties` outlives the call.
        let mut pool = unsafe { result::mem_pool::create(&properties) };
        if pool.is_err() && limit.is_some() {
            // Drivers before 12.2 have no maximum size. What is in use is counted here in any case.
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

    /// Allocates `bytes`, uninitialized.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] if that exceeds the limit or the GPU's memory.
    pub(crate) fn take(self: &Arc<Self>, bytes: usize) -> Result<Buffer> {
        // Memory of a graph being captured is counted as a whole when the capture ends.
        if !self.device.is_capturing() && !self.has_room_for(bytes) {
            return Err(Error::OutOfMemory { bytes });
        }
        let address = if self.device.dry_run { DRY_RUN_ADDRESS } else { self.allocate(bytes)? };
        Ok(Buffer { address, share: self.share(bytes) })
    }

    fn allocate(&self, bytes: usize) -> Result<sys::CUdeviceptr> {
        self.device.bind()?;
        self.make_room(bytes)?;
        let mut address = 0;
        // SAFETY: pool and stream live as long as `self`, `address` outlives the call.
        let mut allocate =
            || unsafe { sys::cuMemAllocFromPoolAsync(&mut address, bytes.max(1), self.pool, self.device.stream()) };
        let mut status = allocate();
        if status == sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY && !self.device.is_capturing() {
            self.release()?;
            status = allocate();
        }
        if status == sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY {
            return Err(Error::OutOfMemory { bytes });
        }
        check("cuMemAllocFromPoolAsync", status.result())?;
        Ok(address)
    }

    /// Releases cached memory of the driver's pool if growing it by `bytes` would exceed the limit. The driver does so
    /// by itself unless graphs have memory outside the pool.
    fn make_room(&self, bytes: usize) -> Result<()> {
        use sys::CUmemPool_attribute_enum::{CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT, CU_MEMPOOL_ATTR_USED_MEM_CURRENT};
        let elsewhere = self.elsewhere.load(Ordering::Relaxed);
        let Some(limit) = self.limit.filter(|_| elsewhere > 0 && !self.device.is_capturing()) else { return Ok(()) };
        let ask = |attribute| {
            let mut value = 0u64;
            // SAFETY: both attributes are u64; the pool lives as long as `self`.
            check("cuMemPoolGetAttribute", unsafe {
                result::mem_pool::get_attribute(self.pool, attribute, (&raw mut value).cast())
            })?;
            Ok::<_, Error>(value as usize)
        };
        let (held, used) = (ask(CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT)?, ask(CU_MEMPOOL_ATTR_USED_MEM_CURRENT)?);
        if held - used < bytes && held + bytes + elsewhere > limit { self.release() } else { Ok(()) }
    }

    /// Whether `bytes` more stay within the limit.
    pub(crate) fn has_room_for(&self, bytes: usize) -> bool {
        self.limit.is_none_or(|limit| self.used.load(Ordering::Relaxed) + bytes <= limit)
    }

    /// Whether a limit was set.
    pub(crate) fn is_limited(&self) -> bool {
        self.limit.is_some()
    }

    fn share(self: &Arc<Self>, bytes: usize) -> Share {
        let used = self.used.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.peak.fetch_max(used, Ordering::Relaxed);
        Share { pool: Arc::clone(self), bytes }
    }

    /// Counts `bytes` allocated outside the driver's pool as in use.
    pub(crate) fn share_elsewhere(self: &Arc<Self>, bytes: usize) -> Elsewhere {
        self.elsewhere.fetch_add(bytes, Ordering::Relaxed);
        Elsewhere(self.share(bytes))
    }

    /// Runs `work` and returns its peak memory beyond what was in use before, in bytes.
    pub(crate) fn most_of<T>(&self, work: impl FnOnce() -> T) -> (T, usize) {
        let before = self.used.load(Ordering::Relaxed);
        let earlier = self.peak.swap(before, Ordering::Relaxed);
        let done = work();
        let most = self.peak.fetch_max(earlier, Ordering::Relaxed);
        (done, most.saturating_sub(before))
    }

    /// Peak bytes in use since the last call.
    pub(crate) fn take_peak(&self) -> usize {
        self.peak.swap(self.used.load(Ordering::Relaxed), Ordering::Relaxed)
    }

    /// Gives unused memory back to the system, except one [`KEPT_PART`]th of the GPU's memory if there is no limit.
    /// Near a limit, fragments kept in the pool are missing where one large buffer is needed.
    pub(crate) fn trim(&self) -> Result<()> {
        match self.limit {
            None => self.trim_to(self.used.load(Ordering::Relaxed) + self.device.info.memory / KEPT_PART),
            Some(_) => self.release(),
        }
    }

    /// Gives all unused memory back to the system.
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

    /// Copies `bytes` bytes to the start of `to`. `fill(index, out)` writes each `unit` of them, the last one perhaps
    /// shorter, in parallel.
    pub(crate) fn upload(
        &self,
        to: &Buffer,
        bytes: usize,
        unit: usize,
        fill: impl Fn(usize, &mut [u8]) + Send + Sync,
    ) -> Result<()> {
        let room = to.share.bytes;
        assert!(bytes <= room, "{bytes} bytes for a buffer of {room}");
        if self.device.dry_run {
            return Ok(());
        }
        if bytes <= SMALL || unit > STAGING {
            let mut values = vec![0; bytes];
            values.chunks_mut(unit.max(1)).enumerate().for_each(|(i, out)| fill(i, out));
            self.device.bind()?;
            // SAFETY: `to` is large enough, and the driver has read pageable memory when the call returns.
            return check("cuMemcpyHtoDAsync", unsafe {
                result::memcpy_htod_async(to.address, &values, self.device.stream())
            });
        }
        let units = STAGING / unit;
        self.with_staging(|staging| {
            for (i, from) in (0..bytes).step_by(units * unit).enumerate() {
                let (piece, count) = (&mut staging[i % 2], (units * unit).min(bytes - from));
                piece.event.wait()?;
                let values = &mut piece.bytes()[..count];
                self.threads.for_rows(values, unit, |j, out| fill(i * units + j, out));
                // SAFETY: `to` is large enough; the staging buffer is not written before its event has completed.
                check("cuMemcpyHtoDAsync", unsafe {
                    result::memcpy_htod_async(to.address + from as u64, values, self.device.stream())
                })?;
                piece.event.record(self.device.stream())?;
            }
            Ok(())
        })
    }

    /// Copies the first `out.len()` values of `from` to the host and waits for them.
    pub(crate) fn download(&self, from: &Buffer, out: &mut [f32]) -> Result<()> {
        let out: &mut [u8] = bytemuck::cast_slice_mut(out);
        assert!(out.len() <= from.share.bytes, "{} bytes of a buffer of {}", out.len(), from.share.bytes);
        if self.device.dry_run {
            return Ok(());
        }
        if out.len() <= SMALL {
            self.device.bind()?;
            // SAFETY: `from` is large enough, and `out` is not used before the stream has been synchronized.
            check("cuMemcpyDtoHAsync", unsafe { result::memcpy_dtoh_async(out, from.address, self.device.stream()) })?;
            return self.device.synchronize();
        }
        let len = out.len();
        self.with_staging(|staging| {
            let fetch = |piece: &mut Staging, at: usize| {
                piece.event.wait()?;
                let values = &mut piece.bytes()[..STAGING.min(len - at)];
                // SAFETY: `from` is large enough; the staging buffer is not read before its event has completed.
                check("cuMemcpyDtoHAsync", unsafe {
                    result::memcpy_dtoh_async(values, from.address + at as u64, self.device.stream())
                })?;
                piece.event.record(self.device.stream())
            };
            fetch(&mut staging[0], 0)?;
            for (i, out) in out.chunks_mut(STAGING).enumerate() {
                if (i + 1) * STAGING < len {
                    fetch(&mut staging[(i + 1) % 2], (i + 1) * STAGING)?;
                }
                let piece = &mut staging[i % 2];
                piece.event.wait()?;
                let values = &piece.bytes()[..out.len()];
                const SHARE: usize = 512 << 10;
                self.threads.for_rows(out, SHARE, |j, out| out.copy_from_slice(&values[j * SHARE..][..out.len()]));
            }
            Ok(())
        })
    }

    fn with_staging(&self, work: impl FnOnce(&mut [Staging; 2]) -> Result<()>) -> Result<()> {
        self.device.bind()?;
        let mut staging = self.staging.lock().expect("no panic while the lock is held");
        if staging.is_none() {
            *staging = Some([Staging::new(&self.device, STAGING)?, Staging::new(&self.device, STAGING)?]);
        }
        work(staging.as_mut().expect("made above"))
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        if self.device.dry_run {
            return;
        }
        // An error here will surface at the next driver call.
        let _ = self.device.synchronize();
        *self.staging.lock().expect("no panic while the lock is held") = None;
        // SAFETY: every buffer holds the pool, so none is left.
        let _ = unsafe { result::mem_pool::destroy(self.pool) };
    }
}
