//! Weights as the CPU backend holds them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::buffer::BufferPool;
use super::int8::Int8Matrix;
use crate::HostTensor;

/// A weight `[n, k]`.
pub enum Matrix {
    /// In the stored dtype of the checkpoint: decoded and packed during each product.
    Stored(StoredMatrix),
    /// Quantized to int8 and packed when loaded.
    Int8(Int8Matrix),
}

impl Matrix {
    pub(super) fn shape(&self) -> [usize; 2] {
        match self {
            Matrix::Stored(matrix) => [matrix.host.shape()[0], matrix.host.shape()[1]],
            Matrix::Int8(matrix) => matrix.shape(),
        }
    }

    /// The stored matrix of a convolution or an embedding table, which are never int8.
    ///
    /// # Panics
    /// For an int8 matrix.
    pub(super) fn stored(&self) -> &StoredMatrix {
        let [matrix] = Self::all_stored([self]).expect("only weights of `linear` and its fused forms are int8");
        matrix
    }

    /// `weights`, if none of them is int8.
    pub(super) fn all_stored<const N: usize>(weights: [&Matrix; N]) -> Option<[&StoredMatrix; N]> {
        let stored = weights.map(|w| if let Matrix::Stored(matrix) = w { Some(matrix) } else { None });
        stored.iter().all(Option::is_some).then(|| stored.map(|w| w.expect("as asked before")))
    }

    /// `weights`, if all of them are int8.
    pub(super) fn all_int8<const N: usize>(weights: [&Matrix; N]) -> Option<[&Int8Matrix; N]> {
        let int8 = weights.map(|w| if let Matrix::Int8(matrix) = w { Some(matrix) } else { None });
        int8.iter().all(Option::is_some).then(|| int8.map(|w| w.expect("as asked before")))
    }
}

/// A weight in its stored dtype. Accounts for its memory: allocated bytes as long as it lives, mapped bytes from their
/// first use on.
pub struct StoredMatrix {
    host: HostTensor,
    /// Whether the mapped bytes count as resident.
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

    /// The matrix, for metadata or few rows: not counted as resident.
    pub(super) fn peek(&self) -> &HostTensor {
        &self.host
    }

    /// The matrix, to be read as a whole: mapped bytes count as resident from now on. Call [`done`](Self::done)
    /// afterwards.
    pub(super) fn read(&self) -> &HostTensor {
        let bytes = self.host.bytes();
        if bytes.is_mapped() && !self.is_resident.swap(true, Ordering::Relaxed) {
            self.pool.count_weights(|memory| memory.mapped += bytes.len());
        }
        &self.host
    }

    /// Ends a [`read`](Self::read): the pages of a streamed matrix are released.
    pub(super) fn done(&self) {
        let bytes = self.host.bytes();
        if self.host.is_streamed() && self.is_resident.swap(false, Ordering::Relaxed) {
            bytes.release_pages();
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
