//! Copies to the host that the stream makes on its way: nobody waits for them until their values are taken.
//!
//! In:  device memory, as it will be when the work that is enqueued so far is done. Out: values.

use std::sync::{Arc, Mutex};

use cudarc::driver::result;

use super::driver::{Device, check};
use super::pinned::Staging;
use crate::Result;
use crate::runtime::PendingDownload;

/// Pinned buffers that wait for the next copy. Pinning takes longer than a small copy, so they are kept.
#[derive(Clone, Default)]
pub(crate) struct Downloads(Arc<Mutex<Vec<Staging>>>);

impl Downloads {
    /// Enqueues a copy of `count` f32 values at `address`, which must lie in memory of the stream's order.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`] if no memory can be pinned.
    pub(crate) fn start(&self, device: &Arc<Device>, address: u64, count: usize) -> Result<PendingDownload> {
        let bytes = count * size_of::<f32>();
        let mut staging = self.take(device, bytes)?;
        device.bind()?;
        // SAFETY: the caller vouches for `count` values at `address`. The stream has the copy before any later use of
        // that memory. The buffer is not read before its event has completed, and waits for it when it is dropped.
        check("cuMemcpyDtoHAsync", unsafe {
            result::memcpy_dtoh_async(&mut staging.bytes()[..bytes], address, device.stream())
        })?;
        staging.event.record(device.stream())?;
        let kept = self.clone();
        Ok(Box::new(move || {
            staging.event.wait()?;
            let values = bytemuck::pod_collect_to_vec(&staging.bytes()[..bytes]);
            kept.keep(staging);
            Ok(values)
        }))
    }

    /// Frees the buffers.
    pub(crate) fn clear(&self) {
        self.0.lock().expect("no panic while the lock is held").clear();
    }

    fn take(&self, device: &Arc<Device>, bytes: usize) -> Result<Staging> {
        let mut kept = self.0.lock().expect("no panic while the lock is held");
        let fits = kept.iter_mut().position(|staging| staging.bytes().len() >= bytes);
        match fits {
            Some(at) => Ok(kept.swap_remove(at)),
            None => Staging::new(device, bytes.max(1)),
        }
    }

    fn keep(&self, staging: Staging) {
        let mut kept = self.0.lock().expect("no panic while the lock is held");
        // The copy of a step is taken while that of the next is on its way.
        if kept.len() < 2 {
            kept.push(staging);
        }
    }
}
