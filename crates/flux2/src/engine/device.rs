//! Devices by name, and why a GPU cannot be used.

use std::fmt;
use std::str::FromStr;

use crate::{Error, Result};

/// Where to run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Device {
    /// A GPU if one can be used, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// An NVIDIA GPU: the one with this number, as the driver counts from 0, else the first that can be used.
    Cuda(Option<usize>),
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Auto => f.write_str("auto"),
            Device::Cpu => f.write_str("cpu"),
            Device::Cuda(None) => f.write_str("cuda"),
            Device::Cuda(Some(ordinal)) => write!(f, "cuda:{ordinal}"),
        }
    }
}

/// A name that is no [`Device`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a device is auto, cpu, cuda, or one GPU by its number, as in cuda:1")]
pub struct ParseDeviceError;

/// Reads what `Display` writes.
impl FromStr for Device {
    type Err = ParseDeviceError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "auto" => Ok(Device::Auto),
            "cpu" => Ok(Device::Cpu),
            "cuda" => Ok(Device::Cuda(None)),
            _ => {
                let number = name.strip_prefix("cuda:").filter(|n| n.bytes().all(|digit| digit.is_ascii_digit()));
                let ordinal = number.and_then(|number| number.parse().ok()).ok_or(ParseDeviceError)?;
                Ok(Device::Cuda(Some(ordinal)))
            }
        }
    }
}

/// Why no GPU, or not this one, can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoGpu {
    /// What is missing or unfit, in a line.
    pub reason: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// Whether an NVIDIA driver is installed: then somebody expects this machine to have a GPU.
    pub has_driver: bool,
}

impl NoGpu {
    /// As the error of a run that asked for `device`.
    pub(crate) fn into_error(self, device: Device) -> Error {
        let NoGpu { reason, hint, .. } = self;
        Error::Device { device, reason, hint }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_read_as_they_are_printed() {
        for device in [Device::Auto, Device::Cpu, Device::Cuda(None), Device::Cuda(Some(0)), Device::Cuda(Some(15))] {
            assert_eq!(device.to_string().parse(), Ok(device));
        }
        for wrong in
            ["", "gpu", "CUDA", "cuda:", "cuda:x", "cuda:-1", "cuda:+1", "cuda: 1", "cuda1", "cpu:0", "cuda:1:2"]
        {
            assert_eq!(wrong.parse::<Device>(), Err(ParseDeviceError), "{wrong}");
        }
        assert_eq!(format!("cuda:{}0", usize::MAX).parse::<Device>(), Err(ParseDeviceError));
    }
}
