//! Weights as the GPU multiplies them, and where they are between their uses.

use std::sync::Arc;

use half::bf16;

use super::CudaBackend;
use super::bytes::Bytes;
use super::gemm::padded;
use super::memory::Buffer;
use super::parking::{Parked, Visit};
use crate::{Compute, Error, HostTensor, Result, Stay};

/// A weight `[rows, stride]` in the compute dtype or in bytes, zeros behind the columns.
pub struct Matrix {
    place: Place,
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) stride: usize,
    /// If its elements are bytes that stand for something else.
    pub(super) bytes: Option<Bytes>,
}

/// Where a weight is between its uses.
enum Place {
    Gpu(Buffer),
    Host(Arc<Parked>),
    /// As it is stored: decoded for every use.
    File(HostTensor),
}

/// A weight on the GPU, for what is called on this thread while this lives.
pub(super) struct Present<'m> {
    address: u64,
    _held: Held<'m>,
}

#[expect(dead_code, reason = "held, not read")]
enum Held<'m> {
    /// It is always there.
    Nothing,
    Buffer(Buffer),
    Place(Visit<'m>),
}

impl Present<'_> {
    /// Of the first element.
    pub(super) fn address(&self) -> u64 {
        self.address
    }
}

impl Matrix {
    /// A weight that is on the GPU; where `stay` says otherwise moved to the host, if that has memory to spare.
    pub(super) fn of_bytes(
        be: &CudaBackend,
        buffer: Buffer,
        [rows, cols, stride, padded_rows]: [usize; 4],
        bytes: Bytes,
        stay: Stay,
    ) -> Result<Self> {
        let place = match stay {
            Stay::Device => Place::Gpu(buffer),
            Stay::Host | Stay::File => match be.parking.park_buffer(&buffer, padded_rows * stride) {
                Ok(parked) => Place::Host(parked),
                Err(Error::OutOfMemory { .. }) => Place::Gpu(buffer),
                Err(other) => return Err(other),
            },
        };
        Ok(Matrix { place, rows, cols, stride, bytes: Some(bytes) })
    }
}

impl CudaBackend {
    /// Take over a weight that is multiplied in the compute dtype.
    pub(super) fn load_dense(&self, matrix: HostTensor, stay: Stay) -> Result<Matrix> {
        let &[rows, cols] = matrix.shape() else { unreachable!("a weight is a matrix") };
        let stride = padded(cols);
        let place = match stay {
            Stay::Device => Place::Gpu(self.upload_dense(&matrix)?),
            Stay::Host => {
                let unit = stride * self.compute_size();
                match self.parking.park(rows * unit, unit, |row, out| self.fill_row(&matrix, row, out)) {
                    Ok(parked) => Place::Host(parked),
                    // The system has none to spare, or allows a process less of it.
                    Err(Error::OutOfMemory { .. }) => Place::File(matrix),
                    Err(other) => return Err(other),
                }
            }
            Stay::File => Place::File(matrix),
        };
        Ok(Matrix { place, rows, cols, stride, bytes: None })
    }

    /// Have a weight on the GPU.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] if it was not and there is no room.
    pub(super) fn present<'m>(&'m self, matrix: &'m Matrix) -> Result<Present<'m>> {
        Ok(match &matrix.place {
            Place::Gpu(buffer) => Present { address: buffer.address(), _held: Held::Nothing },
            Place::Host(parked) => {
                let visit = self.parking.visit(parked)?;
                Present { address: visit.address(), _held: Held::Place(visit) }
            }
            Place::File(matrix) => {
                self.parking.count();
                let buffer = self.upload_dense(matrix)?;
                Present { address: buffer.address(), _held: Held::Buffer(buffer) }
            }
        })
    }

    /// Row `row` as it would be on the GPU, if the host has it.
    pub(super) fn row_on_host(&self, matrix: &Matrix, row: usize) -> Option<Vec<f32>> {
        let size = self.compute_size();
        let unit = matrix.stride * size;
        let mut stored = vec![0; unit];
        match &matrix.place {
            Place::Gpu(_) => return None,
            Place::File(host) => self.fill_row(host, row, &mut stored),
            Place::Host(_) if self.device.dry_run => {}
            Place::Host(parked) => stored.copy_from_slice(&parked.bytes()[row * unit..][..unit]),
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

    /// A row in the compute dtype, zeros behind it.
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
