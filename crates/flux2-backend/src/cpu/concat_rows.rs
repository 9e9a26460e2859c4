//! `concat_rows`: a copy of each part into its rows of the result, or of each item of the result.

use super::CpuBackend;
use super::simd::with_element;
use crate::ops::concat_rows::with_rows;
use crate::{Result, Tensor};

pub(super) fn concat_rows(be: &CpuBackend, parts: &[&Tensor<CpuBackend>]) -> Result<Tensor<CpuBackend>> {
    let [items, _, cols] = parts[0].batch_dims("concat_rows: parts")?;
    let rows_of = |part: &Tensor<CpuBackend>| part.rows() / items.max(1);
    let shape = with_rows(parts[0].shape(), parts.iter().map(|part| rows_of(part)).sum());
    with_element!(parts[0].dtype(), T => be.build::<T>(&shape, |mut out| {
        for item in 0..items {
            for part in parts {
                let rows = rows_of(part);
                let (here, rest) = out.split_at_mut(rows * cols);
                be.threads.for_rows(here, cols, |i, out| out.copy_from_slice(part.row(item * rows + i)));
                out = rest;
            }
        }
        Ok(())
    }))
}
