//! Weights as the GPU multiplies them: resident, offloaded to the host, or decoded from their file for every use.

use std::sync::Arc;

use half::bf16;

use super::cublaslt::padded;
use super::quantized::{Quantized, QuantizedDType};
use crate::cuda::CudaBackend;
use crate::cuda::runtime::memory::Buffer;
use crate::cuda::runtime::offload::{OffloadedWeight, SlotLease};
use crate::{Compute, Error, HostTensor, Placement, Result};

/// A weight `[rows, stride]` in the compute dtype or quantized, zeros behind the columns.
pub struct Matrix {
    storage: Storage,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) stride: usize,
    /// Scales and the like of a weight in int8 or e4m3; `None` of one in the compute dtype.
    pub(crate) quantized: Option<Quantized>,
}

/// Where a weight is between uses.
enum Storage {
    Gpu(Buffer),
    Host(Arc<OffloadedWeight>),
    /// In its file: decoded and uploaded for every use.
    File(HostTensor),
}

/// A weight on the GPU, for kernels that this thread enqueues while this lives.
pub(crate) struct Present<'m> {
    address: u64,
    _held: Held<'m>,
}

#[expect(dead_code, reason = "held, not read")]
enum Held<'m> {
    /// A resident weight.
    Nothing,
    Buffer(Buffer),
    Slot(SlotLease<'m>),
}

impl Present<'_> {
    /// Device address of the first element.
    pub(crate) fn address(&self) -> u64 {
        self.address
    }
}

impl Matrix {
    /// The scales and the like of a quantized weight.
    ///
    /// # Panics
    /// If the weight is in the compute dtype.
    pub(super) fn quantized(&self) -> &Quantized {
        self.quantized.as_ref().expect("a quantized weight")
    }

    /// Whether rows it is multiplied with are quantized to e4m3.
    pub(crate) fn is_e4m3(&self) -> bool {
        self.quantized.as_ref().is_some_and(|quantized| quantized.dtype == QuantizedDType::E4m3)
    }

    /// A weight that has been quantized on the GPU. Unless `placement` is the device it is moved to the host, if that
    /// has memory to spare.
    pub(crate) fn of_quantized(
        be: &CudaBackend,
        buffer: Buffer,
        [rows, cols, stride, padded_rows]: [usize; 4],
        quantized: Quantized,
        placement: Placement,
    ) -> Result<Self> {
        let storage = match placement {
            Placement::Device => Storage::Gpu(buffer),
            Placement::Host | Placement::File => match be.offloader.offload_buffer(&buffer, padded_rows * stride) {
                Ok(offloaded) => Storage::Host(offloaded),
                Err(Error::OutOfMemory { .. }) => Storage::Gpu(buffer),
                Err(other) => return Err(other),
            },
        };
        Ok(Matrix { storage, rows, cols, stride, quantized: Some(quantized) })
    }
}

impl CudaBackend {
    /// Loads a weight that is multiplied in the compute dtype.
    pub(crate) fn load_dense(&self, matrix: HostTensor, placement: Placement) -> Result<Matrix> {
        let &[rows, cols] = matrix.shape() else { unreachable!("a weight is a matrix") };
        let stride = padded(cols);
        let storage = match placement {
            Placement::Device => Storage::Gpu(self.upload_dense(&matrix)?),
            Placement::Host => {
                let unit = stride * self.compute_size();
                match self.offloader.offload(rows * unit, unit, |row, out| self.fill_row(&matrix, row, out)) {
                    Ok(offloaded) => Storage::Host(offloaded),
                    // The host has no memory to spare, or does not let this process pin it.
                    Err(Error::OutOfMemory { .. }) => Storage::File(matrix),
                    Err(other) => return Err(other),
                }
            }
            Placement::File => Storage::File(matrix),
        };
        Ok(Matrix { storage, rows, cols, stride, quantized: None })
    }

    /// Makes a weight available on the GPU.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] if it is not resident and there is no room.
    pub(crate) fn present<'m>(&'m self, matrix: &'m Matrix) -> Result<Present<'m>> {
        Ok(match &matrix.storage {
            Storage::Gpu(buffer) => Present { address: buffer.address(), _held: Held::Nothing },
            Storage::Host(offloaded) => {
                let lease = self.offloader.lease(offloaded)?;
                Present { address: lease.address(), _held: Held::Slot(lease) }
            }
            Storage::File(matrix) => {
                self.offloader.count();
                let buffer = self.upload_dense(matrix)?;
                Present { address: buffer.address(), _held: Held::Buffer(buffer) }
            }
        })
    }

    /// Row `row` as on the GPU; `None` of a resident weight.
    pub(crate) fn row_on_host(&self, matrix: &Matrix, row: usize) -> Option<Vec<f32>> {
        let size = self.compute_size();
        let unit = matrix.stride * size;
        let mut stored = vec![0; unit];
        match &matrix.storage {
            Storage::Gpu(_) => return None,
            Storage::File(host) => self.fill_row(host, row, &mut stored),
            Storage::Host(_) if self.device.dry_run => {}
            Storage::Host(offloaded) => stored.copy_from_slice(&offloaded.bytes()[row * unit..][..unit]),
        }
        let values = stored.chunks_exact(size).take(matrix.cols);
        Some(match self.compute {
            Compute::F32 => values.map(|v| f32::from_le_bytes([v[0], v[1], v[2], v[3]])).collect(),
            Compute::Bf16 => values.map(|v| bf16::from_le_bytes([v[0], v[1]]).to_f32()).collect(),
        })
    }

    fn upload_dense(&self, matrix: &HostTensor) -> Result<Buffer> {
        let &[rows, cols] = matrix.shape() else { unreachable!("a weight is a matrix") };
        let unit = padded(cols) * self.compute_size();
        let buffer = self.pool.take(rows * unit)?;
        self.pool.upload(&buffer, rows * unit, unit, |row, out| self.fill_row(matrix, row, out))?;
        Ok(buffer)
    }

    /// Writes a row in the compute dtype, and zeros behind it.
    fn fill_row(&self, matrix: &HostTensor, row: usize, out: &mut [u8]) {
        let (cols, size) = (matrix.shape()[1], self.compute_size());
        let (values, zeros) = out.split_at_mut(cols * size);
        zeros.fill(0);
        if matrix.dtype() == self.compute.dtype() {
            values.copy_from_slice(&matrix.bytes()[row * cols * size..][..cols * size]);
            return;
        }
        let mut decoded = vec![0f32; cols];
        matrix.decode_row(row, 0, &mut decoded);
        match self.compute {
            Compute::F32 => values.copy_from_slice(bytemuck::cast_slice(&decoded)),
            Compute::Bf16 => {
                for (out, value) in values.chunks_exact_mut(2).zip(&decoded) {
                    out.copy_from_slice(&bf16::from_f32(*value).to_le_bytes());
                }
            }
        }
    }
}
