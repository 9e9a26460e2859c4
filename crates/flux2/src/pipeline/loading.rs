//! Loading a network: weights are converted to the format of the run and go to their placement.

use flux2_backend::{Format, HostTensor, Placement};

use super::progress::phase;
use crate::Result;
use crate::event::{CancelToken, Event, Observer, Phase, Warning};
use crate::weights::{self, Component, MappedWeights, Part, Precision, WeightSource};

/// Which network is loaded, and how.
#[derive(Clone, Copy)]
pub(super) struct Terms {
    pub(super) part: Part,
    pub(super) precision: Precision,
    /// Where the weights are between uses.
    pub(super) placement: Placement,
}

/// Load a network within a [`Phase::Load`], with a warning if some of its matrices cannot be quantized.
pub(super) fn load<C, T>(
    observer: &mut dyn Observer,
    cancel: &CancelToken,
    terms: Terms,
    component: &Component<C>,
    build: impl FnOnce(&C, &dyn WeightSource) -> Result<T>,
) -> Result<T> {
    let Terms { part, precision, .. } = terms;
    let (left, all) = component.not_whole_blocks(|name| precision.format(part, name));
    if left > 0 {
        let dtype = precision.blocks().dtype().expect("only a block format leaves matrices out");
        observer.on_event(&Event::Warning(Warning::NotQuantized { part, left, all, dtype }));
    }
    phase(observer, cancel, Phase::Load(part), 0, |_| {
        build(&component.config, &Loading { weights: component.map()?, terms, cancel })
    })
}

/// Mapped weights that check for cancellation before each tensor: a large network on a slow disk takes minutes.
struct Loading<'a> {
    weights: MappedWeights,
    terms: Terms,
    cancel: &'a CancelToken,
}

impl WeightSource for Loading<'_> {
    fn tensor(&self, name: &str) -> weights::Result<HostTensor> {
        self.cancel.check()?;
        self.weights.tensor(name)
    }

    fn format(&self, name: &str) -> Format {
        self.terms.precision.format(self.terms.part, name)
    }

    fn placement(&self) -> Placement {
        self.terms.placement
    }
}
