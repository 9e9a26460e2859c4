//! Tensor memory: 64-byte aligned buffers that return to a pool when dropped.
//!
//! Faulting in fresh pages takes about as long as a kernel takes to fill them. A forward pass allocates the same sizes
//! over and over, so recycling buffers avoids most page faults.

use std::sync::{Arc, Mutex, MutexGuard};

use bytemuck::{Pod, Zeroable};

use crate::{Error, MemoryUse, Result};

/// How far used and free buffers together may exceed the peak of used ones, so that a stage that cycles through buffers
/// of many sizes finds them all. Beyond it, the oldest free buffers are deallocated.
const SPARE_BYTES: usize = 128 << 20;
/// Alignment of tensors in bytes: a cache line, and the widest SIMD vector.
const ALIGNMENT: usize = 64;

/// The unit of allocation. Its alignment is only 16 bytes because up to that, the system allocator returns zeroed
/// memory without touching it. The threads that first write the pages then fault them in, in parallel.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(16))]
struct Unit([u8; 16]);

/// The memory of a CPU tensor.
pub struct Buffer {
    units: Box<[Unit]>,
    pool: Arc<BufferPool>,
}

impl Buffer {
    /// Units before the first 64-byte aligned one.
    fn padding(&self) -> usize {
        (self.units.as_ptr() as usize).wrapping_neg() % ALIGNMENT / size_of::<Unit>()
    }

    /// The whole buffer as elements of type `T`.
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

/// Free buffers, and the accounting of memory in use.
#[derive(Default)]
pub(super) struct BufferPool(Mutex<State>);

#[derive(Default)]
struct State {
    /// Most recently freed last.
    free: Vec<Box<[Unit]>>,
    free_units: usize,
    used_units: usize,
    /// Peak of `used_units` since the pool was cleared.
    most_used_units: usize,
    /// Memory of weights, which does not come from the pool.
    weights: MemoryUse,
    /// Memory in use, by kind, when its total was highest.
    peak: MemoryUse,
}

impl State {
    /// Deallocates the oldest free buffers until `units` more fit within the limit.
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
            // Best fit that wastes at most a quarter.
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
        advise_huge_pages(&mut units);
        self.lock().use_units(units.len());
        Ok(Buffer { units, pool: Arc::clone(self) })
    }

    fn put(&self, buffer: Box<[Unit]>) {
        let mut state = self.lock();
        state.used_units -= buffer.len();
        state.free_units += buffer.len();
        state.free.push(buffer);
    }

    /// Deallocates all free buffers and restarts the peak.
    pub(super) fn clear(&self) {
        let mut state = self.lock();
        (state.free, state.free_units) = (Vec::new(), 0);
        state.most_used_units = state.used_units;
    }

    /// Peak of used bytes since the pool was cleared.
    pub(super) fn peak_bytes(&self) -> usize {
        self.lock().most_used_units * size_of::<Unit>()
    }

    /// Updates the memory of weights and the peak.
    pub(super) fn count_weights(&self, change: impl FnOnce(&mut MemoryUse)) {
        let mut state = self.lock();
        change(&mut state.weights);
        state.note_peak();
    }

    /// Peak memory since the last call; restarts the measurement.
    pub(super) fn take_peak(&self) -> MemoryUse {
        let mut state = self.lock();
        let now = state.now();
        std::mem::replace(&mut state.peak, now)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no panic while the pool is locked")
    }
}

/// Requests transparent huge pages (2 MiB): with 4 KiB pages, faulting in memory takes as long as a kernel takes to
/// fill it, and the operands of a product exceed the TLB.
fn advise_huge_pages(units: &mut [Unit]) {
    #[cfg(target_os = "linux")]
    if size_of_val(units) >= 2 * HUGE_PAGE {
        let start = units.as_mut_ptr() as usize;
        let pages = start.next_multiple_of(HUGE_PAGE)..(start + size_of_val(units)) / HUGE_PAGE * HUGE_PAGE;
        let padding = pages.start - start;
        // SAFETY: whole pages of this buffer, whose contents the advice does not change. Systems without huge pages
        // return an error, which is ignored.
        let _ = unsafe {
            let first = units.as_mut_ptr().byte_add(padding).cast();
            rustix::mm::madvise(first, pages.len(), rustix::mm::Advice::LinuxHugepage)
        };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = units;
}

/// Size of a transparent huge page on x86-64 and on aarch64 with 4 KiB base pages.
#[cfg(target_os = "linux")]
const HUGE_PAGE: usize = 2 << 20;

/// Freed bytes that [`keep_freed_memory`] keeps at most at the end of an arena.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const KEPT_BYTES: libc::c_int = 256 << 20;
/// Larger allocations get an `mmap` of their own, which is unmapped when they are freed. Only the main arena could hold
/// them: a heap of the others has 64 MiB.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const MAPPED_BYTES: libc::c_int = 64 << 20;

/// Keep memory that was freed for the next image, for the whole process. By default the C library returns a buffer of
/// some megabytes to the system when it is freed: an image of 256x256 of klein-mini then spends a tenth of its processor
/// time on page faults. Does nothing where the C library is not glibc.
pub fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: these are options of the allocator; it refuses values that it does not know.
    unsafe {
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT_BYTES);
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_BYTES);
        // One arena for all threads that begin after this: none keeps memory that another one could use.
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Give memory that was freed back to the system: the C library keeps much of it for later allocations of the thread
/// that freed it. Does nothing where the C library is not glibc.
pub fn return_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: it only releases pages that belong to no allocation.
    unsafe {
        libc::malloc_trim(0);
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
    fn unused_memory_makes_room_for_other_sizes() {
        let pool = Arc::new(BufferPool::default());
        let large = 2 * SPARE_BYTES;
        let (first, second) = (pool.take(large).unwrap(), pool.take(large).unwrap());
        drop((first, second));
        // A quarter of one buffer fits beside both free ones; the rest of the peak does not.
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

    /// Page faults of this thread. Other processors than x86-64 may be emulated, and those of the emulator would count.
    #[cfg(all(target_os = "linux", target_env = "gnu", target_arch = "x86_64"))]
    fn faults() -> u64 {
        let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
        // The eighth field behind the name, which is in parentheses.
        stat.rsplit_once(')').unwrap().1.split_whitespace().nth(7).unwrap().parse().unwrap()
    }

    #[cfg(all(target_os = "linux", target_env = "gnu", target_arch = "x86_64"))]
    #[test]
    fn freed_memory_is_kept() {
        keep_freed_memory();
        // Below the size for which huge pages are requested.
        const BYTES: usize = 3 << 20;
        let of_a_round = || {
            let before = faults();
            let pool = Arc::new(BufferPool::default());
            let mut buffers: Vec<Buffer> = (0..8).map(|_| pool.take(BYTES).unwrap()).collect();
            buffers.iter_mut().for_each(|buffer| buffer.as_mut_slice::<u8>(BYTES).fill(1));
            drop(buffers);
            pool.clear();
            faults() - before
        };
        let (first, second) = (of_a_round(), of_a_round());
        assert!(second < 100 && first > second, "{first} page faults, then {second}");
    }

    #[test]
    fn a_size_nobody_has_is_refused() {
        let pool = Arc::new(BufferPool::default());
        assert!(matches!(pool.take(1 << 60), Err(Error::OutOfMemory { .. })));
    }
}
