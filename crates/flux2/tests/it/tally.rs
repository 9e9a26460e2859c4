//! A backend that computes nothing and records the calls it gets.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use flux2::weights::{ModelFiles, ModelPaths, WeightSource};
use flux2_backend::{
    AttentionInput, Backend, Compute, ConvInput, Convolution, DType, Format, GroupNorm, HostTensor, KernelRun,
    MemoryUse, ModulatedLayerNorm, Result, Rope, Runtime, Tensor, Weight,
};

/// A recorded call: its kind, and its number of rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// For products the canonical name of the matrix, else the name of the op.
    pub what: String,
    /// Rows of the input; for attention, the number of keys.
    pub rows: usize,
}

/// The backend. Clones share one list of calls.
#[derive(Clone)]
pub struct Tally {
    /// Canonical names of the text encoder's and the transformer's matrices, by their bytes.
    names: Arc<HashMap<Vec<u8>, String>>,
    calls: Arc<Mutex<Vec<Call>>>,
}

impl Tally {
    /// A backend for a model. Matrices are recognized by their bytes, so they must all differ.
    pub fn of(paths: &ModelPaths) -> Self {
        let files = ModelFiles::open(paths).unwrap();
        let text = files.text_encoder.map().unwrap();
        let transformer = files.transformer.map().unwrap();
        let bytes = |weights: &dyn WeightSource, name: &str| weights.tensor(name).unwrap().bytes().to_vec();
        let of_text = files.text_encoder.names().map(|name| (bytes(&text, name), name.to_owned()));
        let of_transformer = files.transformer.names().map(|name| (bytes(&transformer, name), name.to_owned()));
        Tally { names: Arc::new(of_text.chain(of_transformer).collect()), calls: Arc::default() }
    }

    /// The calls since the last `take`.
    pub fn take(&self) -> Vec<Call> {
        std::mem::take(&mut *self.calls.lock().unwrap())
    }

    fn note(&self, what: impl Into<String>, rows: usize) {
        self.calls.lock().unwrap().push(Call { what: what.into(), rows });
    }

    /// A tensor without values.
    fn result(&self, dtype: DType, shape: impl Into<Vec<usize>>) -> Result<Tensor<Self>> {
        Ok(Tensor::from_buffer((), dtype, shape))
    }

    fn op(&self, what: &str, x: &Tensor<Self>, dtype: DType) -> Result<Tensor<Self>> {
        self.note(what, x.rows());
        self.result(dtype, x.shape())
    }
}

const COMPUTE: DType = DType::Bf16;

impl Runtime for Tally {
    type Buffer = ();
    type Matrix = String;
    type Mark = ();
    type Recordings = ();

    fn compute(&self) -> Compute {
        Compute::Bf16
    }

    fn kernels(&self) -> String {
        "none".into()
    }

    fn mark(&self) -> Result<()> {
        Ok(())
    }

    fn is_done(&self, (): &()) -> Result<bool> {
        Ok(true)
    }

    fn wait_for(&self, (): &()) -> Result<()> {
        Ok(())
    }

    fn upload(&self, shape: &[usize], _: &[f32]) -> Result<Tensor<Self>> {
        self.note("upload", shape[0]);
        self.result(DType::F32, shape)
    }

    fn download(&self, x: &Tensor<Self>) -> Result<Vec<f32>> {
        Ok(vec![0.0; x.rows() * x.cols()])
    }

    fn load_matrix(&self, matrix: HostTensor, _: Format) -> Result<String> {
        let bytes = &matrix.bytes()[..];
        // Some rows of a matrix are named after it.
        let part = || self.names.iter().find(|(all, _)| all.windows(bytes.len()).any(|part| part == bytes));
        let name = self.names.get(bytes).or_else(|| part().map(|(_, name)| name)).cloned();
        let name = name.unwrap_or_else(|| "kernel".into());
        self.note(format!("load {name}"), matrix.shape()[0]);
        Ok(name)
    }

    fn trim(&self) {}

    fn take_memory_peak(&self) -> MemoryUse {
        MemoryUse::default()
    }

    fn take_kernels_run(&self) -> Vec<KernelRun> {
        vec![]
    }
}

impl Backend for Tally {
    fn cast(&self, x: &Tensor<Self>, dtype: DType) -> Result<Tensor<Self>> {
        self.result(dtype, x.shape())
    }

    fn concat_cols(&self, parts: &[&Tensor<Self>]) -> Result<Tensor<Self>> {
        self.note("concat_cols", parts[0].rows());
        self.result(parts[0].dtype(), [parts[0].rows(), parts.iter().map(|part| part.cols()).sum()])
    }

    fn concat_rows(&self, parts: &[&Tensor<Self>]) -> Result<Tensor<Self>> {
        let rows: usize = parts.iter().map(|part| part.rows()).sum();
        let mut shape = parts[0].shape().to_vec();
        let axis = shape.len() - 2;
        shape[axis] = rows / shape[..axis].iter().product::<usize>();
        self.result(parts[0].dtype(), shape)
    }

    fn embedding(&self, table: &Weight<Self>, ids: &[u32]) -> Result<Tensor<Self>> {
        self.note("embedding", ids.len());
        self.result(DType::F32, [ids.len(), table.shape()[1]])
    }

    fn linear(
        &self,
        x: &Tensor<Self>,
        weight: &Weight<Self>,
        _: Option<&Tensor<Self>>,
        out: DType,
    ) -> Result<Tensor<Self>> {
        self.note(weight.matrix(), x.rows());
        let mut shape = x.shape().to_vec();
        *shape.last_mut().unwrap() = weight.shape()[0];
        self.result(out, shape)
    }

    fn linear_add(
        &self,
        _: &mut Tensor<Self>,
        _: Option<&Tensor<Self>>,
        y: &[&Tensor<Self>],
        weight: &Weight<Self>,
    ) -> Result<()> {
        self.note(weight.matrix(), y[0].rows());
        Ok(())
    }

    fn linear_swiglu(&self, x: &Tensor<Self>, gate: &Weight<Self>, up: &Weight<Self>) -> Result<Tensor<Self>> {
        self.note(gate.matrix(), x.rows());
        self.note(up.matrix(), x.rows());
        let mut shape = x.shape().to_vec();
        *shape.last_mut().unwrap() = gate.shape()[0];
        self.result(COMPUTE, shape)
    }

    fn rms_norm(&self, x: &Tensor<Self>, _: &Tensor<Self>, _: f32) -> Result<Tensor<Self>> {
        self.op("rms_norm", x, COMPUTE)
    }

    fn modulated_layer_norm(&self, x: &Tensor<Self>, _: &ModulatedLayerNorm<Self>) -> Result<Tensor<Self>> {
        self.op("modulated_layer_norm", x, COMPUTE)
    }

    fn norm_rope(&self, x: &Tensor<Self>, _: &Tensor<Self>, _: &Rope<Self>, _: f32) -> Result<Tensor<Self>> {
        self.op("norm_rope", x, COMPUTE)
    }

    fn attention(&self, operands: &AttentionInput<Self>) -> Result<Tensor<Self>> {
        let &AttentionInput { q, k, .. } = operands;
        self.note("attention", k.rows());
        self.result(COMPUTE, q.shape())
    }

    fn silu(&self, x: &Tensor<Self>) -> Result<Tensor<Self>> {
        self.op("silu", x, COMPUTE)
    }

    fn euler_step(&self, x: &mut Tensor<Self>, _: &Tensor<Self>, _: f32) -> Result<()> {
        self.op("euler_step", x, DType::F32).map(drop)
    }

    fn guide(&self, uncond: &Tensor<Self>, _: &Tensor<Self>, _: f32) -> Result<Tensor<Self>> {
        self.op("guide", uncond, DType::F32)
    }

    fn conv2d(&self, x: &ConvInput<Self>, conv: &Convolution<Self>, out: DType) -> Result<Tensor<Self>> {
        let [h, w, _] = x.size()?;
        self.result(out, [conv.shape.output(h), conv.shape.output(w), conv.weight.shape()[0]])
    }

    fn conv2d_add(&self, _: &mut Tensor<Self>, _: &ConvInput<Self>, _: &Convolution<Self>) -> Result<()> {
        Ok(())
    }

    fn group_norm(&self, x: &Tensor<Self>, _: &GroupNorm<Self>) -> Result<Tensor<Self>> {
        self.result(COMPUTE, x.shape())
    }

    fn group_norm_statistics(&self, x: &ConvInput<Self>, _: &GroupNorm<Self>) -> Result<Tensor<Self>> {
        self.result(DType::F32, [3, x.size()?[2]])
    }

    fn patchify(&self, x: &Tensor<Self>, _: &Tensor<Self>, _: &Tensor<Self>) -> Result<Tensor<Self>> {
        self.result(DType::F32, [x.rows() / 4, 4 * x.cols()])
    }

    fn unpatchify(
        &self,
        tokens: &Tensor<Self>,
        [h, w]: [usize; 2],
        _: &Tensor<Self>,
        _: &Tensor<Self>,
    ) -> Result<Tensor<Self>> {
        self.result(COMPUTE, [2 * h, 2 * w, tokens.cols() / 4])
    }

    fn prelu(&self, x: &mut Tensor<Self>, _: &Tensor<Self>) -> Result<()> {
        self.op("prelu", x, COMPUTE).map(drop)
    }

    fn add_scaled(&self, x: &mut Tensor<Self>, _: &Tensor<Self>, _: f32) -> Result<()> {
        self.op("add_scaled", x, COMPUTE).map(drop)
    }

    fn pixel_shuffle(&self, x: &Tensor<Self>, base: &Tensor<Self>, scale: usize) -> Result<Tensor<Self>> {
        self.note("pixel_shuffle", x.rows());
        let [h, w, c] = base.dims("pixel_shuffle: base")?;
        self.result(DType::F32, [h * scale, w * scale, c])
    }
}
