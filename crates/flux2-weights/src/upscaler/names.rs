//! Names of tensors in files of upscalers, as tables that lead to the canonical ones.
//!
//! | canonical | first ESRGAN (`model.…`) | BSRGAN, RealSR |
//! |---|---|---|
//! | `conv_first` | `model.0` | `conv_first` |
//! | `body.{b}.rdb{r}.conv{c}` | `model.1.sub.{b}.RDB{r}.conv{c}.0` | `RRDB_trunk.{b}.RDB{r}.conv{c}` |
//! | `conv_body` | `model.1.sub.{blocks}` | `trunk_conv` |
//! | `conv_up{s}` | `model.{3s}` | `upconv{s}` |
//! | `conv_hr`, `conv_last` | the last two | `HRconv`, `conv_last` |
//!
//! Real-ESRGAN has the canonical names. A prefix that all names share is dropped.

use super::UpscalerProblem;

/// A network of the family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Network {
    Rrdb,
    Srvgg,
}

/// Prefixes of programs that train: of a model on several GPUs, of the generator of two networks.
const PREFIXES: [&str; 2] = ["module.", "netG."];

/// How a file names its tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Scheme {
    prefix: &'static str,
    names: Names,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Names {
    Canonical(Network),
    Bsrgan,
    /// With the number of the last layer.
    First {
        last: usize,
    },
}

impl Scheme {
    /// Recognizes the names of a file.
    pub fn detect(names: &[&str]) -> Result<Self, UpscalerProblem> {
        let prefix = PREFIXES.into_iter().find(|p| !names.is_empty() && names.iter().all(|name| name.starts_with(p)));
        let prefix = prefix.unwrap_or_default();
        let plain = names.iter().map(|name| &name[prefix.len()..]);
        let has = |wanted: &str| plain.clone().any(|name| name == wanted);
        let scheme = if has("body.0.weight") && has("body.1.weight") {
            Names::Canonical(Network::Srvgg)
        } else if has("conv_first.weight") && has("body.0.rdb1.conv1.weight") {
            Names::Canonical(Network::Rrdb)
        } else if has("conv_first.weight") && has("RRDB_trunk.0.RDB1.conv1.weight") {
            Names::Bsrgan
        } else if has("model.0.weight") && has("model.1.sub.0.RDB1.conv1.0.weight") {
            Names::First { last: plain.clone().filter_map(number_of_layer).max().unwrap_or(0) }
        } else {
            return Err(UpscalerProblem::Unknown);
        };
        for (mark, what) in
            [("conv1x1", "the additional convolutions of ESRGAN+"), ("running_mean", "batch norms"), ("norm", "norms")]
        {
            if let Some(name) = plain.clone().find(|name| name.contains(mark)) {
                return Err(UpscalerProblem::Unsupported { what, name: name.to_owned() });
            }
        }
        Ok(Scheme { prefix, names: scheme })
    }

    pub fn network(self) -> Network {
        match self.names {
            Names::Canonical(network) => network,
            Names::Bsrgan | Names::First { .. } => Network::Rrdb,
        }
    }

    /// The canonical name of a stored one; `None` if the scheme has no such name.
    pub fn canonical(self, stored: &str) -> Option<String> {
        let stored = stored.strip_prefix(self.prefix)?;
        let (layer, kind) = stored.rsplit_once('.')?;
        let canonical = match self.names {
            Names::Canonical(_) => layer.to_owned(),
            Names::Bsrgan => bsrgan(layer)?,
            Names::First { last } => first(layer, last)?,
        };
        Some(format!("{canonical}.{kind}"))
    }
}

fn bsrgan(layer: &str) -> Option<String> {
    Some(match layer {
        "trunk_conv" => "conv_body".into(),
        "HRconv" => "conv_hr".into(),
        "conv_first" | "conv_last" => layer.into(),
        _ => match layer.strip_prefix("upconv") {
            Some(stage) => format!("conv_up{stage}"),
            None => format!("body.{}", layer.strip_prefix("RRDB_trunk.")?.replace(".RDB", ".rdb")),
        },
    })
}

/// Layers are numbered: 0, the blocks in 1, three for each upsampling stage, and the last two with an activation
/// between them.
fn first(layer: &str, last: usize) -> Option<String> {
    if let Some(block) = layer.strip_prefix("model.1.sub.") {
        return Some(match block.strip_suffix(".0") {
            Some(conv) if conv.contains('.') => format!("body.{}", conv.replace(".RDB", ".rdb")),
            _ if block.contains('.') => return None,
            _ => "conv_body".into(),
        });
    }
    let number: usize = layer.strip_prefix("model.")?.parse().ok()?;
    match number {
        0 => Some("conv_first".into()),
        n if n == last => Some("conv_last".into()),
        n if n + 2 == last => Some("conv_hr".into()),
        n if n.is_multiple_of(3) => Some(format!("conv_up{}", n / 3)),
        _ => None,
    }
}

/// The number of a layer at the top, as in `model.10.weight`.
fn number_of_layer(name: &str) -> Option<usize> {
    name.strip_prefix("model.")?.split('.').next()?.parse().ok()
}
