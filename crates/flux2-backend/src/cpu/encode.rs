//! Conversion of weights to another stored dtype, on the CPU for every backend. The formats are in [`crate::quant`].

use std::num::NonZeroUsize;
use std::sync::Arc;

use half::bf16;

use super::gemm::Output;
use super::pool::Threads;
use super::simd::{Element, Tier, vectorize};
use crate::host::BlockScales;
use crate::quant::{blocks, int8};
use crate::{DType, Error, HostBytes, HostTensor, Result};

/// Rounds `matrix` to `dtype`: bf16, q8_0, q4_k, or i8 with one scale per row. Returns it unchanged if it has that
/// dtype already or its rows are not whole blocks. `threads` of `None` uses all available.
///
/// # Errors
/// [`Error::DType`] for any other `dtype`; [`Error::Shape`] if `matrix` is not a matrix.
pub fn encode(matrix: &HostTensor, dtype: DType, threads: Option<NonZeroUsize>) -> Result<HostTensor> {
    on(&Threads::new(threads), Tier::detect(), matrix, dtype)
}

/// As [`encode`], on the threads of a backend.
pub(super) fn on(threads: &Threads, tier: Tier, matrix: &HostTensor, dtype: DType) -> Result<HostTensor> {
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
    {
        let (bytes, scales) = (Output::new(&mut bytes, row_bytes), Output::new(&mut scales, 1));
        threads.run(
            rows,
            || vec![0f32; cols],
            |values, row| {
                // SAFETY: each row belongs to one task.
                let (bytes, scale) = unsafe { (bytes.piece(row, 0..row_bytes), scales.piece(row, 0..1)) };
                matrix.decode_row(row, 0, values);
                scale[0] = kernel(tier, values, bytes);
            },
        );
    }
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
