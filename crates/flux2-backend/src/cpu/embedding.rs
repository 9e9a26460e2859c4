//! `embedding`: decodes the requested rows from the table's stored dtype.

use super::CpuBackend;
use crate::{HostTensor, Result, Tensor};

pub(super) fn embedding(be: &CpuBackend, table: &HostTensor, ids: &[u32]) -> Result<Tensor<CpuBackend>> {
    be.build_rows(&[ids.len(), table.shape()[1]], |i, out: &mut [f32]| table.decode_row(ids[i] as usize, 0, out))
}
