//! How a network is loaded: in the format of the run, to where it is to stay, until somebody cancels.

use flux2_backend::{Format, HostTensor, Placement};

use super::progress::phase;
use crate::Result;
use crate::event::{CancelToken, Event, Observer, Phase, Warning};
use crate::weights::{self, Component, MappedWeights, Part, Precision, WeightSource};

/// How a network is loaded.
#[derive(Clone, Copy)]
pub(super) struct Terms {
    pub(super) part: Part,
    pub(super) precision: Precision,
    /// Where its weights are between their uses.
    pub(super) placement: Placement,
}

/// Load a network, with the events of [`Phase::Load`] around it.
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
        let dtype = precision.blocks().dtype().expect("something is rounded");
        observer.on_event(&Event::Warning(Warning::NotQuantized { part, left, all, dtype }));
    }
    phase(observer, cancel, Phase::Load(part), 0, |_| {
        build(&component.config, &Loading { weights: component.map()?, terms, cancel })
    })
}

/// Weights in the format of the run, that look for cancellation before each tensor: a large network takes long to read
/// from a slow disk.
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
