//! The choice of a device, as text and as a value. [`engine`](crate::engine) opens it.

use std::fmt;
use std::str::FromStr;

/// The device to run on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Device {
    /// The first GPU that can be used, else the processor.
    #[default]
    Auto,
    /// The processor.
    Cpu,
    /// An NVIDIA GPU by its number in the driver's order, from 0; without a number, the first that can be used.
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

/// The text is not the name of a [`Device`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a device is auto, cpu, cuda, or one GPU by its number, as in cuda:1")]
pub struct ParseDeviceError;

/// Reads what [`Display`](fmt::Display) prints.
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
