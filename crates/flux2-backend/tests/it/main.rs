//! Integration tests.

mod encode;
mod ops;
