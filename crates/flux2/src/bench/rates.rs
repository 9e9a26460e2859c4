//! How fast a device is at the products of a picture, measured in at most five seconds: what the time of a picture is
//! estimated from, before its model is on this disk.

use std::time::{Duration, Instant};

use flux2_backend::{Backend, ConvShape, Format};

use super::Flops;
use super::ops::{Case, attention, convolution, linear};
use crate::Result;
use crate::weights::Precision;

/// Floating-point operations a second of each kind, as the ops reach them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rates {
    /// Products with the matrices of the flow transformer's blocks.
    pub blocks: f64,
    /// Products with other matrices.
    pub linear: f64,
    /// Attention.
    pub attention: f64,
    /// Convolutions of 3x3.
    pub convolution: f64,
}

/// A run that takes as long is not repeated with a larger input.
const LONG: Duration = Duration::from_millis(250);

impl Rates {
    pub(crate) fn measure<B: Backend>(be: &B, precision: Precision) -> Result<Self> {
        let format = precision.blocks();
        // klein-4b's width. Inputs grow until a run is long: small ones are slower for each operation.
        let product = |format| rate(be, [64, 256, 1024, 4096].map(|rows| move || linear(format, rows, 3072, 3072)));
        let linear = product(Format::AsStored)?;
        Ok(Rates {
            blocks: if format == Format::AsStored { linear } else { product(format)? },
            linear,
            attention: rate(be, [128, 512, 1024, 4096].map(|tokens| move || attention(tokens, 24, 128)))?,
            convolution: rate(be, [16, 32, 64, 256].map(|side| move || convolution(ConvShape::Same, side, [256; 2])))?,
        })
    }

    /// Seconds that `flops` take.
    pub fn seconds(&self, flops: Flops) -> f64 {
        flops.blocks / self.blocks
            + flops.linear / self.linear
            + flops.attention / self.attention
            + flops.convolution / self.convolution
    }
}

/// Operations a second of the last of `cases`, in order of size, that is reached before a run is [`LONG`].
fn rate<B: Backend, const N: usize>(be: &B, cases: [impl Fn() -> Case<B>; N]) -> Result<f64> {
    let mut rate = 0.0;
    for case in cases {
        let case = case();
        let mut run = case.prepare(be)?;
        let mut timed = || {
            let start = Instant::now();
            run()?;
            be.wait()?;
            Ok::<_, crate::Error>(start.elapsed())
        };
        // The first run of a shape chooses kernels and faults in memory.
        let mut time = timed()?;
        if time < LONG {
            time = time.min(timed()?);
        }
        rate = case.flop() / time.as_secs_f64().max(1e-9);
        be.trim();
        if time >= LONG / 4 {
            break;
        }
    }
    Ok(rate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_add_up_over_the_kinds() {
        let rates = Rates { blocks: 1.0, linear: 2.0, attention: 4.0, convolution: 8.0 };
        let flops = Flops { blocks: 1.0, linear: 2.0, attention: 4.0, convolution: 16.0 };
        assert_eq!(rates.seconds(flops), 1.0 + 1.0 + 1.0 + 2.0);
    }
}
