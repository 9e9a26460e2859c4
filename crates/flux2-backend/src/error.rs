//! Errors of the backends.

use crate::DType;

/// `std::result::Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an op, an upload or a load failed. All but the last four variants are mistakes of the caller, found by the
/// contract of an op before a kernel runs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A tensor does not have the shape the op requires.
    #[error("{what} has shape {found:?}, expected {expected}")]
    Shape {
        /// Op and argument, as in `linear: x`.
        what: &'static str,
        /// Shape of the tensor.
        found: Vec<usize>,
        /// Required shape, in words or numbers.
        expected: String,
    },
    /// A tensor does not have the dtype the op requires.
    #[error("{what} is {found}, expected {expected}")]
    DType {
        /// Op and argument, as in `linear: x`.
        what: &'static str,
        /// Dtype of the tensor.
        found: DType,
        /// Required dtype.
        expected: DType,
    },
    /// The length of the data does not match shape and dtype.
    #[error("{bytes} bytes cannot hold {dtype} values of shape {shape:?}")]
    ByteCount {
        /// Length of the data in bytes.
        bytes: usize,
        /// Claimed element type.
        dtype: DType,
        /// Claimed shape.
        shape: Vec<usize>,
    },
    /// A token id is not a row of the embedding table.
    #[error("token id {id} is outside the embedding table of {rows} rows")]
    TokenId {
        /// The offending id.
        id: u32,
        /// Number of rows of the table.
        rows: usize,
    },
    /// The device cannot allocate a buffer.
    #[error("no memory for a buffer of {bytes} bytes")]
    OutOfMemory {
        /// Size of the buffer in bytes.
        bytes: usize,
    },
    /// The system starts no thread, under its limits on processes or on memory.
    #[error("no thread could be started: {reason}")]
    NoThreads {
        /// What the system says.
        reason: String,
    },
    /// The backend does not implement a feature.
    #[error("{what} are not supported")]
    Unsupported {
        /// The feature, in the plural.
        what: &'static str,
    },
    /// A call to the device's driver or a vendor library failed.
    #[error("{call}: {reason}")]
    Device {
        /// Name of the function.
        call: &'static str,
        /// The error it reported.
        reason: String,
    },
}
