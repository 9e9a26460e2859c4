//! CUDA graphs: repeated work, captured once and launched as a whole.
//!
//! A graph launches its kernels without the host and has its own memory for what lies between them. Inputs and the
//! result are copied in and out, so a graph always sees the same addresses and tensors stay values.
//!
//! The first call with inputs of some shapes runs eagerly, which compiles kernels and builds the libraries' plans. The
//! second is captured. Work that cannot be captured always runs eagerly.

use std::cell::RefCell;
use std::ptr;
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::{result, sys};

use super::driver::{Event, check};
use super::memory::Elsewhere;
use crate::cuda::{CudaBackend, Device};
use crate::runtime::KernelLog;
use crate::{DType, Error, KernelRun, Result, Tensor};

/// Graphs kept for one caller, the latest ones: a graph holds its memory as long as it lives.
const KEPT: usize = 4;

/// The graphs of one caller of [`Runtime::replay`](crate::Runtime::replay), by the shapes of the inputs.
#[derive(Default)]
pub struct Recordings(Mutex<Vec<(Shapes, State)>>);

/// Shapes and dtypes of all inputs.
type Shapes = Vec<(Vec<usize>, DType)>;

enum State {
    /// Ran eagerly once, with a result of this shape and dtype.
    Seen(Vec<usize>, DType),
    Captured(Box<Recording>),
    /// Cannot be captured: it uses offloaded weights, or there is no room for the memory of a graph.
    Refused,
}

/// A captured graph and the tensors it reads and writes.
struct Recording {
    // Dropped before the memory it uses.
    graph: Graph,
    inputs: Vec<Tensor<CudaBackend>>,
    output: Tensor<CudaBackend>,
    /// The memory of the graph itself.
    _own: Elsewhere,
    /// The kernels it launches, for the log.
    runs: Vec<KernelRun>,
}

thread_local! {
    /// The log of the graph that this thread captures.
    static CAPTURED: RefCell<Option<KernelLog>> = const { RefCell::new(None) };
}

/// The log of the graph that this thread captures, if it does.
pub(crate) fn capture_log() -> Option<KernelLog> {
    CAPTURED.with_borrow(Clone::clone)
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
        State::Seen(shape, dtype) => match capture(be, inputs, be.empty(&shape, dtype)?, &mut work)? {
            Some(recording) => State::Captured(Box::new(recording)),
            None => State::Refused,
        },
        known => known,
    };
    let (state, result) = match state {
        State::Captured(recording) => match recording.run(be, inputs)? {
            Some(result) => (State::Captured(recording), Ok(result)),
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

/// Captures `work` without running it; `None` if it cannot be captured, whatever error `work` then returned.
fn capture<E: From<Error>>(
    be: &CudaBackend,
    inputs: &[&Tensor<CudaBackend>],
    output: Tensor<CudaBackend>,
    work: &mut impl FnMut(&[Tensor<CudaBackend>]) -> Result<Tensor<CudaBackend>, E>,
) -> Result<Option<Recording>, E> {
    let own = inputs.iter().map(|x| be.empty(x.shape(), x.dtype())).collect::<Result<Vec<_>>>()?;
    /// Removes the log even if `work` panics.
    struct Logging;
    impl Drop for Logging {
        fn drop(&mut self) {
            CAPTURED.set(None);
        }
    }
    let log = KernelLog::default();
    CAPTURED.set(Some(log.clone()));
    let logging = Logging;
    let pass = || work(&own).and_then(|result| Ok(be.copy_rows(&result, output.address(), output.cols())?));
    let (captured, most) = be.pool.most_of(|| be.device.capture(pass));
    drop(logging);
    let ((done, graph), runs) = (captured?, log.take());
    let Ok(graph) = graph else { return Ok(None) };
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
    // SAFETY: the graph was captured above, and nothing refers to it afterwards.
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
        // A graph's memory is outside the pool, which may still cache what the eager pass took.
        be.pool.release()?;
    }
    Ok(Some(Recording { graph, inputs: own, output, _own: be.pool.share_elsewhere(most), runs }))
}

impl Recording {
    /// Launches the graph and returns a copy of its result; `None` if the GPU has no room for the graph.
    fn run(&self, be: &CudaBackend, inputs: &[&Tensor<CudaBackend>]) -> Result<Option<Tensor<CudaBackend>>> {
        for (x, own) in inputs.iter().zip(&self.inputs) {
            be.copy_rows(x, own.address(), own.cols())?;
        }
        if !be.device.dry_run {
            be.device.bind()?;
            let products = be.cublaslt.exclusive();
            // SAFETY: graph and stream are alive, and so is all memory that the graph uses: its own, inputs and output
            // here, and the weights, which the owner of the recordings keeps longer than them.
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

/// An instantiated CUDA graph.
struct Graph {
    executable: sys::CUgraphExec,
    device: Arc<Device>,
}

// SAFETY: graphs may be used from any thread, one at a time, which the lock around them ensures.
unsafe impl Send for Graph {}

impl Drop for Graph {
    fn drop(&mut self) {
        if self.device.dry_run {
            return;
        }
        // Errors cannot be handled here.
        let _ = self.device.synchronize();
        // SAFETY: instantiated in `capture`, and no launch is in flight. Without the trim the driver would keep the
        // memory for the next graph.
        unsafe {
            let _ = result::graph::exec_destroy(self.executable);
            let _ = sys::cuDeviceGraphMemTrim(self.device.ordinal);
        }
    }
}

/// A point in the stream; see [`crate::Runtime::mark`].
pub struct Mark(pub(crate) Event);
