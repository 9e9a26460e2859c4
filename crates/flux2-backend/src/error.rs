//! The ways an op can refuse.

use crate::DType;

/// Result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an op or an upload was refused. Everything but the last three is a caller's mistake, found by the contract before a
/// kernel runs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A tensor does not have the shape the op asks for.
    #[error("{what} has shape {found:?}, expected {expected}")]
    Shape {
        /// Op and argument.
        what: &'static str,
        /// The shape it has.
        found: Vec<usize>,
        /// The shape it should have, in words or numbers.
        expected: String,
    },
    /// A tensor does not have the dtype the op asks for.
    #[error("{what} is {found}, expected {expected}")]
    DType {
        /// Op and argument.
        what: &'static str,
        /// The dtype it has.
        found: DType,
        /// The dtype it should have.
        expected: DType,
    },
    /// The bytes handed over do not hold as many elements as the shape says.
    #[error("{bytes} bytes cannot hold {dtype} values of shape {shape:?}")]
    ByteCount {
        /// Length in bytes.
        bytes: usize,
        /// Element type.
        dtype: DType,
        /// Shape claimed.
        shape: Vec<usize>,
    },
    /// A token id beyond the embedding table.
    #[error("token id {id} is outside the embedding table of {rows} rows")]
    TokenId {
        /// The id.
        id: u32,
        /// Rows of the table.
        rows: usize,
    },
    /// The device has no room for a buffer.
    #[error("no memory for a buffer of {bytes} bytes")]
    OutOfMemory {
        /// Bytes asked for.
        bytes: usize,
    },
    /// The device has no such thing.
    #[error("there are no {what}")]
    Unsupported {
        /// What was asked for.
        what: &'static str,
    },
    /// A call of the device's driver or libraries failed.
    #[error("{call}: {reason}")]
    Device {
        /// Its name.
        call: &'static str,
        /// What it said.
        reason: String,
    },
}
