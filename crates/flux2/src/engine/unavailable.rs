//! Why a GPU cannot be used.

use flux2_base::Remedy;

use crate::Error;
use crate::device::Device;

/// Why no GPU, or not this one, can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoGpu {
    /// What is missing or unfit, in a line.
    pub reason: String,
    /// What would help, if it is known.
    pub remedy: Option<Remedy>,
    /// Whether an NVIDIA driver is installed: then somebody expects this machine to have a GPU.
    pub has_driver: bool,
}

impl NoGpu {
    /// As the error of a run that asked for `device`.
    pub(crate) fn into_error(self, device: Device) -> Error {
        let NoGpu { reason, remedy, .. } = self;
        Error::Device { device, reason, remedy }
    }
}
