//! Products with weights, and what follows them.

pub(crate) mod cublaslt;
pub(crate) mod hopper;
pub(crate) mod linear;
pub(crate) mod linear_add;
pub(crate) mod linear_swiglu;
pub(crate) mod matrix;
pub(crate) mod quantized;
