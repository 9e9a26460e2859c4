//! What `--dtype` means for each weight: which are rounded when they are loaded, and to what.
//!
//! The formats themselves are the backend's ([`flux2_backend::quant`]). Which layers bear them was measured, see
//! docs/reference/formats.md.

use std::fmt;
use std::str::FromStr;

use flux2_backend::{Compute, Format};

use super::Part;

/// The number format of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Precision {
    /// Everything in single precision.
    F32,
    /// What enters a product is bf16.
    #[default]
    Bf16,
    /// Bytes in the products of the flow transformer's blocks, which are most of the work; elsewhere as [`Precision::Bf16`].
    Int8,
}

impl Precision {
    /// All of them.
    pub const ALL: [Precision; 3] = [Precision::F32, Precision::Bf16, Precision::Int8];

    /// What a backend for it multiplies in.
    pub fn compute(self) -> Compute {
        match self {
            Precision::F32 => Compute::F32,
            Precision::Bf16 | Precision::Int8 => Compute::Bf16,
        }
    }

    /// What becomes of the matrices of the flow transformer's blocks.
    pub fn blocks(self) -> Format {
        match self {
            Precision::F32 | Precision::Bf16 => Format::AsStored,
            Precision::Int8 => Format::Int8,
        }
    }

    /// What becomes of the matrix `name` (canonical) of a network.
    pub fn format(self, part: Part, name: &str) -> Format {
        let in_block = name.starts_with("double.") || name.starts_with("single.");
        if part == Part::Transformer && in_block { self.blocks() } else { Format::AsStored }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Precision::F32 => "f32",
            Precision::Bf16 => "bf16",
            Precision::Int8 => "int8",
        })
    }
}

impl FromStr for Precision {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|precision| precision.to_string() == name).ok_or(())
    }
}
