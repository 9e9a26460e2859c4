//! What a machine does with this program: ops and whole pictures timed, beside what it could do at most.
//!
//! | file | holds |
//! |---|---|
//! | `cost` | the floating-point operations of a request, stage by stage |
//! | `ops` | the ops at the shapes of klein-4b, each timed beside what bounds it |
//! | `stages` | a picture timed by stages |
//!
//! Nothing here names a device: [`engine::time_ops`](crate::engine::time_ops) and
//! [`engine::peaks`](crate::engine::peaks) choose it.

mod cost;
mod ops;
mod stages;

use flux2_backend::{Backend, Format};

use crate::weights::Precision;

pub use cost::{Cost, Flops};
pub use ops::{Bound, OpEvent, OpTiming};
pub use stages::{Stages, generate, generate_with};

pub(crate) use ops::time_ops;

/// What a device could do at most, measured; `None` where that cannot be measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Peaks {
    /// Floating-point operations a second of products with the matrices of the flow transformer's blocks.
    pub blocks: Option<f64>,
    /// Of attention.
    pub attention: Option<f64>,
    /// Of all other products and convolutions.
    pub others: Option<f64>,
}

impl Peaks {
    pub(crate) fn measure<B: Backend>(be: &B, precision: Precision) -> Self {
        let others = be.peak_flops(Format::AsStored);
        let format = precision.blocks();
        let blocks = if format == Format::AsStored { others } else { be.peak_flops(format) };
        Peaks { blocks, attention: be.peak_attention_flops().or(others), others }
    }

    /// Seconds that `flops` take at least.
    pub fn seconds(&self, flops: Flops) -> Option<f64> {
        let others = flops.total() - flops.blocks - flops.attention;
        Some(flops.blocks / self.blocks? + flops.attention / self.attention? + others / self.others?)
    }
}
