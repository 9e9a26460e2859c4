//! Pinned (page-locked) host memory, which the GPU copies from and to asynchronously.

use std::ffi::c_void;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use cudarc::driver::sys;

use super::driver::{Device, Event};
use crate::{Error, Result};

/// Host memory that offloaded weights leave unpinned: pinned pages cannot be reclaimed, and exhaustion wakes the OOM
/// killer.
const HOST_RESERVE: usize = 1 << 30;

/// Pinned host memory.
///
/// Ordinary memory is filled first and registered with the driver afterwards: several threads fault its pages in, huge
/// ones where the system has them. `cuMemAllocHost` faults them in on one thread, which takes a second for 2 GB.
pub(crate) struct Pinned {
    memory: NonNull<c_void>,
    bytes: usize,
    device: Arc<Device>,
}

// SAFETY: host memory may be used from any thread.
unsafe impl Send for Pinned {}
// SAFETY: shared references only read.
unsafe impl Sync for Pinned {}

impl Pinned {
    /// Allocates `bytes` (at least 1), zeroed, lets `fill` write them and pins them.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] if the system has none, or does not let this process pin it; those of `fill`.
    pub(crate) fn new(device: &Arc<Device>, bytes: usize, fill: impl FnOnce(&mut [u8]) -> Result<()>) -> Result<Self> {
        use rustix::mm::{self, Advice, MapFlags, ProtFlags};
        let out_of_memory = || Error::OutOfMemory { bytes };
        let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
        // SAFETY: a new anonymous mapping at an address the system chooses. Huge pages are only a hint.
        let memory = unsafe {
            let memory = mm::mmap_anonymous(ptr::null_mut(), bytes, protection, flags).map_err(|_| out_of_memory())?;
            let _ = mm::madvise(memory, bytes, Advice::LinuxHugepage);
            NonNull::new(memory).ok_or_else(out_of_memory)?
        };
        // SAFETY: the mapping is `bytes` long, and nobody else refers to it.
        let filled = fill(unsafe { std::slice::from_raw_parts_mut(memory.as_ptr().cast(), bytes) });
        let pinned = filled.and_then(|()| {
            device.bind()?;
            // SAFETY: the memory stays mapped until it is unregistered.
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

    /// Whether the host can pin `bytes` for as long as a network stays loaded and keep [`HOST_RESERVE`].
    pub(crate) fn can_spare(bytes: usize) -> bool {
        let available = std::fs::read_to_string("/proc/meminfo").ok().and_then(|meminfo| available(&meminfo));
        available.is_none_or(|available| available >= bytes + HOST_RESERVE)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: `bytes` long, and nobody writes while `self` is shared.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr().cast(), self.bytes) }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: `bytes` long, and only `self` refers to them.
        unsafe { std::slice::from_raw_parts_mut(self.memory.as_ptr().cast(), self.bytes) }
    }
}

/// `MemAvailable` of `/proc/meminfo` in bytes: what the system can hand out without swapping.
fn available(meminfo: &str) -> Option<usize> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kilobytes: usize = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(1024 * kilobytes)
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // An error here will surface at the next driver call.
        let _ = self.device.bind();
        // SAFETY: mapped and registered in `new`; owners wait for the last copy before they drop it.
        unsafe {
            let _ = sys::cuMemHostUnregister(self.memory.as_ptr()).result();
            let _ = rustix::mm::munmap(self.memory.as_ptr(), self.bytes);
        }
    }
}

/// A pinned buffer that large copies go through, one piece after the other.
pub(crate) struct Staging {
    memory: Pinned,
    /// Completes when the last copy from or to this buffer has finished.
    pub(crate) event: Event,
}

impl Staging {
    pub(crate) fn new(device: &Arc<Device>, bytes: usize) -> Result<Self> {
        Ok(Staging { memory: Pinned::new(device, bytes, |_| Ok(()))?, event: Event::new(device)? })
    }

    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        self.memory.bytes_mut()
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // An error here will surface at the next driver call.
        let _ = self.event.wait();
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
