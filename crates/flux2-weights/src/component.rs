//! One network's files, checked against its configuration and ready to be mapped.
//!
//! In:  a file or a folder of shards. Out: [`Component`], which knows for every canonical name the bytes it is made of.
//!
//! All checks happen in `checkpoint`. A mapped component hands out any tensor it lists without checking again.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use flux2_backend::host::{BlockScales, ByteOwner, Multipliers};
use flux2_backend::{DType, Format, HostBytes, HostTensor};
use sha2::{Digest as _, Sha256};

use crate::config::ExpectedTensor;
use crate::layout::{Layout, Rule};
use crate::location::Location;
use crate::lora;
use crate::tensor_file::TensorFile;
use crate::{Error, Result, WeightSource, synthetic};

mod checkpoint;
mod scales;

pub(crate) use checkpoint::{Checkpoint, Shapes, Wants};

/// A checked network of a checkpoint: its sizes, and where its weights are. Holds no weights until it is mapped.
#[derive(Clone, Debug)]
pub struct Component<C> {
    /// Sizes of the network.
    pub config: C,
    layout: Layout,
    files: Arc<Vec<TensorFile>>,
    plan: Arc<BTreeMap<String, Planned>>,
    passed_over: Vec<Location>,
}

impl<C> Component<C> {
    /// A network without files: `tensors` get random values when they are asked for.
    pub(super) fn synthetic(config: C, tensors: Vec<ExpectedTensor>) -> Self {
        let planned = |shape| Planned { shape, form: Form::Random, pieces: vec![] };
        let plan = tensors.into_iter().map(|(name, shape)| (name, planned(shape))).collect();
        Component {
            config,
            layout: Layout::Synthetic,
            files: Arc::default(),
            plan: Arc::new(plan),
            passed_over: vec![],
        }
    }

    /// A network of a published folder that is not on this disk, for dry runs.
    pub(super) fn published(config: C, tensors: Vec<ExpectedTensor>) -> Self {
        // The folder has q, k and v of a double block apart; they are joined in memory.
        let form = |name: &str| match name.starts_with("double.") && name.ends_with(".qkv") {
            true => Form::Blank(DType::Bf16),
            false => Form::InFile(DType::Bf16),
        };
        let planned = |name: &str, shape| Planned { shape, form: form(name), pieces: vec![] };
        let plan = tensors.into_iter().map(|(name, shape)| (name.clone(), planned(&name, shape))).collect();
        Component { plan: Arc::new(plan), ..Self::synthetic(config, vec![]) }
    }

    /// The naming scheme of its files.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Its files.
    pub fn files(&self) -> impl Iterator<Item = &Location> {
        self.files.iter().map(|file| &file.location)
    }

    /// Files beside them that are not used, as the network is whole without them.
    pub fn passed_over(&self) -> &[Location] {
        &self.passed_over
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
    /// and middle page, and of each file's length and times of change.
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
            Form::Blank(dtype) => return blank(dtype, &planned.shape, |zeros| Arc::new(zeros)),
            Form::InFile(dtype) => return blank(dtype, &planned.shape, |zeros| Arc::new(AsInFile(zeros))),
        };
        let mut pieces = planned.pieces.iter().map(|p| p.tensor(&self.maps)).collect::<Result<Vec<_>>>()?;
        let copied = match rule {
            Rule::Same(..) | Rule::Flatten(..) => return Ok(pieces.swap_remove(0)), // it has its canonical shape
            Rule::ConcatRows(..) => HostTensor::concat_rows(&pieces)?,
            Rule::SwapHalves(..) => {
                let [whole] = &pieces[..] else { unreachable!("one stored tensor is swapped") };
                let rows = planned.shape[0];
                HostTensor::concat_rows(&[whole.slice_rows(rows / 2..rows)?, whole.slice_rows(0..rows / 2)?])?
            }
        };
        pieces.iter().for_each(|piece| piece.bytes().release_pages()); // the values are in memory twice
        Ok(copied)
    }
}

/// Zeros. Nothing writes to them, so the system never commits their pages.
fn blank(dtype: DType, shape: &[usize], owned: impl Fn(Vec<u8>) -> Arc<dyn ByteOwner>) -> Result<HostTensor> {
    let zeros = vec![0u8; dtype.bytes(shape.iter().product())];
    Ok(HostTensor::new(dtype, shape, HostBytes::new(owned(zeros)))?)
}

/// Stands for a mapped file in a dry run.
struct AsInFile(Vec<u8>);

impl AsRef<[u8]> for AsInFile {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl ByteOwner for AsInFile {
    fn is_mapped(&self) -> bool {
        true
    }
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
    /// Zeros that count as mapped from a file, for a dry run.
    InFile(DType),
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
