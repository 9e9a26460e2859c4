//! A weight in the form in which the processor multiplies it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::buffer::BufferPool;
use super::int8::Int8Matrix;
use crate::HostTensor;

/// A weight `[n, k]`.
pub enum Matrix {
    /// As the checkpoint has it: decoded and packed while a product runs.
    Stored(StoredMatrix),
    /// Rounded to bytes and packed when it was loaded.
    Int8(Int8Matrix),
}

impl Matrix {
    /// `[n, k]`.
    pub(super) fn shape(&self) -> [usize; 2] {
        match self {
            Matrix::Stored(matrix) => [matrix.host.shape()[0], matrix.host.shape()[1]],
            Matrix::Int8(matrix) => matrix.shape(),
        }
    }

    /// The one that is asked for by what never is in bytes: kernels of convolutions, tables.
    pub(super) fn stored(&self) -> &StoredMatrix {
        let [matrix] = Self::all_stored([self]).expect("only the weights of products are in bytes");
        matrix
    }

    /// `weights`, if all of them are as stored.
    pub(super) fn all_stored<const N: usize>(weights: [&Matrix; N]) -> Option<[&StoredMatrix; N]> {
        let stored = weights.map(|w| if let Matrix::Stored(matrix) = w { Some(matrix) } else { None });
        stored.iter().all(Option::is_some).then(|| stored.map(|w| w.expect("as asked before")))
    }

    /// `weights`, if all of them are in bytes.
    pub(super) fn all_int8<const N: usize>(weights: [&Matrix; N]) -> Option<[&Int8Matrix; N]> {
        let int8 = weights.map(|w| if let Matrix::Int8(matrix) = w { Some(matrix) } else { None });
        int8.iter().all(Option::is_some).then(|| int8.map(|w| w.expect("as asked before")))
    }
}

/// A weight as the checkpoint has it. Counts the memory it takes: allocated bytes as long as it lives, mapped ones from
/// their first use on.
pub struct StoredMatrix {
    host: HostTensor,
    /// Whether the mapped bytes have been read.
    is_resident: AtomicBool,
    pool: Arc<BufferPool>,
}

impl StoredMatrix {
    pub(super) fn new(host: HostTensor, pool: &Arc<BufferPool>) -> Self {
        if !host.bytes().is_mapped() {
            pool.count_weights(|memory| memory.allocated += host.bytes().len());
        }
        StoredMatrix { host, is_resident: AtomicBool::new(false), pool: Arc::clone(pool) }
    }

    /// Its values, of which few are read.
    pub(super) fn peek(&self) -> &HostTensor {
        &self.host
    }

    /// Its values, all of which are read. [`done`](Self::done) is to follow.
    pub(super) fn read(&self) -> &HostTensor {
        let bytes = self.host.bytes();
        if bytes.is_mapped() && !self.is_resident.swap(true, Ordering::Relaxed) {
            self.pool.count_weights(|memory| memory.mapped += bytes.len());
        }
        &self.host
    }

    /// They have been read: a streamed matrix is not kept for the next time.
    pub(super) fn done(&self) {
        let bytes = self.host.bytes();
        if self.host.is_streamed() && self.is_resident.swap(false, Ordering::Relaxed) {
            bytes.forget();
            self.pool.count_weights(|memory| memory.mapped -= bytes.len());
        }
    }
}

impl Drop for StoredMatrix {
    fn drop(&mut self) {
        let bytes = self.host.bytes();
        let is_resident = self.is_resident.load(Ordering::Relaxed);
        self.pool.count_weights(|memory| match bytes.is_mapped() {
            false => memory.allocated -= bytes.len(),
            true if is_resident => memory.mapped -= bytes.len(),
            true => {}
        });
    }
}
