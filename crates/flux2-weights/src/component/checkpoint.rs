//! The files of a network before they are checked: opened, indexed by name, and matched with a configuration.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use flux2_backend::DType;
use flux2_base::Part;
use serde_json::Value;

use super::scales::DeclaredFormat;
use super::{Component, Form, Piece, Planned};
use crate::config::ExpectedTensor;
use crate::gguf::Metadata;
use crate::json::{ConfigProblem, Json};
use crate::layout::{Detected, Dialect, Rule, detect, networks, other_spellings, owner};
use crate::location::Location;
use crate::mismatch::{Mismatch, WrongShape, nearest_name};
use crate::tensor_file::{FileMetadata, Printable, StoredDType, StoredTensor, TensorFile};
use crate::{Error, MAX_INDEX_BYTES, Result};

/// All tensors of a network's files, under their stored names.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    /// The path that was passed in, for errors.
    location: Location,
    pub(crate) files: Vec<TensorFile>,
    /// Name of a tensor to the index of its file.
    index: BTreeMap<String, usize>,
    /// `config.json` beside the files.
    config: Option<Location>,
    /// Files of the folder that are not used, as its network is whole without them.
    passed_over: Vec<Location>,
}

impl Checkpoint {
    /// Opens a file, or the shards of a folder.
    pub fn open(location: &Location) -> Result<Self> {
        if !location.is_dir() {
            return Self::join(location, &location.parent(), std::slice::from_ref(location), None);
        }
        let index = index_file(location)?.map(|file| Json::read(&file, MAX_INDEX_BYTES)).transpose()?;
        let shards = match &index {
            Some(index) => shard_names(index)?.into_iter().map(|name| location.join(name)).collect(),
            None => match files_ending(location, ".safetensors")? {
                none if none.is_empty() => files_ending(location, ".gguf")?,
                files => {
                    let (used, passed_over) = one_network(files)?;
                    let joined = Self::join(location, location, &used, None)?;
                    return Ok(Checkpoint { passed_over, ..joined });
                }
            },
        };
        for shard in &shards {
            if !shard.exists()? {
                return Err(Error::PartMissing { what: "shard", path: shard.path().to_owned() });
            }
        }
        Self::join(location, location, &shards, index.as_ref())
    }

    fn join(location: &Location, folder: &Location, files: &[Location], shards: Option<&Json>) -> Result<Self> {
        if files.is_empty() {
            return Err(Error::NoWeights { path: location.path().to_owned() });
        }
        let files = files.iter().map(TensorFile::open).collect::<Result<Vec<_>>>()?;
        let mut index = BTreeMap::new();
        for (i, file) in files.iter().enumerate() {
            for name in file.tensors.keys() {
                if let Some(first) = index.insert(name.clone(), i) {
                    let (first, path) = (files[first].location.path().to_owned(), file.location.path().to_owned());
                    return Err(Error::TensorTwice { name: printable(name), first, path });
                }
            }
        }
        if let Some(map) = shards.and_then(|json| json.object.get("weight_map")).and_then(Value::as_object) {
            for (name, shard) in map {
                let found = index.get(name).map(|i| files[*i].location.path());
                if found.and_then(|p| p.file_name()) != shard.as_str().map(std::ffi::OsStr::new) {
                    let path = folder.path().join(shard.as_str().unwrap_or_default());
                    return Err(Error::ShardLacks { path, name: printable(name) });
                }
            }
        }
        let config = Some(folder.join("config.json")).filter(Location::is_file);
        Ok(Checkpoint { location: location.clone(), files, index, config, passed_over: Vec::new() })
    }

    /// What it is, judged by the names of its tensors.
    pub fn detect(&self) -> Option<Detected> {
        match detect(self.index.keys().map(String::as_str))? {
            Detected::Part(Part::Vae, dialect) => {
                Some(self.vae_of_others(&dialect).map_or(Detected::Part(Part::Vae, dialect), Detected::Other))
            }
            detected => Some(detected),
        }
    }

    /// The networks in it; several in a file of a whole model.
    pub fn parts(&self) -> Vec<Part> {
        self.networks().into_iter().map(|(part, _)| part).collect()
    }

    /// All tensors that are stored.
    pub fn tensors(&self) -> impl Iterator<Item = &StoredTensor> {
        self.index.iter().map(|(name, file)| &self.files[*file].tensors[name])
    }

    /// Files of the folder that are not used, as its network is whole without them.
    pub fn passed_over(&self) -> &[Location] {
        &self.passed_over
    }

    /// The tensors of one network, if there are several. Tensors of none stay with the first, which refuses them.
    pub fn only(mut self, wanted: Part) -> Self {
        let networks = self.networks();
        if networks.len() > 1 && networks.iter().any(|(part, _)| *part == wanted) {
            let first = networks[0].0;
            self.index.retain(|name, _| owner(&networks, name).unwrap_or(first) == wanted);
        }
        self
    }

    fn networks(&self) -> Vec<(Part, Dialect)> {
        networks(self.index.keys().map(String::as_str))
    }

    /// The family whose autoencoder it is, if it is not this one: those have other latents and no batch norm on them.
    fn vae_of_others(&self, dialect: &Dialect) -> Option<&'static str> {
        let has_norm = self.get(&dialect.find("bn.mean").1[0]).is_some();
        let (_, conv_in) = self.get(&dialect.find("decoder.conv_in.weight").1[0])?;
        match (has_norm, conv_in.shape.get(1)?) {
            (false, 4) => Some("the VAE of Stable Diffusion"),
            (false, 16) => Some("the VAE of FLUX.1 or Stable Diffusion 3"),
            _ => None,
        }
    }

    /// The name that a tensor has here.
    pub(super) fn spelled<'n>(&self, name: &'n str) -> Cow<'n, str> {
        let other = || other_spellings(name).find(|other| self.index.contains_key(other));
        match self.index.contains_key(name) {
            true => name.into(),
            false => other().map_or(name.into(), Cow::Owned),
        }
    }

    /// Which network of a model it is, if it is one.
    pub fn part(&self) -> Option<Part> {
        match self.detect() {
            Some(Detected::Part(part, _)) => Some(part),
            _ => None,
        }
    }

    /// The naming scheme of its tensors.
    ///
    /// # Errors
    /// [`Error::WrongPart`] unless it is the network `wanted`.
    pub fn dialect(&self, wanted: Part) -> Result<Dialect> {
        let wrong = |found: String| Error::WrongPart { path: self.location.path().to_owned(), found, wanted };
        match self.detect() {
            Some(Detected::Part(part, mut dialect)) if part == wanted => {
                let level = |i: usize| dialect.find(&format!("encoder.down.{i}.res.0.conv1.weight")).1;
                if part == Part::Vae {
                    let levels = (0..).take_while(|i| self.index.contains_key(&level(*i)[0])).count();
                    dialect.last_level = levels.saturating_sub(1);
                }
                Ok(dialect)
            }
            Some(Detected::Part(part, _)) => Err(wrong(format!("the {part}"))),
            Some(Detected::Lora) => Err(wrong("a LoRA".into())),
            Some(Detected::Other(what)) => Err(wrong(what.into())),
            None => Err(wrong("a file of unknown weights".into())),
        }
    }

    /// `config.json` beside the files, if it is that of `part`: a single file may lie in any folder.
    pub fn config(&self, part: Part) -> Result<Option<Json>> {
        let Some(file) = &self.config else { return Ok(None) };
        let json = Json::read(file, MAX_INDEX_BYTES)?;
        let (key, class) = match part {
            Part::Transformer => ("_class_name", "Flux2Transformer2DModel"),
            Part::TextEncoder => ("model_type", "qwen3"),
            Part::Vae => ("_class_name", "AutoencoderKLFlux2"),
        };
        match json.text(key) {
            Some(found) if found == class => Ok(Some(json)),
            _ if self.location.is_dir() => Err(json.error(key, class)),
            _ => Ok(None),
        }
    }

    /// Finds every tensor that the configuration asks for, and accounts for every tensor that is stored.
    pub fn plan<C>(self, config: C, wants: Wants) -> Result<Component<C>> {
        let mut planner = Planner {
            checkpoint: &self,
            wants: &wants,
            formats: self.formats()?,
            mismatch: Mismatch::default(),
            used: BTreeSet::new(),
        };
        let mut plan = BTreeMap::new();
        for (canonical, shape) in &wants.tensors {
            let (form, names) = wants.dialect.find(canonical);
            let stored_shape = stored_shape(&form, shape);
            let pieces = names.iter().filter_map(|name| planner.piece(name, &stored_shape, &form)).collect();
            plan.insert(canonical.clone(), Planned { shape: shape.clone(), form: Form::Stored(form), pieces });
        }
        if let Some(mismatch) = planner.finish() {
            return Err(Error::Tensors { path: self.location.path().to_owned(), mismatch: Box::new(mismatch) });
        }
        let layout = wants.dialect.layout;
        let Checkpoint { files, passed_over, .. } = self;
        Ok(Component { config, layout, files: Arc::new(files), plan: Arc::new(plan), passed_over })
    }

    pub(super) fn get(&self, name: &str) -> Option<(usize, &StoredTensor)> {
        let name = &*self.spelled(name);
        let file = *self.index.get(name)?;
        Some((file, &self.files[file].tensors[name]))
    }
}

/// Matches expected with stored tensors and records what does not fit.
pub(super) struct Planner<'a> {
    pub(super) checkpoint: &'a Checkpoint,
    pub(super) wants: &'a Wants,
    /// Storage formats that the files declare, by matrix.
    pub(super) formats: BTreeMap<String, DeclaredFormat>,
    pub(super) mismatch: Mismatch,
    pub(super) used: BTreeSet<String>,
}

impl Planner<'_> {
    /// The stored tensor `name` if its shape and dtype are right; otherwise records the mismatch.
    pub(super) fn piece(&mut self, name: &str, shape: &[usize], form: &Rule) -> Option<Piece> {
        let name = &*self.checkpoint.spelled(name);
        let Some((file, stored)) = self.checkpoint.get(name) else {
            self.mismatch.missing.push(name.to_owned());
            return None;
        };
        self.used.insert(name.to_owned());
        if let Some(format) = self.unsupported_format(name, stored.dtype) {
            self.mismatch.dtypes.push((name.to_owned(), format));
            return None;
        }
        // Check the dtype before the shape: a packed 4-bit matrix has the wrong shape only because of its dtype.
        let dtype = match stored.dtype {
            StoredDType::Known(dtype) => dtype,
            StoredDType::Other(..) => {
                if let (true, &[rows, cols]) = (self.is_nvfp4(name), shape) {
                    return self.nvfp4(name, [rows, cols]);
                }
                self.mismatch.dtypes.push((name.to_owned(), stored.dtype.to_string()));
                return None;
            }
        };
        let is_flat_conv =
            matches!(form, Rule::Flatten(..)) && stored.shape.strip_prefix(shape).is_some_and(|rest| rest == [1, 1]);
        if stored.shape != shape && !is_flat_conv {
            self.wrong_shape(name, &stored.shape, shape);
            return None;
        }
        let scales = match (dtype, shape) {
            (DType::F8E4M3 | DType::I8, &[rows, cols]) => self.scales(name, [rows, cols]),
            _ => None,
        };
        // fp8 values have a meaning without a scale; i8 values do not.
        if dtype == DType::I8 && scales.is_none() {
            self.mismatch.dtypes.push((name.to_owned(), "i8 without a scale".into()));
            return None;
        }
        Some(Piece { file, dtype, shape: shape.to_vec(), range: stored.range.clone(), scales })
    }

    pub(super) fn wrong_shape(&mut self, name: &str, found: &[usize], expected: &[usize]) {
        let (name, found, expected) = (name.to_owned(), found.to_vec(), expected.to_vec());
        self.mismatch.shapes.push(WrongShape { name, found, expected });
    }

    /// Everything that is missing, left over or wrong; `None` if nothing is.
    fn finish(mut self) -> Option<Mismatch> {
        let left = self.checkpoint.index.keys().filter(|n| !self.used.contains(*n) && !self.wants.is_unused(n));
        self.mismatch.unused = left.cloned().collect();
        if self.mismatch == Mismatch::default() {
            return None;
        }
        self.mismatch.suggest_names(self.used.iter());
        Some(self.mismatch)
    }
}

/// The tensors that a network must have.
pub(crate) struct Wants {
    pub dialect: Dialect,
    pub tensors: Vec<ExpectedTensor>,
    /// The first layer of the text encoder that is not loaded.
    pub layers_unused_from: usize,
    pub fp8_block: [usize; 2],
}

impl Wants {
    fn is_unused(&self, name: &str) -> bool {
        let layer = self.dialect.text_layer(name);
        self.dialect.is_unused(name) || layer.is_some_and(|l| l >= self.layers_unused_from)
    }
}

/// The shape of each stored piece of a canonical tensor.
fn stored_shape(form: &Rule, canonical: &[usize]) -> Vec<usize> {
    let mut shape = canonical.to_vec();
    if let Rule::ConcatRows(_, parts) = form {
        shape[0] /= parts.len();
    }
    shape
}

/// Stored shapes by canonical name, from which sizes are inferred where there is no configuration.
pub(crate) struct Shapes<'a> {
    pub checkpoint: &'a Checkpoint,
    pub dialect: &'a Dialect,
}

impl Shapes<'_> {
    pub fn path(&self) -> &Path {
        self.checkpoint.location.path()
    }

    /// Metadata of the first GGUF file.
    pub fn metadata(&self) -> Option<&Metadata> {
        self.checkpoint.files.iter().find_map(|file| match &file.metadata {
            FileMetadata::Gguf(metadata) => Some(metadata),
            FileMetadata::Safetensors(_) => None,
        })
    }

    /// Length of axis `axis` of a stored tensor with `axes` axes, from 1 to 2^24.
    pub fn axis(&self, canonical: &str, axes: usize, axis: usize) -> Result<usize> {
        let name = &self.dialect.find(canonical).1[0];
        let Some((_, stored)) = self.checkpoint.get(name) else {
            let nearest = nearest_name(name, self.checkpoint.index.keys().map(String::as_str));
            let nearest = nearest.map(|n| (name.clone(), n.to_owned())).into_iter().collect();
            let mismatch = Mismatch { missing: vec![name.clone()], nearest, ..Mismatch::default() };
            return Err(Error::Tensors { path: self.path().to_owned(), mismatch: Box::new(mismatch) });
        };
        // NVFP4 packs two values in a byte.
        let packed = if axis == 1 && self.checkpoint.is_nvfp4(name) { 2 } else { 1 };
        match stored.shape.get(axis).and_then(|n| n.checked_mul(packed)) {
            Some(n) if stored.shape.len() == axes && (1..=1 << 24).contains(&n) => Ok(n),
            _ => {
                let problem = ConfigProblem::Shape { tensor: name.clone(), shape: stored.shape.clone(), axes };
                Err(Error::Config { path: self.path().to_owned(), problem })
            }
        }
    }

    /// Counts `name(0)`, `name(1)`, ... up to the first that is missing.
    pub fn count(&self, name: impl Fn(usize) -> String) -> usize {
        (0..).take_while(|i| self.checkpoint.get(&self.dialect.find(&name(*i)).1[0]).is_some()).count()
    }
}

/// Names of weights that libraries look for in a folder, without extension.
const STANDARD: [&str; 2] = ["diffusion_pytorch_model", "model"];
/// Variants of such a file, as in `model.fp16.safetensors`, the one that is taken first.
const VARIANTS: [&str; 3] = ["bf16", "fp16", "fp32"];

/// The files that are read of a folder without an index, and those that are not. Beside a file (or shards) with a
/// standard name only those are read that complete it. Where none has a standard name and tensors occur twice, the
/// shortest name takes its place: what is appended tells a variant, as in `ae_fp8.safetensors`.
fn one_network(files: Vec<Location>) -> Result<(Vec<Location>, Vec<Location>)> {
    let mut sets: BTreeMap<String, Vec<Location>> = BTreeMap::new();
    for file in files {
        sets.entry(set_of(&file)).or_default().push(file);
    }
    let variants = || STANDARD.into_iter().flat_map(|name| VARIANTS.map(|variant| format!("{name}.{variant}")));
    let names_of = |files: &[Location]| -> Result<BTreeSet<String>> {
        let files = files.iter().map(TensorFile::open).collect::<Result<Vec<_>>>()?;
        Ok(files.into_iter().flat_map(|file| file.tensors.into_keys()).collect())
    };
    let shortest = || -> Result<Option<String>> {
        let (mut all, mut is_twice, mut shortest) = (BTreeSet::new(), false, None);
        for (name, files) in &sets {
            let names = names_of(files)?;
            let is_network = !networks(names.iter().map(String::as_str)).is_empty();
            if is_network && shortest.as_ref().is_none_or(|shortest: &String| name.len() < shortest.len()) {
                shortest = Some(name.clone());
            }
            let before = all.len() + names.len();
            all.extend(names);
            is_twice |= all.len() < before;
        }
        Ok(shortest.filter(|_| is_twice))
    };
    let standard = STANDARD.into_iter().map(str::to_owned).chain(variants()).find(|name| sets.contains_key(name));
    let wanted = match (sets.len(), standard) {
        (0 | 1, _) => None,
        (_, None) => shortest()?,
        (_, standard) => standard,
    };
    let Some(wanted) = wanted else { return Ok((sets.into_values().flatten().collect(), Vec::new())) };
    let mut used = sets.remove(&wanted).expect("just found");
    let own = names_of(&used)?;
    let own_networks = networks(own.iter().map(String::as_str));
    let mut passed_over = Vec::new();
    for files in sets.into_values() {
        let names = names_of(&files)?;
        let completes = |name: &String| own_networks.iter().any(|(_, dialect)| dialect.knows(name));
        let is_another = !networks(names.iter().map(String::as_str)).is_empty() || !names.is_disjoint(&own);
        match own_networks.is_empty() || !is_another && names.iter().any(completes) {
            true => used.extend(files),
            false => passed_over.extend(files),
        }
    }
    Ok((used, passed_over))
}

/// The name that the shards of a network share: that of the file without extension and without `-00001-of-00002`.
fn set_of(file: &Location) -> String {
    let name = file.path().file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let name = name.strip_suffix(".safetensors").unwrap_or(name);
    let is_number = |text: &str| text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
    let without_shard = || {
        let (rest, of) = name.rsplit_once("-of-")?;
        let (name, number) = rest.rsplit_once('-')?;
        (is_number(of) && is_number(number)).then_some(name)
    };
    without_shard().unwrap_or(name).to_owned()
}

/// Files of a folder whose names end with `ending`, in alphabetical order.
fn files_ending(folder: &Location, ending: &str) -> Result<Vec<Location>> {
    let mut files = folder.entries()?;
    files.retain(|file| {
        let name = file.path().file_name().and_then(|n| n.to_str()).unwrap_or_default();
        name.ends_with(ending) && !name.starts_with('.')
    });
    Ok(files)
}

/// The index of shards. Of several, the shortest name is the one without a variant such as `fp16`; that of a variant
/// is not used beside a file without.
fn index_file(folder: &Location) -> Result<Option<Location>> {
    let found = files_ending(folder, INDEX)?.into_iter().min_by_key(|file| file.path().as_os_str().len());
    let is_variant = |file: &Location| {
        let name = file.path().file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(INDEX));
        STANDARD.into_iter().any(|standard| {
            let is_of = name.is_some_and(|name| name.strip_prefix(standard).is_some_and(|it| it.starts_with('.')));
            is_of && folder.join(format!("{standard}.safetensors")).is_file()
        })
    };
    Ok(found.filter(|file| !is_variant(file)))
}

const INDEX: &str = ".safetensors.index.json";

/// File names in `weight_map`. Only plain names of files in this folder are accepted.
fn shard_names(index: &Json) -> Result<BTreeSet<String>> {
    let wrong = || index.error("weight_map", "an object of tensor names and file names in this folder");
    let map = index.get("weight_map").and_then(Value::as_object).ok_or_else(wrong)?;
    let plain =
        |name: &str| name.ends_with(".safetensors") && !name.starts_with('.') && !name.contains(['/', '\\', ':', '\0']);
    let mut names = BTreeSet::new();
    for shard in map.values() {
        match shard.as_str() {
            Some(name) if plain(name) => names.insert(name.to_owned()),
            _ => return Err(index.error_with("weight_map", shard, "a file name in this folder, *.safetensors")),
        };
    }
    Ok(names)
}

fn printable(name: &str) -> String {
    Printable(name).to_string()
}
