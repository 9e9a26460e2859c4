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
    /// Blocks whose weights stay on the device all the same.
    pub(super) kept: KeptBlocks,
}

/// Blocks whose weights are not offloaded though those of the others are. They are spread evenly over the network, so
/// that weights of the others are copied while these compute.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct KeptBlocks {
    pub(super) count: usize,
    /// Double blocks of the network, which come before its single blocks.
    pub(super) double_blocks: usize,
    pub(super) single_blocks: usize,
}

impl KeptBlocks {
    /// Whether the weight `name` is of a block that is kept. If all blocks are, everything is.
    fn contains(self, name: &str) -> bool {
        let (count, all) = (self.count, self.double_blocks + self.single_blocks);
        if count >= all {
            return all > 0;
        }
        let mut parts = name.split('.');
        let first = match parts.next() {
            Some("double") => 0,
            Some("single") => self.double_blocks,
            _ => return false,
        };
        let number = parts.next().and_then(|number| number.parse::<usize>().ok());
        number.is_some_and(|number| (first + number + 1) * count / all > (first + number) * count / all)
    }
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

    fn placement(&self, name: &str) -> Placement {
        if self.terms.kept.contains(name) { Placement::Device } else { self.terms.placement }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_blocks_are_spread_and_more_are_never_fewer_of_a_kind() {
        let kept = |count| {
            let blocks = KeptBlocks { count, double_blocks: 5, single_blocks: 20 };
            let of = |kind: &str, all| (0..all).filter(|i| blocks.contains(&format!("{kind}.{i}.out"))).count();
            let outside = ["img_in", "final.proj"].map(|name| blocks.contains(name));
            (of("double", 5), of("single", 20), outside)
        };
        let mut before = (0, 0);
        for count in 0..=25 {
            let (double, single, outside) = kept(count);
            assert_eq!(double + single, count);
            assert!(double >= before.0 && single >= before.1, "{count}");
            // Five of 25 blocks are double.
            assert!((5 * double).abs_diff(count) < 5, "{count}: {double}");
            assert_eq!(outside, [count == 25; 2]);
            before = (double, single);
        }
        assert!(!KeptBlocks::default().contains("double.0.img.qkv"));
    }
}
