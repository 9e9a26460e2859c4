//! A network that is loaded when it is first needed and stays until it is released.

use flux2_backend::Placement;

use crate::Result;

/// Holds a network, or nothing. When to release it is the policy of [`Networks`](super::networks::Networks).
pub(super) struct Slot<T> {
    network: Option<T>,
    /// Where the weights of the network are between uses, as it was loaded.
    placement: Placement,
    loads: u32,
}

impl<T> Slot<T> {
    /// A slot whose network has not been loaded.
    pub(super) fn new() -> Self {
        Slot { network: None, placement: Placement::Device, loads: 0 }
    }

    /// Whether no network is loaded.
    pub(super) fn is_empty(&self) -> bool {
        self.network.is_none()
    }

    /// Whether the network was loaded before, even if it has been released since.
    pub(super) fn was_loaded(&self) -> bool {
        self.loads > 0
    }

    /// The network if it is loaded.
    pub(super) fn get_mut(&mut self) -> Option<&mut T> {
        self.network.as_mut()
    }

    /// The network; if the slot is empty, what `load` returns, whose weights are at `placement`.
    ///
    /// # Errors
    /// Those of `load`; the slot stays empty then.
    pub(super) fn get_or_load(&mut self, placement: Placement, load: impl FnOnce() -> Result<T>) -> Result<&mut T> {
        if self.network.is_none() {
            self.network = Some(load()?);
            self.placement = placement;
            self.loads += 1;
        }
        Ok(self.network.as_mut().expect("loaded above"))
    }

    /// Drop the network unless the placement of its weights is one to `keep`. Returns whether there was one to drop.
    pub(super) fn release_unless(&mut self, keep: impl FnOnce(Placement) -> bool) -> bool {
        let drops = self.network.is_some() && !keep(self.placement);
        if drops {
            self.network = None;
        }
        drops
    }

    /// Drop the network.
    pub(super) fn release(&mut self) {
        self.network = None;
    }
}
