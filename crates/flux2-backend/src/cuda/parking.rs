//! Weights that stay on the host: they come for every use, through a few places on the GPU, by a line of work of their own.
//!
//! In:  a weight in pinned memory, as the GPU multiplies it. Out: its address on the GPU, until its [`Visit`] is over.
//!
//! Weights come in one order in every pass. Each knows which came behind it, at first the one that was loaded behind it, so the
//! next ones are on their way while the GPU multiplies. A place is free again when the products that used it are done: events
//! keep the two lines apart, and the host waits for neither.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use cudarc::driver::result;
use rayon::prelude::*;

use super::driver::{Device, Event, Stream, check};
use super::memory::{Buffer, Pinned, Pool};
use crate::{Error, Result};

/// Places: for the two weights of a SwiGLU and the two behind them.
const PLACES: usize = 4;
/// Weights that are on their way beside those in use.
const AHEAD: usize = 2;

/// A weight on the host.
pub(super) struct Parked {
    number: u64,
    bytes: usize,
    /// Nothing where nothing runs.
    memory: Option<Pinned>,
    /// It is on the GPU, where it was last sent.
    arrived: Arc<Event>,
    /// What came behind it the last time.
    next: Mutex<Weak<Parked>>,
}

impl Parked {
    /// Its values, as the GPU multiplies them.
    pub(super) fn bytes(&self) -> &[u8] {
        self.memory.as_ref().map_or(&[], Pinned::bytes)
    }

    fn next(&self) -> MutexGuard<'_, Weak<Parked>> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Parked {
    fn drop(&mut self) {
        // Perhaps it is on its way. Nothing can be done about an error here.
        let _ = self.arrived.wait();
    }
}

/// The weights of a backend that stay on the host, and their places on the GPU.
pub(super) struct Parking {
    device: Arc<Device>,
    pool: Arc<Pool>,
    /// How many weights there were, and how many came that were not on the GPU already.
    parked: AtomicU64,
    brought: AtomicU64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Where copies are called, once there are any.
    line: Option<Stream>,
    places: Vec<Place>,
    last_loaded: Weak<Parked>,
    last_used: Weak<Parked>,
    /// How often a place was chosen.
    turn: u64,
    largest: usize,
}

/// Room for a weight on the GPU.
struct Place {
    buffer: Buffer,
    bytes: usize,
    /// The number of the weight that is or will be here.
    holds: u64,
    /// It is here; of a place where none was, nothing.
    arrived: Option<Arc<Event>>,
    /// Nobody reads it any more.
    left: Event,
    visits: usize,
    turn: u64,
}

/// A weight on the GPU while products are called.
pub(super) struct Visit<'p> {
    parking: &'p Parking,
    number: u64,
    address: u64,
}

impl Visit<'_> {
    pub(super) fn address(&self) -> u64 {
        self.address
    }
}

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        let mut state = self.parking.lock();
        let place = state.places.iter_mut().find(|place| place.holds == self.number);
        let place = place.expect("a place stays as long as there are visits");
        place.visits -= 1;
        // Nothing can be done about an error here; it comes again with the next call.
        let _ = place.left.record(self.parking.device.stream());
    }
}

impl Parking {
    pub(super) fn new(device: &Arc<Device>, pool: &Arc<Pool>) -> Self {
        let (device, pool) = (Arc::clone(device), Arc::clone(pool));
        Parking { device, pool, parked: AtomicU64::new(0), brought: AtomicU64::new(0), state: Mutex::default() }
    }

    /// How often weights have come for a use, of whatever kind.
    pub(super) fn brought(&self) -> u64 {
        self.brought.load(Ordering::Relaxed)
    }

    /// A weight has come.
    pub(super) fn count(&self) {
        self.brought.fetch_add(1, Ordering::Relaxed);
    }

    /// Keep `bytes` on the host, made in units of `unit` by `fill(index, out)` on several threads.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] if the host has no memory to spare that can be pinned.
    pub(super) fn park(
        &self,
        bytes: usize,
        unit: usize,
        fill: impl Fn(usize, &mut [u8]) + Sync,
    ) -> Result<Arc<Parked>> {
        self.keep(bytes, |memory| {
            memory.par_chunks_mut(unit.max(1)).enumerate().for_each(|(i, out)| fill(i, out));
            Ok(())
        })
    }

    /// The same with what is in `buffer`.
    ///
    /// # Errors
    /// As [`park`](Self::park).
    pub(super) fn park_buffer(&self, buffer: &Buffer, bytes: usize) -> Result<Arc<Parked>> {
        self.keep(bytes, |memory| {
            // SAFETY: the buffer holds as many bytes, and the copy is waited for.
            check("cuMemcpyDtoHAsync", unsafe {
                result::memcpy_dtoh_async(memory, buffer.address(), self.device.stream())
            })?;
            self.device.synchronize()
        })
    }

    fn keep(&self, bytes: usize, fill: impl FnOnce(&mut [u8]) -> Result<()>) -> Result<Arc<Parked>> {
        let memory = match self.device.dry_run {
            true => None,
            false if !Pinned::can_spare(bytes) => return Err(Error::OutOfMemory { bytes }),
            false => Some(Pinned::new(&self.device, bytes, fill)?),
        };
        let number = self.parked.fetch_add(1, Ordering::Relaxed);
        let (arrived, next) = (Arc::new(Event::new(&self.device)?), Mutex::default());
        let parked = Arc::new(Parked { number, bytes, memory, arrived, next });
        let mut state = self.lock();
        if let Some(last) = state.last_loaded.upgrade() {
            *last.next() = Arc::downgrade(&parked);
        }
        state.last_loaded = Arc::downgrade(&parked);
        Ok(parked)
    }

    /// Have `weight` on the GPU for what is called next on this thread, and those behind it on their way.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] if there is no room for it.
    pub(super) fn visit(&self, weight: &Arc<Parked>) -> Result<Visit<'_>> {
        if self.device.is_recording() {
            // Whoever records has seen that none came in the pass before.
            return Err(Error::Unsupported { what: "recordings of weights that stay on the host" });
        }
        self.count();
        let mut state = self.lock();
        let state = &mut *state;
        let at = match state.place_of(weight) {
            Some(at) => at,
            None => self.fetch(state, weight)?,
        };
        weight.arrived.hold_up(self.device.stream())?;
        state.places[at].visits += 1;
        state.places[at].turn = state.next_turn();
        let address = state.places[at].buffer.address();
        if let Some(last) = state.last_used.upgrade() {
            *last.next() = Arc::downgrade(weight);
        }
        state.last_used = Arc::downgrade(weight);

        let mut next = weight.next().upgrade();
        for _ in 0..AHEAD {
            let Some(weight) = next else { break };
            // Without room for another place it comes when its turn is; an error of the device comes again.
            let comes =
                state.place_of(&weight).is_some() || (state.has_free_place() && self.fetch(state, &weight).is_ok());
            if !comes {
                break;
            }
            next = weight.next().upgrade();
        }
        Ok(Visit { parking: self, number: weight.number, address })
    }

    /// Call the copy of `weight` to a place that nobody visits, the one that was chosen longest ago.
    fn fetch(&self, state: &mut State, weight: &Parked) -> Result<usize> {
        state.largest = state.largest.max(weight.bytes);
        let free = state.free_place().filter(|_| state.places.len() >= PLACES);
        let mut place = match free.map(|at| state.places.swap_remove(at)) {
            Some(place) if place.bytes >= weight.bytes => place,
            small => {
                small.iter().try_for_each(|place| self.close(place))?;
                drop(small);
                self.place(state.largest)?
            }
        };
        (place.holds, place.turn) = (weight.number, state.next_turn());
        if state.line.is_none() {
            state.line = Some(Stream::new(&self.device)?);
        }
        let line = state.line.as_ref().expect("made above").raw();
        place.left.hold_up(line)?;
        if !self.device.dry_run {
            // SAFETY: the place is large enough; the weight's memory is not changed, and stays until this is over.
            check("cuMemcpyHtoDAsync", unsafe {
                result::memcpy_htod_async(place.buffer.address(), weight.bytes(), line)
            })?;
        }
        weight.arrived.record(line)?;
        place.arrived = Some(Arc::clone(&weight.arrived));
        state.places.push(place);
        Ok(state.places.len() - 1)
    }

    /// Before its memory is given back: what comes later on the device's stream may be there, so the copy to it must be over.
    fn close(&self, place: &Place) -> Result<()> {
        place.arrived.iter().try_for_each(|arrived| arrived.hold_up(self.device.stream()))
    }

    fn place(&self, bytes: usize) -> Result<Place> {
        let place = Place {
            buffer: self.pool.take(bytes)?,
            bytes,
            holds: u64::MAX,
            arrived: None,
            left: Event::new(&self.device)?,
            visits: 0,
            turn: 0,
        };
        // Memory is there when the device's stream comes to this.
        place.left.record(self.device.stream())?;
        Ok(place)
    }

    /// Give the places back that nobody visits.
    pub(super) fn clear(&self) {
        let mut state = self.lock();
        let (visited, free) = std::mem::take(&mut state.places).into_iter().partition(|place| place.visits > 0);
        state.places = visited;
        let free: Vec<Place> = free;
        for place in &free {
            // An error comes again with the next call.
            let _ = self.close(place);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn place_of(&self, weight: &Parked) -> Option<usize> {
        self.places.iter().position(|place| place.holds == weight.number)
    }

    fn free_place(&self) -> Option<usize> {
        let free = (0..self.places.len()).filter(|at| self.places[*at].visits == 0);
        free.min_by_key(|at| self.places[*at].turn)
    }

    /// Whether a weight can come without another place than the usual ones.
    fn has_free_place(&self) -> bool {
        self.places.len() < PLACES || self.free_place().is_some()
    }

    fn next_turn(&mut self) -> u64 {
        self.turn += 1;
        self.turn
    }
}

#[cfg(test)]
mod tests {
    use crate::cuda::{CudaBackend, GpuInfo};
    use crate::testing::{on_cuda, random, tensor};
    use crate::{Backend, Compute, DType, Error, Format, HostTensor, Result, Stay, Weight, ops};

    const SIDE: usize = 64;

    fn dry_run(memory_limit: Option<usize>) -> CudaBackend {
        let gpu = GpuInfo { name: "a GPU".into(), capability: [9, 0], memory: 80 << 30, multiprocessors: 132 };
        CudaBackend::dry_run(gpu, Compute::Bf16, memory_limit).unwrap()
    }

    fn weights<B: Backend>(be: &B, count: usize, side: usize, format: Format, stay: Stay) -> Vec<Weight<B>> {
        let weight = |i| HostTensor::from_f32([side, side], &random(&format!("weight {i}"), &[side, side]));
        (0..count).map(|i| Weight::load_as(be, weight(i).staying(stay), format).unwrap()).collect()
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
    fn a_few_places_serve_any_number_of_weights() {
        let be = dry_run(None);
        be.take_memory_peak();
        let before = be.take_memory_peak().allocated;
        let there = weights(&be, 20, SIDE, Format::AsStored, Stay::Device);
        let taken = be.take_memory_peak().allocated - before;
        assert!(taken >= 20 * SIDE * SIDE * 2, "{taken}");
        drop(there);
        be.take_memory_peak();
        let parked = weights(&be, 20, SIDE, Format::AsStored, Stay::Host);
        assert_eq!(be.take_memory_peak().allocated, before);
        pass(&be, &parked).unwrap();
        let taken = be.take_memory_peak().allocated - before;
        let places = super::PLACES * SIDE * SIDE * 2;
        assert!((places..2 * places).contains(&taken), "{taken} of {places}");
        be.trim();
        be.take_memory_peak();
        assert_eq!(be.take_memory_peak().allocated, before, "places are given back");
    }

    #[test]
    fn a_limit_is_kept() {
        let limit = super::super::CONTEXT_BYTES + (100 << 20);
        let be = dry_run(Some(limit));
        let taken = be.take_memory_peak().allocated;
        let rest = limit - super::super::CONTEXT_BYTES - taken;
        let fits = be.empty(&[1, rest / 4], DType::F32).unwrap();
        assert!(matches!(be.empty(&[1, 1], DType::F32), Err(Error::OutOfMemory { bytes: 4 })));
        drop(fits);
        assert!(be.empty(&[1, rest / 4], DType::F32).is_ok());
        assert!(matches!(be.empty(&[1, rest / 4 + 1], DType::F32), Err(Error::OutOfMemory { .. })));
        // Within nothing a backend can be made, and no more.
        assert!(matches!(dry_run(Some(0)).empty(&[1, 1], DType::F32), Err(Error::OutOfMemory { .. })));
    }

    fn check(compute: Compute, formats: &[Format]) {
        on_cuda(compute, |be| {
            for format in formats {
                let expected = pass(be, &weights(be, 9, SIDE, *format, Stay::Device))?;
                for stay in [Stay::Host, Stay::File] {
                    let weights = weights(be, 9, SIDE, *format, stay);
                    for round in 0..3 {
                        assert!(pass(be, &weights)? == expected, "{format:?}, {stay:?}, round {round}");
                    }
                    // Another order than they were loaded in, and places that are too small.
                    let mut backwards: Vec<_> = weights.into_iter().rev().collect();
                    let larger = self::weights(be, 3, 2 * SIDE, *format, stay);
                    let x = tensor(be, "wide", &[SIDE, 2 * SIDE], compute.dtype())?.0;
                    let first = be.download(&ops::linear(be, &x, &larger[0], None)?)?;
                    for round in 0..3 {
                        pass(be, &backwards)?;
                        let again = be.download(&ops::linear(be, &x, &larger[0], None)?)?;
                        assert!(again == first, "{format:?}, {stay:?}, larger, round {round}");
                    }
                    backwards.reverse();
                    assert!(pass(be, &backwards)? == expected, "{format:?}, {stay:?}, in order again");
                    be.trim();
                    assert!(pass(be, &backwards)? == expected, "{format:?}, {stay:?}, after places were given back");
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
    fn a_table_on_the_host_gives_its_rows() {
        for compute in [Compute::F32, Compute::Bf16] {
            on_cuda(compute, |be| {
                let ids = [3, 0, 63, 3];
                let rows = |stay| {
                    let table = &weights(be, 1, SIDE, Format::AsStored, stay)[0];
                    be.download(&ops::embedding(be, table, &ids)?)
                };
                let expected = rows(Stay::Device)?;
                assert!(rows(Stay::Host)? == expected && rows(Stay::File)? == expected, "{compute}");
                Ok::<_, Error>(())
            });
        }
    }
}
