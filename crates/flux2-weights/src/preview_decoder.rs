//! Decoders for previews: the decoders of TAESD's family, which take the place of an autoencoder's own. TAEF2 is the
//! one for FLUX.2.
//!
//! In:  a `.safetensors` or `.pth` file. Out: [`PreviewDecoderConfig`], and tensors under one vocabulary of names.
//!
//! | file | names of its decoder |
//! |---|---|
//! | `taef2_decoder.pth` | `{i}.…`, the canonical ones |
//! | both halves in one file, as in the original program | `decoder.{i}.…` |
//! | diffusers (`AutoencoderTiny`) | `decoder.layers.{i - 1}.…`: layer 0, which has no weights, is not counted |
//!
//! The encoder of such a file is not read. Sizes follow from the shapes of the tensors.

use std::collections::BTreeMap;
use std::fmt;

use flux2_backend::HostTensor;
use flux2_base::Remedy;

use crate::any_file::{AnyFile, Name};
use crate::config::ExpectedTensor;
use crate::location::Location;
use crate::mismatch::Mismatch;
use crate::{Error, Result, WeightSource};

/// Most channels accepted. The family has 64, and 256 within its pools.
const MAX_CHANNELS: usize = 1024;

/// Sizes of a decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PreviewDecoderConfig {
    /// Channels of the latents that it decodes: 32 for FLUX.2.
    pub latent_channels: usize,
    /// Channels of its maps.
    pub features: usize,
    /// Channels of the pools in its first three blocks, which see the whole picture; `None` where there are none.
    pub pool: Option<usize>,
}

impl PreviewDecoderConfig {
    /// Number of the first convolution.
    pub const FIRST: usize = 1;
    /// Numbers of the residual blocks, those of one resolution together; the first ones may have pools.
    pub const BLOCKS: [&'static [usize]; 4] = [&[3, 4, 5], &[8, 9, 10], &[13, 14, 15], &[18]];
    /// Numbers of the convolutions after an enlargement, which have no bias: each before a resolution but the first.
    pub const ENLARGED: [usize; 3] = [7, 12, 17];
    /// Number of the last convolution.
    pub const LAST: usize = 19;
    /// Groups of the norm in a pool.
    pub const GROUPS: usize = 4;

    /// Canonical names and shapes of all tensors.
    pub fn expected_tensors(&self) -> Vec<ExpectedTensor> {
        let &PreviewDecoderConfig { latent_channels, features, pool } = self;
        let mut t: Vec<ExpectedTensor> = Vec::new();
        let mut conv = |name: String, input: usize, output: usize, has_bias: bool| {
            t.push((format!("{name}.weight"), vec![output, input, 3, 3]));
            if has_bias {
                t.push((format!("{name}.bias"), vec![output]));
            }
        };
        conv(Self::FIRST.to_string(), latent_channels, features, true);
        Self::ENLARGED.into_iter().for_each(|i| conv(i.to_string(), features, features, false));
        for i in Self::BLOCKS.into_iter().flatten() {
            [0, 2, 4].into_iter().for_each(|j| conv(format!("{i}.conv.{j}"), features, features, true));
        }
        conv(Self::LAST.to_string(), features, 3, true);
        for (i, pool) in Self::BLOCKS[0].iter().flat_map(|i| pool.map(|pool| (i, pool))) {
            t.push((format!("{i}.pool.0.weight"), vec![pool, features, 1, 1]));
            t.push((format!("{i}.pool.1.weight"), vec![pool]));
            t.push((format!("{i}.pool.1.bias"), vec![pool]));
            t.push((format!("{i}.pool.3.weight"), vec![features, pool, 1, 1]));
        }
        t
    }

    /// Sizes of a network of which `shape` tells the shapes of tensors by their canonical names.
    fn of<'s>(shape: impl Fn(&str) -> Option<&'s [usize]>) -> Result<Self, PreviewDecoderProblem> {
        let Some(&[features, latent_channels, 3, 3]) = shape("1.weight") else {
            return Err(PreviewDecoderProblem::Unknown);
        };
        let pool = shape("3.pool.0.weight").map(|shape| shape.first().copied().unwrap_or(0));
        let wrong = [latent_channels, features].into_iter().chain(pool).find(|n| !(1..=MAX_CHANNELS).contains(n));
        let uneven = pool.filter(|pool| !pool.is_multiple_of(Self::GROUPS));
        match wrong.or(uneven) {
            Some(found) => Err(PreviewDecoderProblem::Channels { found, most: MAX_CHANNELS }),
            None => Ok(PreviewDecoderConfig { latent_channels, features, pool }),
        }
    }
}

/// For people.
impl fmt::Display for PreviewDecoderConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PreviewDecoderConfig { latent_channels, features, pool } = self;
        let pools = if pool.is_some() { ", pools" } else { "" };
        write!(f, "{latent_channels} latent channels, {features} channels{pools}")
    }
}

/// A checked file of a decoder. Its weights are mapped, and read when the network is loaded.
pub struct PreviewDecoderFile {
    /// Its file.
    pub location: Location,
    /// Sizes of the network.
    pub config: PreviewDecoderConfig,
    source: AnyFile,
    /// Stored name of each canonical one.
    stored: BTreeMap<String, String>,
}

impl fmt::Debug for PreviewDecoderFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PreviewDecoderFile({}, {})", self.location.path().display(), self.config)
    }
}

impl PreviewDecoderFile {
    /// Opens and checks a decoder.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::Checkpoint`] if it is no file of tensors; [`Error::PreviewDecoder`] if it is no
    /// decoder of the family; [`Error::Tensors`] if tensors are missing, left over or of another shape than the others
    /// say.
    pub fn open(location: &Location) -> Result<Self> {
        let source = AnyFile::open(location)?;
        let path = || location.path().to_owned();
        match checked(&source) {
            Ok(Ok((config, stored))) => Ok(PreviewDecoderFile { location: location.clone(), config, source, stored }),
            Ok(Err(mismatch)) => Err(Error::Tensors { path: path(), mismatch: Box::new(mismatch) }),
            Err(problem) => Err(Error::PreviewDecoder { path: path(), problem }),
        }
    }

    /// As [`open`](Self::open); `None` for a file of tensors that is no decoder of the family.
    pub(crate) fn recognize(location: &Location) -> Result<Option<Self>> {
        match Self::open(location) {
            Err(Error::PreviewDecoder { .. }) => Ok(None),
            other => other.map(Some),
        }
    }

    /// `safetensors` or `pth`.
    pub fn container(&self) -> &'static str {
        self.source.container()
    }

    /// The element type and the size in bytes of each tensor.
    pub(crate) fn dtypes(&self) -> impl Iterator<Item = (String, u64)> {
        self.source.tensors().map(|(_, tensor)| (tensor.dtype.to_string(), tensor.range.len() as u64))
    }

    /// Number of parameters.
    pub fn parameters(&self) -> u64 {
        let shapes = self.config.expected_tensors();
        shapes.iter().map(|(_, shape)| shape.iter().product::<usize>() as u64).sum()
    }
}

/// The meaning of a stored name in a file whose names begin with `first`.
fn canonical(stored: &str, first: &str) -> Name {
    if stored.starts_with("encoder.") {
        return Name::Ignored;
    }
    let name = || {
        let rest = stored.strip_prefix(first)?;
        if first != LAYERS {
            return Some(rest.to_owned());
        }
        let (number, rest) = rest.split_once('.')?;
        Some(format!("{}.{rest}", number.parse::<usize>().ok()?.checked_add(1)?))
    };
    name().map_or(Name::Unknown, Name::Canonical)
}

/// What names of diffusers begin with.
const LAYERS: &str = "decoder.layers.";

/// Sizes of a network, and the stored name of each canonical one.
type Checked = (PreviewDecoderConfig, BTreeMap<String, String>);

fn checked(source: &AnyFile) -> Result<Result<Checked, Mismatch>, PreviewDecoderProblem> {
    let has = |wanted: &str| source.tensors().any(|(name, _)| name == wanted);
    let ends = |first: &str, numbers: [usize; 2]| numbers.iter().all(|i| has(&format!("{first}{i}.weight")));
    let first = if ends(LAYERS, [0, 18]) {
        LAYERS
    } else if ends("decoder.", [1, 19]) {
        "decoder."
    } else if ends("", [1, 19]) {
        ""
    } else if ends("", [0, 14]) && has("1.conv.0.weight") {
        return Err(PreviewDecoderProblem::Encoder);
    } else {
        return Err(PreviewDecoderProblem::Unknown);
    };
    let named = source.named(|stored| canonical(stored, first));
    let config = PreviewDecoderConfig::of(|name| named.shape(name))?;
    Ok(named.check(config.expected_tensors()).map(|stored| (config, stored)))
}

impl WeightSource for PreviewDecoderFile {
    fn tensor(&self, name: &str) -> Result<HostTensor> {
        let stored = self.stored.get(name).ok_or_else(|| Error::UnknownWeight { name: name.to_owned() })?;
        self.source.tensor(stored)
    }
}

/// Why a file of tensors is no decoder for previews.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PreviewDecoderProblem {
    /// Its names are of something else.
    #[error("no decoder for previews that is known: nothing of TAESD's family, as TAEF2 is")]
    Unknown,
    /// The other half of such an autoencoder.
    #[error("the encoder of a tiny autoencoder, which makes no pictures")]
    Encoder,
    /// A size that no network of the family has.
    #[error("a decoder for previews with {found} channels; 1 to {most} are supported, in pools a multiple of 4")]
    Channels {
        /// How many there are.
        found: usize,
        /// Most supported.
        most: usize,
    },
}

impl PreviewDecoderProblem {
    pub(crate) fn remedy(&self) -> Remedy {
        Remedy::advice(match self {
            PreviewDecoderProblem::Encoder => "pass the file of the decoder, taef2_decoder.pth for FLUX.2",
            _ => "pass taef2_decoder.pth, or the taef2.safetensors of diffusers",
        })
    }
}

#[cfg(test)]
mod tests;
