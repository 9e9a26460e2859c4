//! Conversion of weights to another stored dtype, on the host, whatever device multiplies them.

use std::sync::Arc;

use half::bf16;
use rayon::prelude::*;

use super::{blocks, int8};
use crate::host::BlockScales;
use crate::simd::{Element, Tier, vectorize};
use crate::threads::Threads;
use crate::{DType, Error, HostBytes, HostTensor, Result};

/// Rounds `matrix` to `dtype`: bf16, q8_0, q4_k, or i8 with one scale per row. Shared, not copied, if it has that dtype
/// already or its rows are not whole blocks. The bytes do not depend on the number of `threads`.
///
/// # Errors
/// [`Error::DType`] for any other `dtype`; [`Error::Shape`] if `matrix` is not a matrix.
pub fn encode(matrix: &HostTensor, dtype: DType, threads: &Threads) -> Result<HostTensor> {
    encode_on(threads, Tier::detect(), matrix, dtype)
}

/// As [`encode`], with a given instruction set.
pub(crate) fn encode_on(threads: &Threads, tier: Tier, matrix: &HostTensor, dtype: DType) -> Result<HostTensor> {
    let &[rows, cols] = matrix.shape() else {
        let (found, expected) = (matrix.shape().to_vec(), "a matrix".into());
        return Err(Error::Shape { what: "encode", found, expected });
    };
    if matrix.dtype() == dtype || !cols.is_multiple_of(dtype.block_len()) {
        return Ok(matrix.clone());
    }
    let kernel: fn(Tier, &[f32], &mut [u8]) -> f32 = match dtype {
        DType::Bf16 => to_bf16,
        DType::I8 => to_i8,
        DType::Q8_0 => to_q8_0,
        DType::Q4K => to_q4_k,
        found => return Err(Error::DType { what: "encode", found, expected: DType::Bf16 }),
    };
    let row_bytes = dtype.bytes(cols);
    let (mut bytes, mut scales) = (vec![0u8; rows * row_bytes], vec![0f32; rows]);
    threads.install(|| {
        let outputs = bytes.par_chunks_mut(row_bytes.max(1)).zip(&mut scales).enumerate();
        outputs.for_each_init(
            || vec![0f32; cols],
            |values, (row, (bytes, scale))| {
                matrix.decode_row(row, 0, values);
                *scale = kernel(tier, values, bytes);
            },
        );
    });
    let encoded = HostTensor::new(dtype, [rows, cols], HostBytes::new(Arc::new(bytes)))?;
    match dtype {
        DType::I8 => encoded.with_scales(BlockScales { values: scales.into(), block: [1, cols] }),
        _ => Ok(encoded),
    }
}

vectorize! {
    fn to_bf16(values: &[f32], out: &mut [u8]) -> f32 {
        for (out, value) in out.chunks_exact_mut(2).zip(values) {
            out.copy_from_slice(&<bf16 as Element>::from_f32(*value).to_bits().to_le_bytes());
        }
        1.0
    }
}

vectorize! {
    fn to_i8(values: &[f32], out: &mut [u8]) -> f32 {
        int8::quantize_weights(values, bytemuck::cast_slice_mut(out))
    }
}

vectorize! {
    fn to_q8_0(values: &[f32], out: &mut [u8]) -> f32 {
        blocks::encode_q8_0(values, out);
        1.0
    }
}

vectorize! {
    fn to_q4_k(values: &[f32], out: &mut [u8]) -> f32 {
        blocks::encode_q4_k(values, out);
        1.0
    }
}
