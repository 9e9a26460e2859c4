//! What `--dtype` and `--quantize` mean for each weight: which are rounded when they are loaded, and to what.
//!
//! The formats themselves are the backend's ([`flux2_backend::quant`]). Which layers bear them was measured, see
//! docs/reference/formats.md.

use std::fmt;
use std::str::FromStr;

use flux2_backend::{Compute, DType, Format};

use crate::Part;

/// The number formats of a run: what products are computed in, and what weights are rounded to when they are loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Precision {
    compute: Compute,
    weights: Format,
}

impl Precision {
    /// Everything in single precision.
    pub const F32: Self = Precision { compute: Compute::F32, weights: Format::AsStored };
    /// What enters a product is bf16.
    pub const BF16: Self = Precision { compute: Compute::Bf16, weights: Format::AsStored };
    /// Bytes in the products of the flow transformer's blocks, which are most of the work; elsewhere as [`Precision::BF16`].
    pub const INT8: Self = Precision { compute: Compute::Bf16, weights: Format::Int8 };
    /// The same in e4m3, but for what leaves the attention of the double blocks.
    pub const FP8: Self = Precision { compute: Compute::Bf16, weights: Format::Fp8 };
}

impl Default for Precision {
    fn default() -> Self {
        Precision::BF16
    }
}

impl Precision {
    /// Products in `compute` of weights in `weights`; `None` for [bytes](Self::multiplies_bytes) in f32, since they round what
    /// enters a product.
    pub fn new(compute: Compute, weights: Format) -> Option<Self> {
        let precision = Precision { compute, weights };
        (!precision.multiplies_bytes() || compute == Compute::Bf16).then_some(precision)
    }

    /// Whether what is multiplied in the blocks are bytes, int8 or e4m3.
    pub fn multiplies_bytes(self) -> bool {
        matches!(self.weights, Format::Int8 | Format::Fp8)
    }

    /// What a backend for it multiplies in.
    pub fn compute(self) -> Compute {
        self.compute
    }

    /// What becomes of the matrices of the flow transformer's blocks.
    pub fn blocks(self) -> Format {
        self.weights
    }

    /// What becomes of the matrix `name` (canonical) of a network.
    pub fn format(self, part: Part, name: &str) -> Format {
        if is_rounded(self.weights, part, name) { self.weights } else { Format::AsStored }
    }
}

/// Whether the matrix `name` (canonical) of a network is rounded to `format`: for `bf16` all of transformer and text encoder,
/// for `int8` and `fp8` those of the transformer's blocks, for the formats in blocks these and the text encoder's layers.
pub(super) fn is_rounded(format: Format, part: Part, name: &str) -> bool {
    let in_block = name.starts_with("double.") || name.starts_with("single.");
    match (part, format) {
        (Part::Vae, _) | (_, Format::AsStored) => false,
        (_, Format::Bf16) => true,
        // A small part of the work, and most of the error: what leaves the attention of the double blocks.
        (Part::Transformer, Format::Fp8) => in_block && !name.ends_with(".proj"),
        (Part::Transformer, _) => in_block,
        (Part::TextEncoder, Format::Int8 | Format::Fp8) => false,
        (Part::TextEncoder, Format::Q8_0 | Format::Q4K) => name.starts_with("layer."),
    }
}

/// `bf16`, or with rounded weights `bf16+q8_0`; bytes are `int8` or `fp8`.
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
