//! One network's files, checked against its configuration and ready to be mapped.
//!
//! In:  a file or a folder of shards. Out: [`Component`], which knows for every canonical name the bytes it is made of.
//!
//! All checks happen here. A mapped component hands out any tensor it lists without checking again.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use flux2_backend::host::{BlockScales, Multipliers};
use flux2_backend::{DType, Format, HostBytes, HostTensor};
use flux2_base::Part;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::config::ExpectedTensor;
use crate::gguf::Metadata;
use crate::json::{ConfigProblem, Json};
use crate::layout::{Detected, Dialect, Layout, Rule, detect};
use crate::location::Location;
use crate::lora;
use crate::mismatch::{Mismatch, WrongShape, nearest_name};
use crate::tensor_file::{FileMetadata, Printable, StoredDType, StoredTensor, TensorFile};
use crate::{Error, Result};
use crate::{MAX_INDEX_BYTES, WeightSource, synthetic};

mod scales;

/// A checked network of a checkpoint: its sizes, and where its weights are. Holds no weights until it is mapped.
#[derive(Clone, Debug)]
pub struct Component<C> {
    /// Sizes of the network.
    pub config: C,
    layout: Layout,
    files: Arc<Vec<TensorFile>>,
    plan: Arc<BTreeMap<String, Planned>>,
}

impl<C> Component<C> {
    /// A network without files: `tensors` get random values when they are asked for.
    pub(super) fn synthetic(config: C, tensors: Vec<ExpectedTensor>) -> Self {
        let planned = |shape| Planned { shape, form: Form::Random, pieces: vec![] };
        let plan = tensors.into_iter().map(|(name, shape)| (name, planned(shape))).collect();
        Component { config, layout: Layout::Synthetic, files: Arc::default(), plan: Arc::new(plan) }
    }

    /// The naming scheme of its files.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Canonical names of all tensors, in alphabetical order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.plan.keys().map(String::as_str)
    }

    /// Number of values in all tensors.
    pub fn parameters(&self) -> u64 {
        self.plan.values().map(|tensor| tensor.shape.iter().product::<usize>() as u64).sum()
    }

    /// The element type that takes the most bytes.
    pub fn dtype(&self) -> DType {
        let mut bytes: Vec<(DType, usize)> = Vec::new();
        for piece in self.plan.values().flat_map(|t| &t.pieces) {
            match bytes.iter_mut().find(|(d, _)| *d == piece.dtype) {
                Some((_, n)) => *n += piece.range.len(),
                None => bytes.push((piece.dtype, piece.range.len())),
            }
        }
        let of_none = if self.layout == Layout::Synthetic { DType::Bf16 } else { DType::F32 };
        bytes.into_iter().max_by_key(|(_, n)| *n).map_or(of_none, |(d, _)| d)
    }

    /// Every tensor with its shape and the dtype in which it is handed out.
    pub(super) fn tensors(&self) -> impl Iterator<Item = (&str, &[usize], DType)> {
        self.plan.iter().map(|(name, planned)| {
            let mut dtypes = planned.pieces.iter().map(|piece| piece.dtype);
            let first = dtypes.next().unwrap_or(DType::Bf16); // random values are bf16
            let dtype = if dtypes.all(|dtype| dtype == first) { first } else { DType::F32 };
            (name.as_str(), &planned.shape[..], dtype)
        })
    }

    /// Counts the matrices that `format` quantizes to blocks: those whose rows are not whole blocks, and all of them.
    pub fn not_whole_blocks(&self, format: impl Fn(&str) -> Format) -> (usize, usize) {
        let matrices = self.plan.iter().filter(|(_, planned)| planned.shape.len() == 2);
        let rounded = matrices.filter_map(|(name, planned)| Some((format(name).dtype()?, planned.shape[1])));
        rounded.fold((0, 0), |(left, all), (dtype, cols)| {
            (left + usize::from(!cols.is_multiple_of(dtype.block_len())), all + 1)
        })
    }

    /// Maps its files. They are unmapped when the result and every tensor taken from it are dropped.
    ///
    /// # Errors
    /// [`Error::FileChanged`] if a file is no longer the one that was checked; [`Error::Io`] if it cannot be opened.
    pub fn map(&self) -> Result<MappedWeights> {
        let maps = self.files.iter().map(TensorFile::bytes).collect::<Result<_>>()?;
        Ok(MappedWeights { maps, plan: Arc::clone(&self.plan) })
    }

    /// The same network for a dry run. Tensors that would need memory besides the mapped files are zeros: those that
    /// are assembled from several pieces, and those for which `changed` is true.
    pub(super) fn outline(&self, changed: impl Fn(&str) -> bool) -> Self
    where
        C: Clone,
    {
        let outline = |name: &str, planned: &Planned| {
            let form = match (&planned.form, &planned.pieces[..]) {
                (_, pieces) if changed(name) => {
                    Form::Blank(lora::merged_dtype(pieces.first().map_or(DType::Bf16, |p| p.dtype)))
                }
                (Form::Stored(Rule::ConcatRows(..) | Rule::SwapHalves(..)), [first, rest @ ..]) => {
                    let alike = rest.iter().all(|piece| piece.dtype == first.dtype) && first.scales.is_none();
                    Form::Blank(if alike { first.dtype } else { DType::F32 })
                }
                (Form::Random, _) => Form::Blank(DType::Bf16),
                (form, _) => form.clone(),
            };
            Planned { form, ..planned.clone() }
        };
        let plan = self.plan.iter().map(|(name, planned)| (name.clone(), outline(name, planned))).collect();
        Component { plan: Arc::new(plan), ..self.clone() }
    }

    /// Identifies these weights without reading all of them: SHA-256 of each tensor's name, form, dtype, shape, offset
    /// and middle [`SAMPLE_BYTES`], and of each file's length and times of change.
    ///
    /// Misses a change outside the samples that keeps length and times.
    ///
    /// # Errors
    /// As [`map`](Self::map).
    pub fn fingerprint(&self) -> Result<[u8; 32]> {
        let MappedWeights { maps, plan } = self.map()?;
        let mut sha = Sha256::new();
        for file in self.files.iter() {
            sha.update(file.state() + "\n");
        }
        for (name, Planned { shape, form, pieces }) in plan.iter() {
            sha.update(format!("{name} {shape:?} {form:?}\n"));
            pieces.iter().for_each(|piece| piece.sample(&maps, &mut sha));
        }
        Ok(sha.finalize().into())
    }
}

/// Bytes of each tensor that enter a fingerprint: one page.
const SAMPLE_BYTES: usize = 4096;

/// The weights of a component, mapped into memory.
#[derive(Debug)]
pub struct MappedWeights {
    maps: Vec<HostBytes>,
    plan: Arc<BTreeMap<String, Planned>>,
}

impl WeightSource for MappedWeights {
    fn tensor(&self, name: &str) -> Result<HostTensor> {
        let planned = self.plan.get(name).ok_or_else(|| Error::UnknownWeight { name: name.into() })?;
        let rule = match planned.form {
            Form::Stored(rule) => rule,
            Form::Random => return synthetic::tensor(name, &planned.shape),
            Form::Blank(dtype) => return blank(dtype, &planned.shape),
        };
        let mut pieces = planned.pieces.iter().map(|p| p.tensor(&self.maps)).collect::<Result<Vec<_>>>()?;
        Ok(match rule {
            Rule::Same(..) | Rule::Flatten(..) => pieces.swap_remove(0), // a piece already has its canonical shape
            Rule::ConcatRows(..) => {
                let joined = HostTensor::concat_rows(&pieces)?;
                pieces.iter().for_each(|piece| piece.bytes().release_pages()); // the values were copied
                joined
            }
            Rule::SwapHalves(..) => {
                let [whole] = &pieces[..] else { unreachable!("one stored tensor is swapped") };
                let rows = planned.shape[0];
                HostTensor::concat_rows(&[whole.slice_rows(rows / 2..rows)?, whole.slice_rows(0..rows / 2)?])?
            }
        })
    }
}

/// Zeros in pages that the system never has to provide, as nothing writes to them.
fn blank(dtype: DType, shape: &[usize]) -> Result<HostTensor> {
    let bytes = vec![0u8; dtype.bytes(shape.iter().product())];
    Ok(HostTensor::new(dtype, shape, HostBytes::new(Arc::new(bytes)))?)
}

/// A canonical tensor and the pieces it is made of.
#[derive(Clone, Debug)]
struct Planned {
    shape: Vec<usize>,
    form: Form,
    pieces: Vec<Piece>,
}

/// How the values of a canonical tensor are obtained.
#[derive(Clone, Debug)]
enum Form {
    /// Stored pieces, assembled by a rule.
    Stored(Rule),
    /// Random, see [`synthetic`].
    Random,
    /// Zeros, for a dry run.
    Blank(DType),
}

/// One stored tensor with its scales.
#[derive(Clone, Debug)]
struct Piece {
    file: usize,
    dtype: DType,
    shape: Vec<usize>,
    range: Range<usize>,
    scales: Option<Scales>,
}

/// Where the scales of a matrix are.
#[derive(Clone, Debug)]
enum Scales {
    /// One scale for each block.
    Blocks { values: Box<Piece>, block: [usize; 2] },
    /// NVFP4: one scale for 16 columns of a row, in the tiled order of tensor cores, and one for the matrix.
    Tiles { values: Box<Piece>, whole: Box<Piece> },
}

impl Piece {
    /// Hashes its description and bytes of its middle; all bytes if they are few.
    fn sample(&self, maps: &[HostBytes], sha: &mut Sha256) {
        let Piece { file, dtype, shape, range, scales } = self;
        sha.update(format!("{file} {dtype} {shape:?} {range:?}\n"));
        let len = range.len().min(SAMPLE_BYTES);
        sha.update(&maps[*file][range.start + (range.len() - len) / 2..][..len]);
        match scales {
            None => {}
            Some(Scales::Blocks { values, block }) => {
                sha.update(format!("scales {block:?}\n"));
                values.sample(maps, sha);
            }
            Some(Scales::Tiles { values, whole }) => {
                sha.update("tiles\n");
                values.sample(maps, sha);
                whole.sample(maps, sha);
            }
        }
    }

    fn tensor(&self, maps: &[HostBytes]) -> Result<HostTensor> {
        let bytes = maps[self.file].slice(self.range.clone());
        let tensor = HostTensor::new(self.dtype, self.shape.clone(), bytes)?;
        Ok(match &self.scales {
            None => tensor,
            Some(Scales::Blocks { values, block }) => {
                let values = values.tensor(maps)?.to_f32().into();
                tensor.with_scales(BlockScales { values, block: *block })?
            }
            Some(Scales::Tiles { values, whole }) => {
                let [rows, cols] = [self.shape[0], self.shape[1] / scales::TILE_COLUMNS];
                let values = scales::in_order(values.tensor(maps)?.bytes(), rows, cols);
                let values = Multipliers::F8E4M3(values.into(), whole.tensor(maps)?.to_f32()[0]);
                tensor.with_scales(BlockScales { values, block: [1, scales::TILE_COLUMNS] })?
            }
        })
    }
}

// ---- opening ----

/// All tensors of a network's files, under their stored names.
#[derive(Debug)]
pub(super) struct Checkpoint {
    /// The path that was passed in, for errors.
    location: Location,
    pub(super) files: Vec<TensorFile>,
    /// Name of a tensor to the index of its file.
    index: BTreeMap<String, usize>,
    /// `config.json` beside the files.
    config: Option<Location>,
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
                shards => shards,
            },
        };
        if shards.is_empty() {
            return Err(Error::NoWeights { path: location.path().to_owned() });
        }
        for shard in &shards {
            if !shard.exists()? {
                return Err(Error::PartMissing { what: "shard", path: shard.path().to_owned() });
            }
        }
        Self::join(location, location, &shards, index.as_ref())
    }

    fn join(location: &Location, folder: &Location, files: &[Location], shards: Option<&Json>) -> Result<Self> {
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
        Ok(Checkpoint { location: location.clone(), files, index, config })
    }

    /// What it is, judged by the names of its tensors.
    pub fn detect(&self) -> Option<Detected> {
        detect(|name| self.index.contains_key(name), self.index.keys().map(String::as_str))
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
            None => Err(wrong("no model this program knows".into())),
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
        Ok(Component { config, layout, files: Arc::new(self.files), plan: Arc::new(plan) })
    }

    fn get(&self, name: &str) -> Option<(usize, &StoredTensor)> {
        let file = *self.index.get(name)?;
        Some((file, &self.files[file].tensors[name]))
    }
}

/// Matches expected with stored tensors and records what does not fit.
struct Planner<'a> {
    checkpoint: &'a Checkpoint,
    wants: &'a Wants,
    /// Storage formats that the files declare, by matrix.
    formats: BTreeMap<String, scales::DeclaredFormat>,
    mismatch: Mismatch,
    used: BTreeSet<String>,
}

impl Planner<'_> {
    /// The stored tensor `name` if its shape and dtype are right; otherwise records the mismatch.
    fn piece(&mut self, name: &str, shape: &[usize], form: &Rule) -> Option<Piece> {
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

    fn wrong_shape(&mut self, name: &str, found: &[usize], expected: &[usize]) {
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
pub(super) struct Wants {
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
pub(super) struct Shapes<'a> {
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

// ---- folders ----

/// Files of a folder whose names end with `ending`, in alphabetical order.
fn files_ending(folder: &Location, ending: &str) -> Result<Vec<Location>> {
    let mut files = folder.entries()?;
    files.retain(|file| {
        let name = file.path().file_name().and_then(|n| n.to_str()).unwrap_or_default();
        name.ends_with(ending) && !name.starts_with('.')
    });
    Ok(files)
}

/// The index of shards. Of several, the shortest name is the one without a variant such as `fp16`.
fn index_file(folder: &Location) -> Result<Option<Location>> {
    let found = files_ending(folder, ".safetensors.index.json")?;
    Ok(found.into_iter().min_by_key(|file| file.path().as_os_str().len()))
}

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
