//! Products of bytes: weights rounded when they are loaded, rows when a product begins; [`crate::quant::fp8`] and
//! [`crate::quant::int8`] say how. On Hopper e4m3 is multiplied by the kernels of `hopper.rs`, otherwise cuBLASLt makes the sums
//! and a kernel of `quantized.cu` multiplies them by the scales.

use std::fmt;
use std::sync::Arc;

use super::cublaslt::{Operands, Right, Shape};
use super::hopper::{Epilogue, Left};
use crate::cuda::runtime::memory::Buffer;
use crate::cuda::{CudaBackend, Geometry, Matrix, Source, int, launch, source};
use crate::host::HostTensor;
use crate::{DType, Error, Format, Result, Tensor};

const QUANTIZED: Source = source!("quantized.cu");

/// Threads of a block that has a row, as in `quantized.cu`.
const THREADS: u32 = 256;
/// Longest row that `e4m3_rows_wide` takes.
const WIDE_ROW: usize = 8 * 8 * THREADS as usize;

/// What rows of bytes, and how many rows of a weight there are, is rounded up to: what cuBLASLt and the copy engine ask for.
fn padded(n: usize) -> usize {
    n.next_multiple_of(16)
}

/// What bytes stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum QuantizedDType {
    /// A row has a scale; of activations also a zero.
    Int8,
    /// A row has a scale.
    E4m3,
}

impl QuantizedDType {
    /// Of a weight in `format`, if it is one in bytes.
    pub(crate) fn of(format: Format) -> Option<Self> {
        match format {
            Format::Int8 => Some(QuantizedDType::Int8),
            Format::Fp8 => Some(QuantizedDType::E4m3),
            _ => None,
        }
    }

    /// Of its elements.
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

/// What a weight in bytes has beside them.
pub(crate) struct Quantized {
    pub(crate) code: QuantizedDType,
    /// f32, of each row.
    pub(crate) scales: Buffer,
    /// i32, the sum of each row's bytes, for [`QuantizedDType::Int8`].
    sums: Option<Buffer>,
}

/// Rows in bytes: `[rows, stride]`, zeros behind `k`.
pub(crate) struct QuantizedRows {
    code: QuantizedDType,
    pub(crate) buffer: Buffer,
    pub(crate) rows: usize,
    pub(crate) k: usize,
    pub(crate) stride: usize,
    /// f32, of each row.
    pub(crate) scales: Buffer,
    /// i32, of each row, for [`QuantizedDType::Int8`].
    zeros: Option<Buffer>,
}

impl CudaBackend {
    /// Whether products of these can be computed on this GPU.
    pub(crate) fn multiplies(&self, code: QuantizedDType) -> bool {
        match code {
            QuantizedDType::Int8 => true,
            QuantizedDType::E4m3 => self.device.info.capability >= [8, 9],
        }
    }

    /// Whether rows of `k` are going to be multiplied in e4m3.
    pub(crate) fn rounds_rows_of(&self, k: usize) -> bool {
        self.e4m3_rows.lock().expect("no panic while the lock is held").contains(&k)
    }

    /// Room for rows in `code`.
    pub(crate) fn empty_rows(&self, [rows, k]: [usize; 2], code: QuantizedDType) -> Result<QuantizedRows> {
        let stride = padded(k);
        let (buffer, scales) = (self.pool.take(rows * stride)?, self.pool.take(4 * rows)?);
        let zeros = (code == QuantizedDType::Int8).then(|| self.pool.take(4 * rows)).transpose()?;
        Ok(QuantizedRows { code, buffer, rows, k, stride, scales, zeros })
    }

    /// Take over a weight; one that is stored so already, with a scale for whole rows, as it is.
    pub(crate) fn load_quantized(&self, matrix: &HostTensor, code: QuantizedDType) -> Result<Matrix> {
        if !self.multiplies(code) {
            return Err(Error::Unsupported { what: "products of e4m3 on a GPU older than compute capability 8.9" });
        }
        let &[rows, cols] = matrix.shape() else { unreachable!("a weight is a matrix") };
        if code == QuantizedDType::E4m3 {
            self.e4m3_rows.lock().expect("no panic while the lock is held").insert(cols);
        }
        let stride = padded(cols);
        let (buffer, scales) = (self.pool.take(padded(rows) * stride)?, self.pool.take(4 * rows)?);
        self.fill_with_zeros(buffer.address() + (rows * stride) as u64, (padded(rows) - rows) * stride)?;
        if let Some(of_rows) = scales_of_rows(matrix, code) {
            let stored = matrix.bytes();
            self.pool.upload(&buffer, rows * stride, stride, |row, out| {
                let (values, zeros) = out.split_at_mut(cols);
                values.copy_from_slice(&stored[row * cols..][..cols]);
                zeros.fill(0);
            })?;
            self.pool.upload(&scales, 4 * rows, 4, |row, out| out.copy_from_slice(&of_rows[row].to_le_bytes()))?;
        } else {
            let name = match code {
                QuantizedDType::Int8 => "int8_weights_f32",
                QuantizedDType::E4m3 => "e4m3_rows_f32",
            };
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
                let (x, q) = (values.address(), buffer.address() + (first * stride) as u64);
                let scales = scales.address() + 4 * first as u64;
                // SAFETY: `values` holds `count` rows, and the other two buffers all rows.
                unsafe {
                    match code {
                        QuantizedDType::Int8 => {
                            launch!(self, QUANTIZED, name, geometry, [int(cols), x, stride, q, scales])?
                        }
                        QuantizedDType::E4m3 => {
                            let k = int(cols);
                            launch!(self, QUANTIZED, name, geometry, [k, k, x, cols, x, 0usize, stride, q, scales])?;
                        }
                    }
                }
            }
        }
        let sums = match code {
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
        Matrix::of_quantized(
            self,
            buffer,
            [rows, cols, stride, padded(rows)],
            Quantized { code, scales, sums },
            matrix.placement(),
        )
    }

    /// `parts` side by side, one or two, in bytes: as they were rounded before if that was remembered.
    pub(crate) fn quantize_rows(&self, parts: &[&Tensor<Self>], code: QuantizedDType) -> Result<Arc<QuantizedRows>> {
        let (first, last) = (parts[0], parts[parts.len() - 1]);
        let (rows, k) = (first.rows(), parts.iter().map(|x| x.cols()).sum());
        let is_whole = parts.len() == 1 && first.offset() == 0 && first.is_contiguous();
        if is_whole
            && let Some(known) = &*first.buffer().quantized_rows()
            && (known.code, known.rows, known.k) == (code, rows, k)
        {
            return Ok(Arc::clone(known));
        }
        let rounded = self.empty_rows([rows, k], code)?;
        let QuantizedRows { buffer, stride, scales, zeros, .. } = &rounded;
        let stride = *stride;
        let is_wide = parts.iter().all(|x| x.dtype() == DType::Bf16 && x.is_wide(8)) && k <= WIDE_ROW;
        let name = match code {
            QuantizedDType::Int8 => "int8_rows_compute",
            QuantizedDType::E4m3 if is_wide => "e4m3_rows_wide",
            QuantizedDType::E4m3 => "e4m3_rows_compute",
        };
        let geometry = Geometry::block_each(rows, THREADS);
        let (first_k, q, to) = (int(first.cols()), buffer.address(), scales.address());
        let strides = [first.row_stride(), last.row_stride()];
        // SAFETY: the buffers hold all rows; a second part is read only behind the first.
        unsafe {
            match zeros {
                None => launch!(
                    self,
                    QUANTIZED,
                    name,
                    geometry,
                    [int(k), first_k, first, strides[0], last, strides[1], stride, q, to]
                )?,
                Some(zeros) => launch!(
                    self,
                    QUANTIZED,
                    name,
                    geometry,
                    [int(k), first_k, first, strides[0], last, strides[1], stride, q, to, zeros.address()]
                )?,
            }
        }
        let rounded = Arc::new(rounded);
        if is_whole {
            *first.buffer().quantized_rows() = Some(Arc::clone(&rounded));
        }
        Ok(rounded)
    }

    /// The sums of a product, f32 of e4m3 and i32 of int8, rows `stride` apart from `out` on.
    fn sums(&self, x: &QuantizedRows, weight: &Matrix, bytes: &Quantized, out: u64, stride: usize) -> Result<()> {
        self.note_quantized("cublaslt", bytes);
        let shape = Shape {
            operands: match bytes.code {
                QuantizedDType::Int8 => Operands::Int8,
                QuantizedDType::E4m3 => Operands::E4m3,
            },
            rows: x.rows,
            cols: padded(weight.rows),
            k: weight.stride,
            strides: [x.stride, weight.stride, stride],
            right: Right::OutIn,
            out: DType::F32,
            accumulate: false,
            batch: 1,
            batch_strides: [0; 3],
        };
        let right = self.present(weight)?;
        let operands = [x.buffer.address(), right.address(), out];
        // SAFETY: rows of both operands are `weight.stride` long, since both are as many values rounded up; the callers made `out`.
        unsafe { self.cublaslt.run(&self.device, shape, operands) }
    }
}

/// The scale of each row of a matrix that is stored in `code`, if its rows have one each.
fn scales_of_rows(matrix: &HostTensor, code: QuantizedDType) -> Option<Vec<f32>> {
    let &[rows, cols] = matrix.shape() else { unreachable!("a weight is a matrix") };
    if matrix.dtype() != code.dtype() {
        return None;
    }
    match matrix.scales() {
        Some(scales) if scales.block[1] >= cols => {
            Some((0..rows).map(|row| scales.values.get(row / scales.block[0])).collect())
        }
        Some(_) => None,
        None => (code == QuantizedDType::E4m3).then(|| vec![1.0; rows]),
    }
}

/// As [`super::linear::linear`], for a weight in bytes; `y` is there.
pub(crate) fn linear(
    be: &CudaBackend,
    x: &Tensor<CudaBackend>,
    weight: &Matrix,
    bytes: &Quantized,
    bias: Option<&Tensor<CudaBackend>>,
    y: &Tensor<CudaBackend>,
) -> Result<()> {
    let (x, cols) = (be.quantize_rows(&[x], bytes.code)?, weight.rows);
    if on_hopper(be, bytes, cols) && bias.is_none() && y.dtype() != DType::F32 {
        // SAFETY: `y` has a row for each of `x`.
        return unsafe { be.multiply("linear", Left::Quantized(&x), weight, Epilogue::Scaled, y.address()) };
    }
    let (n, stride) = (x.rows * cols, padded(cols));
    let sums = be.pool.take(4 * x.rows * stride)?;
    be.sums(&x, weight, bytes, sums.address(), stride)?;
    let name = match (bytes.code, y.dtype()) {
        (QuantizedDType::E4m3, DType::F32) => "e4m3_f32",
        (QuantizedDType::E4m3, _) => "e4m3_compute",
        (QuantizedDType::Int8, DType::F32) => "int8_f32",
        (QuantizedDType::Int8, _) => "int8_compute",
    };
    let [row_scale, row_zero, scale, column_sum] = vectors(&x, bytes);
    let bias = bias.map_or(0, Tensor::address);
    let geometry = Geometry::each(n);
    let sums = sums.address();
    // SAFETY: there are as many sums as values of `y`, and the vectors are as long as rows and columns.
    unsafe {
        launch!(
            be,
            QUANTIZED,
            name,
            geometry,
            [n, int(cols), sums, stride, row_scale, row_zero, scale, column_sum, bias, y]
        )
    }
}

/// As [`super::linear_add::linear_add`], for a weight in bytes.
pub(crate) fn linear_add(
    be: &CudaBackend,
    x: &mut Tensor<CudaBackend>,
    gate: Option<&Tensor<CudaBackend>>,
    parts: &[&Tensor<CudaBackend>],
    weight: &Matrix,
    bytes: &Quantized,
) -> Result<()> {
    let (rounded, cols) = (be.quantize_rows(parts, bytes.code)?, weight.rows);
    if on_hopper(be, bytes, cols) && x.is_wide(2) {
        let epilogue = Epilogue::Add { gate };
        // SAFETY: `x` has a row for each of those that were rounded, and is nobody else's.
        return unsafe { be.multiply("linear", Left::Quantized(&rounded), weight, epilogue, x.address()) };
    }
    let (n, stride) = (rounded.rows * cols, padded(cols));
    let sums = be.pool.take(4 * rounded.rows * stride)?;
    be.sums(&rounded, weight, bytes, sums.address(), stride)?;
    let name = if bytes.code == QuantizedDType::Int8 { "int8_add" } else { "e4m3_add" };
    let [row_scale, row_zero, scale, column_sum] = vectors(&rounded, bytes);
    let (geometry, sums, gate) = (Geometry::each(n), sums.address(), gate.map_or(0, Tensor::address));
    // SAFETY: as in `linear`.
    unsafe {
        launch!(
            be,
            QUANTIZED,
            name,
            geometry,
            [n, int(cols), sums, stride, row_scale, row_zero, scale, column_sum, gate, &*x]
        )
    }
}

/// As [`super::linear_swiglu::linear_swiglu`], for weights in bytes; `y` is there.
pub(crate) fn linear_swiglu(
    be: &CudaBackend,
    x: &Tensor<CudaBackend>,
    [gate, up]: [(&Matrix, &Quantized); 2],
    y: &Tensor<CudaBackend>,
) -> Result<()> {
    let ((gate, bytes), (up, up_bytes)) = (gate, up);
    let (x, cols) = (be.quantize_rows(&[x], bytes.code)?, gate.rows);
    if on_hopper(be, bytes, cols) {
        // SAFETY: `y` has a row for each of `x`, and both weights one shape.
        return unsafe { be.multiply("linear", Left::Quantized(&x), gate, Epilogue::Swiglu { up }, y.address()) };
    }
    let (n, stride) = (x.rows * cols, padded(cols));
    let [gate_sums, up_sums] = [be.pool.take(4 * x.rows * stride)?, be.pool.take(4 * x.rows * stride)?];
    be.sums(&x, gate, bytes, gate_sums.address(), stride)?;
    be.sums(&x, up, up_bytes, up_sums.address(), stride)?;
    let name = if bytes.code == QuantizedDType::Int8 { "int8_swiglu" } else { "e4m3_swiglu" };
    let [row_scale, row_zero, scale, column_sum] = vectors(&x, bytes);
    let [_, _, up_scale, up_column_sum] = vectors(&x, up_bytes);
    let (geometry, sums, up_sums) = (Geometry::each(n), gate_sums.address(), up_sums.address());
    // SAFETY: as in `linear`.
    unsafe {
        launch!(
            be,
            QUANTIZED,
            name,
            geometry,
            [n, int(cols), sums, stride, row_scale, row_zero, scale, column_sum, up_sums, up_scale, up_column_sum, y]
        )
    }
}

fn on_hopper(be: &CudaBackend, bytes: &Quantized, cols: usize) -> bool {
    be.is_hopper() && bytes.code == QuantizedDType::E4m3 && cols.is_multiple_of(8)
}

/// Scales and zeros of rows, scales of columns and sums of their bytes, as `quantized.cu` takes them.
fn vectors(x: &QuantizedRows, bytes: &Quantized) -> [u64; 4] {
    let or_none = |buffer: &Option<Buffer>| buffer.as_ref().map_or(0, Buffer::address);
    [x.scales.address(), or_none(&x.zeros), bytes.scales.address(), or_none(&bytes.sums)]
}
