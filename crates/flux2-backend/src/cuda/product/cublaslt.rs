//! Products through cuBLASLt: sums in f32, never in tf32.
//!
//! What a call needs (descriptors, the algorithm) is made once for a shape and kept, so a repeated call is a look-up and a launch.
//! Of large products the algorithms are timed, see `tuning.rs`; of others cuBLASLt's heuristic picks one. The same shape gets the same algorithm, hence the same bytes.
//!
//! cuBLASLt is at its best, and for some shapes at all there, only where addresses and rows are multiples of 16 bytes.
//! Weights are stored so; other operands are copied first if they are not ([`CudaBackend::side_by_side`]).

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cudarc::cublaslt::result::CublasError;
use cudarc::cublaslt::{result, sys};

use crate::cuda::runtime::driver::Device;
use crate::cuda::runtime::memory::{Buffer, Pool};
use crate::cuda::runtime::tuning::{Algorithm, Choices};
use crate::cuda::{CudaBackend, Matrix};
use crate::{Compute, DType, Error, Result, Tensor};

/// Scratch of cuBLASLt's algorithms; what NVIDIA advises for Hopper, twice.
pub(crate) const WORKSPACE: usize = 64 << 20;
/// Algorithms that are timed for a shape, at most.
const CANDIDATES: usize = 12;
/// Operations of products that are worth it.
const TIMED: usize = 1 << 30;

/// Elements to which rows of operands are rounded up: 16 bytes of bf16.
pub(crate) fn padded(cols: usize) -> usize {
    cols.next_multiple_of(8)
}

/// How the second operand lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Right {
    /// `[cols, k]`, as weights and keys do.
    OutIn,
    /// `[k, cols]`, as values do.
    InOut,
}

/// What is multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Operands {
    /// Values in the compute dtype.
    Compute,
    /// Signed bytes; the sums are i32, whatever `out` says.
    Int8,
    /// e4m3.
    E4m3,
}

/// `out [rows, cols] = left [rows, k] * right`, all row-major with strides in elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Shape {
    pub(crate) operands: Operands,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) k: usize,
    /// Of `left`, `right` and `out`, from one row to the next.
    pub(crate) strides: [usize; 3],
    pub(crate) right: Right,
    pub(crate) out: DType,
    /// Whether the product is added to what is in `out`.
    pub(crate) accumulate: bool,
    /// Products side by side, and the distance from one to the next in each operand.
    pub(crate) batch: usize,
    pub(crate) batch_strides: [usize; 3],
}

impl Shape {
    /// Multiplications and additions.
    fn operations(&self) -> usize {
        2 * self.rows * self.cols * self.k * self.batch
    }
}

/// cuBLASLt's plans, and its scratch.
pub(crate) struct CublasLt {
    compute: Compute,
    pool: Arc<Pool>,
    workspace: Buffer,
    choices: Option<Arc<Choices>>,
    plans: Mutex<HashMap<(Shape, [u32; 3]), Plan>>,
}

impl CublasLt {
    pub(crate) fn new(compute: Compute, pool: &Arc<Pool>, choices: Option<Arc<Choices>>) -> Result<Self> {
        let workspace = pool.take(WORKSPACE)?;
        Ok(CublasLt { compute, pool: Arc::clone(pool), workspace, choices, plans: Mutex::default() })
    }

    /// Keep other threads from products while this lives: one may be several kernels, and all of them use the same scratch.
    pub(crate) fn alone(&self) -> impl Drop + '_ {
        self.plans.lock().expect("no panic while the lock is held")
    }

    /// Call the product of what lies at these addresses.
    ///
    /// # Safety
    /// The operands must be as large as `shape` says, in `shape.operands` and `shape.out`.
    pub(crate) unsafe fn run(&self, device: &Device, shape: Shape, [left, right, out]: [u64; 3]) -> Result<()> {
        if shape.rows == 0 || device.dry_run {
            return Ok(());
        }
        device.bind()?;
        let alignments = [left, right, out].map(|address| 1 << address.trailing_zeros().min(8));
        let mut plans = self.plans.lock().expect("no panic while the lock is held");
        let plan = match plans.entry((shape, alignments)) {
            std::collections::hash_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::hash_map::Entry::Vacant(new) => {
                let mut plan = Plan::new(device, self.compute, shape, alignments)?;
                if let Some(choices) = &self.choices
                    && shape.operations() >= TIMED
                {
                    let usable = |algorithm: &Algorithm| plan.takes(device, algorithm);
                    let name = format!("{shape:?} {alignments:?}");
                    // SAFETY: the caller vouches for the operands.
                    let time = || unsafe { self.fastest(device, shape, &plan, [left, right, out]) };
                    plan.algorithm.data = choices.choose(&name, usable, time)?;
                }
                new.insert(plan)
            }
        };
        // SAFETY: as above.
        unsafe { self.call(device, shape, plan, &plan.algorithm, [left, right, out]) }
    }

    /// The algorithm that takes the least time, of those that cuBLASLt expects to do well. Waits for the device.
    ///
    /// # Safety
    /// As [`run`](Self::run).
    unsafe fn fastest(&self, device: &Device, shape: Shape, plan: &Plan, at: [u64; 3]) -> Result<Algorithm> {
        const CALLS: u32 = 3;
        // What is added to must not change.
        let [left, right, mut out] = at;
        let scratch = match shape.accumulate.then(|| self.pool.take(shape.rows * shape.strides[2] * 4)) {
            Some(Ok(scratch)) => Some(scratch),
            None => None,
            // No room to find out: cuBLASLt knows best.
            Some(Err(_)) => return Ok(plan.algorithm.data),
        };
        if let Some(scratch) = &scratch {
            out = scratch.address();
        }
        let mut best = (Duration::MAX, plan.algorithm.data);
        for algorithm in &plan.candidates {
            // SAFETY: the caller vouches for the operands. One that does not work is not chosen.
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
        let whole = [1i32, 0];
        let (alpha, beta): (*const c_void, *const c_void) = match shape.operands {
            Operands::Int8 => ((&raw const whole[0]).cast(), (&raw const whole[1]).cast()),
            _ => ((&raw const alpha).cast(), (&raw const beta).cast()),
        };
        let pointer = |address: u64| address as *mut c_void;
        // cuBLASLt counts columns first, so operands change places: out^T = right^T * left^T.
        // SAFETY: the caller vouches for the operands; plan, handle, workspace and stream are alive.
        let called = unsafe {
            result::matmul(
                device.cublaslt,
                plan.description,
                alpha,
                beta,
                pointer(right),
                plan.right,
                pointer(left),
                plan.left,
                pointer(out),
                plan.out,
                pointer(out),
                plan.out,
                algorithm,
                pointer(self.workspace.address()),
                WORKSPACE,
                device.stream().cast(),
            )
        };
        called.map_err(|error| refused(shape, &error))
    }
}

/// Descriptors and algorithm for a shape.
struct Plan {
    description: sys::cublasLtMatmulDesc_t,
    left: sys::cublasLtMatrixLayout_t,
    right: sys::cublasLtMatrixLayout_t,
    out: sys::cublasLtMatrixLayout_t,
    algorithm: sys::cublasLtMatmulAlgo_t,
    /// All that the heuristic offers, what it likes best first.
    candidates: Vec<sys::cublasLtMatmulAlgo_t>,
}

// SAFETY: plain descriptions on the host.
unsafe impl Send for Plan {}

impl Plan {
    fn new(device: &Device, compute: Compute, shape: Shape, alignments: [u32; 3]) -> Result<Self> {
        Self::try_new(device, compute, shape, alignments).map_err(|error| refused(shape, &error))
    }

    fn try_new(device: &Device, compute: Compute, shape: Shape, alignments: [u32; 3]) -> Result<Self, CublasError> {
        use sys::cublasLtMatmulDescAttributes_t::{CUBLASLT_MATMUL_DESC_TRANSA, CUBLASLT_MATMUL_DESC_TRANSB};
        use sys::cublasLtMatmulPreferenceAttributes_t as Preference;
        let Shape { rows, cols, k, strides, right, batch, batch_strides, .. } = shape;
        use sys::cublasComputeType_t::{CUBLAS_COMPUTE_32F, CUBLAS_COMPUTE_32I};
        use sys::cudaDataType_t::{CUDA_R_8F_E4M3, CUDA_R_8I, CUDA_R_32F, CUDA_R_32I};
        let (operand, out, sums, scale) = match shape.operands {
            Operands::Compute => (data_type(compute.dtype()), data_type(shape.out), CUBLAS_COMPUTE_32F, CUDA_R_32F),
            Operands::E4m3 => (CUDA_R_8F_E4M3, data_type(shape.out), CUBLAS_COMPUTE_32F, CUDA_R_32F),
            Operands::Int8 => (CUDA_R_8I, CUDA_R_32I, CUBLAS_COMPUTE_32I, CUDA_R_32I),
        };
        let (right_size, transposed) = match right {
            Right::OutIn => ([k, cols], 1i32),
            Right::InOut => ([cols, k], 0i32),
        };
        let layout = |data_type, [rows, cols]: [usize; 2], i: usize| {
            let layout = result::create_matrix_layout(data_type, rows as u64, cols as u64, strides[i] as i64)?;
            if batch > 1 {
                use sys::cublasLtMatrixLayoutAttribute_t as Layout;
                let (count, stride) = (batch as i32, batch_strides[i] as i64);
                // SAFETY: both attributes have these types.
                unsafe {
                    let count_at = (&raw const count).cast();
                    result::set_matrix_layout_attribute(
                        layout,
                        Layout::CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT,
                        count_at,
                        4,
                    )?;
                    let (attribute, stride_at) =
                        (Layout::CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, (&raw const stride).cast());
                    result::set_matrix_layout_attribute(layout, attribute, stride_at, 8)?;
                }
            }
            Ok::<_, CublasError>(layout)
        };
        let description = result::create_matmul_desc(sums, scale)?;
        let (as_it_is, transposed) = (0i32, transposed); // CUBLAS_OP_N, CUBLAS_OP_T or _N
        // SAFETY: both attributes are 32-bit enumerations.
        unsafe {
            let (a, b) = ((&raw const transposed).cast(), (&raw const as_it_is).cast());
            result::set_matmul_desc_attribute(description, CUBLASLT_MATMUL_DESC_TRANSA, a, 4)?;
            result::set_matmul_desc_attribute(description, CUBLASLT_MATMUL_DESC_TRANSB, b, 4)?;
        }
        if shape.operands == Operands::E4m3 {
            // As in `hopper.cu`: sums stay in the tensor core, with fewer bits than f32 has.
            let fast = 1i8;
            let attribute = sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_FAST_ACCUM;
            // SAFETY: this attribute is a byte.
            unsafe { result::set_matmul_desc_attribute(description, attribute, (&raw const fast).cast(), 1)? };
        }
        let (left, right) = (layout(operand, [k, rows], 0)?, layout(operand, right_size, 1)?);
        let out = layout(out, [cols, rows], 2)?;

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
        // SAFETY: this attribute is a size; all descriptions are alive.
        let found = unsafe {
            result::set_matmul_pref_attribute(preference, attribute, (&raw const workspace).cast(), 8)?;
            let mut found = [std::mem::zeroed::<sys::cublasLtMatmulHeuristicResult_t>(); CANDIDATES];
            let (mut count, room, to) = (0, CANDIDATES as i32, found.as_mut_ptr());
            let asked = sys::cublasLtMatmulAlgoGetHeuristic(
                device.cublaslt,
                description,
                right,
                left,
                out,
                out,
                preference,
                room,
                to,
                &mut count,
            );
            result::destroy_matmul_pref(preference)?;
            asked.result()?;
            let works =
                |f: &&sys::cublasLtMatmulHeuristicResult_t| f.state == sys::cublasStatus_t::CUBLAS_STATUS_SUCCESS;
            found[..count as usize].iter().filter(works).map(|f| f.algo).collect::<Vec<_>>()
        };
        let algorithm = *found.first().ok_or(CublasError(sys::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED))?;
        Ok(Plan { description, left, right, out, algorithm, candidates: found })
    }

    /// Whether `algorithm` can be used for this.
    fn takes(&self, device: &Device, algorithm: &Algorithm) -> bool {
        let algorithm = sys::cublasLtMatmulAlgo_t { data: *algorithm };
        let Plan { description, left, right, out, .. } = *self;
        // SAFETY: a plain struct; all descriptions are alive, and the call refuses what is no algorithm.
        unsafe {
            let mut found = std::mem::zeroed::<sys::cublasLtMatmulHeuristicResult_t>();
            let status = sys::cublasLtMatmulAlgoCheck(
                device.cublaslt,
                description,
                right,
                left,
                out,
                out,
                &algorithm,
                &mut found,
            );
            status == sys::cublasStatus_t::CUBLAS_STATUS_SUCCESS && found.workspaceSize <= WORKSPACE
        }
    }
}

impl Drop for Plan {
    fn drop(&mut self) {
        // Nothing can be done about an error here.
        // SAFETY: made in `new`; algorithms that run have copies.
        unsafe {
            let _ = result::destroy_matmul_desc(self.description);
            for layout in [self.left, self.right, self.out] {
                let _ = result::destroy_matrix_layout(layout);
            }
        }
    }
}

fn data_type(dtype: DType) -> sys::cudaDataType_t {
    if dtype == DType::F32 { sys::cudaDataType_t::CUDA_R_32F } else { sys::cudaDataType_t::CUDA_R_16BF }
}

fn refused(shape: Shape, error: &CublasError) -> Error {
    Error::Device { call: "cublasLtMatmul", reason: format!("{error} for {shape:?}") }
}

/// Rows that enter a product: where, how long, how far apart.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rows {
    pub(crate) address: u64,
    pub(crate) k: usize,
    pub(crate) stride: usize,
}

impl CudaBackend {
    /// `out = [parts, side by side] * weight^T` for rows of `out` that are `stride` apart, a multiple of 8.
    pub(crate) fn product(
        &self,
        parts: &[&Tensor<Self>],
        weight: &Matrix,
        out: u64,
        (stride, dtype): (usize, DType),
        mut accumulate: bool,
    ) -> Result<()> {
        self.note("linear", "cublaslt");
        let (rows, joined, there) = (parts[0].rows(), self.side_by_side(parts)?, self.present(weight)?);
        let mut column = 0;
        for part in joined.rows.iter() {
            let shape = Shape {
                operands: Operands::Compute,
                rows,
                cols: weight.rows,
                k: part.k,
                strides: [part.stride, weight.stride, stride],
                right: Right::OutIn,
                out: dtype,
                accumulate,
                batch: 1,
                batch_strides: [0; 3],
            };
            let right = there.address() + (column * self.compute_size()) as u64;
            // SAFETY: `out` has `rows` rows `stride` apart, as the callers made it; `part` lies within its tensor.
            unsafe { self.cublaslt.run(&self.device, shape, [part.address, right, out])? };
            column += part.k;
            accumulate = true;
        }
        Ok(())
    }

    /// Tensors of as many rows as operands of a product: as they are if cuBLASLt takes them so, otherwise copied next to each
    /// other, with zeros up to a multiple of 8.
    fn side_by_side(&self, parts: &[&Tensor<Self>]) -> Result<SideBySide> {
        let size = self.compute_size();
        let fits = |x: &&Tensor<Self>| {
            x.cols().is_multiple_of(8)
                && (x.rows() <= 1 || x.row_stride().is_multiple_of(8))
                && x.address().is_multiple_of(16)
        };
        if parts.iter().all(fits) {
            let rows = parts.iter().map(|x| Rows { address: x.address(), k: x.cols(), stride: x.row_stride() });
            // A single row may be as long as it likes, but not shorter than what is read of it.
            let rows = rows.map(|r| Rows { stride: padded(r.stride.max(r.k)), ..r }).collect();
            return Ok(SideBySide { rows, _copy: None });
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
        Ok(SideBySide { rows: vec![Rows { address: copy.address(), k, stride: k }], _copy: Some(copy) })
    }
}

/// Operands of a product, and the memory they were copied to if they were.
struct SideBySide {
    rows: Vec<Rows>,
    _copy: Option<Buffer>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_rounded_up_to_16_bytes_of_bf16() {
        assert_eq!([1, 8, 9, 3072].map(padded), [8, 8, 16, 3072]);
    }
}
