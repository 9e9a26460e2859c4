//! What a device must be able to do: about twenty fused ops, and moving values to and from the host.
//!
//! No maths and no checks here: callers go through [`crate::ops`], which checks shapes and dtypes first. Shapes are
//! those of the op contracts.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use crate::{Compute, DType, Error, Format, HostTensor, Result, Tensor, Weight};

/// A device that holds tensors and runs the ops on them.
///
/// A backend is a cheap handle: clones share the device, its memory pool and its threads.
pub trait Backend: Clone + Send + Sync + Sized + 'static {
    /// Where the elements of a [`Tensor`] live.
    type Buffer: Send + Sync;
    /// Where a [`Weight`] lives, in whatever form suits the device.
    type Matrix: Send + Sync;
    /// A place in the order of all calls.
    type Mark: Send;
    /// What [`replay`](Backend::replay) remembers. Goes before the weights that were used.
    type Recordings: Default + Send + Sync;

    /// What products are computed in.
    fn compute(&self) -> Compute;
    /// Names the kernels in use and what they compute in: two backends of one version of this crate that give the same
    /// name give the same bytes for the same inputs.
    fn kernels(&self) -> String;
    /// Floating-point operations a second (a multiply-add is two) at which products with weights in `format` could run at most,
    /// measured now, on all threads; `None` where that cannot be measured. All other products are those of
    /// [`Format::AsStored`].
    fn peak_flops(&self, _format: Format) -> Option<f64> {
        None
    }
    /// The same of attention, softmax and all, where that is bound by something else than products are.
    fn peak_attention_flops(&self) -> Option<f64> {
        None
    }
    /// Bytes a second, those read and those written, at which a copy between buffers larger than the caches runs, measured now.
    fn peak_bandwidth(&self) -> Option<f64> {
        None
    }

    /// A tensor of f32 values from the host.
    ///
    /// # Errors
    /// [`Error::ByteCount`](crate::Error::ByteCount) if there are not as many values as `shape` says.
    fn upload(&self, shape: &[usize], values: &[f32]) -> Result<Tensor<Self>>;
    /// All values as f32, row-major.
    fn download(&self, x: &Tensor<Self>) -> Result<Vec<f32>>;
    /// Take over a matrix `[out, in]` in `format`; as it is stored if its rows are not whole blocks of that.
    fn load_matrix(&self, matrix: HostTensor, format: Format) -> Result<Self::Matrix>;
    /// Give memory that no tensor uses back to the system.
    fn trim(&self);
    /// The most memory that was in use at once since the last call.
    fn take_memory_peak(&self) -> MemoryUse;
    /// Which kernels multiplied what since the last call, in the order they came first. Written down where the kernel is
    /// started, not where it was asked for.
    fn take_kernels_run(&self) -> Vec<KernelRun>;
    /// Whether calls may return before they are done, so that the host can do something else meanwhile.
    fn works_beside_host(&self) -> bool {
        false
    }
    /// Wait until all that was called is done: a device may still be at work when a call returns.
    ///
    /// # Errors
    /// What went wrong meanwhile.
    fn wait(&self) -> Result<()> {
        Ok(())
    }
    /// The place behind what was called until now.
    ///
    /// # Errors
    /// If the device has failed.
    fn mark(&self) -> Result<Self::Mark>;
    /// Whether all before `mark` is done.
    ///
    /// # Errors
    /// What went wrong meanwhile.
    fn is_done(&self, mark: &Self::Mark) -> Result<bool>;
    /// Wait until all before `mark` is done, whatever was called since.
    ///
    /// # Errors
    /// What went wrong meanwhile.
    fn wait_for(&self, mark: &Self::Mark) -> Result<()>;
    /// The time between two marks, both done, on the device: if nothing was called between them, how long it waited for the host.
    ///
    /// # Errors
    /// If the device has failed.
    fn between(&self, _from: &Self::Mark, _to: &Self::Mark) -> Result<Duration> {
        Ok(Duration::ZERO)
    }
    /// `work(inputs)`, for work that does the same for inputs of the same shapes, whatever their values, and depends on nothing else
    /// but weights. `recordings` belong to this work. A device may remember what was called and call that instead of `work`, or call
    /// `work` without running anything; the result is the same.
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

    /// See [`crate::ops::cast()`].
    fn cast(&self, x: &Tensor<Self>, dtype: DType) -> Result<Tensor<Self>>;
    /// See [`crate::ops::concat_cols()`].
    fn concat_cols(&self, parts: &[&Tensor<Self>]) -> Result<Tensor<Self>>;
    /// See [`crate::ops::concat_rows()`].
    fn concat_rows(&self, parts: &[&Tensor<Self>]) -> Result<Tensor<Self>>;
    /// See [`crate::ops::embedding()`].
    fn embedding(&self, table: &Weight<Self>, ids: &[u32]) -> Result<Tensor<Self>>;
    /// See [`crate::ops::linear()`] and [`crate::ops::linear_f32`].
    fn linear(
        &self,
        x: &Tensor<Self>,
        weight: &Weight<Self>,
        bias: Option<&Tensor<Self>>,
        out: DType,
    ) -> Result<Tensor<Self>>;
    /// See [`crate::ops::linear_add()`] and [`crate::ops::linear_pair_add`]. The parts of `y` stand side by side.
    fn linear_add(
        &self,
        x: &mut Tensor<Self>,
        gate: Option<&Tensor<Self>>,
        y: &[&Tensor<Self>],
        weight: &Weight<Self>,
    ) -> Result<()>;
    /// See [`crate::ops::linear_swiglu()`].
    fn linear_swiglu(&self, x: &Tensor<Self>, gate: &Weight<Self>, up: &Weight<Self>) -> Result<Tensor<Self>>;
    /// See [`crate::ops::rms_norm()`].
    fn rms_norm(&self, x: &Tensor<Self>, weight: &Tensor<Self>, eps: f32) -> Result<Tensor<Self>>;
    /// See [`crate::ops::modulated_layer_norm()`].
    fn modulated_layer_norm(
        &self,
        x: &Tensor<Self>,
        shift: &Tensor<Self>,
        scale: &Tensor<Self>,
        eps: f32,
    ) -> Result<Tensor<Self>>;
    /// See [`crate::ops::norm_rope()`].
    fn norm_rope(&self, x: &Tensor<Self>, weight: &Tensor<Self>, rope: &Rope<Self>, eps: f32) -> Result<Tensor<Self>>;
    /// See [`crate::ops::attention()`].
    fn attention(
        &self,
        q: &Tensor<Self>,
        k: &Tensor<Self>,
        v: &Tensor<Self>,
        head_dim: usize,
        mask: AttentionMask,
    ) -> Result<Tensor<Self>>;
    /// See [`crate::ops::silu()`].
    fn silu(&self, x: &Tensor<Self>) -> Result<Tensor<Self>>;
    /// See [`crate::ops::euler_step()`].
    fn euler_step(&self, x: &mut Tensor<Self>, velocity: &Tensor<Self>, dt: f32) -> Result<()>;
    /// See [`crate::ops::guide()`].
    fn guide(&self, uncond: &Tensor<Self>, cond: &Tensor<Self>, guidance: f32) -> Result<Tensor<Self>>;
    /// See [`crate::ops::conv2d()`].
    fn conv2d(&self, x: &ConvInput<Self>, conv: &Convolution<Self>, out: DType) -> Result<Tensor<Self>>;
    /// See [`crate::ops::conv2d_add`].
    fn conv2d_add(&self, y: &mut Tensor<Self>, x: &ConvInput<Self>, conv: &Convolution<Self>) -> Result<()>;
    /// See [`crate::ops::group_norm()`].
    fn group_norm(&self, x: &Tensor<Self>, norm: &GroupNorm<Self>) -> Result<Tensor<Self>>;
    /// See [`crate::ops::group_norm_statistics`].
    fn group_norm_statistics(&self, x: &ConvInput<Self>, norm: &GroupNorm<Self>) -> Result<Tensor<Self>>;
    /// See [`crate::ops::patchify()`].
    fn patchify(&self, x: &Tensor<Self>, mean: &Tensor<Self>, std: &Tensor<Self>) -> Result<Tensor<Self>>;
    /// See [`crate::ops::unpatchify`].
    fn unpatchify(
        &self,
        tokens: &Tensor<Self>,
        size: [usize; 2],
        mean: &Tensor<Self>,
        std: &Tensor<Self>,
    ) -> Result<Tensor<Self>>;
}

/// Products of one kind that a backend has computed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelRun {
    /// `linear` for all products of activations and weights, `conv2d` or `attention`.
    pub op: &'static str,
    /// How the weights were stored; of none for attention.
    pub weights: Option<DType>,
    /// The kernel: its instruction set, and the format of the numbers it multiplies.
    pub kernel: String,
    /// How many.
    pub products: u64,
}

/// What a backend writes down of the kernels it starts.
#[derive(Clone, Default)]
pub(crate) struct KernelLog(Arc<Mutex<Vec<KernelRun>>>);

impl KernelLog {
    pub(crate) fn note(&self, op: &'static str, weights: Option<DType>, kernel: &str) {
        self.add(&[KernelRun { op, weights, kernel: kernel.to_owned(), products: 1 }]);
    }

    /// See [`Backend::take_kernels_run`].
    pub(crate) fn take(&self) -> Vec<KernelRun> {
        std::mem::take(&mut *self.lock())
    }

    /// Write down what ran again.
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
    /// Allocated: tensors, scratch, what is kept for later, weights that are not as a file has them.
    pub allocated: usize,
    /// Pages of files that weights are read from. The system can take them back at any time and read them again.
    pub mapped: usize,
}

impl MemoryUse {
    /// Both together: what counts as resident.
    pub fn total(self) -> usize {
        self.allocated + self.mapped
    }
}

/// Which keys a query may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttentionMask {
    /// Every query sees every key.
    None,
    /// Query `i` sees key `j` if `j <= i` and `j < valid`. Keys are those of the queries' tokens, from the first on; keys
    /// that no query sees may be left out.
    Causal {
        /// Keys before the padding; at least 1.
        valid: usize,
    },
}

/// Which channels of a head rotate together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopeLayout {
    /// Channels `2i` and `2i + 1`, as in the flow transformer.
    Interleaved,
    /// Channels `i` and `i + head_dim / 2`, as in Qwen3.
    Halves,
}

/// Rotary position embedding, one angle for each token and pair of channels.
pub struct Rope<B: Backend> {
    /// f32 `[n, head_dim / 2]`.
    pub cos: Tensor<B>,
    /// f32 `[n, head_dim / 2]`.
    pub sin: Tensor<B>,
    /// How pairs are laid out in a head.
    pub layout: RopeLayout,
}

impl<B: Backend> Rope<B> {
    /// The angles of tokens `range`.
    ///
    /// # Panics
    /// If there are not that many.
    pub fn slice_rows(&self, range: Range<usize>) -> Self {
        let Rope { cos, sin, layout } = self;
        Rope { cos: cos.slice_rows(range.clone()), sin: sin.slice_rows(range), layout: *layout }
    }
}

impl<B: Backend> Clone for Rope<B> {
    fn clone(&self) -> Self {
        Rope { cos: self.cos.clone(), sin: self.sin.clone(), layout: self.layout }
    }
}

/// Group norm's parameters.
pub struct GroupNorm<B: Backend> {
    /// Runs of channels that share a mean and a variance.
    pub groups: usize,
    /// f32 `[c]`.
    pub weight: Tensor<B>,
    /// f32 `[c]`.
    pub bias: Tensor<B>,
    /// Added to the variance.
    pub eps: f32,
}

/// A convolution's parameters.
pub struct Convolution<B: Backend> {
    /// `[out, kernel * kernel * in]`.
    pub weight: Weight<B>,
    /// f32 `[out]`.
    pub bias: Tensor<B>,
    /// Which kind it is.
    pub shape: ConvShape,
}

/// A map of pixels as a convolution reads it: a map in memory, and what is done to it on the way.
///
/// Neither step's result is ever there as a whole. Rows of it are made when the convolution needs them.
pub struct ConvInput<'a, B: Backend> {
    /// Compute `[h, w, c]`.
    pub map: &'a Tensor<B>,
    /// First, another convolution: costs its work once more wherever the map is read, and saves its result's memory.
    pub after: Option<&'a Convolution<B>>,
    /// Then `silu(group_norm(x))` with these [statistics](crate::ops::group_norm_statistics), f32 `[3, c]`.
    pub norm_silu: Option<Tensor<B>>,
}

impl<'a, B: Backend> ConvInput<'a, B> {
    /// Height, width and channels of what is read.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) if the map is not a map.
    pub fn size(&self) -> Result<[usize; 3]> {
        let [h, w, c] = self.map.dims("convolution: map")?;
        Ok(match self.after {
            Some(conv) => [conv.shape.output(h), conv.shape.output(w), conv.weight.shape()[0]],
            None => [h, w, c],
        })
    }

    /// The same before norm and SiLU.
    pub fn raw(&self) -> Self {
        ConvInput { map: self.map, after: self.after, norm_silu: None }
    }
}

impl<'a, B: Backend> From<&'a Tensor<B>> for ConvInput<'a, B> {
    fn from(map: &'a Tensor<B>) -> Self {
        ConvInput { map, after: None, norm_silu: None }
    }
}

/// The three kinds of convolution in the autoencoder. Weights are `[out, kernel * kernel * in]` (row, column, channel).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConvShape {
    /// 1x1: a product at each pixel.
    Pointwise,
    /// 3x3, one zero pixel around: `[h, w]` to `[h, w]`.
    Same,
    /// 3x3 with stride 2, one zero row below and one zero column to the right: `[h, w]` to `[h / 2, w / 2]`.
    Downsample,
    /// 3x3 on the nearest-neighbour doubled map: `[h, w]` to `[2 * h, 2 * w]`.
    Upsample,
}

impl ConvShape {
    /// Width and height of the kernel.
    pub const fn kernel(self) -> usize {
        match self {
            ConvShape::Pointwise => 1,
            _ => 3,
        }
    }

    /// Output height or width for an input of `n`.
    pub const fn output(self, n: usize) -> usize {
        match self {
            ConvShape::Pointwise | ConvShape::Same => n,
            ConvShape::Downsample => n / 2,
            ConvShape::Upsample => 2 * n,
        }
    }
}
