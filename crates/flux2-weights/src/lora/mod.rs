//! LoRA: low-rank updates of the flow transformer's matrices, merged when it is loaded.
//!
//! In:  safetensors files of pairs `down` `[rank, in]` and `up` `[out, rank]`, in any dialect of names ([`keys`]).
//! Out: [`Lora`], which knows the rows of a canonical matrix for every pair, and [`WithLoras`], a [`WeightSource`] that
//!      hands out `W + Σ scale · alpha / rank · up · down`.
//!
//! Merging is the first thing that happens to a weight. It accepts every stored format, and quantization comes after
//! it. A file is refused if a single tensor has no target. Where nothing gives alpha it is the rank, and [`Strength`]
//! says so. Source of the formula: `LoraLayer` in PEFT; of alpha in metadata: `loaders/peft.py` in diffusers.

mod files;
mod keys;
mod merge;
mod problem;
mod scaling;

pub(super) use merge::merged_dtype;

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::Arc;

use flux2_backend::{DType, Format, HostBytes, HostTensor, Placement};
use flux2_base::digest::sha256;

use self::files::adapter_config;
pub(super) use self::files::file_of;
use self::keys::{Key, Role, Target, Targets};
pub use self::problem::LoraProblem;
pub use self::scaling::AlphaSource;
pub(super) use self::scaling::CONFIG_FILE;
use self::scaling::{Factor, Scaling};
use crate::config::TransformerConfig;
use crate::layout::lora::ALPHA;
use crate::location::Location;
use crate::mismatch::{Mismatch, WrongShape, nearest_name};
use crate::sizes::transformer_sizes;
use crate::tensor_file::{FileMetadata, StoredDType, StoredTensor, TensorFile};
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

/// `alpha / rank` of a LoRA's matrices, and where alpha comes from.
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
            least: values().fold(f32::INFINITY, f32::min),
            most: values().fold(f32::NEG_INFINITY, f32::max),
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
            (None, _) => f.write_str("as nothing gives alpha"),
        }
    }
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
        let factor = |(module, adapter): (&&str, &Adapter)| {
            let rank = *adapter.down?.tensor.shape.first().filter(|rank| **rank > 0)?;
            let alpha = adapter.alpha.and_then(|alpha| scalar(alpha.tensor, bytes));
            Some(factor(module, rank, alpha, scaling.as_ref()))
        };
        let factors = adapters.by_module.iter().filter_map(factor).collect::<Result<Vec<_>, _>>().map_err(refuse)?;
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
        let pairs = match adapters.fit(&targets) {
            Ok(pairs) => pairs,
            Err(mut mismatch) => {
                adapters.suggest_names(&targets, &mut mismatch);
                let other = adapters.made_for_another(config, &mismatch);
                return Err(refuse(other.unwrap_or_else(|| LoraProblem::Tensors(Box::new(mismatch)))));
            }
        };
        let beside = adapter_config(&file.location)?;
        let scaling = Scaling::of(metadata, beside.as_deref()).map_err(refuse)?;
        let mut patches: BTreeMap<String, Vec<Patch>> = BTreeMap::new();
        let mut factors = Vec::with_capacity(pairs.len());
        for pair in pairs {
            let of_pair = {
                let alpha = pair.alpha.and_then(|alpha| scalar(alpha.tensor, bytes));
                factor(pair.module, pair.rank, alpha, scaling.as_ref()).map_err(refuse)?
            };
            let factor = (f64::from(*scale) * of_pair.of_rank) as f32;
            if !factor.is_finite() {
                return Err(refuse(LoraProblem::Factor { module: pair.module.into(), factor }));
            }
            factors.push(of_pair);
            patches.entry(pair.target.canonical.clone()).or_default().extend(pair.patches(bytes, factor)?);
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

    fn placement(&self, name: &str) -> Placement {
        self.base.placement(name)
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
        for Named { name, tensor, key } in self.named() {
            let is_read = match key.role {
                Role::Alpha => scalar_reader(tensor.dtype).is_some(),
                _ => matches!(tensor.dtype, StoredDType::Known(DType::F32 | DType::F16 | DType::Bf16)),
            };
            if !is_read {
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
        hold(self.alpha, &|shape| shape.iter().all(|n| *n == 1), vec![]);
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

/// The factor of a product, before the scale: `alpha / rank`.
fn factor(module: &str, rank: usize, alpha: Option<f64>, scaling: Option<&Scaling>) -> Result<Factor, LoraProblem> {
    match (alpha, scaling) {
        (Some(alpha), _) => Ok(Factor { of_rank: alpha / rank as f64, source: Some(AlphaSource::Tensors) }),
        (None, Some(scaling)) => scaling.factor(module, rank),
        (None, None) => Ok(Factor { of_rank: 1.0, source: None }),
    }
}

/// The number in a tensor of one number.
fn scalar(stored: &StoredTensor, bytes: &HostBytes) -> Option<f64> {
    let read = scalar_reader(stored.dtype).filter(|_| stored.shape.iter().all(|n| *n == 1))?;
    Some(read(&bytes[stored.range.clone()]))
}

/// Reads a single number of `dtype` from its bytes; `None` for types that hold no such numbers.
fn scalar_reader(dtype: StoredDType) -> Option<fn(&[u8]) -> f64> {
    macro_rules! read {
        ($number:ty) => {
            Some(|bytes| <$number>::from_le_bytes(bytes.try_into().expect("one number")) as f64)
        };
    }
    match dtype {
        StoredDType::Known(DType::F32) => read!(f32),
        StoredDType::Known(DType::F16) => Some(|bytes| decoded(DType::F16, bytes)),
        StoredDType::Known(DType::Bf16) => Some(|bytes| decoded(DType::Bf16, bytes)),
        StoredDType::Known(DType::F8E4M3) => Some(|bytes| decoded(DType::F8E4M3, bytes)),
        StoredDType::Known(DType::I8) => read!(i8),
        StoredDType::Other("F64", _) => read!(f64),
        StoredDType::Other("I64", _) => read!(i64),
        StoredDType::Other("U64", _) => read!(u64),
        StoredDType::Other("I32", _) => read!(i32),
        StoredDType::Other("U32", _) => read!(u32),
        StoredDType::Other("I16", _) => read!(i16),
        StoredDType::Other("U16", _) => read!(u16),
        StoredDType::Other("U8", _) => read!(u8),
        _ => None,
    }
}

fn decoded(dtype: DType, bytes: &[u8]) -> f64 {
    let number = HostTensor::new(dtype, [1], HostBytes::new(Arc::new(bytes.to_vec())));
    f64::from(number.expect("one number").to_f32()[0])
}
