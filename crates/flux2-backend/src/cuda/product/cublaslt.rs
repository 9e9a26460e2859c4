//! Products through cuBLASLt: sums in f32, never in tf32; in i32 of int8.
//!
//! Descriptors and algorithm are made once for a shape and kept, so a repeated call is a look-up and a launch.
//! Algorithms of large products are timed ([`Choices`]); for others cuBLASLt's heuristic picks one. The same shape gets
//! the same algorithm, hence the same bytes. The items of a batch get the algorithm of one item, in one call if
//! cuBLASLt takes it for the batch.
//!
//! cuBLASLt is fastest, and supports some shapes only, where addresses and rows are multiples of 16 bytes. Weights are
//! stored so; other operands are copied first if they are not ([`CudaBackend::aligned_parts`]).

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::c_void;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cudarc::cublaslt::result::CublasError;
use cudarc::cublaslt::{result, sys};

use super::quantized::QuantizedDType;
use crate::cuda::runtime::driver::Device;
use crate::cuda::runtime::memory::{Buffer, Pool};
use crate::cuda::runtime::tuning::{Algorithm, Choices};
use crate::cuda::{CudaBackend, Matrix};
use crate::{Compute, DType, Error, Result, Tensor};

/// Bytes of scratch for cuBLASLt's algorithms: twice what NVIDIA recommends for Hopper.
pub(crate) const WORKSPACE: usize = 64 << 20;
/// Upper bound on the algorithms timed for a shape.
const CANDIDATES: usize = 12;
/// Floating-point operations from which on algorithms are timed.
const TIMED: usize = 1 << 30;

/// Row length rounded up to 8 elements: 16 bytes of bf16.
pub(crate) fn padded(cols: usize) -> usize {
    cols.next_multiple_of(8)
}

/// Layout of the right operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Right {
    /// `[cols, k]`: weights, keys.
    OutIn,
    /// `[k, cols]`: values.
    InOut,
}

/// `out [rows, cols] = left [rows, k] * right`, all row-major with strides in elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Shape {
    /// The format of both operands; `None` for the compute dtype. Sums of int8 are i32, whatever `out` says.
    pub(crate) quantized: Option<QuantizedDType>,
    /// Items of a batch of `left` and `out`, which lie one behind the other; `right` is the same for all.
    pub(crate) items: usize,
    /// Rows of an item.
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) k: usize,
    /// Elements from one row to the next in `left`, `right` and `out`.
    pub(crate) strides: [usize; 3],
    pub(crate) right: Right,
    pub(crate) out: DType,
    /// Whether the product is added to `out`.
    pub(crate) accumulate: bool,
}

impl Shape {
    /// Addresses of item `i` of operands at these addresses (left, right, out), in the compute dtype of `compute`.
    fn item(&self, compute: Compute, i: usize, [left, right, out]: [u64; 3]) -> [u64; 3] {
        let (operand, result) = match self.quantized {
            None => (compute.dtype(), self.out),
            Some(quantized) => (quantized.dtype(), DType::F32), // sums of int8 are as wide
        };
        let bytes = |dtype: DType, stride| (i * self.rows * dtype.bytes(stride)) as u64;
        [left + bytes(operand, self.strides[0]), right, out + bytes(result, self.strides[2])]
    }

    /// Multiplications and additions.
    fn operations(&self) -> usize {
        2 * self.rows * self.cols * self.k
    }

    /// The name of this shape in the file of timed algorithms. That file outlives versions of this program: another
    /// text here discards what has been timed.
    fn key(&self, alignments: [u32; 3]) -> String {
        let Shape { quantized, items, rows, cols, k, strides, right, out, accumulate } = self;
        let operands = match quantized {
            None => "Compute",
            Some(QuantizedDType::Int8) => "Int8",
            Some(QuantizedDType::E4m3) => "E4m3",
        };
        format!(
            "Shape {{ operands: {operands}, rows: {rows}, cols: {cols}, k: {k}, strides: {strides:?}, \
             right: {right:?}, out: {out:?}, accumulate: {accumulate}, \
             batch: {items}, batch_strides: [0, 0, 0] }} {alignments:?}"
        )
    }
}

/// Where a product with a weight is written: f32 or compute rows, `stride` elements (a multiple of 8) apart.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Out {
    pub(crate) address: u64,
    pub(crate) stride: usize,
    pub(crate) dtype: DType,
    /// Whether the product is added to what is there.
    pub(crate) accumulate: bool,
}

impl Out {
    /// f32 sums for a pass.
    pub(crate) fn sums(address: u64, stride: usize) -> Self {
        Out { address, stride, dtype: DType::F32, accumulate: false }
    }
}

/// cuBLASLt's plans and scratch for one backend.
pub(crate) struct CublasLt {
    compute: Compute,
    pool: Arc<Pool>,
    workspace: Buffer,
    choices: Option<Arc<Choices>>,
    plans: Mutex<Plans>,
}

/// Plans by shape and alignments.
#[derive(Default)]
struct Plans {
    of_items: HashMap<(Shape, [u32; 3]), Plan>,
    /// `None` if the algorithm of an item does not take the batch, whose items are then computed one by one.
    of_batches: HashMap<(Shape, [u32; 3]), Option<Plan>>,
}

impl CublasLt {
    pub(crate) fn new(compute: Compute, pool: &Arc<Pool>, choices: Option<Arc<Choices>>) -> Result<Self> {
        let workspace = pool.take(WORKSPACE)?;
        Ok(CublasLt { compute, pool: Arc::clone(pool), workspace, choices, plans: Mutex::default() })
    }

    /// Keeps other threads from enqueueing products while the result lives: a product may be several kernels, which
    /// share the workspace.
    pub(crate) fn exclusive(&self) -> impl Drop + '_ {
        self.plans.lock().expect("no panic while the lock is held")
    }

    /// Enqueues the product of the operands at these addresses: left, right, out.
    ///
    /// # Safety
    /// The operands must be as large as `shape` says, in its formats.
    pub(crate) unsafe fn run(&self, device: &Device, shape: Shape, operands: [u64; 3]) -> Result<()> {
        if shape.rows == 0 || device.dry_run {
            return Ok(());
        }
        device.bind()?;
        let alignments = operands.map(|address| 1 << address.trailing_zeros().min(8));
        let mut plans = self.plans.lock().expect("no panic while the lock is held");
        let of_item = Shape { items: 1, ..shape };
        let Plans { of_items, of_batches } = &mut *plans;
        let plan = match of_items.entry((of_item, alignments)) {
            Entry::Occupied(known) => known.into_mut(),
            // SAFETY: the caller vouches for the operands.
            Entry::Vacant(new) => new.insert(unsafe { self.plan(device, of_item, alignments, operands)? }),
        };
        if shape.items > 1 {
            let for_batch = || {
                let batch = Plan::new(device, self.compute, shape, alignments).ok()?;
                batch.takes(device, &plan.algorithm.data).then_some(batch)
            };
            if let Some(batch) = of_batches.entry((shape, alignments)).or_insert_with(for_batch) {
                // SAFETY: as above.
                return unsafe { self.call(device, shape, batch, &plan.algorithm, operands) };
            }
        }
        (0..shape.items).try_for_each(|i| {
            let operands = shape.item(self.compute, i, operands);
            // SAFETY: as above.
            unsafe { self.call(device, of_item, plan, &plan.algorithm, operands) }
        })
    }

    /// The plan for a product without a batch, its algorithm timed if it is large.
    ///
    /// # Safety
    /// As [`run`](Self::run).
    unsafe fn plan(&self, device: &Device, shape: Shape, alignments: [u32; 3], operands: [u64; 3]) -> Result<Plan> {
        let mut plan = Plan::new(device, self.compute, shape, alignments)?;
        if let Some(choices) = &self.choices
            && shape.operations() >= TIMED
        {
            let usable = |algorithm: &Algorithm| plan.takes(device, algorithm);
            // SAFETY: the caller vouches for the operands.
            let time = || unsafe { self.fastest(device, shape, &plan, operands) };
            plan.algorithm.data = choices.choose(&shape.key(alignments), usable, time)?;
        }
        Ok(plan)
    }

    /// The fastest of the algorithms that cuBLASLt's heuristic offers. Waits for the device.
    ///
    /// # Safety
    /// As [`run`](Self::run).
    unsafe fn fastest(&self, device: &Device, shape: Shape, plan: &Plan, at: [u64; 3]) -> Result<Algorithm> {
        const CALLS: u32 = 3;
        // Timing must not add to the real output.
        let [left, right, mut out] = at;
        let scratch = match shape.accumulate.then(|| self.pool.take(shape.rows * shape.strides[2] * 4)) {
            Some(Ok(scratch)) => Some(scratch),
            None => None,
            // No room to time: take the heuristic's first choice.
            Some(Err(_)) => return Ok(plan.algorithm.data),
        };
        if let Some(scratch) = &scratch {
            out = scratch.address();
        }
        let mut best = (Duration::MAX, plan.algorithm.data);
        for algorithm in &plan.candidates {
            // SAFETY: the caller vouches for the operands. An algorithm that fails is skipped.
            let call = || unsafe { self.call(device, shape, plan, algorithm, [left, right, out]) };
            if call().and_then(|()| device.synchronize()).is_err() {
                continue;
            }
            let start = Instant::now();
            (0..CALLS).try_for_each(|_| call())?;
            device.synchronize()?;
            let elapsed = start.elapsed();
            if elapsed < best.0 {
                best = (elapsed, algorithm.data);
            }
        }
        Ok(best.1)
    }

    /// # Safety
    /// As [`run`](Self::run).
    unsafe fn call(
        &self,
        device: &Device,
        shape: Shape,
        plan: &Plan,
        algorithm: &sys::cublasLtMatmulAlgo_t,
        [left, right, out]: [u64; 3],
    ) -> Result<()> {
        let (alpha, beta) = (1f32, if shape.accumulate { 1f32 } else { 0f32 });
        let integers = [1i32, 0];
        let (alpha, beta): (*const c_void, *const c_void) = match shape.quantized {
            Some(QuantizedDType::Int8) => ((&raw const integers[0]).cast(), (&raw const integers[1]).cast()),
            _ => ((&raw const alpha).cast(), (&raw const beta).cast()),
        };
        let (descriptors, pointer) = (&plan.descriptors, |address: u64| address as *mut c_void);
        // cuBLASLt is column-major, so the operands change places: out^T = right^T * left^T.
        // SAFETY: the caller vouches for the operands; plan, handle, workspace and stream are alive.
        let called = unsafe {
            result::matmul(
                device.cublaslt,
                descriptors.product,
                alpha,
                beta,
                pointer(right),
                descriptors.right,
                pointer(left),
                descriptors.left,
                pointer(out),
                descriptors.out,
                pointer(out),
                descriptors.out,
                algorithm,
                pointer(self.workspace.address()),
                WORKSPACE,
                device.stream().cast(),
            )
        };
        called.map_err(|error| refused(shape, &error))
    }
}

/// The descriptors of a product.
struct Descriptors {
    product: sys::cublasLtMatmulDesc_t,
    left: sys::cublasLtMatrixLayout_t,
    right: sys::cublasLtMatrixLayout_t,
    out: sys::cublasLtMatrixLayout_t,
}

// SAFETY: descriptors are plain host memory.
unsafe impl Send for Descriptors {}

/// How cuBLASLt computes products of one shape.
struct Plan {
    descriptors: Descriptors,
    algorithm: sys::cublasLtMatmulAlgo_t,
    /// All that the heuristic offers, best guess first.
    candidates: Vec<sys::cublasLtMatmulAlgo_t>,
}

impl Plan {
    fn new(device: &Device, compute: Compute, shape: Shape, alignments: [u32; 3]) -> Result<Self> {
        Self::try_new(device, compute, shape, alignments).map_err(|error| refused(shape, &error))
    }

    fn try_new(device: &Device, compute: Compute, shape: Shape, alignments: [u32; 3]) -> Result<Self, CublasError> {
        use sys::cudaDataType_t::{CUDA_R_8F_E4M3, CUDA_R_8I, CUDA_R_32I};
        let Shape { rows, cols, k, strides, right, .. } = shape;
        let (operand, out) = match shape.quantized {
            None => (data_type(compute.dtype()), data_type(shape.out)),
            Some(QuantizedDType::E4m3) => (CUDA_R_8F_E4M3, data_type(shape.out)),
            Some(QuantizedDType::Int8) => (CUDA_R_8I, CUDA_R_32I),
        };
        let right_size = match right {
            Right::OutIn => [k, cols],
            Right::InOut => [cols, k],
        };
        // Elements from one item to the next.
        let layout = |data_type, [rows, cols]: [usize; 2], stride: usize, to_next: usize| {
            let layout = result::create_matrix_layout(data_type, rows as u64, cols as u64, stride as i64)?;
            set_items(layout, shape.items, to_next)?;
            Ok(layout)
        };
        let product = description(shape)?;
        let left = layout(operand, [k, rows], strides[0], rows * strides[0])?;
        let right = layout(operand, right_size, strides[1], 0)?;
        let out = layout(out, [cols, rows], strides[2], rows * strides[2])?;
        let descriptors = Descriptors { product, left, right, out };
        let candidates = descriptors.candidates(device, alignments)?;
        let algorithm = *candidates.first().ok_or(CublasError(sys::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED))?;
        Ok(Plan { descriptors, algorithm, candidates })
    }

    /// Whether cuBLASLt accepts `algorithm` for this product within the workspace.
    fn takes(&self, device: &Device, algorithm: &Algorithm) -> bool {
        let algorithm = sys::cublasLtMatmulAlgo_t { data: *algorithm };
        let Descriptors { product, left, right, out } = self.descriptors;
        // SAFETY: a plain struct; all descriptors are alive, and the call refuses an invalid algorithm.
        unsafe {
            let mut found = std::mem::zeroed::<sys::cublasLtMatmulHeuristicResult_t>();
            let status =
                sys::cublasLtMatmulAlgoCheck(device.cublaslt, product, right, left, out, out, &algorithm, &mut found);
            status == sys::cublasStatus_t::CUBLAS_STATUS_SUCCESS && found.workspaceSize <= WORKSPACE
        }
    }
}

impl Descriptors {
    /// The algorithms that cuBLASLt recommends for operands with these alignments in bytes (left, right, out), best
    /// first.
    fn candidates(&self, device: &Device, alignments: [u32; 3]) -> Result<Vec<sys::cublasLtMatmulAlgo_t>, CublasError> {
        use sys::cublasLtMatmulPreferenceAttributes_t as Preference;
        let preference = result::create_matmul_pref()?;
        // Partial sums, where an algorithm has any, stay f32 and are added in one order.
        const SUMS_IN_F32: u32 = sys::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE as u32;
        for (attribute, value) in [
            (Preference::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, SUMS_IN_F32),
            (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignments[1]),
            (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignments[0]),
            (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignments[2]),
            (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignments[2]),
        ] {
            // SAFETY: these attributes are u32.
            unsafe { result::set_matmul_pref_attribute(preference, attribute, (&raw const value).cast(), 4)? };
        }
        let workspace = WORKSPACE;
        let attribute = Preference::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
        // SAFETY: this attribute is a size; all descriptors are alive, and `found` has room for `CANDIDATES` results.
        unsafe {
            result::set_matmul_pref_attribute(preference, attribute, (&raw const workspace).cast(), 8)?;
            let mut found = [std::mem::zeroed::<sys::cublasLtMatmulHeuristicResult_t>(); CANDIDATES];
            let (mut count, room, to) = (0, CANDIDATES as i32, found.as_mut_ptr());
            let asked = sys::cublasLtMatmulAlgoGetHeuristic(
                device.cublaslt,
                self.product,
                self.right,
                self.left,
                self.out,
                self.out,
                preference,
                room,
                to,
                &mut count,
            );
            result::destroy_matmul_pref(preference)?;
            asked.result()?;
            let works =
                |f: &&sys::cublasLtMatmulHeuristicResult_t| f.state == sys::cublasStatus_t::CUBLAS_STATUS_SUCCESS;
            Ok(found[..count as usize].iter().filter(works).map(|f| f.algo).collect())
        }
    }
}

impl Drop for Descriptors {
    fn drop(&mut self) {
        // Errors cannot be handled here.
        // SAFETY: created in `try_new`; products in flight have copies.
        unsafe {
            let _ = result::destroy_matmul_desc(self.product);
            for layout in [self.left, self.right, self.out] {
                let _ = result::destroy_matrix_layout(layout);
            }
        }
    }
}

/// Makes a layout that of a batch of `items`, `to_next` elements apart.
fn set_items(layout: sys::cublasLtMatrixLayout_t, items: usize, to_next: usize) -> Result<(), CublasError> {
    use sys::cublasLtMatrixLayoutAttribute_t as Attribute;
    if items == 1 {
        return Ok(());
    }
    let (items, to_next) = (items as i32, to_next as i64);
    // SAFETY: the number of items is 32 bits wide, the offset 64.
    unsafe {
        let (count, offset) = ((&raw const items).cast(), (&raw const to_next).cast());
        result::set_matrix_layout_attribute(layout, Attribute::CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, count, 4)?;
        let attribute = Attribute::CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET;
        result::set_matrix_layout_attribute(layout, attribute, offset, 8)
    }
}

/// The number formats of sums and scales, the transposition of the right operand, and how e4m3 is accumulated.
fn description(shape: Shape) -> Result<sys::cublasLtMatmulDesc_t, CublasError> {
    use sys::cublasComputeType_t::{CUBLAS_COMPUTE_32F, CUBLAS_COMPUTE_32I};
    use sys::cublasLtMatmulDescAttributes_t as Attribute;
    use sys::cudaDataType_t::{CUDA_R_32F, CUDA_R_32I};
    let (sums, scale) = match shape.quantized {
        Some(QuantizedDType::Int8) => (CUBLAS_COMPUTE_32I, CUDA_R_32I),
        None | Some(QuantizedDType::E4m3) => (CUBLAS_COMPUTE_32F, CUDA_R_32F),
    };
    let description = result::create_matmul_desc(sums, scale)?;
    let right = match shape.right {
        Right::OutIn => 1i32, // CUBLAS_OP_T
        Right::InOut => 0i32, // CUBLAS_OP_N
    };
    let left = 0i32; // CUBLAS_OP_N
    // SAFETY: both attributes are 32-bit enumerations.
    unsafe {
        let (a, b) = ((&raw const right).cast(), (&raw const left).cast());
        result::set_matmul_desc_attribute(description, Attribute::CUBLASLT_MATMUL_DESC_TRANSA, a, 4)?;
        result::set_matmul_desc_attribute(description, Attribute::CUBLASLT_MATMUL_DESC_TRANSB, b, 4)?;
    }
    if shape.quantized == Some(QuantizedDType::E4m3) {
        // As in `hopper.cu`: sums stay in the tensor core, with fewer bits than f32 has.
        let fast = 1i8;
        let attribute = Attribute::CUBLASLT_MATMUL_DESC_FAST_ACCUM;
        // SAFETY: this attribute is a byte.
        unsafe { result::set_matmul_desc_attribute(description, attribute, (&raw const fast).cast(), 1)? };
    }
    Ok(description)
}

fn data_type(dtype: DType) -> sys::cudaDataType_t {
    if dtype == DType::F32 { sys::cudaDataType_t::CUDA_R_32F } else { sys::cudaDataType_t::CUDA_R_16BF }
}

fn refused(shape: Shape, error: &CublasError) -> Error {
    Error::Device { call: "cublasLtMatmul", reason: format!("{error} for {shape:?}") }
}

/// Rows of a left operand on the GPU.
#[derive(Clone, Copy, Debug)]
struct Rows {
    address: u64,
    k: usize,
    stride: usize,
}

/// The left operands of a product, and the memory they were copied to if they were.
struct Parts {
    rows: Vec<Rows>,
    _copy: Option<Buffer>,
}

impl CudaBackend {
    /// Enqueues `out = [parts, side by side] * weight^T` for a dense weight.
    pub(super) fn multiply(&self, parts: &[&Tensor<Self>], weight: &Matrix, out: Out) -> Result<()> {
        self.note("linear", "cublaslt");
        let [items, rows, _] = parts[0].batch_dims("linear: x")?;
        let (joined, right) = (self.aligned_parts(parts)?, self.present(weight)?);
        let Out { address, stride, dtype, mut accumulate } = out;
        let mut column = 0;
        for part in &joined.rows {
            let shape = Shape {
                quantized: None,
                items,
                rows,
                cols: weight.rows,
                k: part.k,
                strides: [part.stride, weight.stride, stride],
                right: Right::OutIn,
                out: dtype,
                accumulate,
            };
            let right = right.address() + (column * self.compute_size()) as u64;
            // SAFETY: the callers allocated `rows` rows `stride` apart for each item at `address`; `part` lies within
            // its tensor.
            unsafe { self.cublaslt.run(&self.device, shape, [part.address, right, address])? };
            column += part.k;
            accumulate = true;
        }
        Ok(())
    }

    /// Left operands that cuBLASLt takes: the tensors themselves if they are aligned, otherwise copied side by side,
    /// with zeros up to a multiple of 8 columns.
    fn aligned_parts(&self, parts: &[&Tensor<Self>]) -> Result<Parts> {
        let size = self.compute_size();
        let fits = |x: &&Tensor<Self>| {
            x.cols().is_multiple_of(8)
                && (x.rows() <= 1 || x.row_stride().is_multiple_of(8))
                && x.address().is_multiple_of(16)
        };
        if parts.iter().all(fits) {
            let rows = parts.iter().map(|x| Rows { address: x.address(), k: x.cols(), stride: x.row_stride() });
            // The stride of a single row is unused, but must not be below its length.
            let rows = rows.map(|r| Rows { stride: padded(r.stride.max(r.k)), ..r }).collect();
            return Ok(Parts { rows, _copy: None });
        }
        let k = padded(parts.iter().map(|x| x.cols()).sum());
        let rows = parts[0].rows();
        let copy = self.pool.take(rows * k * size)?;
        self.fill_with_zeros(copy.address(), rows * k * size)?;
        let mut column = 0;
        for part in parts {
            self.copy_rows(part, copy.address() + (column * size) as u64, k)?;
            column += part.cols();
        }
        Ok(Parts { rows: vec![Rows { address: copy.address(), k, stride: k }], _copy: Some(copy) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_rounded_up_to_16_bytes_of_bf16() {
        assert_eq!([1, 8, 9, 3072].map(padded), [8, 8, 16, 3072]);
    }

    #[test]
    fn timed_algorithms_keep_their_names() {
        let shape = Shape {
            quantized: Some(QuantizedDType::E4m3),
            items: 1,
            rows: 1,
            cols: 2,
            k: 3,
            strides: [4, 5, 6],
            right: Right::OutIn,
            out: DType::F32,
            accumulate: false,
        };
        let key = "Shape { operands: E4m3, rows: 1, cols: 2, k: 3, strides: [4, 5, 6], right: OutIn, out: F32, \
                   accumulate: false, batch: 1, batch_strides: [0, 0, 0] } [16, 16, 256]";
        assert_eq!(shape.key([16, 16, 256]), key);
    }
}
