//! LoRA: low-rank updates of the flow transformer's matrices, merged when it is loaded.
//!
//! In:  safetensors files of pairs `down` `[rank, in]` and `up` `[out, rank]`, in any dialect of names ([`keys`]).
//! Out: [`Lora`], which knows the rows of a canonical matrix for every pair, and [`WithLoras`], a [`WeightSource`] that
//!      hands out `W + Σ scale · alpha / rank · up · down`.
//!
//! Merging is the first thing that happens to a weight. It accepts every stored format, and quantization comes after
//! it. A file is refused if a single tensor has no target. Source of the formula: `LoraLayer` in PEFT; of alpha in
//! metadata: `loaders/peft.py` in diffusers.

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

use self::keys::{Key, Role, Target, Targets};
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
    /// Strength: 1 as trained, 0 none, negative inverts the effect.
    pub scale: f32,
}

/// A LoRA that fits a transformer. Its file stays mapped while it exists.
#[derive(Clone, Debug)]
pub struct Lora {
    /// Name of its file, without folder and extension.
    pub name: String,
    /// SHA-256 of its file, in hex.
    pub sha256: String,
    /// Strength with which it is added.
    pub scale: f32,
    /// Updates by canonical matrix, in the order of the file's names.
    patches: Arc<BTreeMap<String, Vec<Patch>>>,
}

/// An update of some rows of a matrix: `factor · up · down` is added.
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
        let file = TensorFile::open(&path.location)?;
        let bytes = file.bytes()?;
        Ok(Lora { sha256: sha256(&bytes), ..Self::of(&file, &bytes, path, config)? })
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
        let pairs = match adapters.fit(&targets) {
            Ok(pairs) => pairs,
            Err(mut mismatch) => {
                adapters.suggest_names(&targets, &mut mismatch);
                let other = adapters.made_for_another(config, &mismatch);
                return Err(refuse(other.unwrap_or_else(|| LoraProblem::Tensors(Box::new(mismatch)))));
            }
        };
        let scaling = Scaling::of(metadata).map_err(refuse)?;
        let mut patches: BTreeMap<String, Vec<Patch>> = BTreeMap::new();
        for pair in pairs {
            let factor = pair.factor(pair.alpha(bytes)?, scaling.as_ref(), *scale).map_err(refuse)?;
            patches.entry(pair.target.canonical.clone()).or_default().extend(pair.patches(bytes, factor)?);
        }
        Ok(Lora {
            name: location.stem().unwrap_or_else(|| "lora".into()),
            sha256: String::new(),
            scale: *scale,
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

// ---- a file, and what is wrong with it ----

/// The tensors of a file, grouped by module.
struct Adapters<'f> {
    by_module: BTreeMap<&'f str, Adapter<'f>>,
    /// Names that no LoRA has.
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

/// A pair of factors whose names, shapes and dtypes fit.
struct Pair<'f> {
    target: Target,
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

    /// Every pair with its target, or everything that is wrong.
    fn fit(&self, targets: &Targets) -> Result<Vec<Pair<'f>>, Mismatch> {
        let mut mismatch =
            Mismatch { unused: self.others.iter().map(|n| (*n).to_owned()).collect(), ..Mismatch::default() };
        let mut pairs = Vec::new();
        for (module, adapter) in &self.by_module {
            match targets.find(module) {
                Some(target) => pairs.extend(adapter.fit(module, target, &mut mismatch)),
                None => mismatch.unused.extend(adapter.named().map(|named| named.name.to_owned())),
            }
        }
        if mismatch == Mismatch::default() {
            return Ok(pairs);
        }
        mismatch.unused.sort_unstable();
        Err(mismatch)
    }

    /// Finds a similar name that has a target for each name that will be printed.
    fn suggest_names(&self, targets: &Targets, mismatch: &mut Mismatch) {
        let shown = Mismatch::SHOWN.min(Mismatch::COMPARED / targets.modules().count().max(1));
        for name in mismatch.unused.iter().take(shown) {
            let nearest = match Key::parse(name) {
                Some(key) => {
                    let modules = targets.modules().filter(|module| key.is_like(module));
                    nearest_name(key.module, modules).map(|module| key.with_module(module))
                }
                None => nearest_name(name, targets.modules()).map(str::to_owned),
            };
            mismatch.nearest.extend(nearest.map(|nearest| (name.clone(), nearest)));
        }
    }

    /// The error that names the model the file was made for, if one is recognized.
    fn made_for_another(&self, config: &TransformerConfig, mismatch: &Mismatch) -> Option<LoraProblem> {
        let family = |name: &String| keys::other_family(name);
        if let Some(family) = mismatch.unused.iter().find_map(family) {
            return Some(LoraProblem::OtherFamily { family, mismatch: Box::new(mismatch.clone()) });
        }
        let fits = |other: &TransformerConfig| self.fit(&Targets::of(other)).is_ok();
        let (made_for, other) = transformer_sizes().find(|(_, other)| other != config && fits(other))?;
        Some(LoraProblem::OtherSize { made_for, width: other.hidden(), expected: config.hidden() })
    }
}

impl<'f> Adapter<'f> {
    fn named(&self) -> impl Iterator<Item = &Named<'f>> {
        [&self.alpha, &self.down, &self.up].into_iter().flatten()
    }

    /// The pair, if both factors exist and have the shapes of the target; otherwise extends `mismatch`.
    fn fit(&self, module: &'f str, target: &Target, mismatch: &mut Mismatch) -> Option<Pair<'f>> {
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
        // The rank is that of the first factor that exists.
        let axis = |named: Option<Named>, i: usize| named.and_then(|n| n.tensor.shape.get(i).copied());
        let rank = axis(self.down, 0).or(axis(self.up, 1)).unwrap_or(1).max(1);
        let (down, up) = ([rank, target.cols], [target.rows.len(), rank]);
        hold(self.down, &|shape| shape == down, down.into());
        hold(self.up, &|shape| shape == up, up.into());
        hold(self.alpha, &|shape| matches!(shape, [] | [1]), vec![]);
        match (self.down, self.up) {
            (Some(down), Some(up)) => {
                let is_right = before == mismatch.missing.len() + mismatch.dtypes.len() + mismatch.shapes.len();
                let (target, down, up) = (target.clone(), down.tensor, up.tensor);
                is_right.then_some(Pair { target, rank, module, down, up, alpha: self.alpha })
            }
            _ => {
                mismatch.missing.extend(self.down.or(self.up).or(self.alpha).map(|named| named.key.partner()));
                None
            }
        }
    }
}

impl Pair<'_> {
    /// Alpha, if the file has a tensor for it.
    fn alpha(&self, bytes: &HostBytes) -> Result<Option<f32>> {
        self.alpha.map(|alpha| Ok(host(alpha.tensor, bytes)?.to_f32()[0])).transpose()
    }

    /// The factor of the product: `scale · alpha / rank`.
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

    /// Updates of canonical rows: one, or one for each half if the layout swaps the halves.
    fn patches(&self, bytes: &HostBytes, factor: f32) -> Result<Vec<Patch>> {
        let (down, up) = (host(self.down, bytes)?, host(self.up, bytes)?);
        let Range { start, end } = self.target.rows;
        if !self.target.is_swapped {
            return Ok(vec![Patch { rows: start..end, down, up, factor }]);
        }
        let half = (end - start) / 2;
        let (first, second) = (up.slice_rows(half..2 * half)?, up.slice_rows(0..half)?);
        let patch = |rows, up| Patch { rows, down: down.clone(), up, factor };
        Ok(vec![patch(start..start + half, first), patch(start + half..end, second)])
    }
}

fn host(stored: &StoredTensor, bytes: &HostBytes) -> Result<HostTensor> {
    let StoredDType::Known(dtype) = stored.dtype else { unreachable!("checked when its target was found") };
    Ok(HostTensor::new(dtype, stored.shape.clone(), bytes.slice(stored.range.clone()))?)
}

/// Why a file cannot be added to a model.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum LoraProblem {
    /// The file holds no tensors.
    #[error("holds no tensors")]
    Empty,
    /// LoRAs are read from safetensors files only.
    #[error("is a GGUF file, and LoRAs are read from safetensors files")]
    Gguf,
    /// Tensors of another kind of adapter, or for another network.
    #[error("`{}` belongs to {what}, which is not supported", Printable(name))]
    Unsupported {
        /// Name of such a tensor.
        name: String,
        /// What the tensor belongs to, with its article.
        what: &'static str,
    },
    /// A LoRA for a model of another architecture.
    #[error("looks like a LoRA for {family}: {mismatch}")]
    OtherFamily {
        /// Name of the architecture.
        family: &'static str,
        /// Tensors without a target.
        mismatch: Box<Mismatch>,
    },
    /// A LoRA for a model of another size.
    #[error("is a LoRA for {made_for}, of width {width}; this transformer has width {expected}")]
    OtherSize {
        /// A model that it fits.
        made_for: &'static str,
        /// Width of that model.
        width: usize,
        /// Width of the transformer it should be added to.
        expected: usize,
    },
    /// Tensors without a target, single factors, wrong shapes and element types; all of them.
    #[error("{0}")]
    Tensors(Box<Mismatch>),
    /// One factor occurs under two names.
    #[error("`{}` and `{}` are the same", Printable(first), Printable(second))]
    Twice {
        /// Its first name.
        first: String,
        /// Its second name.
        second: String,
    },
    /// The scale times alpha divided by the rank is not finite.
    #[error("`{}` would be multiplied by {factor}", Printable(module))]
    Factor {
        /// Name of the module.
        module: String,
        /// `scale · alpha / rank`.
        factor: f32,
    },
    /// The adapter's configuration in the metadata is not valid.
    #[error("its metadata `lora_adapter_metadata` are not valid: {}", Printable(message))]
    Metadata {
        /// What is wrong with it.
        message: String,
    },
    /// The metadata declare another rank than the tensors have.
    #[error("its metadata give `{}` rank {declared}, its tensors have rank {found}", Printable(module))]
    Rank {
        /// Name of the module.
        module: String,
        /// Rank in the metadata.
        declared: u64,
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
