//! int8 and e4m3 products: weights quantized when they are loaded, rows when a product begins.
//!
//! [`crate::quant::fp8`] and [`crate::quant::int8`] define the formats. On Hopper e4m3 goes through `hopper.cu`;
//! otherwise cuBLASLt computes the sums and a kernel of `quantized.cu` applies the scales and the epilogue.

use std::fmt;
use std::sync::Arc;

use super::cublaslt::{Right, Shape};
use super::{Epilogue, Product};
use crate::cuda::runtime::memory::Buffer;
use crate::cuda::{CudaBackend, Geometry, Matrix, Source, int, launch, source};
use crate::host::HostTensor;
use crate::{DType, Error, Format, Result, Tensor};

const QUANTIZED: Source = source!("quantized.cu");

/// Threads of the block that quantizes a row, as in `quantized.cu`.
const THREADS: u32 = 256;
/// Longest row of the kernel `e4m3_rows_wide`, which keeps it in registers.
const WIDE_ROW: usize = 8 * 8 * THREADS as usize;

/// Row length, and rows of a weight, rounded up to 16: the alignment that cuBLASLt and TMA require.
fn padded(n: usize) -> usize {
    n.next_multiple_of(16)
}

/// Number format of quantized operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum QuantizedDType {
    /// A scale for each row; rows of activations also have a zero point.
    Int8,
    /// A scale for each row.
    E4m3,
}

impl QuantizedDType {
    /// The format that weights in `format` are multiplied in; `None` for the compute dtype.
    pub(crate) fn of(format: Format) -> Option<Self> {
        match format {
            Format::Int8 => Some(QuantizedDType::Int8),
            Format::Fp8 => Some(QuantizedDType::E4m3),
            _ => None,
        }
    }

    /// The dtype of the elements.
    pub(crate) fn dtype(self) -> DType {
        match self {
            QuantizedDType::Int8 => DType::I8,
            QuantizedDType::E4m3 => DType::F8E4M3,
        }
    }
}

impl fmt::Display for QuantizedDType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            QuantizedDType::Int8 => "int8",
            QuantizedDType::E4m3 => "e4m3",
        })
    }
}

/// What belongs to the elements of a quantized weight.
pub(crate) struct Quantized {
    pub(crate) dtype: QuantizedDType,
    /// A scale for each row, f32.
    pub(crate) scales: Buffer,
    /// The sum of each row's elements, i32; for [`QuantizedDType::Int8`] only.
    sums: Option<Buffer>,
}

/// Quantized rows of a left operand: `[rows, stride]`, zeros behind `k`.
pub(crate) struct QuantizedRows {
    dtype: QuantizedDType,
    pub(crate) buffer: Buffer,
    pub(crate) rows: usize,
    pub(crate) k: usize,
    pub(crate) stride: usize,
    /// A scale for each row, f32.
    pub(crate) scales: Buffer,
    /// A zero point for each row, i32; for [`QuantizedDType::Int8`] only.
    zeros: Option<Buffer>,
}

impl CudaBackend {
    /// Whether this GPU can multiply `dtype`.
    pub(crate) fn multiplies(&self, dtype: QuantizedDType) -> bool {
        match dtype {
            QuantizedDType::Int8 => true,
            QuantizedDType::E4m3 => self.device.info.capability >= [8, 9],
        }
    }

    /// Uninitialized quantized rows.
    pub(crate) fn empty_rows(&self, [rows, k]: [usize; 2], dtype: QuantizedDType) -> Result<QuantizedRows> {
        let stride = padded(k);
        let (buffer, scales) = (self.pool.take(rows * stride)?, self.pool.take(4 * rows)?);
        let zeros = (dtype == QuantizedDType::Int8).then(|| self.pool.take(4 * rows)).transpose()?;
        Ok(QuantizedRows { dtype, buffer, rows, k, stride, scales, zeros })
    }

    /// Loads a weight quantized to `dtype`. One stored in `dtype` with a scale for each row is uploaded as it is; any
    /// other is quantized on the GPU.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if this GPU cannot multiply `dtype`, [`Error::OutOfMemory`].
    pub(crate) fn load_quantized(&self, matrix: &HostTensor, dtype: QuantizedDType) -> Result<Matrix> {
        if !self.multiplies(dtype) {
            return Err(Error::Unsupported { what: "products of e4m3 on a GPU older than compute capability 8.9" });
        }
        let &[rows, cols] = matrix.shape() else { unreachable!("a weight is a matrix") };
        let stride = padded(cols);
        let (buffer, scales) = (self.pool.take(padded(rows) * stride)?, self.pool.take(4 * rows)?);
        self.fill_with_zeros(buffer.address() + (rows * stride) as u64, (padded(rows) - rows) * stride)?;
        match stored_scales(matrix, dtype) {
            Some(stored) => {
                let bytes = matrix.bytes();
                self.pool.upload(&buffer, rows * stride, stride, |row, out| {
                    let (values, zeros) = out.split_at_mut(cols);
                    values.copy_from_slice(&bytes[row * cols..][..cols]);
                    zeros.fill(0);
                })?;
                self.pool.upload(&scales, 4 * rows, 4, |row, out| out.copy_from_slice(&stored[row].to_le_bytes()))?;
            }
            None => self.quantize_weight(matrix, dtype, &buffer, &scales)?,
        }
        let sums = match dtype {
            QuantizedDType::E4m3 => None,
            QuantizedDType::Int8 => {
                let sums = self.pool.take(4 * rows)?;
                let geometry = Geometry::block_each(rows, THREADS);
                let (q, out) = (buffer.address(), sums.address());
                // SAFETY: both buffers hold all rows.
                unsafe { launch!(self, QUANTIZED, "sums_of_bytes", geometry, [int(cols), q, stride, out])? };
                Some(sums)
            }
        };
        let size = [rows, cols, stride, padded(rows)];
        Matrix::of_quantized(self, buffer, size, Quantized { dtype, scales, sums }, matrix.placement())
    }

    /// Uploads f32 rows, some at a time, and quantizes them to `buffer` and `scales`.
    fn quantize_weight(
        &self,
        matrix: &HostTensor,
        dtype: QuantizedDType,
        buffer: &Buffer,
        scales: &Buffer,
    ) -> Result<()> {
        let &[rows, cols] = matrix.shape() else { unreachable!("a weight is a matrix") };
        let stride = padded(cols);
        // As many rows at a time as make about 64 MiB of f32.
        let at_once = ((16 << 20) / cols.max(1)).clamp(1, rows.max(1));
        let mut staging = self.staging.lock().expect("no panic while the lock is held");
        let values = match staging.take().filter(|buffer| buffer.bytes() >= 4 * at_once * cols) {
            Some(buffer) => buffer,
            None => self.pool.take(4 * at_once * cols)?,
        };
        let values = &*staging.insert(values);
        for first in (0..rows).step_by(at_once) {
            let count = at_once.min(rows - first);
            self.pool.upload(values, 4 * count * cols, 4 * cols, |row, out| {
                let mut decoded = vec![0f32; cols];
                matrix.decode_row(first + row, 0, &mut decoded);
                out.copy_from_slice(bytemuck::cast_slice(&decoded));
            })?;
            let geometry = Geometry::block_each(count, THREADS);
            let (k, x, q) = (int(cols), values.address(), buffer.address() + (first * stride) as u64);
            let scales = scales.address() + 4 * first as u64;
            // SAFETY: `values` holds `count` rows, and the other two buffers all rows.
            unsafe {
                match dtype {
                    QuantizedDType::Int8 => {
                        launch!(self, QUANTIZED, "int8_weights_f32", geometry, [k, x, stride, q, scales])?;
                    }
                    QuantizedDType::E4m3 => {
                        let name = "e4m3_rows_f32";
                        launch!(self, QUANTIZED, name, geometry, [k, k, x, cols, x, 0usize, stride, q, scales])?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Quantized rows of `parts` (one tensor, or two side by side). Those of a whole tensor are cached with it.
    pub(crate) fn quantize_rows(&self, parts: &[&Tensor<Self>], dtype: QuantizedDType) -> Result<Arc<QuantizedRows>> {
        let (first, last) = (parts[0], parts[parts.len() - 1]);
        let (rows, k) = (first.rows(), parts.iter().map(|x| x.cols()).sum());
        let is_whole = parts.len() == 1 && first.offset() == 0 && first.is_contiguous();
        if is_whole
            && let Some(known) = &*first.buffer().quantized_rows()
            && (known.dtype, known.rows, known.k) == (dtype, rows, k)
        {
            return Ok(Arc::clone(known));
        }
        let quantized = self.empty_rows([rows, k], dtype)?;
        let stride = quantized.stride;
        let (q, scales, zeros) = (quantized.buffer.address(), quantized.scales.address(), &quantized.zeros);
        let is_wide = parts.iter().all(|x| x.dtype() == DType::Bf16 && x.is_wide(8)) && k <= WIDE_ROW;
        let name = match dtype {
            QuantizedDType::Int8 => "int8_rows_compute",
            QuantizedDType::E4m3 if is_wide => "e4m3_rows_wide",
            QuantizedDType::E4m3 => "e4m3_rows_compute",
        };
        let geometry = Geometry::block_each(rows, THREADS);
        let (k, first_k) = (int(k), int(first.cols()));
        let (first_stride, last_stride) = (first.row_stride(), last.row_stride());
        // SAFETY: the buffers hold all rows; a second part is read only behind the first.
        unsafe {
            match zeros.as_ref().map(Buffer::address) {
                None => launch!(
                    self,
                    QUANTIZED,
                    name,
                    geometry,
                    [k, first_k, first, first_stride, last, last_stride, stride, q, scales]
                )?,
                Some(zeros) => launch!(
                    self,
                    QUANTIZED,
                    name,
                    geometry,
                    [k, first_k, first, first_stride, last, last_stride, stride, q, scales, zeros]
                )?,
            }
        }
        let quantized = Arc::new(quantized);
        if is_whole {
            *first.buffer().quantized_rows() = Some(Arc::clone(&quantized));
        }
        Ok(quantized)
    }

    /// Enqueues a product on cuBLASLt. Writes its sums, f32 of e4m3 and i32 of int8, with rows `padded(weight.rows)`
    /// apart. The rows are those of `items` items.
    fn quantized_sums(&self, x: &QuantizedRows, items: usize, weight: &Matrix, out: &Buffer) -> Result<()> {
        let quantized = weight.quantized();
        let stride = padded(weight.rows);
        self.note_quantized("cublaslt", quantized);
        let shape = Shape {
            quantized: Some(quantized.dtype),
            items,
            rows: x.rows / items.max(1),
            cols: padded(weight.rows),
            k: weight.stride,
            strides: [x.stride, weight.stride, stride],
            right: Right::OutIn,
            out: DType::F32,
            accumulate: false,
        };
        let right = self.present(weight)?;
        let operands = [x.buffer.address(), right.address(), out.address()];
        // SAFETY: rows of both operands are `weight.stride` long, since both pad the same k; `out` holds the sums.
        unsafe { self.cublaslt.run(&self.device, shape, operands) }
    }
}

/// The scale of each row of a matrix stored in `dtype`; `None` if it is not, or its scales are not those of whole rows.
fn stored_scales(matrix: &HostTensor, dtype: QuantizedDType) -> Option<Vec<f32>> {
    let &[rows, cols] = matrix.shape() else { unreachable!("a weight is a matrix") };
    if matrix.dtype() != dtype.dtype() {
        return None;
    }
    match matrix.scales() {
        Some(scales) if scales.block[1] >= cols => {
            Some((0..rows).map(|row| scales.values.get(row / scales.block[0])).collect())
        }
        Some(_) => None,
        None => (dtype == QuantizedDType::E4m3).then(|| vec![1.0; rows]),
    }
}

/// Computes a product of quantized rows: cuBLASLt writes the sums, and a pass applies scales and epilogue.
pub(super) fn run(be: &CudaBackend, product: &Product, x: &QuantizedRows) -> Result<()> {
    let (weight, cols) = (product.weight, product.weight.rows);
    let is_int8 = weight.quantized().dtype == QuantizedDType::Int8;
    let (n, stride, geometry) = (x.rows * cols, padded(cols), Geometry::each(x.rows * cols));
    let sums = be.pool.take(4 * x.rows * stride)?;
    let up = match product.epilogue {
        Epilogue::Swiglu { up, .. } => Some((up, be.pool.take(4 * x.rows * stride)?)),
        _ => None,
    };
    // Sums of integers are exact, whatever their order.
    let items = if is_int8 { 1 } else { product.items() };
    be.quantized_sums(x, items, weight, &sums)?;
    if let Some((up, sums)) = &up {
        be.quantized_sums(x, items, up, sums)?;
    }
    let (sums, [row_scale, row_zero, scale, column_sum]) = (sums.address(), vectors(x, weight.quantized()));
    let cols = int(cols);
    /// Launches the pass `$name`; only the last arguments differ between epilogues.
    macro_rules! pass {
        ($name:expr, $($last:expr),+) => {
            launch!(
                be, QUANTIZED, $name, geometry,
                [n, cols, sums, stride, row_scale, row_zero, scale, column_sum, $($last),+]
            )
        };
    }
    match product.epilogue {
        Epilogue::Store { bias, y, .. } => {
            let name = match (is_int8, y.dtype()) {
                (false, DType::F32) => "e4m3_f32",
                (false, _) => "e4m3_compute",
                (true, DType::F32) => "int8_f32",
                (true, _) => "int8_compute",
            };
            let bias = bias.map_or(0, Tensor::address);
            // SAFETY: there are as many sums as values of `y`, and the vectors are as long as rows and columns.
            unsafe { pass!(name, bias, y) }
        }
        Epilogue::Add { gate, x } => {
            let name = if is_int8 { "int8_add" } else { "e4m3_add" };
            let gate = gate.map_or(0, Tensor::address);
            // SAFETY: as above.
            unsafe { pass!(name, gate, x) }
        }
        Epilogue::Swiglu { y, .. } => {
            let (up, up_sums) = up.expect("allocated above");
            let (up_sums, [_, _, up_scale, up_column_sum]) = (up_sums.address(), vectors(x, up.quantized()));
            let name = if is_int8 { "int8_swiglu" } else { "e4m3_swiglu" };
            // SAFETY: as above, for both products.
            unsafe { pass!(name, up_sums, up_scale, up_column_sum, y) }
        }
    }
}

/// Scales and zero points of rows, scales of columns and sums of their elements, as `quantized.cu` takes them.
fn vectors(x: &QuantizedRows, weight: &Quantized) -> [u64; 4] {
    let or_null = |buffer: &Option<Buffer>| buffer.as_ref().map_or(0, Buffer::address);
    [x.scales.address(), or_null(&x.zeros), weight.scales.address(), or_null(&weight.sums)]
}
