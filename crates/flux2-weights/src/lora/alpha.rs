//! `alpha / rank` of a module: from its own tensor, else from the configuration, else 1.

use std::sync::Arc;

use flux2_backend::{DType, HostBytes, HostTensor};

use super::LoraProblem;
use super::scaling::{AlphaSource, Factor, Scaling};
use crate::tensor_file::{StoredDType, StoredTensor};

/// The factor of an update, before the scale: `alpha / rank`.
///
/// Without a `rank` (a LoKr of two whole matrices) alpha in a tensor means nothing, as in LyCORIS and ComfyUI; the
/// configuration of PEFT names a rank of its own.
pub(super) fn factor(
    module: &str,
    rank: Option<usize>,
    alpha: Option<f64>,
    scaling: Option<&Scaling>,
) -> Result<Factor, LoraProblem> {
    match (alpha, rank, scaling) {
        (Some(alpha), Some(rank), _) => Ok(Factor { of_rank: alpha / rank as f64, source: Some(AlphaSource::Tensors) }),
        (Some(_), None, _) => Ok(Factor { of_rank: 1.0, source: Some(AlphaSource::Tensors) }),
        (None, _, Some(scaling)) => scaling.factor(module, rank),
        (None, _, None) => Ok(Factor { of_rank: 1.0, source: None }),
    }
}

/// The number in a tensor of one number.
pub(super) fn scalar(stored: &StoredTensor, bytes: &HostBytes) -> Option<f64> {
    let read = scalar_reader(stored.dtype).filter(|_| stored.shape.iter().all(|n| *n == 1))?;
    Some(read(&bytes[stored.range.clone()]))
}

/// Reads a single number of `dtype` from its bytes; `None` for types that hold no such numbers.
pub(super) fn scalar_reader(dtype: StoredDType) -> Option<fn(&[u8]) -> f64> {
    macro_rules! read {
        ($number:ty) => {
            Some(|bytes| <$number>::from_le_bytes(bytes.try_into().expect("one number")) as f64)
        };
    }
    match dtype {
        StoredDType::Known(DType::F32) => read!(f32),
        StoredDType::Known(DType::F16) => Some(|bytes| decoded(DType::F16, bytes)),
        StoredDType::Known(DType::Bf16) => Some(|bytes| decoded(DType::Bf16, bytes)),
        StoredDType::Known(DType::F8E4M3) => Some(|bytes| decoded(DType::F8E4M3, bytes)),
        StoredDType::Known(DType::I8) => read!(i8),
        StoredDType::Other("F64", _) => read!(f64),
        StoredDType::Other("I64", _) => read!(i64),
        StoredDType::Other("U64", _) => read!(u64),
        StoredDType::Other("I32", _) => read!(i32),
        StoredDType::Other("U32", _) => read!(u32),
        StoredDType::Other("I16", _) => read!(i16),
        StoredDType::Other("U16", _) => read!(u16),
        StoredDType::Other("U8", _) => read!(u8),
        _ => None,
    }
}

fn decoded(dtype: DType, bytes: &[u8]) -> f64 {
    let number = HostTensor::new(dtype, [1], HostBytes::new(Arc::new(bytes.to_vec())));
    f64::from(number.expect("one number").to_f32()[0])
}
