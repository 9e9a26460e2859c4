//! LoRA: low-rank updates of the flow transformer's matrices, merged when it is loaded.
//!
//! In:  safetensors files of pairs `down` `[rank, in]` and `up` `[out, rank]`, in any dialect of names ([`keys`]);
//!      LoHa, LoKr and whole differences too ([`adapters`]).
//! Out: [`Lora`], which knows the rows of a canonical matrix for every update, and [`WithLoras`], a [`WeightSource`]
//!      that hands out `W + Σ scale · alpha / rank · up · down`.
//!
//! Merging is the first thing that happens to a weight. It accepts every stored format, and quantization comes after
//! it. A file is refused if a single tensor has no target. Where nothing gives alpha it is the rank, and [`Strength`]
//! says so. Source of the formula: `LoraLayer` in PEFT; of alpha in metadata: `loaders/peft.py` in diffusers.

mod adapters;
mod alpha;
mod files;
mod keys;
mod merge;
mod problem;
mod scaling;
mod update;

pub(super) use merge::merged_dtype;

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;

use flux2_backend::{Format, HostBytes, HostTensor, Placement};
use flux2_base::digest::sha256;

use self::adapters::{Adapters, Kind};
use self::alpha::{factor, scalar};
use self::files::adapter_config;
pub(super) use self::files::file_of;
use self::keys::Targets;
pub use self::problem::LoraProblem;
pub use self::scaling::AlphaSource;
pub(super) use self::scaling::CONFIG_FILE;
use self::scaling::{Factor, Scaling};
use self::update::{Patch, host};
use crate::config::TransformerConfig;
use crate::layout::lora::ALPHA;
use crate::location::Location;
use crate::sizes::transformer_sizes;
use crate::tensor_file::{FileMetadata, TensorFile};
use crate::{Error, Result};
use crate::{ModelFiles, WeightSource};

/// A LoRA to add to a model.
#[derive(Clone, Debug)]
pub struct LoraPath {
    /// A safetensors file, or the folder of a PEFT adapter.
    pub location: Location,
    /// Strength: 1 as trained, 0 none, negative inverts the effect.
    pub scale: f32,
}

/// A LoRA that fits a transformer. Its file stays mapped while it exists.
#[derive(Clone, Debug)]
pub struct Lora {
    /// Name of its file, without folder and extension; for the folder of an adapter, the folder's name.
    pub name: String,
    /// SHA-256 of its file, in hex.
    pub sha256: String,
    /// Strength with which it is added.
    pub scale: f32,
    /// What alpha makes of it, before the scale.
    pub strength: Strength,
    /// Updates by canonical matrix, in the order of the file's names.
    patches: Arc<BTreeMap<String, Vec<Patch>>>,
}

/// `alpha / rank` of a LoRA's matrices, and where alpha comes from. Whole differences have neither and do not count.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Strength {
    /// The smallest of the matrices, each with the sign of alpha.
    pub least: f32,
    /// The largest.
    pub most: f32,
    /// Where alpha is given; of several sources, the one of the first matrix.
    pub source: Option<AlphaSource>,
    /// Matrices for which nothing gives alpha. It is taken as their rank, so that `alpha / rank` is 1.
    pub unsaid: usize,
}

impl Strength {
    fn of(factors: &[Factor]) -> Self {
        let values = || factors.iter().map(|factor| factor.of_rank as f32);
        Strength {
            least: values().reduce(f32::min).unwrap_or(1.0),
            most: values().reduce(f32::max).unwrap_or(1.0),
            source: factors.iter().find_map(|factor| factor.source),
            unsaid: factors.iter().filter(|factor| factor.source.is_none()).count(),
        }
    }
}

impl fmt::Display for Strength {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Strength { least, most, source, unsaid } = self;
        match least == most {
            true => write!(f, "alpha / rank {least}, ")?,
            false => write!(f, "alpha / rank {least} to {most}, ")?,
        }
        match (source, unsaid) {
            (Some(source), 0) => write!(f, "from {source}"),
            (Some(source), n) => write!(f, "from {source}; for {n} matrices nothing gives alpha, the rank is taken"),
            (None, 0) => f.write_str("as whole differences have no rank"),
            (None, _) => f.write_str("as nothing gives alpha"),
        }
    }
}

impl ModelFiles {
    /// The same model with these LoRAs in place of those it had. Several add up, also the same one twice.
    ///
    /// # Errors
    /// [`Error::LoraScale`] if a scale is not finite; [`Error::Checkpoint`] or [`Error::Lora`] if a file is damaged, no
    /// LoRA for the flow transformer, or one for another model.
    pub fn with_loras(self, loras: &[LoraPath]) -> Result<Self> {
        let open = |lora| Lora::open(lora, &self.transformer.config);
        let loras = loras.iter().map(open).collect::<Result<_>>()?;
        Ok(ModelFiles { loras, ..self })
    }
}

impl Lora {
    /// Number of transformer matrices that it changes.
    pub fn matrices(&self) -> usize {
        self.patches.len()
    }

    /// Whether it changes the matrix `name`.
    pub(super) fn touches(&self, name: &str) -> bool {
        self.patches.contains_key(name)
    }

    fn open(path: &LoraPath, config: &TransformerConfig) -> Result<Self> {
        if !path.scale.is_finite() {
            return Err(Error::LoraScale { scale: path.scale });
        }
        let file = TensorFile::open(&file_of(&path.location)?)?;
        let bytes = file.bytes()?;
        let lora = Lora { sha256: sha256(&bytes), ..Self::of(&file, &bytes, path, config)? };
        let factors = file.tensors.iter().filter(|(name, _)| !name.ends_with(ALPHA));
        for (name, tensor) in factors {
            if !merge::is_finite(&host(tensor, &bytes)?) {
                let problem = LoraProblem::NotFinite { name: name.clone() };
                return Err(Error::Lora { path: path.location.path().to_owned(), problem });
            }
        }
        Ok(lora)
    }

    /// What alpha makes of the LoRA in an open file, whatever it is for.
    pub(super) fn strength(file: &TensorFile, bytes: &HostBytes) -> Result<Strength> {
        let refuse = |problem| Error::Lora { path: file.location.path().to_owned(), problem };
        let FileMetadata::Safetensors(metadata) = &file.metadata else { return Err(refuse(LoraProblem::Gguf)) };
        let adapters = Adapters::of(file).map_err(refuse)?;
        let scaling = Scaling::of(metadata, adapter_config(&file.location)?.as_deref()).map_err(refuse)?;
        let mut factors = Vec::new();
        for (module, adapter) in &adapters.by_module {
            let alpha = adapter.alpha().and_then(|alpha| scalar(alpha, bytes));
            for (_, rank) in adapter.ranks().filter(|(kind, _)| *kind != Kind::Whole) {
                factors.push(factor(module, rank, alpha, scaling.as_ref()).map_err(refuse)?);
            }
        }
        Ok(Strength::of(&factors))
    }

    /// The LoRA in an open file, without its digest.
    pub(super) fn of(
        file: &TensorFile,
        bytes: &HostBytes,
        path: &LoraPath,
        config: &TransformerConfig,
    ) -> Result<Self> {
        let LoraPath { location, scale } = path;
        let refuse = |problem| Error::Lora { path: location.path().to_owned(), problem };
        let FileMetadata::Safetensors(metadata) = &file.metadata else { return Err(refuse(LoraProblem::Gguf)) };
        let adapters = Adapters::of(file).map_err(refuse)?;
        let targets = Targets::of(config);
        let fitted = match adapters.fit(&targets) {
            Ok(fitted) => fitted,
            Err(mut mismatch) => {
                adapters.suggest_names(&targets, &mut mismatch);
                let other = adapters.made_for_another(config, &mismatch);
                return Err(refuse(other.unwrap_or_else(|| LoraProblem::Tensors(Box::new(mismatch)))));
            }
        };
        let beside = adapter_config(&file.location)?;
        let scaling = Scaling::of(metadata, beside.as_deref()).map_err(refuse)?;
        let mut patches: BTreeMap<String, Vec<Patch>> = BTreeMap::new();
        let mut factors = Vec::with_capacity(fitted.len());
        for fitted in fitted {
            let mut of_rank = 1.0;
            if fitted.kind != Kind::Whole {
                let alpha = fitted.alpha.and_then(|alpha| scalar(alpha, bytes));
                factors.push(factor(fitted.module, fitted.rank, alpha, scaling.as_ref()).map_err(refuse)?);
                of_rank = factors[factors.len() - 1].of_rank;
            }
            let factor = (f64::from(*scale) * of_rank) as f32;
            if !factor.is_finite() {
                return Err(refuse(LoraProblem::Factor { module: fitted.module.into(), factor }));
            }
            patches.entry(fitted.target.canonical.clone()).or_default().extend(fitted.patches(bytes, factor)?);
        }
        Ok(Lora {
            name: location.stem().unwrap_or_else(|| "lora".into()),
            sha256: String::new(),
            scale: *scale,
            strength: Strength::of(&factors),
            patches: Arc::new(patches),
        })
    }
}

/// The weights of a transformer with LoRAs merged. Matrices that no LoRA changes are handed on as they are.
pub struct WithLoras<'a> {
    /// The weights without LoRAs.
    pub base: &'a dyn WeightSource,
    /// LoRAs that fit the transformer.
    pub loras: &'a [Lora],
    /// Most threads that merge.
    pub threads: NonZeroUsize,
}

impl WeightSource for WithLoras<'_> {
    fn tensor(&self, name: &str) -> Result<HostTensor> {
        let base = self.base.tensor(name)?;
        let patches: Vec<&Patch> = self.loras.iter().filter_map(|lora| lora.patches.get(name)).flatten().collect();
        if patches.is_empty() {
            return Ok(base);
        }
        let merged = merge::merge(&base, &patches, self.threads)?;
        base.bytes().release_pages(); // the values were copied
        Ok(merged)
    }

    fn format(&self, name: &str) -> Format {
        self.base.format(name)
    }

    fn placement(&self) -> Placement {
        self.base.placement()
    }
}
