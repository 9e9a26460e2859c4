//! `concat_cols`: a copy of each part into its columns of the result.

use super::CpuBackend;
use super::simd::with_element;
use crate::{Result, Tensor};

pub(super) fn concat_cols(be: &CpuBackend, parts: &[&Tensor<CpuBackend>]) -> Result<Tensor<CpuBackend>> {
    let cols = parts.iter().map(|part| part.cols()).sum();
    with_element!(parts[0].dtype(), T => be.build::<T>(&[parts[0].rows(), cols], |out| {
        be.threads.for_rows(out, cols, |i, mut out| {
            for part in parts {
                let (here, rest) = out.split_at_mut(part.cols());
                here.copy_from_slice(part.row(i));
                out = rest;
            }
        });
        Ok(())
    }))
}
