//! The ops at the shapes of klein-4b, each timed beside what bounds it.
//!
//! Each op is a [`Case`] in the list [`cases`]: its name and shape, its cost, and how its inputs are made.

use std::time::{Duration, Instant};

use flux2_backend::{
    AttentionInput, AttentionMask, Backend, Compute, ConvShape, Convolution, DType, Format, GroupNorm,
    ModulatedLayerNorm, Rope, RopeLayout, Tensor, Weight, ops,
};

use super::Peaks;
use crate::Result;
use crate::event::CancelToken;
use crate::weights::{Precision, synthetic};

/// The resource that limits the speed of an op.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// Multiply-adds a second.
    Products,
    /// Bytes moved a second.
    Memory,
}

/// The measured speed of an op.
#[derive(Clone, Debug, PartialEq)]
pub struct OpTiming {
    /// Name of the op.
    pub op: &'static str,
    /// Products with weights: rows, in, out. Attention: tokens, heads, head_dim. Convolutions: height, width, in, out.
    /// Others: the shape of their input.
    pub shape: Vec<usize>,
    /// Name of the dtype of its products.
    pub dtype: String,
    /// Median time of 5 to 25 runs.
    pub median: Duration,
    /// Floating-point operations a second.
    pub flops: f64,
    /// The resource that limits it.
    pub bound: Bound,
    /// Share of the limiting resource's peak, up to 1; `None` if that peak could not be measured.
    pub share_of_peak: Option<f64>,
}

/// Progress and results of timing ops.
#[derive(Debug)]
pub enum OpEvent {
    /// The device the ops run on; the first event.
    Device {
        /// Description for people.
        name: String,
        /// CPU threads.
        threads: usize,
    },
    /// The measured peaks of the device.
    Peaks {
        /// Floating-point operations a second in the dtype of the linear products.
        flops: Option<f64>,
        /// Bytes a second.
        bandwidth: Option<f64>,
    },
    /// Timing of an op begins.
    Started {
        /// Name of the op.
        op: &'static str,
        /// 0 for the first.
        index: usize,
        /// Number of ops to time.
        ops: usize,
    },
    /// An op has been timed.
    Finished(OpTiming),
}

/// An op to time.
pub(super) struct Case<B: Backend> {
    op: &'static str,
    shape: Vec<usize>,
    /// Format of its weights.
    format: Format,
    flop: f64,
    /// Bytes it must read and write; 0 if products limit it.
    bytes: usize,
    prepare: Prepare<B>,
}

/// Makes the inputs of an op.
type Prepare<B> = Box<dyn Fn(&B) -> Result<Run>>;

/// Runs an op once, on inputs of its own.
pub(super) type Run = Box<dyn FnMut() -> Result<()>>;

impl<B: Backend> Case<B> {
    fn bound(&self) -> Bound {
        if self.bytes == 0 { Bound::Products } else { Bound::Memory }
    }

    /// Makes its inputs.
    pub(super) fn prepare(&self, be: &B) -> Result<Run> {
        (self.prepare)(be)
    }

    /// Floating-point operations of a run.
    pub(super) fn flop(&self) -> f64 {
        self.flop
    }

    /// Name and shape, as in `linear 1536x3072x9216`.
    fn label(&self) -> String {
        let shape: Vec<String> = self.shape.iter().map(usize::to_string).collect();
        format!("{} {}", self.op, shape.join("x"))
    }
}

/// Time the ops whose name and shape contain `filter` on `be`; see [`time_ops`](super::time_ops). `device` is sent
/// first.
///
/// # Errors
/// [`Error::Cancelled`](crate::Error::Cancelled), or no memory.
pub(crate) fn time_ops_on<B: Backend>(
    be: &B,
    precision: Precision,
    device: OpEvent,
    filter: &str,
    each: &mut dyn FnMut(OpEvent),
    cancel: &CancelToken,
) -> Result<usize> {
    let filter = filter.to_lowercase();
    let format = precision.blocks();
    let mut cases = cases::<B>(be.compute(), format);
    cases.retain(|case| case.label().contains(&filter));
    if cases.is_empty() {
        return Ok(0);
    }
    each(device);
    let (bandwidth, peaks) = (be.peak_bandwidth(), Peaks::measure(be, precision));
    each(OpEvent::Peaks { flops: peaks.blocks, bandwidth });
    for (index, case) in cases.iter().enumerate() {
        each(OpEvent::Started { op: case.op, index, ops: cases.len() });
        let median = median(case, be, cancel)?;
        let flops = case.flop / median.as_secs_f64();
        let bound = case.bound();
        let share_of_peak = match bound {
            Bound::Products if case.format == format => peaks.blocks.map(|peak| flops / peak),
            Bound::Products => peaks.others.map(|peak| flops / peak),
            Bound::Memory => bandwidth.map(|peak| case.bytes as f64 / median.as_secs_f64() / peak),
        };
        let (op, shape) = (case.op, case.shape.clone());
        let dtype = match case.format {
            Format::Int8 => "int8".to_owned(),
            Format::Fp8 => "fp8".to_owned(),
            _ => be.compute().to_string(),
        };
        each(OpEvent::Finished(OpTiming { op, shape, dtype, median, flops, bound, share_of_peak }));
        be.trim();
    }
    Ok(cases.len())
}

/// The median of 5 to 25 runs after a warm-up run; beyond 5, as many as fit into half a second.
fn median<B: Backend>(case: &Case<B>, be: &B, cancel: &CancelToken) -> Result<Duration> {
    let mut run = case.prepare(be)?;
    run()?;
    be.wait()?;
    let (start, mut times) = (Instant::now(), Vec::new());
    while times.len() < 5 || (times.len() < 25 && start.elapsed() < Duration::from_millis(500)) {
        cancel.check()?;
        let start = Instant::now();
        run()?;
        be.wait()?;
        times.push(start.elapsed());
    }
    times.sort();
    Ok(times[times.len() / 2])
}

// ---- the list ----

/// Every op that is timed, in order. Sizes are those of klein-4b at 256x256, 512x512 and 1024x1024.
fn cases<B: Backend>(compute: Compute, format: Format) -> Vec<Case<B>> {
    let mut cases = Vec::new();
    cases.extend([1536, 1024, 512].map(|rows| linear(format, rows, 3072, 9216)));
    cases.extend([1536, 1024, 512].map(|rows| linear_swiglu(format, rows, 3072, 9216)));
    cases.extend([1536, 1024, 512].map(|rows| linear_add(format, rows, 12_288, 3072)));
    cases.push(linear_swiglu(Format::AsStored, 512, 2560, 9728)); // Qwen3
    cases.extend([768, 1536, 4608].map(|tokens| attention(tokens, 24, 128)));
    for [side, channels] in [[64, 512], [128, 512], [256, 256], [256, 128], [512, 128]] {
        cases.push(convolution(ConvShape::Same, side, [channels, channels]));
    }
    cases.push(convolution(ConvShape::Pointwise, 256, [512, 256]));
    cases.push(convolution(ConvShape::Pointwise, 512, [256, 128]));
    cases.extend([
        modulated_layer_norm(compute, 4608, 3072),
        rms_norm(compute, 512, 2560),
        norm_rope(compute, 4608, 24, 128),
        group_norm(compute, 512, 128),
        prelu(compute, 256, 64),
    ]);
    cases
}

pub(super) fn linear<B: Backend>(format: Format, rows: usize, d_in: usize, d_out: usize) -> Case<B> {
    Case {
        op: "linear",
        shape: vec![rows, d_in, d_out],
        format,
        flop: 2.0 * (rows * d_in * d_out) as f64,
        bytes: 0,
        prepare: Box::new(move |be: &B| {
            let (x, weight) = (matrix(be, rows, d_in)?, weight(be, d_out, d_in, format)?);
            let be = be.clone();
            runs(move || ops::linear(&be, &x, &weight, None))
        }),
    }
}

fn linear_swiglu<B: Backend>(format: Format, rows: usize, d_in: usize, d_out: usize) -> Case<B> {
    Case {
        op: "linear_swiglu",
        shape: vec![rows, d_in, d_out],
        format,
        flop: 4.0 * (rows * d_in * d_out) as f64,
        bytes: 0,
        prepare: Box::new(move |be: &B| {
            let (gate, up) = (weight(be, d_out, d_in, format)?, weight(be, d_out, d_in, format)?);
            let (x, be) = (matrix(be, rows, d_in)?, be.clone());
            runs(move || ops::linear_swiglu(&be, &x, &gate, &up))
        }),
    }
}

fn linear_add<B: Backend>(format: Format, rows: usize, d_in: usize, d_out: usize) -> Case<B> {
    Case {
        op: "linear_add",
        shape: vec![rows, d_in, d_out],
        format,
        flop: 2.0 * (rows * d_in * d_out) as f64,
        bytes: 0,
        prepare: Box::new(move |be: &B| {
            let (mut x, gate) = (residual(be, rows, d_out)?, residual(be, 1, d_out)?);
            let (y, weight, be) = (matrix(be, rows, d_in)?, weight(be, d_out, d_in, format)?, be.clone());
            runs(move || ops::linear_add(&be, &mut x, Some(&gate), &y, &weight))
        }),
    }
}

pub(super) fn attention<B: Backend>(tokens: usize, heads: usize, head_dim: usize) -> Case<B> {
    let width = heads * head_dim;
    Case {
        op: "attention",
        shape: vec![tokens, heads, head_dim],
        format: Format::AsStored,
        flop: 4.0 * (tokens * tokens * width) as f64,
        bytes: 0,
        prepare: Box::new(move |be: &B| {
            let [q, k, v] = matrix(be, tokens, 3 * width)?.chunk_cols();
            let be = be.clone();
            runs(move || {
                ops::attention(&be, &AttentionInput { q: &q, k: &k, v: &v, head_dim, mask: AttentionMask::None })
            })
        }),
    }
}

pub(super) fn convolution<B: Backend>(conv: ConvShape, side: usize, [c_in, c_out]: [usize; 2]) -> Case<B> {
    let taps = conv.kernel() * conv.kernel();
    Case {
        op: if taps == 1 { "conv1x1" } else { "conv3x3" },
        shape: vec![side, side, c_in, c_out],
        format: Format::AsStored,
        flop: 2.0 * (side * side * taps * c_in * c_out) as f64,
        bytes: 0,
        prepare: Box::new(move |be: &B| {
            let x = matrix(be, side * side, c_in)?.reshape("a map", [side, side, c_in])?;
            let (weight, bias) = (weight(be, c_out, taps * c_in, Format::AsStored)?, vector(be, c_out, 0.0)?);
            let (conv, be) = (Convolution { weight, bias, shape: conv }, be.clone());
            runs(move || ops::conv2d(&be, &(&x).into(), &conv))
        }),
    }
}

/// Operations an element: mean 1, variance 3, normalization 2, modulation 3.
fn modulated_layer_norm<B: Backend>(compute: Compute, rows: usize, cols: usize) -> Case<B> {
    Case {
        op: "modulated_layer_norm",
        shape: vec![rows, cols],
        format: Format::AsStored,
        flop: 9.0 * (rows * cols) as f64,
        bytes: rows * cols * (4 + compute.dtype().bytes(1)),
        prepare: Box::new(move |be: &B| {
            let x = residual(be, rows, cols)?;
            let [shift, scale] = residual(be, 1, 2 * cols)?.chunk_cols();
            let be = be.clone();
            runs(move || {
                ops::modulated_layer_norm(
                    &be,
                    &x,
                    &ModulatedLayerNorm { shift: &shift, scale: &scale, eps: 1e-6, feeds: None },
                )
            })
        }),
    }
}

/// Operations an element: mean square 2, normalization 1, weight 1.
fn rms_norm<B: Backend>(compute: Compute, rows: usize, cols: usize) -> Case<B> {
    Case {
        op: "rms_norm",
        shape: vec![rows, cols],
        format: Format::AsStored,
        flop: 4.0 * (rows * cols) as f64,
        bytes: rows * cols * (4 + compute.dtype().bytes(1)),
        prepare: Box::new(move |be: &B| {
            let (x, weight) = (residual(be, rows, cols)?, vector(be, cols, 1.0)?);
            let be = be.clone();
            runs(move || ops::rms_norm(&be, &x, &weight, 1e-6))
        }),
    }
}

/// Operations an element: norm 4, rotation 3. Runs on the queries in a projection of queries, keys and values.
fn norm_rope<B: Backend>(compute: Compute, rows: usize, heads: usize, head_dim: usize) -> Case<B> {
    let width = heads * head_dim;
    Case {
        op: "norm_rope",
        shape: vec![rows, heads, head_dim],
        format: Format::AsStored,
        flop: 7.0 * (rows * width) as f64,
        bytes: rows * (2 * width * compute.dtype().bytes(1) + 4 * head_dim),
        prepare: Box::new(move |be: &B| {
            let [q, _, _] = matrix(be, rows, 3 * width)?.chunk_cols();
            let [cos, sin] = residual(be, rows, head_dim)?.chunk_cols();
            // Contiguous tables, as in the model.
            let (cos, sin) = (ops::concat_rows(be, &[&cos])?, ops::concat_rows(be, &[&sin])?);
            let rope = Rope { cos, sin, layout: RopeLayout::Interleaved };
            let (weight, be) = (vector(be, head_dim, 1.0)?, be.clone());
            runs(move || ops::norm_rope(&be, &q, &weight, &rope, 1e-6))
        }),
    }
}

/// Operations an element: statistics 4, normalization 2, weight and bias 2. The map is read twice.
fn group_norm<B: Backend>(compute: Compute, side: usize, channels: usize) -> Case<B> {
    Case {
        op: "group_norm",
        shape: vec![side, side, channels],
        format: Format::AsStored,
        flop: 8.0 * (side * side * channels) as f64,
        bytes: 3 * side * side * channels * compute.dtype().bytes(1),
        prepare: Box::new(move |be: &B| {
            let x = matrix(be, side * side, channels)?.reshape("a map", [side, side, channels])?;
            let (weight, bias, be) = (vector(be, channels, 1.0)?, vector(be, channels, 0.0)?, be.clone());
            let norm = GroupNorm { groups: 32, weight, bias, eps: 1e-6 };
            runs(move || ops::group_norm(&be, &x, &norm))
        }),
    }
}

/// Two operations an element, of an upscaler.
fn prelu<B: Backend>(compute: Compute, side: usize, channels: usize) -> Case<B> {
    Case {
        op: "prelu",
        shape: vec![side, side, channels],
        format: Format::AsStored,
        flop: 2.0 * (side * side * channels) as f64,
        bytes: 2 * side * side * channels * compute.dtype().bytes(1),
        prepare: Box::new(move |be: &B| {
            let mut x = matrix(be, side * side, channels)?;
            let (slope, be) = (vector(be, channels, 0.2)?, be.clone());
            runs(move || ops::prelu(&be, &mut x, &slope))
        }),
    }
}

fn runs<T>(mut op: impl FnMut() -> flux2_backend::Result<T> + 'static) -> Result<Run> {
    Ok(Box::new(move || {
        op()?;
        Ok(())
    }))
}

// ---- inputs ----

/// Activations in the compute dtype, as they enter a product.
fn matrix<B: Backend>(be: &B, rows: usize, cols: usize) -> Result<Tensor<B>> {
    activations(be, rows, cols, be.compute().dtype())
}

/// Activations in f32.
fn residual<B: Backend>(be: &B, rows: usize, cols: usize) -> Result<Tensor<B>> {
    activations(be, rows, cols, DType::F32)
}

/// Up to 64 random rows, repeated: generating all would take longer than timing the op.
fn activations<B: Backend>(be: &B, rows: usize, cols: usize, dtype: DType) -> Result<Tensor<B>> {
    let few = rows.min(64);
    let values = synthetic::tensor("activations", &[few, cols])?.to_f32();
    let block = ops::cast(be, &be.upload(&[few, cols], &values)?, dtype)?;
    Ok(ops::concat_rows(be, &vec![&block; rows / few])?)
}

fn vector<B: Backend>(be: &B, len: usize, value: f32) -> Result<Tensor<B>> {
    Ok(be.upload(&[len], &vec![value; len])?)
}

/// A bf16 matrix, as in a checkpoint, loaded in `format`.
fn weight<B: Backend>(be: &B, d_out: usize, d_in: usize, format: Format) -> Result<Weight<B>> {
    Ok(Weight::load_as(be, synthetic::tensor("weight", &[d_out, d_in])?, format)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden::f32_backend;

    fn timed(filter: &str) -> (usize, Vec<OpEvent>) {
        let (be, mut events) = (f32_backend(), Vec::new());
        let device = OpEvent::Device { name: "a device".into(), threads: be.threads() };
        let count =
            time_ops_on(&be, Precision::F32, device, filter, &mut |event| events.push(event), &CancelToken::new())
                .unwrap();
        (count, events)
    }

    #[test]
    fn an_op_is_timed_beside_what_bounds_it() {
        let (count, events) = timed("RMS_norm 512x");
        let [
            OpEvent::Device { .. },
            OpEvent::Peaks { bandwidth, .. },
            OpEvent::Started { op: "rms_norm", index: 0, ops: 1 },
            OpEvent::Finished(t),
        ] = &events[..]
        else {
            panic!("{events:?}")
        };
        assert_eq!((count, t.bound, &t.shape[..]), (1, Bound::Memory, &[512, 2560][..]));
        assert!(*bandwidth > Some(0.0) && t.share_of_peak > Some(0.0) && t.flops > 0.0, "{t:?}");
    }

    #[test]
    fn nothing_is_measured_where_nothing_fits() {
        let (count, events) = timed("no such op");
        assert!(count == 0 && events.is_empty(), "{events:?}");
    }

    #[test]
    fn every_case_has_a_name_of_its_own() {
        let mut labels: Vec<String> =
            cases::<flux2_backend::CpuBackend>(Compute::Bf16, Format::Int8).iter().map(Case::label).collect();
        let all = labels.len();
        labels.sort();
        labels.dedup();
        assert_eq!(labels.len(), all);
    }
}
