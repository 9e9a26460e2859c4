//! Number formats below 16 bits: bit layout, encoding, decoding, error bounds. Which weights use them is decided
//! elsewhere.

pub mod blocks;
pub(crate) mod encode;
pub mod fp4;
pub mod fp8;
pub mod int8;
