//! Number formats: what a file may store, and what a backend computes in.

use std::fmt;

/// How the elements of a tensor are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of an f32.
    Bf16,
    /// OCP e4m3fn: no infinities, largest finite value 448.
    F8E4M3,
}

impl DType {
    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            DType::F32 => 4,
            DType::F16 | DType::Bf16 => 2,
            DType::F8E4M3 => 1,
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::Bf16 => "bf16",
            DType::F8E4M3 => "f8_e4m3",
        })
    }
}

/// What a backend multiplies in. Sums are f32 in both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Compute {
    /// Everything in single precision: the mode that is compared with the reference implementation.
    F32,
    /// Operands of products rounded to bf16.
    Bf16,
}

impl Compute {
    /// The dtype of activations that enter a product.
    pub const fn dtype(self) -> DType {
        match self {
            Compute::F32 => DType::F32,
            Compute::Bf16 => DType::Bf16,
        }
    }
}

impl fmt::Display for Compute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.dtype().fmt(f)
    }
}

/// What becomes of a weight when it is loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Format {
    /// It stays as the checkpoint has it, and is multiplied in [`Compute`].
    #[default]
    AsStored,
    /// It is rounded to bytes, and so are the rows it is multiplied with: see [`crate::quant::int8`].
    Int8,
}
