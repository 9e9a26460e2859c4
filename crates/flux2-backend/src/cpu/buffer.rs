//! Memory for tensors: 64-byte aligned, zeroed when new, returned to a pool when the last tensor lets go.
//!
//! Fresh pages cost about as much to fault in as a kernel takes to fill them; a forward pass asks for the same sizes
//! again and again, so handing back used ones saves that.

use std::sync::{Arc, Mutex};

use bytemuck::{Pod, Zeroable};

use crate::{Error, Result};

/// Unused memory kept for later, at most; beyond it the oldest goes to the system.
const POOL_LIMIT_BYTES: usize = 1 << 30;
/// Where tensors start: a cache line, and the width of the widest vectors.
const ALIGNMENT: usize = 64;

/// The unit of allocation. Not 64 bytes: the system hands out zeroed memory of up to this alignment without touching it,
/// so the threads that first write the pages fault them in side by side.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(16))]
struct Unit([u8; 16]);

/// The memory of a CPU tensor.
pub struct Buffer {
    units: Box<[Unit]>,
    pool: Arc<BufferPool>,
}

impl Buffer {
    /// Units before the first aligned one.
    fn padding(&self) -> usize {
        (self.units.as_ptr() as usize).wrapping_neg() % ALIGNMENT / size_of::<Unit>()
    }

    /// The whole buffer as elements.
    pub(super) fn as_slice<T: Pod>(&self) -> &[T] {
        bytemuck::cast_slice(&self.units[self.padding()..])
    }

    /// The first `len` elements.
    pub(super) fn as_mut_slice<T: Pod>(&mut self, len: usize) -> &mut [T] {
        let padding = self.padding();
        &mut bytemuck::cast_slice_mut(&mut self.units[padding..])[..len]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.pool.put(std::mem::take(&mut self.units));
    }
}

/// Buffers nobody uses at the moment.
#[derive(Default)]
pub(super) struct BufferPool(Mutex<Free>);

#[derive(Default)]
struct Free {
    /// Latest last.
    buffers: Vec<Box<[Unit]>>,
    units: usize,
}

impl BufferPool {
    /// A buffer of at least `bytes`, with arbitrary contents.
    pub(super) fn take(self: &Arc<Self>, bytes: usize) -> Result<Buffer> {
        let units = bytes.div_ceil(size_of::<Unit>()).max(1) + ALIGNMENT / size_of::<Unit>();
        let reused = {
            let mut free = self.0.lock().expect("no panic while the pool is locked");
            // The smallest that fits, if it does not waste more than a quarter.
            let best = (0..free.buffers.len())
                .filter(|&i| (units..=units + units / 4).contains(&free.buffers[i].len()))
                .min_by_key(|&i| free.buffers[i].len());
            best.map(|i| {
                let buffer = free.buffers.remove(i);
                free.units -= buffer.len();
                buffer
            })
        };
        let units = match reused {
            Some(units) => units,
            None => bytemuck::allocation::try_zeroed_slice_box(units).map_err(|()| Error::OutOfMemory { bytes })?,
        };
        Ok(Buffer { units, pool: Arc::clone(self) })
    }

    fn put(&self, buffer: Box<[Unit]>) {
        let mut free = self.0.lock().expect("no panic while the pool is locked");
        free.units += buffer.len();
        free.buffers.push(buffer);
        // Sizes of a stage that is over must not keep those of the present one out.
        while free.units * size_of::<Unit>() > POOL_LIMIT_BYTES {
            free.units -= free.buffers.remove(0).len();
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
    fn tensors_start_at_a_cache_line() {
        let pool = Arc::new(BufferPool::default());
        for bytes in [1, 100, 10_000, 5 << 20] {
            let buffer = pool.take(bytes).unwrap();
            assert_eq!(buffer.as_slice::<u8>().as_ptr() as usize % 64, 0);
            assert!(buffer.as_slice::<u8>().len() >= bytes);
        }
    }

    #[test]
    fn a_full_pool_lets_the_oldest_go() {
        let pool = Arc::new(BufferPool::default());
        drop(pool.take(POOL_LIMIT_BYTES - 4096).unwrap());
        let latest = pool.take(1 << 20).unwrap();
        let address = latest.as_slice::<u8>().as_ptr();
        drop(latest);
        assert_eq!(pool.take(1 << 20).unwrap().as_slice::<u8>().as_ptr(), address);
    }

    #[test]
    fn a_size_nobody_has_is_refused() {
        let pool = Arc::new(BufferPool::default());
        assert!(matches!(pool.take(1 << 60), Err(Error::OutOfMemory { .. })));
    }
}
