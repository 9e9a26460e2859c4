//! A model in another number format, as files that open as it does.
//!
//! In:  a model or one of its networks, as [`ModelFiles`] opens it. Out: a folder in the layout of diffusers, or one file.
//!
//! Tensors are rounded and written piece by piece, so no network is in memory as a whole. What is being written is called
//! `.NAME.part` and gets its name when it is whole and on the disk. Beside a file that grows lies a list of the digests of
//! its finished tensors: whoever starts the same conversion again keeps those whose bytes still have them, and finished
//! files of a folder if they begin with the header they should and have the length it implies. The header names source,
//! format and program, so a part of another conversion is never gone on with. A lock keeps a second conversion to the same
//! place out as long as one runs. A folder that is replaced is `.NAME.old` until the new one has its name.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::num::NonZeroUsize;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Instant;

use flux2_backend::host::BlockScales;
use flux2_backend::{DType, Format, HostTensor, encode};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::component::{Checkpoint, Component, MappedWeights};
use super::config::{Json, TextConfig, TransformerConfig, Untold, VaeConfig};
use super::gguf;
use super::layout::{Dialect, Layout, Part, Rule};
use super::location::Location;
use super::model_files::{ModelFiles, ModelPaths};
use super::quantize::is_rounded;
use super::safetensors;
use super::tensor_file::NewTensor;
use super::{MAX_INDEX_BYTES, WeightSource};
use crate::event::{Bytes, CancelToken, Event, FilesEvent, Observer};
use crate::{Error, Result};

/// Values that are decoded at a time.
const PIECE: usize = 4 << 20;
/// Bytes that are read or written at a time.
const BUFFER: usize = 1 << 20;

/// What to make of what.
#[derive(Clone, Debug)]
pub struct Conversion {
    /// A folder with `model_index.json`, or one network, file or folder.
    pub model: Location,
    /// Only this network, as one file; `None` is all there is.
    pub part: Option<Part>,
    /// What weights become: see [`Precision`](super::Precision) for which of them. `Bf16` and `Int8` are written as safetensors,
    /// `Q8_0` and `Q4K` as GGUF files.
    pub format: Format,
    /// The folder or file to be made.
    pub out: PathBuf,
    /// Whether what is there may be replaced.
    pub replace: bool,
    /// Threads that round; `None` is as many as this process may use.
    pub threads: Option<NonZeroUsize>,
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Converted {
    /// Bytes of the networks that were written or found.
    pub bytes: u64,
    /// Matrices that are in the format asked for; of the VAE kernels too.
    pub rounded: usize,
    /// Matrices that should be and have rows that are not whole blocks.
    pub left: usize,
}

/// Why a conversion was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConvertProblem {
    /// It has a name already.
    #[error("{} is there already", path.display())]
    Exists {
        /// What was to be made.
        path: PathBuf,
    },
    /// A folder that is to be replaced and is no model.
    #[error("{} is there already, and is no model", path.display())]
    NoModel {
        /// What was to be made.
        path: PathBuf,
    },
    /// In and out are one, or one lies in the other.
    #[error("{} is what is to be converted, lies in it or holds it", path.display())]
    IsSource {
        /// What was to be made.
        path: PathBuf,
    },
    /// A network whose configuration says what nobody would know of the file without it.
    #[error("`{key}` is {found}, and a file of the {part} alone would be loaded with {taken}")]
    Untold {
        /// Which network.
        part: Part,
        /// Key of the configuration.
        key: &'static str,
        /// What it says.
        found: String,
        /// What counts where nothing is said.
        taken: String,
    },
    /// A format that the autoencoder is not rounded to.
    #[error("the VAE has no matrices to round to {format}")]
    Vae {
        /// Which.
        format: DType,
    },
    /// Nothing to round to.
    #[error("a conversion needs a format")]
    NoFormat,
    /// The disk is too small.
    #[error("the disk of {} has {} free, {} are needed", path.display(), Bytes(*free), Bytes(*needed))]
    DiskFull {
        /// Where it was to be made.
        path: PathBuf,
        /// Bytes needed.
        needed: u64,
        /// Bytes free.
        free: u64,
    },
    /// Somebody else is at it.
    #[error("another conversion writes {}", path.display())]
    Busy {
        /// What is being made.
        path: PathBuf,
    },
}

impl ConvertProblem {
    pub(crate) fn hint(&self) -> &'static str {
        match self {
            ConvertProblem::Exists { .. } => "name another place, or add --force to replace it",
            ConvertProblem::NoModel { .. } => "name another place: only a folder with model_index.json is replaced",
            ConvertProblem::IsSource { .. } => "name another place",
            ConvertProblem::Untold { .. } => "convert the whole model: its folder keeps the configuration",
            ConvertProblem::Vae { .. } => "use --to bf16, or leave it as it is: it is a small part of a model",
            ConvertProblem::NoFormat => "use bf16, int8, q8_0 or q4_k",
            ConvertProblem::DiskFull { .. } => "free some room, or name a place on another disk",
            ConvertProblem::Busy { .. } => "wait for it, or name another place",
        }
    }
}

fn refuse<T>(problem: ConvertProblem) -> Result<T> {
    Err(Error::Convert(problem))
}

impl Conversion {
    /// Convert, or go on where this conversion stopped.
    ///
    /// # Errors
    /// As [`ModelFiles::open`] for what is read; [`Error::Convert`] if nothing can be made there; [`Error::Cancelled`], which
    /// leaves what is done for the next time, as does [`Error::Io`].
    pub fn run(&self, observer: &mut dyn Observer, cancel: &CancelToken) -> Result<Converted> {
        let Some(dtype) = self.format.dtype() else { return refuse(ConvertProblem::NoFormat) };
        let is_model = self.part.is_none() && self.model.join("model_index.json").is_file();
        self.check_out(is_model)?;
        let files = if is_model { self.model_files()? } else { vec![self.network_file(dtype)?] };
        let total = files.iter().map(NewFile::bytes).sum();
        let _lock = Lock::of(&self.out)?;
        self.put_back()?;
        self.check_out(is_model)?; // nobody else changes it from here on
        let work = sibling(&self.out, ".part");
        if is_model {
            fs::create_dir_all(&work).map_err(|e| io_error(&work, e))?;
        }
        let in_work = |file: &NewFile| if is_model { work.join(&file.path) } else { self.out.clone() };
        let here: u64 = files.iter().map(|file| file.here(&in_work(file), is_model)).sum();
        make_room(&work, total - here)?;

        observer.on_event(&Event::Files(FilesEvent::Started { files: files.len(), done: 0, total }));
        let mut progress = Progress { done: 0, observer, cancel };
        let result = files.iter().try_for_each(|file| file.write(&in_work(file), is_model, &mut progress));
        progress.observer.on_event(&Event::Files(FilesEvent::Finished));
        result?;
        if is_model {
            let wanted = files.iter().map(|file| work.join(&file.path)).collect::<Vec<_>>();
            remove_others(&work, &wanted)?;
            self.put_folder(&work)?;
        }
        let mut converted = Converted { bytes: total, ..Converted::default() };
        for network in
            files.iter().filter_map(|file| if let Content::Network(n) = &file.content { Some(n) } else { None })
        {
            converted.rounded += network.rounded;
            converted.left += network.left;
        }
        Ok(converted)
    }

    /// Whether anything may be made there.
    fn check_out(&self, is_model: bool) -> Result<()> {
        let path = self.out.clone();
        if let (Some(from), Some(to)) = (self.model.canonical(), canonical(&path))
            && (from.starts_with(&to) || to.starts_with(&from))
        {
            return refuse(ConvertProblem::IsSource { path });
        }
        match path.symlink_metadata() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(io_error(&path, e)),
            Ok(_) if !self.replace => refuse(ConvertProblem::Exists { path }),
            Ok(_) if path.is_dir() && !path.join("model_index.json").is_file() => {
                refuse(ConvertProblem::NoModel { path })
            }
            Ok(_) if path.is_dir() && !is_model => refuse(ConvertProblem::Exists { path }),
            Ok(_) => Ok(()),
        }
    }

    /// All files of a model in the layout of diffusers.
    fn model_files(&self) -> Result<Vec<NewFile>> {
        let files = ModelFiles::open(&ModelPaths { model: self.model.clone(), ..ModelPaths::default() })?;
        let packed = is_gguf(self.format);
        let ending = if packed { "gguf" } else { "safetensors" };
        let (for_transformer, for_text) =
            if packed { (Layout::Bfl, Layout::LlamaCpp) } else { (Layout::Diffusers, Layout::HuggingFace) };
        let mut all = vec![];
        let mut copy = |path: &str, content: fn(Location) -> Content| {
            let from = self.model.join(path);
            if from.is_file() {
                all.push(NewFile { path: path.into(), content: content(from) });
            }
        };
        for path in ["model_index.json", "transformer/config.json", "scheduler/scheduler_config.json"] {
            copy(path, Content::Copy);
        }
        copy("text_encoder/config.json", Content::TextConfig);
        // The one that is read may lie with the text encoder.
        let tokenizer = "tokenizer/tokenizer.json";
        all.extend(files.tokenizer.map(|from| NewFile { path: tokenizer.into(), content: Content::Copy(from) }));
        for folder in ["tokenizer", "vae"] {
            let folder_at = self.model.join(folder);
            for file in if folder_at.is_dir() { folder_at.entries()? } else { vec![] } {
                let name = file.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
                let path = format!("{folder}/{name}");
                let is_hidden = name.starts_with('.');
                if file.is_file() && !is_hidden && path != tokenizer {
                    all.push(NewFile { path, content: Content::Copy(file) });
                }
            }
        }
        let has_config = |folder: &str| self.model.join(folder).join("config.json").is_file();
        let transformer = Network::transformer(self, &files.transformer, for_transformer, has_config("transformer"))?;
        let text_encoder = Network::text_encoder(self, &files.text_encoder, for_text, has_config("text_encoder"))?;
        for (stem, network) in
            [("transformer/diffusion_pytorch_model", transformer), ("text_encoder/model", text_encoder)]
        {
            all.push(NewFile { path: format!("{stem}.{ending}"), content: Content::Network(Box::new(network)) });
        }
        Ok(all)
    }

    /// One network as one file.
    fn network_file(&self, dtype: DType) -> Result<NewFile> {
        let packed = is_gguf(self.format);
        let network = if self.model.join("model_index.json").is_file() {
            let files = ModelFiles::open(&ModelPaths { model: self.model.clone(), ..ModelPaths::default() })?;
            match self.part.expect("without one it is a whole model") {
                Part::Transformer => Network::transformer(self, &files.transformer, Layout::Bfl, false),
                Part::TextEncoder => Network::text_encoder(self, &files.text_encoder, text_layout(packed), false),
                Part::Vae => Network::vae(self, &files.vae, dtype),
            }
        } else {
            if !self.model.exists()? {
                return Err(Error::ModelMissing { path: self.model.path().to_owned() });
            }
            let part = match self.part {
                Some(part) => part,
                // The error of what is none of them is that of a model.
                None => Checkpoint::open(&self.model)?.part().unwrap_or(Part::Transformer),
            };
            match part {
                Part::Transformer => {
                    let component = Component::<TransformerConfig>::open(self.model.clone())?;
                    Network::transformer(self, &component, Layout::Bfl, false)
                }
                Part::TextEncoder => {
                    let component = Component::<TextConfig>::open(self.model.clone())?;
                    Network::text_encoder(self, &component, text_layout(packed), false)
                }
                Part::Vae => Network::vae(self, &Component::<VaeConfig>::open(self.model.clone())?, dtype),
            }
        }?;
        let path = self.out.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(NewFile { path, content: Content::Network(Box::new(network)) })
    }

    /// Give the finished folder its name.
    fn put_folder(&self, work: &Path) -> Result<()> {
        let old = sibling(&self.out, ".old");
        let is_there = self.out.symlink_metadata().is_ok();
        if is_there {
            fs::rename(&self.out, &old).map_err(|e| io_error(&self.out, e))?;
        }
        let put = fs::rename(work, &self.out).map_err(|e| io_error(&self.out, e));
        if put.is_err() && is_there {
            fs::rename(&old, &self.out).map_err(|e| io_error(&old, e))?;
        }
        put?;
        sync_folder(&self.out);
        if is_there { remove(&old) } else { Ok(()) }
    }

    /// Clean up after a process that ended in the middle of [`put_folder`](Self::put_folder): what was to be replaced has its
    /// name again if nothing else has, and goes otherwise.
    fn put_back(&self) -> Result<()> {
        let old = sibling(&self.out, ".old");
        let is_there = |path: &Path| path.symlink_metadata().is_ok();
        match is_there(&old) {
            true if is_there(&self.out) => remove(&old),
            true => fs::rename(&old, &self.out).map_err(|e| io_error(&old, e)),
            false => Ok(()),
        }
    }
}

/// Keeps every other conversion to one place out as long as it lives.
struct Lock {
    path: PathBuf,
    file: File,
}

impl Lock {
    fn of(out: &Path) -> Result<Self> {
        let path = sibling(out, ".lock");
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            fs::create_dir_all(folder).map_err(|e| io_error(folder, e))?;
        }
        let open = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
        let file = open.map_err(|e| io_error(&path, e))?;
        let is_free = match file.try_lock() {
            Err(fs::TryLockError::WouldBlock) => false,
            // A file system without locks: as if nobody else were there.
            Ok(()) | Err(fs::TryLockError::Error(_)) => is_at(&file, &path),
        };
        if is_free { Ok(Lock { path, file }) } else { refuse(ConvertProblem::Busy { path: out.to_owned() }) }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // While it is held: who opened it before and locks it afterwards finds that it is gone.
        let _ = fs::remove_file(&self.path);
        let _ = self.file.unlock();
    }
}

/// Whether `path` still leads to `file`.
fn is_at(file: &File, path: &Path) -> bool {
    let (Ok(file), Ok(there)) = (file.metadata(), path.metadata()) else { return false };
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt as _;
        (file.dev(), file.ino()) == (there.dev(), there.ino())
    }
    #[cfg(not(unix))]
    {
        file.is_file() && there.is_file()
    }
}

fn is_gguf(format: Format) -> bool {
    matches!(format, Format::Q8_0 | Format::Q4K)
}

fn text_layout(packed: bool) -> Layout {
    if packed { Layout::LlamaCpp } else { Layout::HuggingFace }
}

// ---- what is in a network's file ----

/// A network as it will be written.
struct Network {
    weights: MappedWeights,
    header: Vec<u8>,
    /// Where tensors begin, from the end of the header.
    alignment: usize,
    tensors: Vec<Outgoing>,
    rounded: usize,
    left: usize,
    threads: Option<NonZeroUsize>,
}

/// A tensor of the file, or two: an I8 matrix is followed by its scales.
struct Outgoing {
    /// Of the canonical tensor it is made of, those rows, in this order; the second are often none.
    canonical: String,
    rows: [Range<usize>; 2],
    new: NewTensor,
    scales: Option<NewTensor>,
}

impl Network {
    /// `has_config`: a configuration goes with it.
    fn transformer(
        to: &Conversion,
        from: &Component<TransformerConfig>,
        layout: Layout,
        has_config: bool,
    ) -> Result<Self> {
        refuse_untold(Part::Transformer, from.config.untold().filter(|_| !has_config))?;
        let packed = is_gguf(to.format);
        // The architecture by which other programs know FLUX.2 as well: they tell the two by names of tensors.
        let metadata = if packed { vec![("general.architecture", gguf::Value::from("flux"))] } else { vec![] };
        Self::new(to, from, Part::Transformer, layout, metadata)
    }

    fn text_encoder(to: &Conversion, from: &Component<TextConfig>, layout: Layout, has_config: bool) -> Result<Self> {
        let c = &from.config;
        refuse_untold(Part::TextEncoder, c.untold().filter(|_| !has_config && !is_gguf(to.format)))?;
        let metadata = vec![
            ("general.architecture", gguf::Value::from("qwen3")),
            ("qwen3.block_count", c.used_layers().into()),
            ("qwen3.context_length", 40_960.into()),
            ("qwen3.embedding_length", c.hidden.into()),
            ("qwen3.feed_forward_length", c.intermediate.into()),
            ("qwen3.attention.head_count", c.heads.into()),
            ("qwen3.attention.head_count_kv", c.kv_heads.into()),
            ("qwen3.attention.key_length", c.head_dim.into()),
            ("qwen3.attention.value_length", c.head_dim.into()),
            ("qwen3.attention.layer_norm_rms_epsilon", gguf::Value::F32(c.rms_eps)),
            ("qwen3.rope.freq_base", gguf::Value::F32(c.rope_theta as f32)),
        ];
        Self::new(to, from, Part::TextEncoder, layout, if is_gguf(to.format) { metadata } else { vec![] })
    }

    fn vae(to: &Conversion, from: &Component<VaeConfig>, dtype: DType) -> Result<Self> {
        match to.format {
            Format::Bf16 => {
                refuse_untold(Part::Vae, from.config.untold())?;
                Self::new(to, from, Part::Vae, Layout::Diffusers, vec![])
            }
            _ => refuse(ConvertProblem::Vae { format: dtype }),
        }
    }

    fn new<C>(
        to: &Conversion,
        from: &Component<C>,
        part: Part,
        layout: Layout,
        mut metadata: Vec<(&'static str, gguf::Value)>,
    ) -> Result<Self> {
        let dialect = Dialect::of(part, layout).expect("networks are written in layouts they have");
        let packed = is_gguf(to.format);
        let (mut rounded, mut left, mut tensors) = (0, 0, vec![]);
        for (name, shape, stored) in from.tensors() {
            let is_matrix = shape.len() == 2;
            let is_wanted = match part {
                Part::Vae => shape.len() > 1,
                _ => is_matrix && is_rounded(to.format, part, name),
            };
            let wanted = to.format.dtype().filter(|_| is_wanted);
            let fits = |dtype: &DType| shape[shape.len() - 1].is_multiple_of(dtype.block_len());
            let dtype = match wanted.filter(fits) {
                Some(dtype) => {
                    rounded += 1;
                    dtype
                }
                None => {
                    left += usize::from(wanted.is_some());
                    match stored {
                        // What has no block, in f32 where other programs read GGUF files: they add to it in f32.
                        _ if !is_matrix && packed => DType::F32,
                        DType::F32 | DType::F16 | DType::Bf16 => stored,
                        _ if !is_matrix => DType::F32,
                        // Blocks stay; what else is packed is packed as no GGUF file has it, or with scales beside it.
                        _ if packed && stored.block_len() > 1 && stored != DType::F4E2M1 => stored,
                        _ => DType::Bf16,
                    }
                }
            };
            tensors.extend(outgoing(&dialect, name, shape, dtype));
        }
        let news: Vec<NewTensor> =
            tensors.iter().flat_map(|t| [Some(&t.new), t.scales.as_ref()]).flatten().cloned().collect();
        let origin = [
            ("dj-flux2.version", env!("CARGO_PKG_VERSION").to_owned()),
            ("dj-flux2.source", to.model.stem().unwrap_or_default()),
            ("dj-flux2.source_fingerprint", hex(&from.fingerprint()?)),
            ("dj-flux2.format", to.format.dtype().map_or(String::new(), |dtype| dtype.to_string())),
        ];
        let (header, alignment) = match packed {
            true => {
                metadata.push(("general.quantization_version", 2.into()));
                metadata.extend(origin.map(|(key, value)| (key, gguf::Value::Text(value))));
                (gguf::header(&news, &metadata), gguf::ALIGNMENT as usize)
            }
            false => {
                let format = [("format", "pt".to_owned())];
                (safetensors::header(&news, &[&format[..], &origin].concat()), 1)
            }
        };
        Ok(Network { weights: from.map()?, header, alignment, tensors, rounded, left, threads: to.threads })
    }

    /// Length of the whole file.
    fn bytes(&self) -> u64 {
        (self.header.len() + self.tensors.iter().map(|t| self.size(t)).sum::<usize>()) as u64
    }

    /// Bytes of a tensor, its scales, and what fills up to the next.
    fn size(&self, tensor: &Outgoing) -> usize {
        let scales = tensor.scales.as_ref().map_or(0, NewTensor::bytes);
        (tensor.new.bytes() + scales).next_multiple_of(self.alignment)
    }

    /// The bytes of a tensor, and all that `size` counts, in pieces.
    fn encode(&self, tensor: &Outgoing, each: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let Outgoing { canonical, rows, new, scales } = tensor;
        let host = self.weights.tensor(canonical)?;
        let (mut all_scales, mut written) = (vec![], 0);
        let mut put = |bytes: &[u8]| {
            written += bytes.len();
            each(bytes)
        };
        if host.shape().len() == 2 {
            let at_once = (PIECE / host.shape()[1].max(1)).max(1);
            for range in rows {
                for from in range.clone().step_by(at_once) {
                    let piece = host.slice_rows(from..(from + at_once).min(range.end))?;
                    let piece = in_dtype(&piece, new.dtype, self.threads)?;
                    all_scales.extend(piece.scales().into_iter().flat_map(|s| s.values.iter()));
                    put(piece.bytes())?;
                }
            }
        } else {
            put(in_dtype(&host, new.dtype, self.threads)?.bytes())?;
        }
        if scales.is_some() {
            put(&all_scales.iter().flat_map(|s| s.to_le_bytes()).collect::<Vec<u8>>())?;
        }
        host.bytes().forget();
        if written != new.bytes() + scales.as_ref().map_or(0, NewTensor::bytes) {
            // The header says otherwise: whatever comes behind it would be read from the wrong place.
            let (dtype, shape) = (new.dtype, new.shape.clone());
            return Err(flux2_backend::Error::ByteCount { bytes: written, dtype, shape }.into());
        }
        each(&vec![0; self.size(tensor) - written])
    }
}

fn refuse_untold(part: Part, untold: Option<Untold>) -> Result<()> {
    match untold {
        None => Ok(()),
        Some(Untold { key, found, taken }) => refuse(ConvertProblem::Untold { part, key, found, taken }),
    }
}

/// A piece of rows, or what is no matrix, in another dtype.
fn in_dtype(host: &HostTensor, dtype: DType, threads: Option<NonZeroUsize>) -> Result<HostTensor> {
    // Beside bytes one multiplier is written for each row.
    let is_told = |scales: &BlockScales| dtype == DType::I8 && scales.values.len() == host.shape()[0];
    if host.dtype() == dtype && host.scales().is_none_or(is_told) {
        return Ok(host.clone());
    }
    match dtype {
        DType::I8 if host.dtype() == dtype => {
            Ok(encode(&HostTensor::from_f32(host.shape(), &host.to_f32()), dtype, threads)?)
        }
        DType::F32 => Ok(HostTensor::from_f32(host.shape(), &host.to_f32())),
        _ => {
            let rows = host.clone();
            let rows = if host.shape().len() == 2 { rows } else { rows.reshape([1, host.len()]) };
            Ok(encode(&rows, dtype, threads)?)
        }
    }
}

/// How `dialect` stores a canonical tensor: the other way round than it is read.
fn outgoing(dialect: &Dialect, canonical: &str, shape: &[usize], dtype: DType) -> Vec<Outgoing> {
    let (rule, names) = dialect.find(canonical);
    let rows = shape[0];
    let run = |from: usize, to: usize| [from..to, to..to];
    let parts = match rule {
        Rule::Same(..) | Rule::Flatten(..) => vec![run(0, rows)],
        Rule::ConcatRows(_, names) => (0..names.len()).map(|i| run(i * rows / 3, (i + 1) * rows / 3)).collect(),
        Rule::SwapHalves(..) => vec![[rows / 2..rows, 0..rows / 2]],
    };
    let new = |(name, rows): (String, [Range<usize>; 2])| {
        let mut shape = shape.to_vec();
        shape[0] = rows.iter().map(ExactSizeIterator::len).sum();
        let scales = (dtype == DType::I8).then(|| NewTensor {
            name: format!("{}_scale", name),
            dtype: DType::F32,
            shape: vec![shape[0]],
        });
        Outgoing { canonical: canonical.to_owned(), rows, new: NewTensor { name, dtype, shape }, scales }
    };
    names.into_iter().zip(parts).map(new).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

// ---- files ----

/// A file that is to be made.
struct NewFile {
    /// In the folder.
    path: String,
    content: Content,
}

enum Content {
    Copy(Location),
    /// The text encoder's configuration, without what it says of the format of the weights.
    TextConfig(Location),
    Network(Box<Network>),
}

impl NewFile {
    fn bytes(&self) -> u64 {
        match &self.content {
            Content::Copy(from) | Content::TextConfig(from) => from.stat().map_or(0, |stat| stat.len),
            Content::Network(network) => network.bytes(),
        }
    }

    /// Bytes of it that are there, finished or not, and need no more room.
    fn here(&self, path: &Path, in_folder: bool) -> u64 {
        let len = |path: &Path| fs::metadata(path).map_or(0, |meta| meta.len());
        let finished = if in_folder { len(path) } else { 0 };
        finished.max(len(&sibling(path, ".part"))).min(self.bytes())
    }

    fn write(&self, path: &Path, in_folder: bool, progress: &mut Progress) -> Result<()> {
        let start = Instant::now();
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            fs::create_dir_all(folder).map_err(|e| io_error(folder, e))?;
        }
        match &self.content {
            Content::Copy(from) => {
                let mut bytes = from.reader()?;
                write_whole(path, |file| {
                    let mut buffer = vec![0; BUFFER];
                    loop {
                        match bytes.read(&mut buffer).map_err(|e| from.io(e))? {
                            0 => return Ok(()),
                            n => file.write_all(&buffer[..n]).map_err(|e| io_error(path, e))?,
                        }
                        progress.cancel.check()?;
                    }
                })?;
                progress.add(self.bytes())?;
            }
            Content::TextConfig(from) => {
                let mut json = Json::read(from, MAX_INDEX_BYTES)?.object;
                json.remove("quantization_config");
                let text = serde_json::to_string_pretty(&Value::Object(json)).expect("JSON serialises") + "\n";
                write_whole(path, |file| file.write_all(text.as_bytes()).map_err(|e| io_error(path, e)))?;
                progress.add(self.bytes())?;
            }
            Content::Network(network) if in_folder && is_finished(path, network)? => progress.add(network.bytes())?,
            Content::Network(network) => {
                network.write(path, progress)?;
                let (path, size, elapsed) = (self.path.clone(), network.bytes(), start.elapsed());
                progress.observer.on_event(&Event::Files(FilesEvent::FileFinished { path, size, elapsed }));
            }
        }
        Ok(())
    }
}

/// Whether `path` is the file that would be written, by its header and its length.
fn is_finished(path: &Path, network: &Network) -> Result<bool> {
    match File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(io_error(path, e)),
        Ok(mut file) => {
            let len = file.metadata().map_err(|e| io_error(path, e))?.len();
            Ok(len == network.bytes() && starts_with(&mut file, &network.header).map_err(|e| io_error(path, e))?)
        }
    }
}

fn starts_with(file: &mut File, header: &[u8]) -> io::Result<bool> {
    let mut found = Vec::with_capacity(header.len());
    file.take(header.len() as u64).read_to_end(&mut found)?;
    Ok(found == header)
}

/// A small file, under its name once it is whole.
fn write_whole(path: &Path, fill: impl FnOnce(&mut File) -> Result<()>) -> Result<()> {
    let part = sibling(path, ".part");
    let mut file = File::create(&part).map_err(|e| io_error(&part, e))?;
    fill(&mut file)?;
    finish(&file, &part, path)
}

/// The bytes to the disk, then the name.
fn finish(file: &File, part: &Path, path: &Path) -> Result<()> {
    file.sync_all().map_err(|e| io_error(part, e))?;
    fs::rename(part, path).map_err(|e| io_error(path, e))?;
    sync_folder(path);
    Ok(())
}

/// What another conversion to the same place left below `folder`.
fn remove_others(folder: &Path, wanted: &[PathBuf]) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(|e| io_error(folder, e))? {
        let path = entry.map_err(|e| io_error(folder, e))?.path();
        if wanted.iter().any(|file| file.starts_with(&path) && *file != path) {
            remove_others(&path, wanted)?;
        } else if !wanted.contains(&path) {
            remove(&path)?;
        }
    }
    Ok(())
}

fn remove(path: &Path) -> Result<()> {
    let remove = if path.is_dir() { fs::remove_dir_all } else { fs::remove_file };
    remove(path).map_err(|e| io_error(path, e))
}

/// So that a name outlives a power cut; not every file system can, and the bytes are safe either way.
fn sync_folder(path: &Path) {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let _ = File::open(folder).and_then(|folder| folder.sync_all());
}

impl Network {
    /// Write the file, or go on with what is there of it.
    fn write(&self, path: &Path, progress: &mut Progress) -> Result<()> {
        let (part, list) = (sibling(path, ".part"), sibling(path, ".part.done"));
        let open = |path: &Path| {
            let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
            file.map_err(|e| io_error(path, e))
        };
        let (mut digests, mut file) = (open(&list)?, open(&part)?);
        let done = self.verified(&mut file, &mut digests, progress).map_err(|problem| match problem {
            Stopped::Io(e) => io_error(&part, e),
            Stopped::Cancelled(e) => e,
        })?;
        if done.is_empty() {
            let fresh = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(&self.header));
            fresh.map_err(|e| io_error(&part, e))?;
            progress.add(self.header.len() as u64)?;
        }
        let lines: String = done.iter().map(|digest| format!("{digest}\n")).collect();
        let kept =
            digests.set_len(0).and_then(|()| digests.rewind()).and_then(|()| digests.write_all(lines.as_bytes()));
        kept.map_err(|e| io_error(&list, e))?;
        for tensor in &self.tensors[done.len()..] {
            let mut sha = Sha256::new();
            self.encode(tensor, &mut |bytes| {
                sha.update(bytes);
                file.write_all(bytes).map_err(|e| io_error(&part, e))?;
                progress.add(bytes.len() as u64)
            })?;
            let line = hex(&sha.finalize()) + "\n";
            digests.write_all(line.as_bytes()).map_err(|e| io_error(&list, e))?;
        }
        finish(&file, &part, path)?;
        fs::remove_file(&list).map_err(|e| io_error(&list, e))
    }

    /// The digests of the tensors that `file` holds as `digests` says; it is cut behind them, and stands at its end.
    fn verified(
        &self,
        file: &mut File,
        digests: &mut File,
        progress: &mut Progress,
    ) -> std::result::Result<Vec<String>, Stopped> {
        let mut done = vec![];
        if !starts_with(file, &self.header)? {
            return Ok(done);
        }
        progress.add(self.header.len() as u64)?;
        let lines = BufReader::new(digests).take(100 * self.tensors.len() as u64).lines();
        let mut end = self.header.len() as u64;
        let mut buffer = vec![0; BUFFER];
        for (tensor, line) in self.tensors.iter().zip(lines) {
            let (Ok(line), size) = (line, self.size(tensor) as u64) else { break };
            let (mut sha, mut left) = (Sha256::new(), size);
            while left > 0 {
                let n = file.read(&mut buffer[..left.min(BUFFER as u64) as usize])?;
                if n == 0 {
                    break;
                }
                sha.update(&buffer[..n]);
                left -= n as u64;
                progress.cancel.check()?;
            }
            if left > 0 || hex(&sha.finalize()) != line {
                break;
            }
            progress.add(size)?;
            (end, _) = (end + size, done.push(line));
        }
        if done.is_empty() {
            progress.done -= self.header.len() as u64; // written anew
        }
        file.set_len(end)?;
        file.seek(SeekFrom::End(0))?;
        Ok(done)
    }
}

/// Why reading what is there ended.
enum Stopped {
    Io(io::Error),
    Cancelled(Error),
}

impl From<io::Error> for Stopped {
    fn from(error: io::Error) -> Self {
        Stopped::Io(error)
    }
}

impl From<Error> for Stopped {
    fn from(error: Error) -> Self {
        Stopped::Cancelled(error)
    }
}

/// Counts bytes for the observer, and looks for cancellation.
struct Progress<'a> {
    done: u64,
    observer: &'a mut dyn Observer,
    cancel: &'a CancelToken,
}

impl Progress<'_> {
    fn add(&mut self, bytes: u64) -> Result<()> {
        self.done += bytes;
        self.observer.on_event(&Event::Files(FilesEvent::Progress { done: self.done }));
        self.cancel.check()
    }
}

/// `.NAME` and an ending, beside `path`.
fn sibling(path: &Path, ending: &str) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(ending);
    path.with_file_name(name)
}

/// Where `path` leads, whether or not anything is there yet.
fn canonical(path: &Path) -> Option<PathBuf> {
    path.canonicalize().ok().or_else(|| {
        let folder = path.parent()?;
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        Some(canonical(folder)?.join(path.file_name()?))
    })
}

/// Refuse to begin what cannot end.
fn make_room(work: &Path, needed: u64) -> Result<()> {
    let folder = work.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // A file system that does not say how much is free may have enough.
    match fs4::available_space(folder) {
        Ok(free) if free < needed => refuse(ConvertProblem::DiskFull { path: folder.to_owned(), needed, free }),
        _ => Ok(()),
    }
}

fn io_error(path: &Path, source: io::Error) -> Error {
    Error::Io { path: path.to_owned(), source }
}
