//! Ops and whole pictures timed, beside the most that the device could do.
//!
//! | file | holds |
//! |---|---|
//! | `cost` | the floating-point operations of a request, stage by stage |
//! | `ops` | the ops at the shapes of klein-4b, each timed beside what bounds it |
//! | `rates` | what a device reaches in a few seconds: from it and `cost`, the time of a picture |
//! | `stages` | a picture timed by stages |

mod cost;
mod ops;
mod rates;
mod stages;

use flux2_backend::{Backend, Format};

use crate::Result;
use crate::engine::{EngineOptions, open_device};
use crate::event::CancelToken;
use crate::weights::Precision;

pub use cost::{Cost, Flops};
pub use ops::{Bound, OpEvent, OpTiming};
pub use rates::Rates;
pub use stages::{Stages, generate, generate_with};

pub(crate) use ops::time_ops_on;

/// The most a device could do, measured; `None` where that cannot be measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Peaks {
    /// Floating-point operations a second of products with the matrices of the flow transformer's blocks.
    pub blocks: Option<f64>,
    /// Floating-point operations a second of attention.
    pub attention: Option<f64>,
    /// Floating-point operations a second of all other products and of convolutions.
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

/// Measure the device of `options`. Returns its description for people, and its peaks.
///
/// # Errors
/// [`Error::Device`](crate::Error::Device) if there is no such device.
pub fn peaks(options: &EngineOptions) -> Result<(String, Peaks)> {
    let (device, precision) = (open_device(options)?, options.precision);
    let peaks = device.peaks(precision);
    Ok((device.describe(precision), peaks))
}

/// Measure how fast the device of `options` multiplies, in at most five seconds.
///
/// # Errors
/// [`Error::Device`](crate::Error::Device) if there is no such device, or no memory.
pub fn rates(options: &EngineOptions) -> Result<Rates> {
    open_device(options)?.rates(options.precision)
}

/// Time the ops whose name and shape contain `filter` on the device of `options`, and call `each` with what happens.
/// Returns the number of these ops; if it is 0, nothing is measured.
///
/// # Errors
/// [`Error::Device`](crate::Error::Device) if there is no such device, [`Error::Cancelled`](crate::Error::Cancelled),
/// or no memory.
pub fn time_ops(
    options: &EngineOptions,
    filter: &str,
    each: &mut dyn FnMut(OpEvent),
    cancel: &CancelToken,
) -> Result<usize> {
    open_device(options)?.time_ops(options.precision, filter, each, cancel)
}
