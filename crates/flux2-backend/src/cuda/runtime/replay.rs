//! CUDA graphs: what is called the same way again and again is recorded once and called as a whole.
//!
//! In a graph kernels follow each other without the host, and the memory between them has a place of its own that no other work
//! uses. What goes in and out is copied, so a graph never sees another address: tensors are values here as everywhere.
//!
//! The first call with inputs of some shapes runs as it is, which compiles kernels and makes the libraries' plans; the second is
//! recorded. What cannot be recorded runs as it is for ever.

use std::cell::RefCell;
use std::ptr;
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::{result, sys};

use super::driver::{Event, check};
use super::memory::Elsewhere;
use crate::cuda::{CudaBackend, Device};
use crate::runtime::KernelLog;
use crate::{DType, Error, KernelRun, Result, Tensor};

/// Recordings that are kept, the latest ones: a graph's memory stays as long as it does.
const KEPT: usize = 4;

/// What a caller of [`replay`] keeps.
#[derive(Default)]
pub struct Recordings(Mutex<Vec<(Shapes, State)>>);

/// Of all inputs.
type Shapes = Vec<(Vec<usize>, DType)>;

enum State {
    /// It ran once; its result had this shape.
    Seen(Vec<usize>, DType),
    Recorded(Box<Recording>),
    /// It cannot be recorded: weights come from the host for every use, or there is no room for what a graph keeps.
    Refused,
}

/// A graph and what it reads and writes.
struct Recording {
    // Before what it uses.
    graph: Graph,
    inputs: Vec<Tensor<CudaBackend>>,
    output: Tensor<CudaBackend>,
    /// The memory between its kernels.
    _own: Elsewhere,
    /// What it multiplies, for the log.
    runs: Vec<KernelRun>,
}

thread_local! {
    /// What is written down of the calls that this thread records.
    static RECORDED: RefCell<Option<KernelLog>> = const { RefCell::new(None) };
}

/// Where it is written down what this thread records, if it does.
pub(crate) fn recorded_log() -> Option<KernelLog> {
    RECORDED.with_borrow(Clone::clone)
}

/// See [`crate::Runtime::replay`].
pub(crate) fn replay<E: From<Error>>(
    be: &CudaBackend,
    recordings: &Recordings,
    inputs: &[&Tensor<CudaBackend>],
    mut work: impl FnMut(&[Tensor<CudaBackend>]) -> Result<Tensor<CudaBackend>, E>,
) -> Result<Tensor<CudaBackend>, E> {
    let mut kept = recordings.0.lock().unwrap_or_else(PoisonError::into_inner);
    let shapes: Shapes = inputs.iter().map(|x| (x.shape().to_vec(), x.dtype())).collect();
    let as_it_is: Vec<Tensor<CudaBackend>> = inputs.iter().copied().cloned().collect();
    let Some(at) = kept.iter().position(|(known, _)| *known == shapes) else {
        let fetches = be.offloader.fetches();
        let result = work(&as_it_is)?;
        if kept.len() == KEPT {
            kept.remove(0);
        }
        kept.push(match be.offloader.fetches() == fetches {
            true => (shapes, State::Seen(result.shape().to_vec(), result.dtype())),
            false => (shapes, State::Refused),
        });
        return Ok(result);
    };
    let (shapes, state) = kept.remove(at);
    let state = match state {
        State::Seen(shape, dtype) => match record(be, inputs, be.empty(&shape, dtype)?, &mut work)? {
            Some(recording) => State::Recorded(Box::new(recording)),
            None => State::Refused,
        },
        known => known,
    };
    let (state, result) = match state {
        State::Recorded(recording) => match recording.run(be, inputs)? {
            Some(result) => (State::Recorded(recording), Ok(result)),
            None => {
                drop(recording);
                be.pool.release()?;
                (State::Refused, work(&as_it_is))
            }
        },
        state => (state, work(&as_it_is)),
    };
    kept.push((shapes, state));
    result
}

/// The graph of `work`, of which nothing runs here; `None` if it cannot be had, whatever `work` said to that.
fn record<E: From<Error>>(
    be: &CudaBackend,
    inputs: &[&Tensor<CudaBackend>],
    output: Tensor<CudaBackend>,
    work: &mut impl FnMut(&[Tensor<CudaBackend>]) -> Result<Tensor<CudaBackend>, E>,
) -> Result<Option<Recording>, E> {
    let own = inputs.iter().map(|x| be.empty(x.shape(), x.dtype())).collect::<Result<Vec<_>>>()?;
    /// Ends the log also where `work` panics.
    struct Logging;
    impl Drop for Logging {
        fn drop(&mut self) {
            RECORDED.set(None);
        }
    }
    let log = KernelLog::default();
    RECORDED.set(Some(log.clone()));
    let logging = Logging;
    let pass = || work(&own).and_then(|result| Ok(be.copy_rows(&result, output.address(), output.cols())?));
    let (recorded, most) = be.pool.most_of(|| be.device.record(pass));
    drop(logging);
    let ((done, captured), runs) = (recorded?, log.take());
    let Ok(graph) = captured else { return Ok(None) };
    if be.device.dry_run {
        done?;
        let graph = Graph { executable: ptr::null_mut(), device: Arc::clone(&be.device) };
        let has_room = be.pool.has_room_for(most);
        return Ok(has_room.then(|| Recording {
            graph,
            inputs: own,
            output,
            _own: be.pool.share_elsewhere(most),
            runs,
        }));
    }
    // SAFETY: the graph was made above, and nothing refers to it behind this.
    let executable = unsafe {
        let executable = done.map(|()| result::graph::instantiate(graph, sys::CUgraphInstantiate_flags(0)));
        let _ = result::graph::destroy(graph);
        executable?
    };
    let Ok(executable) = executable else { return Ok(None) };
    let graph = Graph { executable, device: Arc::clone(&be.device) };
    if !be.pool.has_room_for(most) {
        return Ok(None);
    }
    if be.pool.is_limited() {
        // A graph's memory is not the pool's, which may still hold what the pass before took.
        be.pool.release()?;
    }
    Ok(Some(Recording { graph, inputs: own, output, _own: be.pool.share_elsewhere(most), runs }))
}

impl Recording {
    /// A result that is nobody else's; `None` if the GPU has no room for the graph.
    fn run(&self, be: &CudaBackend, inputs: &[&Tensor<CudaBackend>]) -> Result<Option<Tensor<CudaBackend>>> {
        for (x, own) in inputs.iter().zip(&self.inputs) {
            be.copy_rows(x, own.address(), own.cols())?;
        }
        if !be.device.dry_run {
            be.device.bind()?;
            let products = be.cublaslt.exclusive();
            // SAFETY: graph and stream are alive, and so is all memory that the graph uses: its own, the inputs and the output
            // here, and weights, as long as whoever keeps the recordings keeps them.
            let launched = unsafe { result::graph::launch(self.graph.executable, be.device.stream()) };
            drop(products);
            if launched.as_ref().is_err_and(|error| error.0 == sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY) {
                return Ok(None);
            }
            check("cuGraphLaunch", launched)?;
        }
        be.log.add(&self.runs);
        let result = be.empty(self.output.shape(), self.output.dtype())?;
        be.copy_rows(&self.output, result.address(), result.cols())?;
        Ok(Some(result))
    }
}

/// A graph that can be called.
struct Graph {
    executable: sys::CUgraphExec,
    device: Arc<Device>,
}

// SAFETY: graphs may be used from any thread, one at a time, and the lock around them sees to that.
unsafe impl Send for Graph {}

impl Drop for Graph {
    fn drop(&mut self) {
        if self.device.dry_run {
            return;
        }
        // Nothing can be done about an error here.
        let _ = self.device.synchronize();
        // SAFETY: made in `record`, and no call of it is under way. The driver keeps a graph's memory for the next one unless it
        // is told not to.
        unsafe {
            let _ = result::graph::exec_destroy(self.executable);
            let _ = sys::cuDeviceGraphMemTrim(self.device.ordinal);
        }
    }
}

/// See [`crate::Runtime::mark`].
pub struct Mark(pub(crate) Event);
