//! LoRA: small corrections of the flow transformer's matrices, added when it is loaded.
//!
//! In:  safetensors files of pairs `down` `[rank, in]` and `up` `[out, rank]`, in any dialect of names ([`keys`]).
//! Out: [`Lora`], in which every pair has found its rows of a canonical matrix, and [`WithLoras`], a [`WeightSource`] that
//!      hands out `W + Σ scale · alpha / rank · up · down`.
//!
//! Merging comes before anything else happens to a weight: it works on whatever format the checkpoint has, and what
//! `--dtype` rounds is rounded afterwards. A file of which a single tensor has no place is refused.
//! Source of the formula: `LoraLayer` in PEFT; of alpha in metadata: `loaders/peft.py` in diffusers.

mod keys;
mod merge;
mod scaling;

pub(super) use merge::merged_dtype;

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::Arc;

use flux2_backend::{DType, Format, HostBytes, HostTensor, Placement};
use flux2_base::Remedy;
use flux2_base::digest::sha256;

use self::keys::{Home, Homes, Key, Role};
use self::scaling::Scaling;
use crate::config::TransformerConfig;
use crate::location::Location;
use crate::mismatch::{Mismatch, WrongShape, nearest_name};
use crate::sizes::transformer_sizes;
use crate::tensor_file::{FileMetadata, Printable, StoredDType, StoredTensor, TensorFile};
use crate::{Error, Result};
use crate::{ModelFiles, WeightSource};

/// A LoRA to add to a model.
#[derive(Clone, Debug)]
pub struct LoraPath {
    /// A safetensors file.
    pub location: Location,
    /// How much of it: 1 as it was trained, 0 nothing, negative the opposite.
    pub scale: f32,
}

/// A LoRA that fits a transformer. Its file stays mapped.
#[derive(Clone, Debug)]
pub struct Lora {
    /// Name of its file, without folder and extension.
    pub name: String,
    /// SHA-256 of its file, in hex.
    pub sha256: String,
    /// How much of it is added.
    pub scale: f32,
    /// By canonical matrix, in the order of the file's names.
    patches: Arc<BTreeMap<String, Vec<Patch>>>,
}

/// What is added to some rows of a matrix: `factor · up · down`.
#[derive(Clone, Debug)]
struct Patch {
    rows: Range<usize>,
    /// `[rank, in]`.
    down: HostTensor,
    /// `[rows, rank]`.
    up: HostTensor,
    factor: f32,
}

impl ModelFiles {
    /// The same model with these LoRAs instead of those it had. Several add up, also the same one twice.
    ///
    /// # Errors
    /// [`Error::LoraScale`] for a scale that is no number; [`Error::Checkpoint`] or [`Error::Lora`] for a file that is
    /// damaged, no LoRA for the flow transformer, or one for another model.
    pub fn with_loras(self, loras: &[LoraPath]) -> Result<Self> {
        let open = |lora| Lora::open(lora, &self.transformer.config);
        let loras = loras.iter().map(open).collect::<Result<_>>()?;
        Ok(ModelFiles { loras, ..self })
    }
}

impl Lora {
    /// How many matrices of the transformer it changes.
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
        let file = TensorFile::open(&path.location)?;
        let bytes = file.bytes()?;
        Ok(Lora { sha256: sha256(&bytes), ..Self::of(&file, &bytes, path, config)? })
    }

    /// The LoRA in a file, without its digest.
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
        let homes = Homes::of(config);
        let pairs = match adapters.fit(&homes) {
            Ok(pairs) => pairs,
            Err(mut mismatch) => {
                adapters.name_neighbours(&homes, &mut mismatch);
                let other = adapters.made_for_another(config, &mismatch);
                return Err(refuse(other.unwrap_or_else(|| LoraProblem::Tensors(Box::new(mismatch)))));
            }
        };
        let scaling = Scaling::of(metadata).map_err(refuse)?;
        let mut patches: BTreeMap<String, Vec<Patch>> = BTreeMap::new();
        for pair in pairs {
            let factor = pair.factor(pair.alpha(bytes)?, scaling.as_ref(), *scale).map_err(refuse)?;
            patches.entry(pair.home.canonical.clone()).or_default().extend(pair.patches(bytes, factor)?);
        }
        Ok(Lora {
            name: location.stem().unwrap_or_else(|| "lora".into()),
            sha256: String::new(),
            scale: *scale,
            patches: Arc::new(patches),
        })
    }
}

/// The weights of a transformer with LoRAs added to them. Matrices that none touches are handed on as they are.
pub struct WithLoras<'a> {
    /// The weights.
    pub base: &'a dyn WeightSource,
    /// The LoRAs of the same transformer.
    pub loras: &'a [Lora],
    /// Threads that add them up, at most.
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
        base.bytes().forget(); // there is a copy now
        Ok(merged)
    }

    fn format(&self, name: &str) -> Format {
        self.base.format(name)
    }

    fn placement(&self) -> Placement {
        self.base.placement()
    }
}

// ---- a file, and what is wrong with it ----

/// The tensors of a file by the module they belong to.
struct Adapters<'f> {
    by_module: BTreeMap<&'f str, Adapter<'f>>,
    /// Names that are no tensors of a LoRA.
    others: Vec<&'f str>,
}

#[derive(Default)]
struct Adapter<'f> {
    down: Option<Named<'f>>,
    up: Option<Named<'f>>,
    alpha: Option<Named<'f>>,
}

#[derive(Clone, Copy)]
struct Named<'f> {
    name: &'f str,
    key: Key<'f>,
    tensor: &'f StoredTensor,
}

/// A pair of factors that fits.
struct Pair<'f> {
    home: Home,
    rank: usize,
    module: &'f str,
    down: &'f StoredTensor,
    up: &'f StoredTensor,
    alpha: Option<Named<'f>>,
}

impl<'f> Adapters<'f> {
    fn of(file: &'f TensorFile) -> Result<Self, LoraProblem> {
        if file.tensors.is_empty() {
            return Err(LoraProblem::Empty);
        }
        if let Some((name, what)) = file.tensors.keys().find_map(|name| Some((name, keys::unsupported(name)?))) {
            return Err(LoraProblem::Unsupported { name: name.clone(), what });
        }
        let mut adapters = Adapters { by_module: BTreeMap::new(), others: Vec::new() };
        for (name, tensor) in &file.tensors {
            let Some(key) = Key::parse(name) else {
                adapters.others.push(name);
                continue;
            };
            let Adapter { down, up, alpha } = adapters.by_module.entry(key.module).or_default();
            let place = match key.role {
                Role::Down => down,
                Role::Up => up,
                Role::Alpha => alpha,
            };
            if let Some(first) = place.replace(Named { name, key, tensor }) {
                return Err(LoraProblem::Twice { first: first.name.into(), second: name.clone() });
            }
        }
        Ok(adapters)
    }

    /// Every pair with its place, or all that is wrong.
    fn fit(&self, homes: &Homes) -> Result<Vec<Pair<'f>>, Mismatch> {
        let mut mismatch =
            Mismatch { unused: self.others.iter().map(|n| (*n).to_owned()).collect(), ..Mismatch::default() };
        let mut pairs = Vec::new();
        for (module, adapter) in &self.by_module {
            match homes.find(module) {
                Some(home) => pairs.extend(adapter.fit(module, home, &mut mismatch)),
                None => mismatch.unused.extend(adapter.named().map(|named| named.name.to_owned())),
            }
        }
        if mismatch == Mismatch::default() {
            return Ok(pairs);
        }
        mismatch.unused.sort_unstable();
        Err(mismatch)
    }

    /// For each name without a place that will be printed, the most similar one that has a place.
    fn name_neighbours(&self, homes: &Homes, mismatch: &mut Mismatch) {
        let shown = Mismatch::SHOWN.min(Mismatch::COMPARED / homes.modules().count().max(1));
        for name in mismatch.unused.iter().take(shown) {
            let nearest = match Key::parse(name) {
                Some(key) => {
                    let modules = homes.modules().filter(|module| key.is_like(module));
                    nearest_name(key.module, modules).map(|module| key.with_module(module))
                }
                None => nearest_name(name, homes.modules()).map(str::to_owned),
            };
            mismatch.nearest.extend(nearest.map(|nearest| (name.clone(), nearest)));
        }
    }

    /// Another model that the file was made for, if one can be told.
    fn made_for_another(&self, config: &TransformerConfig, mismatch: &Mismatch) -> Option<LoraProblem> {
        let family = |name: &String| keys::other_family(name);
        if let Some(family) = mismatch.unused.iter().find_map(family) {
            return Some(LoraProblem::OtherFamily { family, mismatch: Box::new(mismatch.clone()) });
        }
        let fits = |other: &TransformerConfig| self.fit(&Homes::of(other)).is_ok();
        let (made_for, other) = transformer_sizes().find(|(_, other)| other != config && fits(other))?;
        Some(LoraProblem::OtherSize { made_for, width: other.hidden(), expected: config.hidden() })
    }
}

impl<'f> Adapter<'f> {
    fn named(&self) -> impl Iterator<Item = &Named<'f>> {
        [&self.alpha, &self.down, &self.up].into_iter().flatten()
    }

    /// The pair, if its factors are both there and have the shapes of its place; what is wrong goes into `mismatch`.
    fn fit(&self, module: &'f str, home: &Home, mismatch: &mut Mismatch) -> Option<Pair<'f>> {
        let before = mismatch.missing.len() + mismatch.dtypes.len() + mismatch.shapes.len();
        for Named { name, tensor, .. } in self.named() {
            if !matches!(tensor.dtype, StoredDType::Known(DType::F32 | DType::F16 | DType::Bf16)) {
                mismatch.dtypes.push(((*name).to_owned(), tensor.dtype.to_string()));
            }
        }
        let mut hold = |named: Option<Named>, is_right: &dyn Fn(&[usize]) -> bool, expected: Vec<usize>| {
            if let Some(Named { name, tensor, .. }) = named.filter(|named| !is_right(&named.tensor.shape)) {
                let (name, found) = (name.to_owned(), tensor.shape.clone());
                mismatch.shapes.push(WrongShape { name, found, expected });
            }
        };
        // The first factor says what the rank is; of nothing, one can be made.
        let axis = |named: Option<Named>, i: usize| named.and_then(|n| n.tensor.shape.get(i).copied());
        let rank = axis(self.down, 0).or(axis(self.up, 1)).unwrap_or(1).max(1);
        let (down, up) = ([rank, home.cols], [home.rows.len(), rank]);
        hold(self.down, &|shape| shape == down, down.into());
        hold(self.up, &|shape| shape == up, up.into());
        hold(self.alpha, &|shape| matches!(shape, [] | [1]), vec![]);
        match (self.down, self.up) {
            (Some(down), Some(up)) => {
                let is_right = before == mismatch.missing.len() + mismatch.dtypes.len() + mismatch.shapes.len();
                let (home, down, up) = (home.clone(), down.tensor, up.tensor);
                is_right.then_some(Pair { home, rank, module, down, up, alpha: self.alpha })
            }
            _ => {
                mismatch.missing.extend(self.down.or(self.up).or(self.alpha).map(|named| named.key.partner()));
                None
            }
        }
    }
}

impl Pair<'_> {
    /// Alpha, where a tensor says what it is.
    fn alpha(&self, bytes: &HostBytes) -> Result<Option<f32>> {
        self.alpha.map(|alpha| Ok(host(alpha.tensor, bytes)?.to_f32()[0])).transpose()
    }

    /// What the product is multiplied with.
    fn factor(&self, alpha: Option<f32>, scaling: Option<&Scaling>, scale: f32) -> Result<f32, LoraProblem> {
        let of_rank = match (alpha, scaling) {
            (Some(alpha), _) => f64::from(alpha) / self.rank as f64,
            (None, Some(scaling)) => scaling.factor(self.module, self.rank)?,
            (None, None) => 1.0,
        };
        let factor = (f64::from(scale) * of_rank) as f32;
        match factor.is_finite() {
            true => Ok(factor),
            false => Err(LoraProblem::Factor { module: self.module.into(), factor }),
        }
    }

    /// The rows of the canonical matrix that change: halves that its layout exchanges, one by one.
    fn patches(&self, bytes: &HostBytes, factor: f32) -> Result<Vec<Patch>> {
        let (down, up) = (host(self.down, bytes)?, host(self.up, bytes)?);
        let Range { start, end } = self.home.rows;
        if !self.home.is_swapped {
            return Ok(vec![Patch { rows: start..end, down, up, factor }]);
        }
        let half = (end - start) / 2;
        let (first, second) = (up.slice_rows(half..2 * half)?, up.slice_rows(0..half)?);
        let patch = |rows, up| Patch { rows, down: down.clone(), up, factor };
        Ok(vec![patch(start..start + half, first), patch(start + half..end, second)])
    }
}

fn host(stored: &StoredTensor, bytes: &HostBytes) -> Result<HostTensor> {
    let StoredDType::Known(dtype) = stored.dtype else { unreachable!("checked when it found its place") };
    Ok(HostTensor::new(dtype, stored.shape.clone(), bytes.slice(stored.range.clone()))?)
}

/// Why a file cannot be added to a model.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum LoraProblem {
    /// Not a single tensor.
    #[error("holds no tensors")]
    Empty,
    /// In the wrong container.
    #[error("is a GGUF file, and LoRAs are read from safetensors files")]
    Gguf,
    /// Something else than pairs of factors for the transformer.
    #[error("`{}` belongs to {what}, which is not supported", Printable(name))]
    Unsupported {
        /// A tensor of it.
        name: String,
        /// What it is.
        what: &'static str,
    },
    /// For models of another architecture.
    #[error("looks like a LoRA for {family}: {mismatch}")]
    OtherFamily {
        /// Which.
        family: &'static str,
        /// What has no place here.
        mismatch: Box<Mismatch>,
    },
    /// For a model of another size.
    #[error("is a LoRA for {made_for}, of width {width}; this transformer has width {expected}")]
    OtherSize {
        /// A model it fits.
        made_for: &'static str,
        /// Width of that.
        width: usize,
        /// Width of the transformer it is for.
        expected: usize,
    },
    /// Tensors that have no place, factors without the other, other shapes and element types; all of them.
    #[error("{0}")]
    Tensors(Box<Mismatch>),
    /// One factor under two names.
    #[error("`{}` and `{}` are the same", Printable(first), Printable(second))]
    Twice {
        /// One.
        first: String,
        /// The other.
        second: String,
    },
    /// Alpha, or the scale times alpha, is no finite number.
    #[error("`{}` would be multiplied by {factor}", Printable(module))]
    Factor {
        /// Module.
        module: String,
        /// The product of scale and alpha, by the rank.
        factor: f32,
    },
    /// Metadata that do not read.
    #[error("its metadata `lora_adapter_metadata` are not valid: {}", Printable(message))]
    Metadata {
        /// Why.
        message: String,
    },
    /// Metadata of another file.
    #[error("its metadata give `{}` rank {said}, its tensors have rank {found}", Printable(module))]
    Rank {
        /// Module.
        module: String,
        /// Rank by the metadata.
        said: u64,
        /// Rank of the tensors.
        found: usize,
    },
}

impl LoraProblem {
    pub(crate) fn remedy(&self) -> Remedy {
        Remedy::advice(match self {
            LoraProblem::Unsupported { .. } => {
                "pass a LoRA of the transformer: pairs named lora_A and lora_B, or lora_down and lora_up"
            }
            LoraProblem::Gguf => "pass the LoRA as a .safetensors file",
            LoraProblem::Tensors(_) => "pass a LoRA made for this model, in f32, f16 or bf16",
            LoraProblem::OtherFamily { .. } | LoraProblem::OtherSize { .. } => return Remedy::MatchLora,
            LoraProblem::Factor { .. } => "use a smaller scale, or download the file again",
            LoraProblem::Empty
            | LoraProblem::Twice { .. }
            | LoraProblem::Metadata { .. }
            | LoraProblem::Rank { .. } => "download the file again from a source you trust: it is damaged",
        })
    }
}
