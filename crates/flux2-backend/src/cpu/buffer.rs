//! Memory for tensors: 64-byte aligned, zeroed when new, returned to a pool when the last tensor lets go.
//!
//! Fresh pages cost about as much to fault in as a kernel takes to fill them; a forward pass asks for the same sizes
//! again and again, so handing back used ones saves that.

use std::sync::{Arc, Mutex};

use bytemuck::{Pod, Zeroable};

use crate::{Error, Result};

/// Unused memory kept for later, at most; what comes back beyond it goes to the system.
const POOL_LIMIT_BYTES: usize = 1 << 30;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// The memory of a CPU tensor.
pub struct Buffer {
    lines: Box<[Line]>,
    pool: Arc<BufferPool>,
}

impl Buffer {
    /// The whole buffer as elements.
    pub(super) fn as_slice<T: Pod>(&self) -> &[T] {
        bytemuck::cast_slice(&self.lines)
    }

    /// The first `len` elements.
    pub(super) fn as_mut_slice<T: Pod>(&mut self, len: usize) -> &mut [T] {
        &mut bytemuck::cast_slice_mut(&mut self.lines)[..len]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.pool.put(std::mem::take(&mut self.lines));
    }
}

/// Buffers nobody uses at the moment.
#[derive(Default)]
pub(super) struct BufferPool(Mutex<Free>);

#[derive(Default)]
struct Free {
    buffers: Vec<Box<[Line]>>,
    lines: usize,
}

impl BufferPool {
    /// A buffer of at least `bytes`, with arbitrary contents.
    pub(super) fn take(self: &Arc<Self>, bytes: usize) -> Result<Buffer> {
        let lines = bytes.div_ceil(64).max(1);
        let reused = {
            let mut free = self.0.lock().expect("no panic while the pool is locked");
            // The smallest that fits, if it does not waste more than a quarter.
            let best = (0..free.buffers.len())
                .filter(|&i| (lines..=lines + lines / 4).contains(&free.buffers[i].len()))
                .min_by_key(|&i| free.buffers[i].len());
            best.map(|i| {
                let buffer = free.buffers.swap_remove(i);
                free.lines -= buffer.len();
                buffer
            })
        };
        let lines = match reused {
            Some(lines) => lines,
            None => bytemuck::allocation::try_zeroed_slice_box(lines).map_err(|()| Error::OutOfMemory { bytes })?,
        };
        Ok(Buffer { lines, pool: Arc::clone(self) })
    }

    fn put(&self, buffer: Box<[Line]>) {
        let mut free = self.0.lock().expect("no panic while the pool is locked");
        if (free.lines + buffer.len()) * 64 <= POOL_LIMIT_BYTES {
            free.lines += buffer.len();
            free.buffers.push(buffer);
        }
    }

    /// Give all unused memory back to the system.
    pub(super) fn clear(&self) {
        *self.0.lock().expect("no panic while the pool is locked") = Free::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_buffer_is_used_again() {
        let pool = Arc::new(BufferPool::default());
        let mut first = pool.take(1000).unwrap();
        first.as_mut_slice::<f32>(250).fill(7.0);
        let address = first.as_slice::<u8>().as_ptr();
        drop(first);
        let second = pool.take(960).unwrap();
        assert_eq!(second.as_slice::<u8>().as_ptr(), address);
        assert_eq!(second.as_slice::<f32>()[249], 7.0);
    }

    #[test]
    fn a_size_nobody_has_is_refused() {
        let pool = Arc::new(BufferPool::default());
        assert!(matches!(pool.take(1 << 60), Err(Error::OutOfMemory { .. })));
    }
}
