//! Integration tests.

mod batches;
#[cfg(target_os = "linux")]
mod cuda_several;
mod encode;
mod ops;
