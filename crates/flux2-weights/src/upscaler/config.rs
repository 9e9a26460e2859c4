//! Sizes of upscalers, from the shapes of their tensors, and the tensors that follow from them.

use std::fmt;

use super::UpscalerProblem;
use super::names::Network;
use crate::config::ExpectedTensor;

/// Most channels accepted in a convolution. The family's widest reads 192.
const MAX_CHANNELS: usize = 1024;
/// Most blocks or convolutions accepted. The family has at most 34.
const MAX_BLOCKS: usize = 128;
/// Largest scale accepted.
const MAX_SCALE: usize = 8;

/// Sizes of an upscaler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpscalerConfig {
    /// Residual-in-residual dense blocks: ESRGAN, Real-ESRGAN, BSRGAN.
    Rrdb(RrdbConfig),
    /// A plain row of convolutions: the small models of Real-ESRGAN.
    Srvgg(SrvggConfig),
}

/// Sizes of an RRDBNet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RrdbConfig {
    /// Residual-in-residual dense blocks.
    pub blocks: usize,
    /// Channels of the maps between blocks.
    pub features: usize,
    /// Channels that each convolution of a dense block adds.
    pub growth: usize,
    /// Side of the squares of pixels that become channels before the first convolution: 1, 2 or 4.
    pub unshuffle: usize,
    /// Upsampling stages, each of which doubles height and width.
    pub stages: usize,
}

/// Sizes of an SRVGGNetCompact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SrvggConfig {
    /// Convolutions between the first and the last.
    pub convolutions: usize,
    /// Channels of the maps between them.
    pub features: usize,
    /// Factor by which height and width grow.
    pub scale: usize,
}

impl UpscalerConfig {
    /// Factor by which height and width grow.
    pub fn scale(&self) -> usize {
        match self {
            UpscalerConfig::Rrdb(c) => (1 << c.stages) / c.unshuffle,
            UpscalerConfig::Srvgg(c) => c.scale,
        }
    }

    /// How far, in pixels of the input, an input pixel reaches the output.
    pub fn radius(&self) -> usize {
        match self {
            // Each block has 15 convolutions in a row; three more come before and after, and those of the stages reach
            // at most one pixel further.
            UpscalerConfig::Rrdb(c) => c.unshuffle * (15 * c.blocks + 4),
            UpscalerConfig::Srvgg(c) => c.convolutions + 2,
        }
    }

    /// Side of the squares of pixels that become channels before the first convolution; 1 if none do. Sides of the
    /// input are multiples of it.
    pub fn unshuffle(&self) -> usize {
        match self {
            UpscalerConfig::Rrdb(c) => c.unshuffle,
            UpscalerConfig::Srvgg(_) => 1,
        }
    }

    /// Canonical names and shapes of all tensors.
    pub fn expected_tensors(&self) -> Vec<ExpectedTensor> {
        let mut t = Vec::new();
        match *self {
            UpscalerConfig::Rrdb(RrdbConfig { blocks, features, growth, unshuffle, stages }) => {
                conv(&mut t, "conv_first", 3 * unshuffle * unshuffle, features);
                for b in 0..blocks {
                    for r in 1..=3 {
                        for c in 1..=5 {
                            let out = if c < 5 { growth } else { features };
                            conv(&mut t, &format!("body.{b}.rdb{r}.conv{c}"), features + (c - 1) * growth, out);
                        }
                    }
                }
                conv(&mut t, "conv_body", features, features);
                (1..=stages).for_each(|stage| conv(&mut t, &format!("conv_up{stage}"), features, features));
                conv(&mut t, "conv_hr", features, features);
                conv(&mut t, "conv_last", features, 3);
            }
            UpscalerConfig::Srvgg(SrvggConfig { convolutions, features, scale }) => {
                conv(&mut t, "body.0", 3, features);
                for i in 0..=convolutions {
                    t.push((format!("body.{}.weight", 2 * i + 1), vec![features]));
                    let out = if i < convolutions { features } else { 3 * scale * scale };
                    conv(&mut t, &format!("body.{}", 2 * i + 2), features, out);
                }
            }
        }
        t
    }

    /// Sizes of `network` with tensors of these canonical `names`, whose `shape` is known. `file` is the name of the
    /// file.
    pub(super) fn of<'a, 's>(
        network: Network,
        names: impl Iterator<Item = &'a str>,
        shape: impl Fn(&str) -> Option<&'s [usize]>,
        file: &str,
    ) -> Result<Self, UpscalerProblem> {
        // Rows and input channels of a convolution; others are refused with all tensors of a wrong shape.
        let kernel = |name: &str| match shape(&format!("{name}.weight")) {
            Some(&[out, input, 3, 3]) => [out, input],
            _ => [0, 0],
        };
        let config = match network {
            Network::Rrdb => rrdb(names, kernel)?,
            Network::Srvgg => srvgg(names, kernel)?,
        };
        if let UpscalerConfig::Rrdb(RrdbConfig { stages: 1, .. }) = config
            && is_three_times(file)
        {
            return Err(UpscalerProblem::ThreeTimes);
        }
        Ok(config)
    }
}

/// Whether a file's name says that it enlarges three times, as in `3x_Model` or `model_x3`.
fn is_three_times(file: &str) -> bool {
    let file = file.to_ascii_lowercase();
    file.split(|c: char| !c.is_alphanumeric()).any(|word| word == "3x" || word == "x3")
}

fn rrdb<'a>(
    names: impl Iterator<Item = &'a str>,
    kernel: impl Fn(&str) -> [usize; 2],
) -> Result<UpscalerConfig, UpscalerProblem> {
    let (mut blocks, mut stages) = (0, 0);
    for name in names {
        let number = |prefix| {
            let rest = name.strip_prefix(prefix)?;
            rest.split('.').next()?.parse::<usize>().ok()
        };
        blocks = blocks.max(number("body.").map_or(0, |b| b.saturating_add(1)));
        stages = stages.max(number("conv_up").unwrap_or(0));
    }
    let [features, input] = kernel("conv_first");
    let [growth, _] = kernel("body.0.rdb1.conv1");
    let [output, _] = kernel("conv_last");
    let unshuffle = [1, 2, 4].into_iter().find(|s| input == 3 * s * s).filter(|_| output == 3);
    let unshuffle = unshuffle.ok_or(UpscalerProblem::Channels { input, output })?;
    within("blocks", blocks, 1, MAX_BLOCKS)?;
    within("channels", features, 1, MAX_CHANNELS)?;
    within("channels added by a convolution", growth, 1, MAX_CHANNELS)?;
    within("upsampling stages", stages, unshuffle.ilog2() as usize, MAX_SCALE.ilog2() as usize)?;
    Ok(UpscalerConfig::Rrdb(RrdbConfig { blocks, features, growth, unshuffle, stages }))
}

fn srvgg<'a>(
    names: impl Iterator<Item = &'a str>,
    kernel: impl Fn(&str) -> [usize; 2],
) -> Result<UpscalerConfig, UpscalerProblem> {
    let numbers = names.filter_map(|name| name.strip_prefix("body.")?.split('.').next()?.parse::<usize>().ok());
    let last = numbers.max().unwrap_or(0);
    let [features, input] = kernel("body.0");
    let [output, _] = kernel(&format!("body.{last}"));
    let scale = (output / 3).isqrt();
    if input != 3 || output == 0 || output != 3 * scale * scale {
        return Err(UpscalerProblem::Channels { input, output });
    }
    // Convolutions have even numbers: 0, those between, and the last.
    within("layers", last, 2, 2 * MAX_BLOCKS)?;
    within("channels", features, 1, MAX_CHANNELS)?;
    within("times the size", scale, 1, MAX_SCALE)?;
    Ok(UpscalerConfig::Srvgg(SrvggConfig { convolutions: last / 2 - 1, features, scale }))
}

fn within(what: &'static str, found: usize, least: usize, most: usize) -> Result<(), UpscalerProblem> {
    match (least..=most).contains(&found) {
        true => Ok(()),
        false => Err(UpscalerProblem::Size { what, found, least, most }),
    }
}

fn conv(t: &mut Vec<ExpectedTensor>, name: &str, input: usize, output: usize) {
    t.push((format!("{name}.weight"), vec![output, input, 3, 3]));
    t.push((format!("{name}.bias"), vec![output]));
}

/// For people.
impl fmt::Display for UpscalerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scale = self.scale();
        match self {
            UpscalerConfig::Rrdb(RrdbConfig { blocks, features, growth, .. }) => {
                write!(f, "RRDBNet {scale}x, {blocks} blocks, {features} channels, growth {growth}")
            }
            UpscalerConfig::Srvgg(SrvggConfig { convolutions, features, .. }) => {
                write!(f, "SRVGGNetCompact {scale}x, {convolutions} convolutions, {features} channels")
            }
        }
    }
}
