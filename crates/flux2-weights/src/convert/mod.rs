//! Conversion of a model to another number format, as files.
//!
//! In:  a model or one of its networks, as [`ModelFiles`] opens it. Out: a diffusers folder, or one file.
//!
//! Tensors are quantized and written piece by piece, so no network is in memory as a whole.
//!
//! A conversion is resumable. Output is written as `.NAME.part` and renamed when it is complete and on disk. A list of
//! the digests of finished tensors lies beside a partial file: the next run of the same conversion keeps the tensors
//! whose bytes still match, and finished files of a folder whose header and length match. The header names source,
//! format and program version, so the leftovers of another conversion are not resumed. A lock keeps out a second
//! conversion to the same path. A folder that is replaced is called `.NAME.old` until the new one has its name.
//!
//! | file | holds |
//! |---|---|
//! | `network` | the contents of a network's file |
//! | `files` | names, locks and resumption of files |

mod files;
mod network;

use std::fs;
use std::io;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use flux2_backend::{DType, Format, Threads};
use flux2_base::parallel::usable_threads;
use flux2_base::units::Bytes;
use flux2_base::{CancelToken, Part, Remedy, TransferEvent, TransferObserver};

use crate::component::{Checkpoint, Component};
use crate::config::{Taps, TextConfig, TransformerConfig, VaeConfig};
use crate::layout::Layout;
use crate::location::Location;
use crate::model_files::{ModelFiles, ModelPaths};
use crate::{Error, Result};

use files::{Content, Lock, NewFile, Progress, canonical, make_room, remove, remove_others, sibling, sync_folder};
use network::Network;

/// A conversion: source, format and destination.
#[derive(Clone, Debug)]
pub struct Conversion {
    /// A folder with `model_index.json`, or one network, file or folder.
    pub model: Location,
    /// Convert only this network, to one file; `None` for everything that `model` holds.
    pub part: Option<Part>,
    /// Format of the quantized matrices; see [`Precision`](crate::Precision) for which these are. `Bf16` and `Int8` are
    /// written as safetensors, `Q8_0` and `Q4K` as GGUF files.
    pub format: Format,
    /// The folder or file to write.
    pub out: PathBuf,
    /// Whether `out` may be replaced if it exists.
    pub replace: bool,
    /// Threads that quantize; `None` for as many as this process may use.
    pub threads: Option<NonZeroUsize>,
}

/// What a conversion wrote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Converted {
    /// Bytes of the output, whether written now or found complete.
    pub bytes: u64,
    /// Matrices in the requested format, including kernels of the VAE.
    pub rounded: usize,
    /// Matrices that keep their format, as their rows are not whole blocks of the requested one.
    pub left: usize,
}

/// Why a conversion was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConvertProblem {
    /// The output exists.
    #[error("{} is there already", path.display())]
    Exists {
        /// Path of the output.
        path: PathBuf,
    },
    /// The folder to replace is not a model.
    #[error("{} is there already, and is no model", path.display())]
    NoModel {
        /// Path of the output.
        path: PathBuf,
    },
    /// Source and output are the same, or one contains the other.
    #[error("{} is the model to be converted, lies inside it or contains it", path.display())]
    IsSource {
        /// Path of the output.
        path: PathBuf,
    },
    /// A configuration value that tensor shapes cannot reveal would be lost in a file of the network alone.
    #[error("`{key}` is {found}, and a file of the {part} alone would be loaded with {default}")]
    LostValue {
        /// Network of the model.
        part: Part,
        /// Key of the configuration.
        key: &'static str,
        /// Value in the configuration.
        found: String,
        /// Value without a configuration.
        default: String,
    },
    /// The autoencoder cannot be converted to this format.
    #[error("the VAE has no matrices to round to {format}")]
    Vae {
        /// The requested format.
        format: DType,
    },
    /// No format was requested.
    #[error("a conversion needs a format")]
    NoFormat,
    /// The disk has too little room.
    #[error("the disk of {} has {} free, {} are needed", path.display(), Bytes(*free), Bytes(*needed))]
    DiskFull {
        /// The folder of the output.
        path: PathBuf,
        /// Bytes that are needed.
        needed: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// A file of several networks, of which a conversion reads one.
    #[error("{} holds several networks", path.display())]
    SeveralNetworks {
        /// Path of the file.
        path: PathBuf,
    },
    /// Another conversion to the same path is running.
    #[error("another conversion writes {}", path.display())]
    Busy {
        /// Path of the output.
        path: PathBuf,
    },
}

impl ConvertProblem {
    pub(crate) fn remedy(&self) -> Remedy {
        Remedy::advice(match self {
            ConvertProblem::Exists { .. } => return Remedy::ReplaceConverted,
            ConvertProblem::NoModel { .. } => "name another place: only a folder with model_index.json is replaced",
            ConvertProblem::IsSource { .. } => "name another place",
            ConvertProblem::LostValue { .. } => "convert the whole model: its folder keeps the configuration",
            ConvertProblem::Vae { .. } => return Remedy::ConvertVaeToBf16,
            ConvertProblem::SeveralNetworks { .. } => {
                "name the network to convert; each is written to a file of its own"
            }
            ConvertProblem::NoFormat => "use bf16, int8, q8_0 or q4_k",
            ConvertProblem::DiskFull { .. } => "free some room, or name a place on another disk",
            ConvertProblem::Busy { .. } => "wait for it, or name another place",
        })
    }
}

fn refuse<T>(problem: ConvertProblem) -> Result<T> {
    Err(Error::Convert(problem))
}

impl Conversion {
    /// Converts, or resumes this conversion where it stopped.
    ///
    /// # Errors
    /// As [`ModelFiles::open`] for the source; [`Error::Convert`] if the output cannot be written. After
    /// [`Error::Cancelled`] and [`Error::Io`] the next run resumes.
    pub fn run(&self, observer: &mut dyn TransferObserver, cancel: &CancelToken) -> Result<Converted> {
        let Some(dtype) = self.format.dtype() else { return refuse(ConvertProblem::NoFormat) };
        let is_model = self.part.is_none() && self.model.join("model_index.json").is_file();
        self.check_out(is_model)?;
        let files = if is_model { self.model_files()? } else { vec![self.network_file(dtype)?] };
        let total = files.iter().map(NewFile::bytes).sum();
        let _lock = Lock::of(&self.out)?;
        self.put_back()?;
        self.check_out(is_model)?; // under the lock: no other conversion changes it from here on
        let work = sibling(&self.out, ".part");
        if is_model {
            fs::create_dir_all(&work).map_err(|e| io_error(&work, e))?;
        }
        let in_work = |file: &NewFile| if is_model { work.join(&file.path) } else { self.out.clone() };
        let here: u64 = files.iter().map(|file| file.here(&in_work(file), is_model)).sum();
        make_room(&work, total - here)?;

        observer.on_transfer(&TransferEvent::Started { files: files.len(), done: 0, total });
        let mut progress = Progress { done: 0, observer, cancel };
        let threads = Threads::new(Some(usable_threads(self.threads)))?;
        let result = files.iter().try_for_each(|file| file.write(&in_work(file), is_model, &threads, &mut progress));
        progress.observer.on_transfer(&TransferEvent::Finished);
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

    /// Checks that the output may be written.
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

    /// All files of a model in the diffusers layout.
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
        // The tokenizer that is used may lie beside the text encoder.
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
            if self.part.is_none() && checkpoint.parts().len() > 1 {
                return refuse(ConvertProblem::SeveralNetworks { path: self.model.path().to_owned() });
            }
            // For a file of no network, report the error of a transformer.
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

    /// Renames the finished folder to its final name.
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

    /// Cleans up after a process that ended within [`put_folder`](Self::put_folder): restores the old folder if the
    /// new one is not in place, else removes it.
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
