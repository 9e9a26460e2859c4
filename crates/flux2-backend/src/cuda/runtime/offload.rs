//! Offloaded weights are copied to GPU slots on a dedicated stream.
//!
//! In:  a weight in pinned host memory, in the layout the GPU multiplies. Out: its device address, valid while its
//!      [`SlotLease`] lives.
//!
//! Every pass uses the weights in the same order. Each weight remembers its successor (initially the one loaded after
//! it), so the next ones are prefetched while the GPU computes. Events order copies against kernels in both directions;
//! the host never waits.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use cudarc::driver::result;

use super::driver::{Device, Event, Stream, check};
use super::memory::{Buffer, Pool};
use super::pinned::Pinned;
use crate::threads::Threads;
use crate::{Error, Result};

/// Slots on the GPU: the two weights of a SwiGLU, and two being prefetched.
const SLOTS: usize = 4;
/// Weights prefetched beyond those in use.
const PREFETCH: usize = 2;

/// A weight in pinned host memory.
pub(crate) struct OffloadedWeight {
    number: u64,
    bytes: usize,
    /// `None` in a dry run.
    memory: Option<Pinned>,
    /// Completes when the last copy to the GPU has finished.
    arrived: Arc<Event>,
    /// The weight used after this one in the last pass.
    next: Mutex<Weak<OffloadedWeight>>,
}

impl OffloadedWeight {
    /// Its values, in the layout the GPU multiplies; empty in a dry run.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.memory.as_ref().map_or(&[], Pinned::bytes)
    }

    fn next(&self) -> MutexGuard<'_, Weak<OffloadedWeight>> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for OffloadedWeight {
    fn drop(&mut self) {
        // A copy may be reading the pinned memory. An error here will surface at the next driver call.
        let _ = self.arrived.wait();
    }
}

/// A backend's offloaded weights and the GPU slots they are copied to.
pub(crate) struct Offloader {
    device: Arc<Device>,
    pool: Arc<Pool>,
    threads: Arc<Threads>,
    /// Weights offloaded so far; numbers the next one.
    offloaded: AtomicU64,
    /// Uses of weights that are not resident on the GPU.
    fetches: AtomicU64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The copy stream, created with the first copy.
    stream: Option<Stream>,
    slots: Vec<Slot>,
    last_loaded: Weak<OffloadedWeight>,
    last_used: Weak<OffloadedWeight>,
    /// Logical clock for least-recently-used order.
    tick: u64,
    /// Bytes of the largest weight so far: the size of new slots.
    largest: usize,
}

/// A buffer on the GPU for one offloaded weight.
struct Slot {
    buffer: Buffer,
    bytes: usize,
    /// Number of the weight copied, or being copied, into this slot.
    holds: u64,
    /// Completes when that copy has finished; `None` before the first.
    arrived: Option<Arc<Event>>,
    /// Completes when all kernels that read the slot have finished.
    released: Event,
    leases: usize,
    tick: u64,
}

/// Keeps a weight in its slot while kernels that read it are enqueued.
pub(crate) struct SlotLease<'p> {
    offloader: &'p Offloader,
    number: u64,
    address: u64,
}

impl SlotLease<'_> {
    pub(crate) fn address(&self) -> u64 {
        self.address
    }
}

impl Drop for SlotLease<'_> {
    fn drop(&mut self) {
        let mut state = self.offloader.lock();
        let slot = state.slots.iter_mut().find(|slot| slot.holds == self.number);
        let slot = slot.expect("a leased slot is never dropped");
        slot.leases -= 1;
        // An error here will surface at the next driver call.
        let _ = slot.released.record(self.offloader.device.stream());
    }
}

impl Offloader {
    pub(crate) fn new(device: &Arc<Device>, pool: &Arc<Pool>, threads: &Arc<Threads>) -> Self {
        let (device, pool, threads) = (Arc::clone(device), Arc::clone(pool), Arc::clone(threads));
        let (offloaded, fetches, state) = Default::default();
        Offloader { device, pool, threads, offloaded, fetches, state }
    }

    /// Uses so far of weights that are not resident on the GPU.
    pub(crate) fn fetches(&self) -> u64 {
        self.fetches.load(Ordering::Relaxed)
    }

    /// Counts a use of a weight that is not resident on the GPU.
    pub(crate) fn count(&self) {
        self.fetches.fetch_add(1, Ordering::Relaxed);
    }

    /// Allocates `bytes` of pinned memory and fills it in parallel, `unit` bytes at a time, by `fill(index, out)`.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] if the host cannot spare that much pinned memory.
    pub(crate) fn offload(
        &self,
        bytes: usize,
        unit: usize,
        fill: impl Fn(usize, &mut [u8]) + Send + Sync,
    ) -> Result<Arc<OffloadedWeight>> {
        self.keep(bytes, |memory| {
            self.threads.for_rows(memory, unit, fill);
            Ok(())
        })
    }

    /// Moves the first `bytes` of `buffer` to the host.
    ///
    /// # Errors
    /// As [`offload`](Self::offload).
    pub(crate) fn offload_buffer(&self, buffer: &Buffer, bytes: usize) -> Result<Arc<OffloadedWeight>> {
        self.keep(bytes, |memory| {
            // SAFETY: the buffer holds as many bytes, and the copy is waited for.
            check("cuMemcpyDtoHAsync", unsafe {
                result::memcpy_dtoh_async(memory, buffer.address(), self.device.stream())
            })?;
            self.device.synchronize()
        })
    }

    fn keep(&self, bytes: usize, fill: impl FnOnce(&mut [u8]) -> Result<()>) -> Result<Arc<OffloadedWeight>> {
        let memory = match self.device.dry_run {
            true => None,
            false if !Pinned::can_spare(bytes) => return Err(Error::OutOfMemory { bytes }),
            false => Some(Pinned::new(&self.device, bytes, fill)?),
        };
        let number = self.offloaded.fetch_add(1, Ordering::Relaxed);
        let (arrived, next) = (Arc::new(Event::new(&self.device)?), Mutex::default());
        let offloaded = Arc::new(OffloadedWeight { number, bytes, memory, arrived, next });
        let mut state = self.lock();
        if let Some(last) = state.last_loaded.upgrade() {
            *last.next() = Arc::downgrade(&offloaded);
        }
        state.last_loaded = Arc::downgrade(&offloaded);
        Ok(offloaded)
    }

    /// Makes `weight` available on the GPU to kernels this thread enqueues next, and prefetches its successors.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] if there is no room for a slot.
    pub(crate) fn lease(&self, weight: &Arc<OffloadedWeight>) -> Result<SlotLease<'_>> {
        if self.device.is_capturing() {
            // A pass is captured only if the pass before it used no offloaded weight.
            return Err(Error::Unsupported { what: "CUDA graphs of offloaded weights" });
        }
        self.count();
        let mut state = self.lock();
        let state = &mut *state;
        let at = match state.slot_of(weight) {
            Some(at) => at,
            None => self.fetch(state, weight)?,
        };
        weight.arrived.block_stream(self.device.stream())?;
        state.slots[at].leases += 1;
        state.slots[at].tick = state.next_tick();
        let address = state.slots[at].buffer.address();
        if let Some(last) = state.last_used.upgrade() {
            *last.next() = Arc::downgrade(weight);
        }
        state.last_used = Arc::downgrade(weight);

        let mut next = weight.next().upgrade();
        for _ in 0..PREFETCH {
            let Some(weight) = next else { break };
            // A failed prefetch is no error: the weight is fetched when it is used.
            let fetched =
                state.slot_of(&weight).is_some() || (state.has_free_slot() && self.fetch(state, &weight).is_ok());
            if !fetched {
                break;
            }
            next = weight.next().upgrade();
        }
        Ok(SlotLease { offloader: self, number: weight.number, address })
    }

    /// Enqueue the copy into the least recently used free slot.
    fn fetch(&self, state: &mut State, weight: &OffloadedWeight) -> Result<usize> {
        state.largest = state.largest.max(weight.bytes);
        let free = state.free_slot().filter(|_| state.slots.len() >= SLOTS);
        let mut slot = match free.map(|at| state.slots.swap_remove(at)) {
            Some(slot) if slot.bytes >= weight.bytes => slot,
            small => {
                small.iter().try_for_each(|slot| self.wait_for_copy(slot))?;
                drop(small);
                self.new_slot(state.largest)?
            }
        };
        (slot.holds, slot.tick) = (weight.number, state.next_tick());
        if state.stream.is_none() {
            state.stream = Some(Stream::new(&self.device)?);
        }
        let stream = state.stream.as_ref().expect("made above").raw();
        slot.released.block_stream(stream)?;
        if !self.device.dry_run {
            // SAFETY: the slot is large enough; the weight's memory is not changed, and stays until this is over.
            check("cuMemcpyHtoDAsync", unsafe {
                result::memcpy_htod_async(slot.buffer.address(), weight.bytes(), stream)
            })?;
        }
        weight.arrived.record(stream)?;
        slot.arrived = Some(Arc::clone(&weight.arrived));
        state.slots.push(slot);
        Ok(state.slots.len() - 1)
    }

    /// Orders the release of a slot's memory behind the copy into it: later kernels may reuse that memory.
    fn wait_for_copy(&self, slot: &Slot) -> Result<()> {
        slot.arrived.iter().try_for_each(|arrived| arrived.block_stream(self.device.stream()))
    }

    fn new_slot(&self, bytes: usize) -> Result<Slot> {
        let slot = Slot {
            buffer: self.pool.take(bytes)?,
            bytes,
            holds: u64::MAX,
            arrived: None,
            released: Event::new(&self.device)?,
            leases: 0,
            tick: 0,
        };
        // The allocation is stream-ordered: the copy stream must wait for it.
        slot.released.record(self.device.stream())?;
        Ok(slot)
    }

    /// Frees all slots without a lease.
    pub(crate) fn clear(&self) {
        let mut state = self.lock();
        let (leased, free) = std::mem::take(&mut state.slots).into_iter().partition(|slot| slot.leases > 0);
        state.slots = leased;
        let free: Vec<Slot> = free;
        for slot in &free {
            // An error will surface at the next driver call.
            let _ = self.wait_for_copy(slot);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn slot_of(&self, weight: &OffloadedWeight) -> Option<usize> {
        self.slots.iter().position(|slot| slot.holds == weight.number)
    }

    fn free_slot(&self) -> Option<usize> {
        let free = (0..self.slots.len()).filter(|at| self.slots[*at].leases == 0);
        free.min_by_key(|at| self.slots[*at].tick)
    }

    /// Whether a weight can be fetched without exceeding [`SLOTS`].
    fn has_free_slot(&self) -> bool {
        self.slots.len() < SLOTS || self.free_slot().is_some()
    }

    fn next_tick(&mut self) -> u64 {
        self.tick += 1;
        self.tick
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::num::NonZeroUsize;
    use std::sync::Mutex;
    use std::thread;

    use crate::cuda::{CudaBackend, CudaOptions, GpuInfo};
    use crate::testing::{on_cuda, random, skip_without_gpu, tensor};
    use crate::{Backend, Compute, DType, Error, Format, HostTensor, Placement, Result, Runtime, Weight, ops};

    const SIDE: usize = 64;

    fn dry_run(memory_limit: Option<usize>) -> CudaBackend {
        let gpu = GpuInfo { name: "a GPU".into(), capability: [9, 0], memory: 80 << 30, multiprocessors: 132 };
        CudaBackend::dry_run(gpu, Compute::Bf16, memory_limit).unwrap()
    }

    fn weights<B: Backend>(be: &B, count: usize, side: usize, format: Format, placement: Placement) -> Vec<Weight<B>> {
        let weight = |i| HostTensor::from_f32([side, side], &random(&format!("weight {i}"), &[side, side]));
        (0..count).map(|i| Weight::load_as(be, weight(i).placed(placement), format).unwrap()).collect()
    }

    /// Products one after the other, two of them at a time in the middle.
    fn pass<B: Backend>(be: &B, weights: &[Weight<B>]) -> Result<Vec<f32>> {
        let mut x = tensor(be, "x", &[SIDE, SIDE], be.compute().dtype())?.0;
        for weight in weights {
            x = ops::linear(be, &x, weight, None)?;
        }
        x = ops::linear_swiglu(be, &x, &weights[0], &weights[1])?;
        be.download(&x)
    }

    #[test]
    fn a_few_slots_serve_any_number_of_weights() {
        let be = dry_run(None);
        be.take_memory_peak();
        let before = be.take_memory_peak().allocated;
        let there = weights(&be, 20, SIDE, Format::AsStored, Placement::Device);
        let taken = be.take_memory_peak().allocated - before;
        assert!(taken >= 20 * SIDE * SIDE * 2, "{taken}");
        drop(there);
        be.take_memory_peak();
        let offloaded = weights(&be, 20, SIDE, Format::AsStored, Placement::Host);
        assert_eq!(be.take_memory_peak().allocated, before);
        pass(&be, &offloaded).unwrap();
        let taken = be.take_memory_peak().allocated - before;
        let slots = super::SLOTS * SIDE * SIDE * 2;
        assert!((slots..2 * slots).contains(&taken), "{taken} of {slots}");
        be.trim();
        be.take_memory_peak();
        assert_eq!(be.take_memory_peak().allocated, before, "slots are freed");
    }

    #[test]
    fn a_limit_is_kept() {
        let limit = crate::cuda::CONTEXT_BYTES + (100 << 20);
        let be = dry_run(Some(limit));
        let taken = be.take_memory_peak().allocated;
        let rest = limit - crate::cuda::CONTEXT_BYTES - taken;
        let fits = be.empty(&[1, rest / 4], DType::F32).unwrap();
        assert!(matches!(be.empty(&[1, 1], DType::F32), Err(Error::OutOfMemory { bytes: 4 })));
        drop(fits);
        assert!(be.empty(&[1, rest / 4], DType::F32).is_ok());
        assert!(matches!(be.empty(&[1, rest / 4 + 1], DType::F32), Err(Error::OutOfMemory { .. })));
        // A zero limit still creates the backend; allocations fail.
        assert!(matches!(dry_run(Some(0)).empty(&[1, 1], DType::F32), Err(Error::OutOfMemory { .. })));
    }

    fn check(compute: Compute, formats: &[Format]) {
        on_cuda(compute, |be| {
            for format in formats {
                let expected = pass(be, &weights(be, 9, SIDE, *format, Placement::Device))?;
                for placement in [Placement::Host, Placement::File] {
                    let weights = weights(be, 9, SIDE, *format, placement);
                    for round in 0..3 {
                        assert!(pass(be, &weights)? == expected, "{format:?}, {placement:?}, round {round}");
                    }
                    // Use in reverse load order, and slots that are too small.
                    let mut backwards: Vec<_> = weights.into_iter().rev().collect();
                    let larger = self::weights(be, 3, 2 * SIDE, *format, placement);
                    let x = tensor(be, "wide", &[SIDE, 2 * SIDE], compute.dtype())?.0;
                    let first = be.download(&ops::linear(be, &x, &larger[0], None)?)?;
                    for round in 0..3 {
                        pass(be, &backwards)?;
                        let again = be.download(&ops::linear(be, &x, &larger[0], None)?)?;
                        assert!(again == first, "{format:?}, {placement:?}, larger, round {round}");
                    }
                    backwards.reverse();
                    assert!(pass(be, &backwards)? == expected, "{format:?}, {placement:?}, in order again");
                    be.trim();
                    assert!(pass(be, &backwards)? == expected, "{format:?}, {placement:?}, after the slots were freed");
                }
            }
            Ok::<_, Error>(())
        });
    }

    #[test]
    fn weights_are_the_same_wherever_they_stay_f32() {
        check(Compute::F32, &[Format::AsStored]);
    }

    #[test]
    fn weights_are_the_same_wherever_they_stay_bf16() {
        check(Compute::Bf16, &[Format::AsStored, Format::Bf16, Format::Q8_0, Format::Int8]);
    }

    #[test]
    fn uploads_run_on_the_threads_of_the_backend() {
        const BYTES: usize = 8 << 20;
        const UNIT: usize = 64 << 10;
        let be = match CudaBackend::new(CudaOptions { threads: NonZeroUsize::new(1), ..Default::default() }) {
            Ok(be) => be,
            Err(reason) => return skip_without_gpu(reason),
        };
        let names = Mutex::new(BTreeSet::new());
        let note = |_: usize, _: &mut [u8]| {
            names.lock().unwrap().insert(thread::current().name().unwrap_or_default().to_owned());
        };
        be.pool.upload(&be.pool.take(BYTES).unwrap(), BYTES, UNIT, note).unwrap();
        be.offloader.offload(BYTES, UNIT, note).unwrap();
        assert_eq!(names.into_inner().unwrap(), BTreeSet::from(["flux2-cpu-0".to_owned()]));
    }

    #[test]
    fn a_table_on_the_host_gives_its_rows() {
        for compute in [Compute::F32, Compute::Bf16] {
            on_cuda(compute, |be| {
                let ids = [3, 0, 63, 3];
                let rows = |placement| {
                    let table = &weights(be, 1, SIDE, Format::AsStored, placement)[0];
                    be.download(&ops::embedding(be, table, &ids)?)
                };
                let expected = rows(Placement::Device)?;
                assert!(rows(Placement::Host)? == expected && rows(Placement::File)? == expected, "{compute}");
                Ok::<_, Error>(())
            });
        }
    }
}
