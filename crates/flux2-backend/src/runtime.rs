//! What a device must be able to do besides computing ops: memory, copies to and from the host, progress, replay, and
//! what it tells about itself.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use crate::{Compute, DType, Error, Format, HostTensor, Result, Tensor};

/// Values on their way to the host: waits for them and returns them.
pub type PendingDownload = Box<dyn FnOnce() -> Result<Vec<f32>> + Send>;

/// A device that holds tensors.
///
/// A backend is a cheap handle: clones share the device, its memory pool and its threads.
pub trait Runtime: Clone + Send + Sync + Sized + 'static {
    /// The memory of a [`Tensor`].
    type Buffer: Send + Sync;
    /// The memory of a [`Weight`](crate::Weight), in the layout the device multiplies.
    type Matrix: Send + Sync;
    /// A point in the sequence of enqueued calls, as a CUDA event is.
    type Mark: Send;
    /// What [`replay`](Runtime::replay) has captured. Must be dropped before the weights that the captured work used.
    type Recordings: Default + Send + Sync;

    /// The number format that products are computed in.
    fn compute(&self) -> Compute;
    /// Names the kernels in use: two backends of one version of this crate with the same name give the same bytes for
    /// the same inputs.
    fn kernels(&self) -> String;
    /// Peak throughput of products with weights in `format`, in floating-point operations a second (a multiply-add is
    /// two), measured now on all threads; `None` where that cannot be measured. Formats that are only stored
    /// differently count as [`Format::AsStored`].
    fn peak_flops(&self, _format: Format) -> Option<f64> {
        None
    }
    /// Peak throughput of attention with its softmax; `None` where products are what limits it.
    fn peak_attention_flops(&self) -> Option<f64> {
        None
    }
    /// Peak throughput of a copy between buffers larger than the caches, in bytes read and written a second, measured
    /// now.
    fn peak_bandwidth(&self) -> Option<f64> {
        None
    }

    /// Energy that the device has used since some time in the past, in joules; `None` where that is not measured. The
    /// counter may advance in steps of up to 100 ms.
    fn energy(&self) -> Option<f64> {
        None
    }

    /// Copies f32 values from the host to a new tensor.
    ///
    /// # Errors
    /// [`Error::ByteCount`] if `shape` does not have as many elements as there are values.
    fn upload(&self, shape: &[usize], values: &[f32]) -> Result<Tensor<Self>>;
    /// Waits for `x` and copies its elements to the host, row-major, as f32.
    ///
    /// # Errors
    /// What went wrong on the device until now.
    fn download(&self, x: &Tensor<Self>) -> Result<Vec<f32>>;
    /// As [`download`](Self::download) of `x` as it is now, to be waited for later: an asynchronous device copies it
    /// between the calls enqueued before and after this one, and the host can enqueue more meanwhile.
    ///
    /// # Errors
    /// If there is no memory for the copy.
    fn start_download(&self, x: &Tensor<Self>) -> Result<PendingDownload> {
        let values = self.download(x)?;
        Ok(Box::new(move || Ok(values)))
    }
    /// Loads a matrix `[out, in]` in `format`; as stored if its rows are not whole blocks of that format.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if the device cannot multiply `format`, [`Error::OutOfMemory`].
    fn load_matrix(&self, matrix: HostTensor, format: Format) -> Result<Self::Matrix>;
    /// Gives unused memory back to the system.
    fn trim(&self);
    /// Peak memory in use since the last call.
    fn take_memory_peak(&self) -> MemoryUse;
    /// The kernels that computed products since the last call, in order of first use. Logged where a kernel is
    /// launched.
    fn take_kernels_run(&self) -> Vec<KernelRun>;
    /// Whether calls are asynchronous, so that the host can do something else meanwhile.
    fn is_asynchronous(&self) -> bool {
        false
    }
    /// Waits until all enqueued calls have finished.
    ///
    /// # Errors
    /// An error of an enqueued call, which the device reports only now.
    fn wait(&self) -> Result<()> {
        Ok(())
    }
    /// Marks the point behind all calls enqueued so far.
    ///
    /// # Errors
    /// If the device has failed.
    fn mark(&self) -> Result<Self::Mark>;
    /// Whether all calls before `mark` have finished.
    ///
    /// # Errors
    /// An error of an enqueued call, which the device reports only now.
    fn is_done(&self, mark: &Self::Mark) -> Result<bool>;
    /// Waits until all calls before `mark` have finished, whatever was enqueued since.
    ///
    /// # Errors
    /// An error of an enqueued call, which the device reports only now.
    fn wait_for(&self, mark: &Self::Mark) -> Result<()>;
    /// Device time between two marks that are both done. If nothing was enqueued between them, the device was idle for
    /// so long.
    ///
    /// # Errors
    /// If the device has failed.
    fn between(&self, _from: &Self::Mark, _to: &Self::Mark) -> Result<Duration> {
        Ok(Duration::ZERO)
    }
    /// Returns `work(inputs)`, for work whose calls depend on the shapes of its inputs and on weights, never on values.
    ///
    /// A device may capture the calls (as a CUDA graph) and replay them instead of running `work`, or run `work` to
    /// capture without computing; the result is the same. `recordings` belong to this `work` alone.
    ///
    /// # Errors
    /// Those of `work`, and what went wrong on the device.
    fn replay<E: From<Error>>(
        &self,
        _recordings: &Self::Recordings,
        inputs: &[&Tensor<Self>],
        mut work: impl FnMut(&[Tensor<Self>]) -> Result<Tensor<Self>, E>,
    ) -> Result<Tensor<Self>, E> {
        let inputs: Vec<Tensor<Self>> = inputs.iter().copied().cloned().collect();
        work(&inputs)
    }
}

/// Products that one kernel computed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelRun {
    /// `linear` (all products of activations with weights), `conv2d` or `attention`.
    pub op: &'static str,
    /// How the weights were stored; `None` for attention.
    pub weights: Option<DType>,
    /// The kernel: instruction set or library, and the format of the numbers it multiplies.
    pub kernel: String,
    /// Number of products.
    pub products: u64,
}

/// The kernels a backend has launched for products.
#[derive(Clone, Default)]
pub(crate) struct KernelLog(Arc<Mutex<Vec<KernelRun>>>);

impl KernelLog {
    pub(crate) fn note(&self, op: &'static str, weights: Option<DType>, kernel: &str) {
        self.add(&[KernelRun { op, weights, kernel: kernel.to_owned(), products: 1 }]);
    }

    /// See [`Runtime::take_kernels_run`].
    pub(crate) fn take(&self) -> Vec<KernelRun> {
        std::mem::take(&mut *self.lock())
    }

    /// Adds the runs of a replayed graph.
    pub(crate) fn add(&self, again: &[KernelRun]) {
        let mut runs = self.lock();
        for new in again {
            let same = |run: &&mut KernelRun| (run.op, run.weights, &run.kernel) == (new.op, new.weights, &new.kernel);
            match runs.iter_mut().find(same) {
                Some(run) => run.products += new.products,
                None => runs.push(new.clone()),
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<KernelRun>> {
        self.0.lock().expect("no panic while the lock is held")
    }
}

/// Memory in use, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryUse {
    /// Allocated: tensors, scratch, caches, and weights that are not read in place from a mapped file.
    pub allocated: usize,
    /// Mapped pages of weight files. The system can evict them at any time and read them again.
    pub mapped: usize,
}

impl MemoryUse {
    /// Allocated and mapped together: the resident set.
    pub fn total(self) -> usize {
        self.allocated + self.mapped
    }
}
