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
//!
//! | file | holds |
//! |---|---|
//! | `network` | what is in a network's file |
//! | `files` | files: names, locks, what is gone on with |

mod files;
mod network;

use std::fs;
use std::io;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use flux2_backend::{DType, Format, Threads};

use super::component::{Checkpoint, Component};
use super::config::{Taps, TextConfig, TransformerConfig, VaeConfig};
use super::layout::{Layout, Part};
use super::location::Location;
use super::model_files::{ModelFiles, ModelPaths};
use crate::event::{Bytes, CancelToken, Event, FilesEvent, Observer};
use crate::{Error, Result};

use files::{Content, Lock, NewFile, Progress, canonical, make_room, remove, remove_others, sibling, sync_folder};
use network::Network;

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
        let threads = Threads::new(self.threads);
        let result = files.iter().try_for_each(|file| file.write(&in_work(file), is_model, &threads, &mut progress));
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
            let checkpoint = Checkpoint::open(&self.model)?;
            // The error of what is none of them is that of a model.
            match self.part.or_else(|| checkpoint.part()).unwrap_or(Part::Transformer) {
                Part::Transformer => {
                    Network::transformer(self, &Component::<TransformerConfig>::of(checkpoint)?, Layout::Bfl, false)
                }
                Part::TextEncoder => {
                    let component = Component::<TextConfig>::of(checkpoint, &Taps::default())?;
                    Network::text_encoder(self, &component, text_layout(packed), false)
                }
                Part::Vae => Network::vae(self, &Component::<VaeConfig>::of(checkpoint)?, dtype),
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

fn is_gguf(format: Format) -> bool {
    matches!(format, Format::Q8_0 | Format::Q4K)
}

fn text_layout(packed: bool) -> Layout {
    if packed { Layout::LlamaCpp } else { Layout::HuggingFace }
}

fn io_error(path: &Path, source: io::Error) -> Error {
    Error::Io { path: path.to_owned(), source }
}
