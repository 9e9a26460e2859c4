//! The number formats of a run ([`Precision`]), and which weights are quantized when they are loaded or converted.
//!
//! The formats themselves are the backend's ([`flux2_backend::quant`]). Which layers can be quantized was measured, see
//! docs/reference/formats.md.

use std::fmt;
use std::str::FromStr;

use flux2_backend::{Compute, DType, Format};

use crate::Part;

/// The number formats of a run: what products compute in, and what weights are quantized to when they are loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Precision {
    compute: Compute,
    weights: Format,
}

impl Precision {
    /// Everything in single precision.
    pub const F32: Self = Precision { compute: Compute::F32, weights: Format::AsStored };
    /// Operands of products are bf16.
    pub const BF16: Self = Precision { compute: Compute::Bf16, weights: Format::AsStored };
    /// int8 operands in the products of the flow transformer's blocks; elsewhere as [`Precision::BF16`].
    pub const INT8: Self = Precision { compute: Compute::Bf16, weights: Format::Int8 };
    /// e4m3 operands in the same products, except the output projection of attention in double blocks.
    pub const FP8: Self = Precision { compute: Compute::Bf16, weights: Format::Fp8 };
}

impl Default for Precision {
    fn default() -> Self {
        Precision::BF16
    }
}

impl Precision {
    /// Products in `compute` of weights in `weights`. `None` for int8 and fp8 with f32, as these quantize the other
    /// operand too.
    pub fn new(compute: Compute, weights: Format) -> Option<Self> {
        let precision = Precision { compute, weights };
        (!precision.multiplies_bytes() || compute == Compute::Bf16).then_some(precision)
    }

    /// Whether products of the blocks have 8-bit operands: int8 or e4m3.
    pub fn multiplies_bytes(self) -> bool {
        matches!(self.weights, Format::Int8 | Format::Fp8)
    }

    /// The dtype in which the backend computes.
    pub fn compute(self) -> Compute {
        self.compute
    }

    /// The format of the matrices of the flow transformer's blocks.
    pub fn blocks(self) -> Format {
        self.weights
    }

    /// The format of the matrix `name` (canonical) of a network when it is loaded.
    pub fn format(self, part: Part, name: &str) -> Format {
        if is_rounded(self.weights, part, name) { self.weights } else { Format::AsStored }
    }
}

/// Whether the matrix `name` (canonical) of a network is quantized to `format`.
///
/// `bf16`: all matrices of transformer and text encoder. `int8`, `fp8`: those of the transformer's blocks. `q8_0`,
/// `q4_k`: those and the text encoder's layers.
pub(super) fn is_rounded(format: Format, part: Part, name: &str) -> bool {
    let in_block = name.starts_with("double.") || name.starts_with("single.");
    match (part, format) {
        (Part::Vae, _) | (_, Format::AsStored) => false,
        (_, Format::Bf16) => true,
        // The output projection of attention is a small part of the work and causes most of the error.
        (Part::Transformer, Format::Fp8) => in_block && !name.ends_with(".proj"),
        (Part::Transformer, _) => in_block,
        (Part::TextEncoder, Format::Int8 | Format::Fp8) => false,
        (Part::TextEncoder, Format::Q8_0 | Format::Q4K) => name.starts_with("layer."),
    }
}

/// `bf16`; with quantized weights `bf16+q8_0`; with 8-bit operands `int8` or `fp8`.
impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.compute, self.weights.dtype()) {
            (compute, None) => compute.fmt(f),
            (_, Some(DType::I8)) => f.write_str("int8"),
            (_, Some(DType::F8E4M3)) => f.write_str("fp8"),
            (compute, Some(weights)) => write!(f, "{compute}+{weights}"),
        }
    }
}

impl FromStr for Precision {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        let formats = [Format::AsStored, Format::Bf16, Format::Q8_0, Format::Q4K];
        let all = [Compute::F32, Compute::Bf16].into_iter().flat_map(|c| formats.map(|f| Precision::new(c, f)));
        let found =
            all.flatten().chain([Precision::INT8, Precision::FP8]).find(|precision| precision.to_string() == name);
        found.ok_or(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_precision_is_what_it_is_called() {
        for name in ["f32", "bf16", "int8", "fp8", "f32+bf16", "bf16+bf16", "f32+q8_0", "bf16+q4_k"] {
            assert_eq!(name.parse::<Precision>().unwrap().to_string(), name);
        }
        for name in ["", "f8", "f32+int8", "f32+fp8", "bf16+fp8", "f32+i8", "bf16+", "bf16+q5_k"] {
            assert!(name.parse::<Precision>().is_err(), "{name}");
        }
        assert_eq!([Format::Int8, Format::Fp8].map(|bytes| Precision::new(Compute::F32, bytes)), [None; 2]);
    }

    #[test]
    fn layers_are_rounded_and_what_stands_around_them_is_not() {
        for (format, part, name, rounded) in [
            (Format::Q4K, Part::Transformer, "single.3.out", true),
            (Format::Q4K, Part::Transformer, "img_in", false),
            (Format::Q8_0, Part::TextEncoder, "layer.0.q", true),
            (Format::Q8_0, Part::TextEncoder, "embed", false),
            (Format::Int8, Part::TextEncoder, "layer.0.q", false),
            (Format::Fp8, Part::TextEncoder, "layer.0.q", false),
            (Format::Fp8, Part::Transformer, "double.0.img.qkv", true),
            (Format::Fp8, Part::Transformer, "double.0.img.proj", false),
            (Format::Int8, Part::Transformer, "double.0.img.proj", true),
            (Format::Bf16, Part::Transformer, "img_in", true),
            (Format::Bf16, Part::Vae, "decoder.mid.attn.q.weight", false),
        ] {
            assert_eq!(is_rounded(format, part, name), rounded, "{format:?} {part} {name}");
        }
    }
}
