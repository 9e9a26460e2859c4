//! Integration tests.

mod ops;
