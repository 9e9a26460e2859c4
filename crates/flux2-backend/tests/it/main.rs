//! Integration tests.

#[cfg(target_os = "linux")]
mod cuda_several;
mod encode;
mod ops;
