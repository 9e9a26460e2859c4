//! Upscalers, networks that enlarge pictures: the Real-ESRGAN family.
//!
//! In:  a `.safetensors` or `.pth` file. Out: [`UpscalerConfig`], and tensors under one vocabulary of names.
//!
//! | network | canonical names, with `.weight` and `.bias` |
//! |---|---|
//! | RRDBNet | `conv_first`, `body.{b}.rdb{1..3}.conv{1..5}`, `conv_body`, `conv_up{1..}`, `conv_hr`, `conv_last` |
//! | SRVGGNetCompact | `body.{2i}`, and `body.{2i+1}.weight`, the slopes of a PReLU |
//!
//! Sizes follow from the shapes of the tensors; names of files mean nothing, but for one case that shapes cannot tell.

mod config;
mod names;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::OnceLock;

use flux2_backend::HostTensor;
use flux2_base::Remedy;
use flux2_base::digest::sha256;

use crate::any_file::{AnyFile, Name};
use crate::location::Location;
use crate::mismatch::Mismatch;
use crate::tensor_file::Printable;
use crate::{Error, Result, WeightSource};

pub use config::{RrdbConfig, SrvggConfig, UpscalerConfig};
use names::Scheme;

/// A checked file of an upscaler. Its weights are mapped, and read when the network is loaded.
pub struct UpscalerFile {
    /// Its file.
    pub location: Location,
    /// Name of the file without its extension.
    pub name: String,
    /// Sizes of the network.
    pub config: UpscalerConfig,
    /// Bytes of the tensors.
    pub bytes: u64,
    /// SHA-256 of the file, once somebody asked for it.
    sha256: OnceLock<String>,
    source: AnyFile,
    /// Stored name of each canonical one.
    stored: BTreeMap<String, String>,
}

impl fmt::Debug for UpscalerFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UpscalerFile({}, {})", self.location.path().display(), self.config)
    }
}

impl UpscalerFile {
    /// Opens and checks an upscaler.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::Checkpoint`] if it is no file of tensors; [`Error::Upscaler`] if it is no upscaler
    /// that is supported; [`Error::Tensors`] if tensors are missing, left over or of another shape than the others say.
    pub fn open(location: &Location) -> Result<Self> {
        let source = AnyFile::open(location)?;
        let path = || location.path().to_owned();
        let name = location.stem().unwrap_or_default();
        let (config, stored) = match checked(&source, &name) {
            Ok(Ok(checked)) => checked,
            Ok(Err(mismatch)) => return Err(Error::Tensors { path: path(), mismatch: Box::new(mismatch) }),
            Err(problem) => return Err(Error::Upscaler { path: path(), problem }),
        };
        let bytes = source.tensors().map(|(_, tensor)| tensor.range.len() as u64).sum();
        let sha256 = OnceLock::new();
        Ok(UpscalerFile { location: location.clone(), name, config, bytes, sha256, stored, source })
    }

    /// `safetensors` or `pth`.
    pub fn container(&self) -> &'static str {
        self.source.container()
    }

    /// SHA-256 of the file in hexadecimal. The file is read for it at the first call.
    pub fn sha256(&self) -> &str {
        self.sha256.get_or_init(|| sha256(self.source.bytes()))
    }

    /// Element types, each with the number of its tensors and their bytes.
    pub(crate) fn dtypes(&self) -> impl Iterator<Item = (String, u64)> {
        self.source.tensors().map(|(_, tensor)| (tensor.dtype.to_string(), tensor.range.len() as u64))
    }

    /// Number of parameters.
    pub fn parameters(&self) -> u64 {
        let shapes = self.config.expected_tensors();
        shapes.iter().map(|(_, shape)| shape.iter().product::<usize>() as u64).sum()
    }
}

/// Sizes of a network, and the stored name of each canonical one.
type Checked = (UpscalerConfig, BTreeMap<String, String>);

/// What the file called `file` holds.
fn checked(source: &AnyFile, file: &str) -> Result<Result<Checked, Mismatch>, UpscalerProblem> {
    let names: Vec<&str> = source.tensors().map(|(name, _)| name.as_str()).collect();
    let scheme = Scheme::detect(&names)?;
    let named = source.named(|stored| scheme.canonical(stored).map_or(Name::Unknown, Name::Canonical));
    let config = UpscalerConfig::of(scheme.network(), named.names(), |name| named.shape(name), file)?;
    Ok(named.check(config.expected_tensors()).map(|stored| (config, stored)))
}

impl WeightSource for UpscalerFile {
    fn tensor(&self, name: &str) -> Result<HostTensor> {
        let stored = self.stored.get(name).ok_or_else(|| Error::UnknownWeight { name: name.to_owned() })?;
        self.source.tensor(stored)
    }
}

/// Why a file of tensors is no upscaler that is supported.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UpscalerProblem {
    /// No network of the family has these names.
    #[error("no upscaler that is known: neither an RRDBNet (ESRGAN, Real-ESRGAN, BSRGAN) nor an SRVGGNetCompact")]
    Unknown,
    /// An upscaler of a known kind with a feature that is not supported.
    #[error("an upscaler with {what}, which is not supported (`{}`)", Printable(name))]
    Unsupported {
        /// What it has.
        what: &'static str,
        /// Stored name of a tensor that shows it.
        name: String,
    },
    /// Channels of other pictures than RGB.
    #[error(
        "an upscaler from {input} to {output} channels: the input must be RGB, at most unshuffled by 4, the output RGB"
    )]
    Channels {
        /// Channels that the first convolution reads.
        input: usize,
        /// Channels that the last convolution makes.
        output: usize,
    },
    /// A size that no network of the family has.
    #[error("an upscaler with {found} {what}, {least} to {most} are supported")]
    Size {
        /// What is counted.
        what: &'static str,
        /// How many there are.
        found: usize,
        /// Fewest supported.
        least: usize,
        /// Most supported.
        most: usize,
    },
    /// A model that enlarges three times.
    #[error("an upscaler for 3x by its name, whose tensors cannot be told from those of a 2x one")]
    ThreeTimes,
}

impl UpscalerProblem {
    pub(crate) fn remedy(&self) -> Remedy {
        Remedy::advice(match self {
            UpscalerProblem::ThreeTimes => "use a model for 2x or 4x; any size can be made from its result",
            _ => "pass a Real-ESRGAN, ESRGAN, BSRGAN or SRVGGNetCompact model, as .safetensors or .pth",
        })
    }
}

#[cfg(test)]
mod tests;
