//! A weight in the form in which the processor multiplies it.

use super::int8::Int8Matrix;
use crate::HostTensor;

/// A weight `[n, k]`.
pub enum Matrix {
    /// As the checkpoint has it: decoded and packed while a product runs.
    Stored(HostTensor),
    /// Rounded to bytes and packed when it was loaded.
    Int8(Int8Matrix),
}

impl Matrix {
    /// `[n, k]`.
    pub(super) fn shape(&self) -> [usize; 2] {
        match self {
            Matrix::Stored(host) => [host.shape()[0], host.shape()[1]],
            Matrix::Int8(matrix) => matrix.shape(),
        }
    }

    /// The one that is asked for by what never is in bytes: kernels of convolutions, tables.
    pub(super) fn stored(&self) -> &HostTensor {
        let [host] = Self::all_stored([self]).expect("only the weights of products are in bytes");
        host
    }

    /// `weights`, if all of them are as stored.
    pub(super) fn all_stored<const N: usize>(weights: [&Matrix; N]) -> Option<[&HostTensor; N]> {
        let stored = weights.map(|w| if let Matrix::Stored(host) = w { Some(host) } else { None });
        stored.iter().all(Option::is_some).then(|| stored.map(|w| w.expect("as asked before")))
    }

    /// `weights`, if all of them are in bytes.
    pub(super) fn all_int8<const N: usize>(weights: [&Matrix; N]) -> Option<[&Int8Matrix; N]> {
        let int8 = weights.map(|w| if let Matrix::Int8(matrix) = w { Some(matrix) } else { None });
        int8.iter().all(Option::is_some).then(|| int8.map(|w| w.expect("as asked before")))
    }
}
