//! `embedding`. Of a table on the host only the rows asked for are uploaded.

use crate::cuda::{CudaBackend, Geometry, Matrix, Source, int, launch, source};
use crate::{DType, Result, Runtime, Tensor};

const EMBEDDING: Source = source!("embedding.cu");

pub(crate) fn embedding(be: &CudaBackend, table: &Matrix, ids: &[u32]) -> Result<Tensor<CudaBackend>> {
    if let Some(rows) = ids.iter().map(|id| be.row_on_host(table, *id as usize)).collect::<Option<Vec<_>>>() {
        return be.upload(&[ids.len(), table.cols], &rows.concat());
    }
    let (y, there) = (be.empty(&[ids.len(), table.cols], DType::F32)?, be.present(table)?);
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
            [int(table.cols), there.address(), table.stride, rows.address(), &y]
        )?;
    }
    Ok(y)
}
