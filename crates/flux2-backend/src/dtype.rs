//! Number formats: what a file may store, and what a backend computes in.
//!
//! Types of this workspace that name number formats:
//!
//! | type | says | crate |
//! |---|---|---|
//! | [`DType`] | how the elements of a tensor are stored, in a file or in memory | `flux2-backend` |
//! | [`Compute`] | what operands of matrix products are rounded to; one per backend | `flux2-backend` |
//! | [`Format`] | what a weight is converted to when it is loaded, and thereby how it is multiplied | `flux2-backend` |
//! | `Precision` | a [`Compute`] and a [`Format`]: the number formats of a run | `flux2-weights` |
//! | `StoredDType` | a [`DType`], or the name of one in a file that this engine only skips | `flux2-weights` |
//! | `DeclaredFormat` | what a file claims about how a matrix is quantized | `flux2-weights` |
//! | `Dtype` | values of `--dtype`: each is a `Precision` | `dj-flux2` |
//! | `Quantize` | values of `--quantize`: each is a [`Format`] | `dj-flux2` |
//!
//! Inside the backends:
//!
//! | type | says | room |
//! |---|---|---|
//! | `Element` | Rust type of an activation's elements: `f32` or `bf16` | `simd` |
//! | `Operand` | what a micro-kernel multiplies: f32, bf16 or int8 | `simd` |
//! | `QuantizedDType` | 8-bit format of a quantized matrix: int8 or e4m3 | `cuda` |

use std::fmt;

/// Storage format of a tensor's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// bfloat16: the upper 16 bits of an f32.
    Bf16,
    /// OCP e4m3fn: no infinities, largest finite value 448.
    F8E4M3,
    /// OCP e2m1: 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives. Two per byte, the first in the high bits.
    F4E2M1,
    /// Signed bytes, -128..=127, with one scale per row or block beside the matrix ([`crate::host::BlockScales`]).
    I8,
    /// GGML block format, as all that follow (see [`crate::quant::blocks`]): blocks of 32, a scale, 8 bits each.
    Q8_0,
    /// Blocks of 32: a scale, 4 bits each.
    Q4_0,
    /// Blocks of 32: a scale and a minimum, 4 bits each.
    Q4_1,
    /// Blocks of 32: a scale, 5 bits each.
    Q5_0,
    /// Blocks of 32: a scale and a minimum, 5 bits each.
    Q5_1,
    /// Blocks of 256: a scale and a minimum for every 32, 4 bits each.
    Q4K,
    /// Blocks of 256: a scale and a minimum for every 32, 5 bits each.
    Q5K,
    /// Blocks of 256: a scale for every 16, 6 bits each.
    Q6K,
}

impl DType {
    /// Elements per block; 1 for plain formats. The rows of a matrix consist of whole blocks.
    pub const fn block_len(self) -> usize {
        self.block().0
    }

    /// Bytes of `elements` elements, which must be whole blocks.
    pub const fn bytes(self, elements: usize) -> usize {
        let (len, bytes) = self.block();
        elements / len * bytes
    }

    /// Elements and bytes per block.
    const fn block(self) -> (usize, usize) {
        match self {
            DType::F32 => (1, 4),
            DType::F16 | DType::Bf16 => (1, 2),
            DType::F8E4M3 | DType::I8 => (1, 1),
            DType::F4E2M1 => (2, 1),
            DType::Q8_0 => (32, 34),
            DType::Q4_0 => (32, 18),
            DType::Q4_1 => (32, 20),
            DType::Q5_0 => (32, 22),
            DType::Q5_1 => (32, 24),
            DType::Q4K => (256, 144),
            DType::Q5K => (256, 176),
            DType::Q6K => (256, 210),
        }
    }

    /// Bytes of a tensor of `shape`; `None` if its rows are not whole blocks or the number overflows.
    pub fn bytes_of(self, shape: &[usize]) -> Option<usize> {
        let (len, bytes) = self.block();
        if !shape.last().copied().unwrap_or(1).is_multiple_of(len) {
            return None;
        }
        let elements = shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d))?;
        (elements / len).checked_mul(bytes)
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::Bf16 => "bf16",
            DType::F8E4M3 => "f8_e4m3",
            DType::F4E2M1 => "f4_e2m1",
            DType::I8 => "i8",
            DType::Q8_0 => "q8_0",
            DType::Q4_0 => "q4_0",
            DType::Q4_1 => "q4_1",
            DType::Q5_0 => "q5_0",
            DType::Q5_1 => "q5_1",
            DType::Q4K => "q4_k",
            DType::Q5K => "q5_k",
            DType::Q6K => "q6_k",
        })
    }
}

/// Number format in which a backend multiplies. Sums are f32 in both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Compute {
    /// Everything in single precision; compared with the reference implementation.
    F32,
    /// Operands of matrix products are rounded to bf16.
    Bf16,
}

impl Compute {
    /// Dtype of activations that enter a product.
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

/// What a weight is converted to when it is loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Format {
    /// Keeps the stored dtype; multiplied in [`Compute`].
    #[default]
    AsStored,
    /// int8, multiplied with activations quantized to int8: see [`crate::quant::int8`].
    Int8,
    /// e4m3, multiplied with activations quantized to e4m3: see [`crate::quant::fp8`].
    Fp8,
    /// bf16; multiplied in [`Compute`].
    Bf16,
    /// [`DType::Q8_0`], if rows are whole blocks; multiplied in [`Compute`].
    Q8_0,
    /// [`DType::Q4K`], if rows are whole blocks; multiplied in [`Compute`].
    Q4K,
}

impl Format {
    /// The dtype it converts to; `None` for [`AsStored`](Self::AsStored).
    pub const fn dtype(self) -> Option<DType> {
        match self {
            Format::AsStored => None,
            Format::Int8 => Some(DType::I8),
            Format::Fp8 => Some(DType::F8E4M3),
            Format::Bf16 => Some(DType::Bf16),
            Format::Q8_0 => Some(DType::Q8_0),
            Format::Q4K => Some(DType::Q4K),
        }
    }
}
