//! Number formats smaller than 16 bits: layout, packing, unpacking, error bound. Which layer uses one is not decided
//! here.

pub mod blocks;
pub(crate) mod encode;
pub mod fp4;
pub mod fp8;
pub mod int8;
