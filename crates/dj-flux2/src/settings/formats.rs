//! Number formats and threads: flags turned into the library's types.

use std::num::NonZeroUsize;

use flux2::Precision;
use flux2::weights::{Compute, Format};

use crate::args::{Dtype, Quantize};
use crate::failure::{Failure, Result};

/// The precision that `--dtype` and `--quantize` ask for together.
pub fn precision(dtype: Option<Dtype>, quantize: Option<Quantize>) -> Result<Precision> {
    let weights = quantize.map_or(Format::AsStored, format);
    let (compute, weights) = match (dtype, quantize) {
        (None | Some(Dtype::Bf16), _) => (Compute::Bf16, weights),
        (Some(Dtype::F32), _) => (Compute::F32, weights),
        (Some(Dtype::Int8), None | Some(Quantize::Int8)) => (Compute::Bf16, Format::Int8),
        (Some(Dtype::Fp8), None) => (Compute::Bf16, Format::Fp8),
        (Some(bytes @ (Dtype::Int8 | Dtype::Fp8)), Some(_)) => {
            let name = if bytes == Dtype::Int8 { "int8" } else { "fp8" };
            let message = format!("--dtype {name} quantizes the weights to {name}, and --quantize to something else");
            return Err(Failure::usage(message, "leave one of the two out"));
        }
    };
    Precision::new(compute, weights).ok_or_else(|| {
        let message = "--quantize int8 also rounds activations to int8, and --dtype f32 rounds nothing";
        Failure::usage(message, "leave --dtype out, or use --quantize q8_0")
    })
}

/// The library's name of a format of weights.
pub fn format(typed: Quantize) -> Format {
    match typed {
        Quantize::Bf16 => Format::Bf16,
        Quantize::Int8 => Format::Int8,
        Quantize::Q8_0 => Format::Q8_0,
        Quantize::Q4K => Format::Q4K,
    }
}

/// The number of threads; clap has refused zero.
pub fn threads(typed: Option<u16>) -> Option<NonZeroUsize> {
    typed.and_then(|n| NonZeroUsize::new(n.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_that_contradict_each_other_are_refused() {
        let of = |dtype, quantize| precision(dtype, quantize).map(|p| p.to_string()).map_err(|failure| failure.message);
        assert_eq!(of(None, Some(Quantize::Q4K)).unwrap(), "bf16+q4_k");
        assert_eq!(of(Some(Dtype::F32), Some(Quantize::Q8_0)).unwrap(), "f32+q8_0");
        assert_eq!(of(None, Some(Quantize::Int8)).unwrap(), "int8");
        assert_eq!(of(Some(Dtype::Int8), Some(Quantize::Int8)).unwrap(), "int8");
        assert!(of(Some(Dtype::Int8), Some(Quantize::Q8_0)).unwrap_err().contains("something else"));
        assert!(of(Some(Dtype::F32), Some(Quantize::Int8)).unwrap_err().contains("rounds nothing"));
    }
}
