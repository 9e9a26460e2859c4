//! Updates of matrices, in the form in which they are merged.

use std::ops::Range;
use std::sync::Arc;

use flux2_backend::{HostBytes, HostTensor};

use super::adapters::{Fitted, Kind};
use crate::Result;
use crate::layout::lora::Role;
use crate::tensor_file::{StoredDType, StoredTensor};

/// An update of some rows of a matrix: `factor` times rows of `update` are added.
#[derive(Clone, Debug)]
pub(super) struct Patch {
    pub rows: Range<usize>,
    /// Row of the update that is added to the first of `rows`.
    pub first: usize,
    pub update: Arc<Update>,
    pub factor: f32,
}

/// What is added to a matrix, before its factor.
#[derive(Clone, Debug)]
pub(super) enum Update {
    /// A low-rank product.
    Product(Factors),
    /// The elementwise product of two low-rank products.
    Hadamard([Factors; 2]),
    /// The Kronecker product of two matrices.
    Kronecker {
        outer: Matrix,
        inner: Matrix,
    },
    Whole(HostTensor),
}

/// The product `up · down`.
#[derive(Clone, Debug)]
pub(super) struct Factors {
    /// `[rows, rank]`.
    pub up: HostTensor,
    /// `[rank, cols]`.
    pub down: HostTensor,
}

/// A matrix that is stored whole or as the product of two factors.
#[derive(Clone, Debug)]
pub(super) enum Matrix {
    Whole(HostTensor),
    Product(Factors),
}

impl Matrix {
    pub fn cols(&self) -> usize {
        let (Matrix::Whole(matrix) | Matrix::Product(Factors { down: matrix, .. })) = self;
        matrix.shape()[1]
    }

    pub fn rows(&self) -> usize {
        let (Matrix::Whole(matrix) | Matrix::Product(Factors { up: matrix, .. })) = self;
        matrix.shape()[0]
    }
}

impl Fitted<'_> {
    /// Updates of canonical rows: one, or one for each half if the layout swaps the halves.
    pub fn patches(&self, bytes: &HostBytes, factor: f32) -> Result<Vec<Patch>> {
        let update = Arc::new(self.update(bytes)?);
        let Range { start, end } = self.target.rows;
        let patch = |rows, first| Patch { rows, first, update: Arc::clone(&update), factor };
        if !self.target.is_swapped {
            return Ok(vec![patch(start..end, 0)]);
        }
        let half = (end - start) / 2;
        Ok(vec![patch(start..start + half, half), patch(start + half..end, 0)])
    }

    fn update(&self, bytes: &HostBytes) -> Result<Update> {
        let stored = |role| self.tensor(role).expect("checked when its target was found");
        let matrix = |role| host(stored(role), bytes);
        let core = |role| self.tensor(role).map(|core| host(core, bytes)).transpose();
        let transposed = |a, core: Option<HostTensor>, b| -> Result<Factors> {
            let up = match core {
                Some(core) => multiplied(&transpose(&matrix(a)?), &core),
                None => matrix(a)?,
            };
            Ok(Factors { up, down: matrix(b)? })
        };
        Ok(match self.kind {
            Kind::Whole => Update::Whole(matrix(Role::Diff)?),
            Kind::Lora => {
                let (up, down) = (matrix(Role::Up)?, matrix(Role::Down)?);
                let up = core(Role::Mid)?.map_or_else(|| up.clone(), |mid| multiplied(&up, &mid));
                Update::Product(Factors { up, down })
            }
            Kind::Loha => Update::Hadamard([
                transposed(Role::HadaW1A, core(Role::HadaT1)?, Role::HadaW1B)?,
                transposed(Role::HadaW2A, core(Role::HadaT2)?, Role::HadaW2B)?,
            ]),
            Kind::Lokr => {
                let side = |whole, a, core, b| -> Result<Matrix> {
                    Ok(match self.tensor(whole) {
                        Some(whole) => Matrix::Whole(host(whole, bytes)?),
                        None => Matrix::Product(transposed(a, core, b)?),
                    })
                };
                let outer = side(Role::LokrW1, Role::LokrW1A, None, Role::LokrW1B)?;
                let inner = side(Role::LokrW2, Role::LokrW2A, core(Role::LokrT2)?, Role::LokrW2B)?;
                Update::Kronecker { outer, inner }
            }
        })
    }
}

/// A stored tensor as a matrix: axes of length 1 behind the second are dropped.
pub(super) fn host(stored: &StoredTensor, bytes: &HostBytes) -> Result<HostTensor> {
    let StoredDType::Known(dtype) = stored.dtype else { unreachable!("checked when its target was found") };
    let shape: Vec<usize> = stored.shape.iter().copied().chain([1, 1]).take(2).collect();
    Ok(HostTensor::new(dtype, shape, bytes.slice(stored.range.clone()))?)
}

fn transpose(matrix: &HostTensor) -> HostTensor {
    let &[rows, cols] = matrix.shape() else { unreachable!("a factor is a matrix") };
    let values = matrix.to_f32();
    let transposed: Vec<f32> = (0..rows * cols).map(|i| values[i % rows * cols + i / rows]).collect();
    HostTensor::from_f32([cols, rows], &transposed)
}

/// The product of a factor `[n, rank]` and a core `[rank, rank]`.
fn multiplied(factor: &HostTensor, core: &HostTensor) -> HostTensor {
    let &[rows, rank] = factor.shape() else { unreachable!("a factor is a matrix") };
    let (factor, core) = (factor.to_f32(), core.to_f32());
    let mut product = vec![0f32; rows * rank];
    for (sums, row) in product.chunks_exact_mut(rank).zip(factor.chunks_exact(rank)) {
        for (value, core) in row.iter().zip(core.chunks_exact(rank)) {
            sums.iter_mut().zip(core).for_each(|(sum, core)| *sum += value * core);
        }
    }
    HostTensor::from_f32([rows, rank], &product)
}
