//! `concat_rows`: a copy of each part into its rows of the result.

use super::CpuBackend;
use super::simd::with_element;
use crate::{Result, Tensor};

pub(super) fn concat_rows(be: &CpuBackend, parts: &[&Tensor<CpuBackend>]) -> Result<Tensor<CpuBackend>> {
    let cols = parts[0].cols();
    let rows = parts.iter().map(|part| part.rows()).sum();
    with_element!(parts[0].dtype(), T => be.build::<T>(&[rows, cols], |mut out| {
        for part in parts {
            let (here, rest) = out.split_at_mut(part.rows() * cols);
            be.threads.for_rows(here, cols, |i, out| out.copy_from_slice(part.row(i)));
            out = rest;
        }
        Ok(())
    }))
}
