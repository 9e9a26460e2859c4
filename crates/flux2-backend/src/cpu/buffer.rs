//! Memory for tensors: 64-byte aligned, zeroed when new, returned to a pool when the last tensor lets go.
//!
//! Fresh pages cost about as much to fault in as a kernel takes to fill them; a forward pass asks for the same sizes
//! again and again, so handing back used ones saves that.

use std::sync::{Arc, Mutex, MutexGuard};

use bytemuck::{Pod, Zeroable};

use crate::{Error, MemoryUse, Result};

/// Used and unused memory together may exceed what was once used at a time by this much, so that a stage which cycles
/// through buffers of many sizes finds them all; beyond it the oldest unused goes to the system.
const SPARE_BYTES: usize = 128 << 20;
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

/// Buffers nobody uses at the moment, and how much memory there is.
#[derive(Default)]
pub(super) struct BufferPool(Mutex<State>);

#[derive(Default)]
struct State {
    /// Unused, latest last.
    free: Vec<Box<[Unit]>>,
    free_units: usize,
    used_units: usize,
    /// The most that was used at once since the pool was cleared.
    most_used_units: usize,
    /// Bytes of weights, which are in nobody's buffer.
    weights: MemoryUse,
    /// When there was most of everything.
    peak: MemoryUse,
}

impl State {
    /// Give the oldest unused buffers to the system until `units` more keep within the limit.
    fn make_room(&mut self, units: usize) {
        let limit = self.most_used_units.max(self.used_units + units) + SPARE_BYTES / size_of::<Unit>();
        while self.used_units + units + self.free_units > limit && !self.free.is_empty() {
            self.free_units -= self.free.remove(0).len();
        }
    }

    fn use_units(&mut self, units: usize) {
        self.used_units += units;
        self.most_used_units = self.most_used_units.max(self.used_units);
        self.note_peak();
    }

    fn now(&self) -> MemoryUse {
        let buffers = (self.used_units + self.free_units) * size_of::<Unit>();
        MemoryUse { allocated: self.weights.allocated + buffers, ..self.weights }
    }

    fn note_peak(&mut self) {
        let now = self.now();
        if now.total() > self.peak.total() {
            self.peak = now;
        }
    }
}

impl BufferPool {
    /// A buffer of at least `bytes`, with arbitrary contents.
    pub(super) fn take(self: &Arc<Self>, bytes: usize) -> Result<Buffer> {
        let units = bytes.div_ceil(size_of::<Unit>()).max(1) + ALIGNMENT / size_of::<Unit>();
        {
            let mut state = self.lock();
            // The smallest that fits, if it does not waste more than a quarter.
            let best = (0..state.free.len())
                .filter(|&i| (units..=units + units / 4).contains(&state.free[i].len()))
                .min_by_key(|&i| state.free[i].len());
            if let Some(i) = best {
                let units = state.free.remove(i);
                state.free_units -= units.len();
                state.use_units(units.len());
                return Ok(Buffer { units, pool: Arc::clone(self) });
            }
            state.make_room(units);
        }
        let mut units = bytemuck::allocation::try_zeroed_slice_box(units).map_err(|()| Error::OutOfMemory { bytes })?;
        ask_for_large_pages(&mut units);
        self.lock().use_units(units.len());
        Ok(Buffer { units, pool: Arc::clone(self) })
    }

    fn put(&self, buffer: Box<[Unit]>) {
        let mut state = self.lock();
        state.used_units -= buffer.len();
        state.free_units += buffer.len();
        state.free.push(buffer);
    }

    /// Give all unused memory back to the system.
    pub(super) fn clear(&self) {
        let mut state = self.lock();
        (state.free, state.free_units) = (Vec::new(), 0);
        state.most_used_units = state.used_units;
    }

    /// The most bytes that were used at once since the pool was cleared.
    pub(super) fn peak_bytes(&self) -> usize {
        self.lock().most_used_units * size_of::<Unit>()
    }

    /// Count memory of weights that comes into use, and changes back when it goes.
    pub(super) fn count_weights(&self, change: impl FnOnce(&mut MemoryUse)) {
        let mut state = self.lock();
        change(&mut state.weights);
        state.note_peak();
    }

    /// The most memory there was at once since the last call, and count from now on.
    pub(super) fn take_peak(&self) -> MemoryUse {
        let mut state = self.lock();
        let now = state.now();
        std::mem::replace(&mut state.peak, now)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no panic while the pool is locked")
    }
}

/// Fresh memory comes in pages of 2 MiB where the system has them to give: 4 KiB at a time, faulting it in takes as long as
/// a kernel takes to fill it, and the addresses of a product's operands do not fit what a processor remembers of them.
fn ask_for_large_pages(units: &mut [Unit]) {
    #[cfg(target_os = "linux")]
    if size_of_val(units) >= 2 * LARGE_PAGE {
        let start = units.as_mut_ptr() as usize;
        let pages = start.next_multiple_of(LARGE_PAGE)..(start + size_of_val(units)) / LARGE_PAGE * LARGE_PAGE;
        let padding = pages.start - start;
        // SAFETY: whole pages of this buffer; the advice changes no byte of it. A system without them refuses, which is fine.
        let _ = unsafe {
            let first = units.as_mut_ptr().byte_add(padding).cast();
            rustix::mm::madvise(first, pages.len(), rustix::mm::Advice::LinuxHugepage)
        };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = units;
}

/// Of the systems that have them.
#[cfg(target_os = "linux")]
const LARGE_PAGE: usize = 2 << 20;

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
    fn unused_memory_makes_room_for_other_sizes() {
        let pool = Arc::new(BufferPool::default());
        let large = 2 * SPARE_BYTES;
        let (first, second) = (pool.take(large).unwrap(), pool.take(large).unwrap());
        drop((first, second));
        // A quarter of one fits beside both; what is then missing of the most ever used does not.
        let third = pool.take(large / 4).unwrap();
        assert_eq!(pool.lock().free.len(), 2);
        let fourth = pool.take(2 * large - large / 4).unwrap();
        assert_eq!(pool.lock().free.len(), 0);
        assert_eq!(pool.peak_bytes(), 2 * large + 2 * ALIGNMENT);
        drop(fourth);
        pool.clear();
        assert_eq!(pool.peak_bytes(), large / 4 + ALIGNMENT, "what is still used");
        drop(third);
    }

    #[test]
    fn small_buffers_of_many_sizes_are_all_kept() {
        let pool = Arc::new(BufferPool::default());
        for round in 0..2 {
            for bytes in [1 << 20, 2 << 20, 4 << 20, 8 << 20] {
                drop(pool.take(bytes).unwrap());
            }
            assert_eq!(pool.lock().free.len(), 4, "round {round}");
        }
    }

    #[test]
    fn a_size_nobody_has_is_refused() {
        let pool = Arc::new(BufferPool::default());
        assert!(matches!(pool.take(1 << 60), Err(Error::OutOfMemory { .. })));
    }
}
