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
    /// OCP e2m1, two in a byte, the first in its high bits: 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives.
    F4E2M1,
    /// -128..=127; a multiplier for each row or block stands beside the matrix.
    I8,
    /// Blocks of 32: a scale, 8 bits each. This and what follows are GGML's, see [`crate::quant::blocks`].
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
    /// Elements that are stored together: a row of a matrix is made of whole blocks. 1 for what needs no others.
    pub const fn block_len(self) -> usize {
        self.block().0
    }

    /// Bytes that `elements` take, which are whole blocks.
    pub const fn bytes(self, elements: usize) -> usize {
        let (len, bytes) = self.block();
        elements / len * bytes
    }

    /// Elements and bytes of a block.
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

    /// Bytes of a tensor of `shape`; `None` if its rows are not whole blocks, or there are more than can be counted.
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
    /// It is rounded to e4m3, and so are the rows it is multiplied with: see [`crate::quant::fp8`].
    Fp8,
    /// It is rounded to bf16, and multiplied in [`Compute`].
    Bf16,
    /// It is rounded to blocks of [`DType::Q8_0`] if its rows are whole blocks, and multiplied in [`Compute`].
    Q8_0,
    /// The same with [`DType::Q4K`].
    Q4K,
}

impl Format {
    /// What it is stored in; `None` if it stays as it is.
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
