//! `embedding`.

use super::driver::Geometry;
use super::kernels::source;
use super::{CudaBackend, Matrix, Source, int, launch};
use crate::{DType, Result, Tensor};

const EMBEDDING: Source = source!("embedding.cu");

pub(super) fn embedding(be: &CudaBackend, table: &Matrix, ids: &[u32]) -> Result<Tensor<CudaBackend>> {
    let y = be.empty(&[ids.len(), table.cols], DType::F32)?;
    let rows = be.pool.take(4 * ids.len())?;
    let ids_as_bytes: &[u8] = bytemuck::cast_slice(ids);
    be.pool.upload(&rows, ids_as_bytes.len(), 4, |i, out| out.copy_from_slice(&ids_as_bytes[4 * i..][..4]))?;
    let geometry = Geometry::block_each(ids.len(), 256);
    // SAFETY: the contract checked that every id is a row of the table.
    unsafe {
        launch!(
            be,
            EMBEDDING,
            "embedding",
            geometry,
            [int(table.cols), table.buffer.address(), table.stride, rows.address(), &y]
        )?;
    }
    Ok(y)
}
