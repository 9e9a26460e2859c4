//! One file of tensors, safetensors or GGUF: recognized by its first bytes, checked, mapped on request.
//!
//! In:  any file. Out: names, dtypes, shapes and byte ranges that all lie within it.
//!
//! The file is untrusted until [`TensorFile::open`] has returned.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read};
use std::ops::Range;

use flux2_backend::{DType, HostBytes};
use flux2_base::Remedy;

use crate::gguf;
use crate::location::{Location, Stat};
use crate::pth::PthProblem;
use crate::safetensors;
use crate::{Error, Result};

/// Longest header accepted, in bytes; a limit of the safetensors format.
pub(super) const MAX_HEADER_BYTES: u64 = 100_000_000;
/// Most tensors of a file accepted; the family's files have a few hundred.
pub(super) const MAX_TENSORS: usize = 1 << 14;
/// Longest text of a file's metadata that is parsed, in bytes. Longer ones are truncated just behind this limit.
pub(super) const MAX_METADATA_TEXT: usize = 1 << 20;
/// Most axes of a tensor accepted; the family's have at most 4.
pub(super) const MAX_AXES: usize = 8;

/// A checked file. Holds no tensor data and keeps nothing open.
#[derive(Debug)]
pub(crate) struct TensorFile {
    pub location: Location,
    pub tensors: BTreeMap<String, StoredTensor>,
    pub metadata: FileMetadata,
    stat: Stat,
}

/// Metadata of a file.
#[derive(Debug)]
pub(crate) enum FileMetadata {
    /// Texts by key.
    Safetensors(safetensors::Metadata),
    /// Typed values by key.
    Gguf(gguf::Metadata),
}

/// A tensor as its file describes it.
#[derive(Clone, Debug)]
pub(crate) struct StoredTensor {
    pub dtype: StoredDType,
    /// Outermost axis first.
    pub shape: Vec<usize>,
    /// Bytes of the file, counted from its start.
    pub range: Range<usize>,
}

/// A tensor to write.
#[derive(Clone, Debug)]
pub(super) struct NewTensor {
    pub name: String,
    pub dtype: DType,
    /// Outermost axis first.
    pub shape: Vec<usize>,
}

impl NewTensor {
    /// Length of the data.
    ///
    /// # Panics
    /// If its rows are not whole blocks.
    pub fn bytes(&self) -> usize {
        self.dtype.bytes_of(&self.shape).expect("rows of whole blocks")
    }
}

/// An element type of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StoredDType {
    /// A type that this engine computes with.
    Known(DType),
    /// Any other type: its name, and elements and bytes of a block.
    Other(&'static str, [usize; 2]),
}

/// Checks the header of a `.safetensors` or `.gguf` file against its length. Other files and values are not read.
///
/// # Errors
/// [`Error::Io`] if it cannot be read, [`Error::Checkpoint`] if it is not a complete file of tensors.
pub fn check_file(location: &Location) -> Result<()> {
    match location.path().extension().and_then(|end| end.to_str()) {
        Some("safetensors" | "gguf") => TensorFile::open(location).map(drop),
        _ => Ok(()),
    }
}

impl TensorFile {
    /// Reads and checks the header of the file at `location`.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read, [`Error::Checkpoint`] for anything that is not a complete file of tensors.
    pub fn open(location: &Location) -> Result<Self> {
        let refuse = |problem| Error::Checkpoint { path: location.path().to_owned(), problem };
        let stat = location.stat()?;
        if !stat.is_file {
            return Err(refuse(FileProblem::NotAFile));
        }
        let mut file = location.reader()?;
        let mut start = Vec::with_capacity(32);
        file.by_ref().take(32).read_to_end(&mut start).map_err(|e| location.io(e))?;
        if let Some(looks_like) = other_format(&start) {
            return Err(refuse(FileProblem::OtherFormat { looks_like }));
        }
        if start.len() >= 8 && is_text(&start) {
            file.by_ref().take(TEXT_SHOWN).read_to_end(&mut start).map_err(|e| location.io(e))?;
            return Err(refuse(FileProblem::Text { start: words_of(&start) }));
        }
        let is_gguf = start.starts_with(gguf::MAGIC);
        let mut file = start.chain(file);
        let found = match is_gguf {
            true => gguf::read(&mut file, stat.len).map(|(tensors, said)| (tensors, FileMetadata::Gguf(said))),
            false => {
                safetensors::read(&mut file, stat.len).map(|(tensors, said)| (tensors, FileMetadata::Safetensors(said)))
            }
        };
        let (tensors, metadata) = found.map_err(|problem| match problem {
            ReadProblem::File(problem) => refuse(problem),
            ReadProblem::Io(source) => location.io(source),
        })?;
        Ok(TensorFile { location: location.clone(), tensors, metadata, stat })
    }

    /// Its length and times of change as text, for fingerprints.
    pub fn state(&self) -> String {
        format!("{:?}, {:?}", self.stat, self.location.change_time())
    }

    /// All bytes of the file, mapped.
    ///
    /// # Errors
    /// [`Error::FileChanged`] if the file is no longer the one that was checked.
    pub fn bytes(&self) -> Result<HostBytes> {
        self.location.bytes(self.stat)
    }
}

/// What a file of neither container probably is, judged by its first bytes.
/// Bytes of a text that are read to be shown.
const TEXT_SHOWN: u64 = 200;

/// Whether a file begins as text does. The length of a header has zeros in it, and so has the version of a GGUF file.
fn is_text(start: &[u8]) -> bool {
    start.iter().all(|byte| !byte.is_ascii_control() || byte.is_ascii_whitespace())
        && std::str::from_utf8(start).map_or_else(|error| error.error_len().is_none(), |_| true)
}

/// The words at the start of a text, on one line.
fn words_of(start: &[u8]) -> String {
    String::from_utf8_lossy(start).split_whitespace().collect::<Vec<_>>().join(" ")
}

fn other_format(start: &[u8]) -> Option<&'static str> {
    [
        (&b"version https://git-lfs"[..], "a git LFS pointer, not the file itself"),
        (b"PK\x03\x04", "a PyTorch pickle or another zip archive"),
        (b"\x80\x02", "a PyTorch pickle"),
        (b"\x89PNG", "a PNG picture"),
        (b"\xff\xd8\xff", "a JPEG picture"),
        (b"<!DOCTYPE", "a web page"),
        (b"<!doctype", "a web page"),
        (b"<html", "a web page"),
    ]
    .into_iter()
    .find(|(magic, _)| start.starts_with(magic))
    .map(|(_, what)| what)
}

impl StoredDType {
    /// Bytes of a tensor of `shape`; `None` if its rows are not whole blocks, or on overflow.
    pub fn bytes_of(self, shape: &[usize]) -> Option<u64> {
        let bytes = match self {
            StoredDType::Known(dtype) => dtype.bytes_of(shape)?,
            StoredDType::Other(_, [len, bytes]) => {
                let last = shape.last().copied().unwrap_or(1);
                let elements = shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d))?;
                (elements / len).checked_mul(bytes).filter(|_| last.is_multiple_of(len))?
            }
        };
        Some(bytes as u64)
    }

    /// Elements of a block; 1 for types without blocks.
    pub fn block_len(self) -> usize {
        match self {
            StoredDType::Known(dtype) => dtype.block_len(),
            StoredDType::Other(_, [len, _]) => len,
        }
    }
}

impl fmt::Display for StoredDType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoredDType::Known(dtype) => dtype.fmt(f),
            StoredDType::Other(name, _) => f.write_str(name),
        }
    }
}

/// Why a container could not be read.
#[derive(Debug)]
pub(super) enum ReadProblem {
    File(FileProblem),
    Io(io::Error),
}

impl From<FileProblem> for ReadProblem {
    fn from(problem: FileProblem) -> Self {
        ReadProblem::File(problem)
    }
}

impl From<io::Error> for ReadProblem {
    fn from(error: io::Error) -> Self {
        ReadProblem::Io(error)
    }
}

/// Text from an untrusted file, safe to print: control characters escaped, length limited.
pub(crate) struct Printable<'s>(pub &'s str);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MAX: usize = 120;
        for c in self.0.chars().take(MAX) {
            match c {
                '"' | '\'' => write!(f, "{c}")?,
                c => write!(f, "{}", c.escape_debug())?,
            }
        }
        if self.0.chars().nth(MAX).is_some() { f.write_str("...") } else { Ok(()) }
    }
}

/// Why a file is not a complete file of tensors.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FileProblem {
    /// A folder, a pipe or a device.
    #[error("not a regular file")]
    NotAFile,
    /// Another format, recognized by its first bytes.
    #[error("not a file of tensors but {looks_like}")]
    OtherFormat {
        /// The format, with its article.
        looks_like: &'static str,
    },
    /// Text, such as the error of a server that was saved in place of the file.
    #[error("not a file of tensors but text: {}", Printable(start))]
    Text {
        /// Its first words.
        start: String,
    },
    /// Too many tensors for any model.
    #[error("more than {max} tensors")]
    TooManyTensors {
        /// Most tensors accepted.
        max: usize,
    },
    /// Too short for the length of a header.
    #[error("{bytes} bytes long, too short for a file of tensors")]
    TooShort {
        /// Length of the file.
        bytes: u64,
    },
    /// The header is longer than any sane file's.
    #[error("claims a header of {header} bytes, at most {max} are read")]
    HeaderTooLong {
        /// Length in the header, in bytes.
        header: u64,
        /// Largest value accepted.
        max: u64,
    },
    /// The header is longer than the file.
    #[error("claims a header of {header} bytes and is only {file} bytes long")]
    HeaderBeyondFile {
        /// Length in the header, in bytes.
        header: u64,
        /// Length of the file.
        file: u64,
    },
    /// The header is not a JSON object.
    #[error("the header is not valid: {}", Printable(message))]
    Json {
        /// The parser's message.
        message: String,
    },
    /// The header describes a tensor wrongly.
    #[error("the header describes `{}` wrongly: {}", Printable(name), Printable(message))]
    Entry {
        /// Name of the tensor.
        name: String,
        /// The parser's message.
        message: String,
    },
    /// Two tensors have the same name.
    #[error("has two tensors named `{}`", Printable(name))]
    Duplicate {
        /// Name of the tensor.
        name: String,
    },
    /// The format has no such element type.
    #[error("`{}` has the unknown dtype `{}`", Printable(name), Printable(dtype))]
    UnknownDType {
        /// Name of the tensor.
        name: String,
        /// Element type in the header.
        dtype: String,
    },
    /// The size of a tensor overflows.
    #[error("`{}` has shape {shape:?} of {dtype}, more bytes than can be counted", Printable(name))]
    SizeOverflow {
        /// Name of the tensor.
        name: String,
        /// Shape of the tensor.
        shape: Vec<usize>,
        /// Element type of the tensor.
        dtype: String,
    },
    /// Shape and byte range disagree.
    #[error("`{}` has shape {shape:?} of {dtype}, {expected} bytes, but is given {found}", Printable(name))]
    ByteCount {
        /// Name of the tensor.
        name: String,
        /// Shape of the tensor.
        shape: Vec<usize>,
        /// Element type of the tensor.
        dtype: String,
        /// Bytes the shape needs.
        expected: u64,
        /// Bytes the range has.
        found: u64,
    },
    /// A gap between two tensors, an overlap, or a range that runs backwards.
    #[error("`{}` has bytes {from} to {to}, but the tensor before it ends at {expected}", Printable(name))]
    Offsets {
        /// Name of the tensor.
        name: String,
        /// Offset of the first byte.
        from: u64,
        /// Offset behind the last byte.
        to: u64,
        /// Where it should begin.
        expected: u64,
    },
    /// The file ends before the tensor does.
    #[error("`{}` ends at byte {end} of the data, and there are only {available}", Printable(name))]
    BeyondFile {
        /// Name of the tensor.
        name: String,
        /// Offset behind its last byte.
        end: u64,
        /// Bytes of data in the file.
        available: u64,
    },
    /// A GGUF file of an unsupported version or byte order.
    #[error("a GGUF file of version {version}, only 2 and 3 in little-endian are read")]
    GgufVersion {
        /// Version in the header.
        version: u32,
    },
    /// A count in the header of a GGUF file is too large.
    #[error("{} is {found}, at most {max} is read", Printable(what))]
    GgufCount {
        /// What the number counts.
        what: String,
        /// Count in the header.
        found: u64,
        /// Largest value accepted.
        max: u64,
    },
    /// The header of a GGUF file does not end within the file.
    #[error("the header ends within {}: {needed} bytes are needed at byte {at} of {file}", Printable(what))]
    GgufCut {
        /// What was read at that point.
        what: String,
        /// Offset in bytes.
        at: u64,
        /// Bytes that are needed.
        needed: u64,
        /// Length of the file.
        file: u64,
    },
    /// The header of a GGUF file is not valid.
    #[error("the header is not valid: {}", Printable(message))]
    Gguf {
        /// What is wrong.
        message: String,
    },
    /// The rows of a tensor are not whole blocks of its type.
    #[error("`{}` has shape {shape:?}, whose rows are not whole blocks of {dtype}, {block} values", Printable(name))]
    Blocks {
        /// Name of the tensor.
        name: String,
        /// Shape of the tensor.
        shape: Vec<usize>,
        /// Element type of the tensor.
        dtype: String,
        /// Elements of a block.
        block: usize,
    },
    /// A PyTorch file that is not read.
    #[error(transparent)]
    Pth(#[from] PthProblem),
    /// The file goes on after the last tensor.
    #[error("{bytes} bytes follow the last tensor")]
    Trailing {
        /// Number of bytes.
        bytes: u64,
    },
}

impl FileProblem {
    pub(crate) fn remedy(&self) -> Remedy {
        Remedy::advice(match self {
            FileProblem::NotAFile => "pass a .safetensors or .gguf file, or the folder that holds model_index.json",
            FileProblem::OtherFormat { looks_like } if looks_like.contains("LFS") => {
                "fetch the file itself with `git lfs pull`, or download it from the hub"
            }
            FileProblem::OtherFormat { .. } => "pass a .safetensors or .gguf file",
            FileProblem::Text { .. } => {
                "pass a .safetensors or .gguf file; if this one was downloaded, the text is the server's answer in its place"
            }
            FileProblem::Pth(problem) if problem.is_of_format() => {
                "load it in Python with torch.load(path, weights_only=True) and save its tensors as safetensors"
            }
            FileProblem::GgufVersion { .. } => "convert it anew with a current version of the program it comes from",
            FileProblem::TooShort { .. }
            | FileProblem::HeaderBeyondFile { .. }
            | FileProblem::BeyondFile { .. }
            | FileProblem::GgufCut { .. }
            | FileProblem::Trailing { .. } => "download the file again: it is not whole",
            _ => "download the file again from a source you trust: it is damaged or not a file of tensors",
        })
    }
}
