//! One safetensors file: its header read and checked, its bytes mapped on request.
//!
//! In:  a file that somebody named. Out: names, dtypes, shapes and byte ranges that all lie within it.
//!
//! The file is hostile until [`SafetensorsFile::open`] has returned. What the `safetensors` crate checks is checked
//! here as well (tests hold the two against each other); reading the header ourselves is what lets an error name the
//! tensor and the numbers, and what catches a name given twice, which a map of tensors loses.
//! Format: 8 bytes little-endian header length, JSON header, data without gaps.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::ops::Range;

use flux2_backend::{DType, HostBytes};
use serde::Deserialize;
use serde::de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor};

use super::location::{Location, Stat};
use crate::{Error, Result};

/// Longest header that is read; the format's own limit.
const MAX_HEADER_BYTES: u64 = 100_000_000;
/// Most axes a tensor may have; the family's have at most 4.
const MAX_AXES: usize = 8;

/// A checked file. Holds no bytes of tensors and keeps nothing open.
#[derive(Debug)]
pub(crate) struct SafetensorsFile {
    pub location: Location,
    pub tensors: BTreeMap<String, StoredTensor>,
    stat: Stat,
}

/// A tensor as its file describes it.
#[derive(Clone, Debug)]
pub(crate) struct StoredTensor {
    pub dtype: StoredDType,
    pub shape: Vec<usize>,
    /// Where its bytes are, counted from the start of the file.
    pub range: Range<usize>,
}

/// An element type of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StoredDType {
    /// One this engine computes with.
    Float(DType),
    /// One that is only stepped over: its name and its size in bits.
    Other(&'static str, usize),
}

impl SafetensorsFile {
    /// Read and check the header of the file at `location`.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read, [`Error::Checkpoint`] for anything that is not a whole safetensors file.
    pub fn open(location: &Location) -> Result<Self> {
        let io = |source| location.io(source);
        let refuse = |problem| Error::Checkpoint { path: location.path().to_owned(), problem };
        let stat = location.stat()?;
        if !stat.is_file {
            return Err(refuse(FileProblem::NotAFile));
        }
        let mut file = location.reader()?;
        let mut start = Vec::with_capacity(32);
        file.by_ref().take(32).read_to_end(&mut start).map_err(io)?;
        if let Some(looks_like) = other_format(&start) {
            return Err(refuse(FileProblem::OtherFormat { looks_like }));
        }
        let Some(length) = start.first_chunk::<8>() else {
            return Err(refuse(FileProblem::TooShort { bytes: stat.len }));
        };
        let header = u64::from_le_bytes(*length);
        if header > MAX_HEADER_BYTES {
            return Err(refuse(FileProblem::HeaderTooLong { header, max: MAX_HEADER_BYTES }));
        }
        if header > stat.len.saturating_sub(8) {
            return Err(refuse(FileProblem::HeaderBeyondFile { header, file: stat.len }));
        }
        let mut json = start.split_off(8);
        json.truncate(header as usize);
        let rest = header - json.len() as u64;
        file.take(rest).read_to_end(&mut json).map_err(io)?;
        let tensors = parse_header(&json, 8 + header, stat.len).map_err(refuse)?;
        Ok(SafetensorsFile { location: location.clone(), tensors, stat })
    }

    /// Its length and the times of its last change, in words.
    pub fn state(&self) -> String {
        format!("{:?}, {:?}", self.stat, self.location.change_time())
    }

    /// The whole file.
    ///
    /// # Errors
    /// [`Error::FileChanged`] if it is no longer the file that was checked.
    pub fn bytes(&self) -> Result<HostBytes> {
        self.location.bytes(self.stat)
    }
}

/// What a file that is no safetensors file probably is, from its first bytes.
fn other_format(start: &[u8]) -> Option<&'static str> {
    [
        (&b"version https://git-lfs"[..], "a git LFS pointer, not the file itself"),
        (b"GGUF", "a GGUF file"),
        (b"PK\x03\x04", "a PyTorch pickle or another zip archive"),
        (b"\x80\x02", "a PyTorch pickle"),
        (b"<!DOCTYPE", "a web page"),
        (b"<!doctype", "a web page"),
        (b"<html", "a web page"),
    ]
    .into_iter()
    .find(|(magic, _)| start.starts_with(magic))
    .map(|(_, what)| what)
}

/// Names to tensors, from the header's JSON. The data begins at `data` and the file ends at `file`.
fn parse_header(json: &[u8], data: u64, file: u64) -> Result<BTreeMap<String, StoredTensor>, FileProblem> {
    let mut problem = None;
    let json = std::str::from_utf8(json).map_err(|e| FileProblem::Json { message: e.to_string() })?;
    let mut reader = serde_json::Deserializer::from_str(json);
    let entries = HeaderSeed { problem: &mut problem }.deserialize(&mut reader).and_then(|e| {
        reader.end()?;
        Ok(e)
    });
    let entries = match (entries, problem) {
        (_, Some(problem)) => return Err(problem),
        (Err(e), None) => return Err(FileProblem::Json { message: e.to_string() }),
        (Ok(entries), None) => entries,
    };

    let available = file - data;
    let mut by_offset: Vec<(&String, &Entry)> = entries.iter().collect();
    by_offset.sort_by_key(|(_, e)| e.data_offsets);
    let mut end = 0;
    for (name, entry) in by_offset {
        let name = || name.clone();
        let [from, to] = entry.data_offsets;
        if from != end || to < from {
            return Err(FileProblem::Offsets { name: name(), from, to, expected: end });
        }
        if to > available {
            return Err(FileProblem::BeyondFile { name: name(), end: to, available });
        }
        let dtype = entry.dtype.to_string();
        let bits = entry.shape.iter().try_fold(entry.dtype.bits() as u64, |n, d| n.checked_mul(*d as u64));
        let Some(bits) = bits else {
            return Err(FileProblem::SizeOverflow { name: name(), shape: entry.shape.clone(), dtype });
        };
        if bits % 8 != 0 || bits / 8 != to - from {
            let (shape, expected) = (entry.shape.clone(), bits.div_ceil(8));
            return Err(FileProblem::ByteCount { name: name(), shape, dtype, expected, found: to - from });
        }
        end = to;
    }
    if end != available {
        return Err(FileProblem::Trailing { bytes: available - end });
    }
    let absolute = |offset: u64| (data + offset) as usize;
    Ok(entries
        .into_iter()
        .map(|(name, Entry { dtype, shape, data_offsets: [from, to] })| {
            (name, StoredTensor { dtype, shape, range: absolute(from)..absolute(to) })
        })
        .collect())
}

/// Reads the header object; leaves in `problem` what serde's error could not say.
struct HeaderSeed<'p> {
    problem: &'p mut Option<FileProblem>,
}

impl<'de> DeserializeSeed<'de> for HeaderSeed<'_> {
    type Value = BTreeMap<String, Entry>;

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for HeaderSeed<'_> {
    type Value = BTreeMap<String, Entry>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut entries = BTreeMap::new();
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                map.next_value::<Option<BTreeMap<String, String>>>()?;
                continue;
            }
            let seed = EntrySeed { name: &name, problem: self.problem };
            let entry = map.next_value_seed(seed)?;
            if entries.contains_key(&name) {
                return Err(note(self.problem, FileProblem::Duplicate { name }));
            }
            entries.insert(name, entry);
        }
        Ok(entries)
    }
}

/// Keep `problem` for the caller and stop serde.
fn note<E: de::Error>(slot: &mut Option<FileProblem>, problem: FileProblem) -> E {
    let error = E::custom(&problem);
    *slot = Some(problem);
    error
}

/// One tensor as the header has it.
struct Entry {
    dtype: StoredDType,
    shape: Vec<usize>,
    data_offsets: [u64; 2],
}

/// Reads one tensor's description, so that what is wrong with it can be said with its name.
struct EntrySeed<'n, 'p> {
    name: &'n str,
    problem: &'p mut Option<FileProblem>,
}

impl<'de> DeserializeSeed<'de> for EntrySeed<'_, '_> {
    type Value = Entry;

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Entry, D::Error> {
        #[derive(Deserialize)]
        struct Raw {
            dtype: String,
            shape: Shape,
            data_offsets: [u64; 2],
        }
        let raw = Raw::deserialize(deserializer).map_err(|e| {
            note::<D::Error>(self.problem, FileProblem::Entry { name: self.name.to_owned(), message: e.to_string() })
        })?;
        let Some(dtype) = StoredDType::parse(&raw.dtype) else {
            return Err(note(self.problem, FileProblem::UnknownDType { name: self.name.to_owned(), dtype: raw.dtype }));
        };
        Ok(Entry { dtype, shape: raw.shape.0, data_offsets: raw.data_offsets })
    }
}

/// At most [`MAX_AXES`] numbers, so that a header cannot make us allocate several times its own length.
struct Shape(Vec<usize>);

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Axes;
        impl<'de> Visitor<'de> for Axes {
            type Value = Shape;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a shape of at most {MAX_AXES} axes")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Shape, A::Error> {
                let mut axes = Vec::new();
                while let Some(axis) = seq.next_element()? {
                    if axes.len() == MAX_AXES {
                        return Err(de::Error::invalid_length(MAX_AXES + 1, &self));
                    }
                    axes.push(axis);
                }
                Ok(Shape(axes))
            }
        }
        deserializer.deserialize_seq(Axes)
    }
}

impl StoredDType {
    /// Every name the format has; sub-byte types are left out, nothing that could be loaded here uses them.
    fn parse(name: &str) -> Option<Self> {
        use StoredDType::{Float, Other};
        Some(match name {
            "F32" => Float(DType::F32),
            "F16" => Float(DType::F16),
            "BF16" => Float(DType::Bf16),
            "F8_E4M3" => Float(DType::F8E4M3),
            "F64" => Other("F64", 64),
            "I64" => Other("I64", 64),
            "U64" => Other("U64", 64),
            "C64" => Other("C64", 64),
            "I32" => Other("I32", 32),
            "U32" => Other("U32", 32),
            "I16" => Other("I16", 16),
            "U16" => Other("U16", 16),
            "I8" => Other("I8", 8),
            "U8" => Other("U8", 8),
            "BOOL" => Other("BOOL", 8),
            "F8_E5M2" => Other("F8_E5M2", 8),
            "F8_E8M0" => Other("F8_E8M0", 8),
            "F8_E4M3FNUZ" => Other("F8_E4M3FNUZ", 8),
            "F8_E5M2FNUZ" => Other("F8_E5M2FNUZ", 8),
            _ => return None,
        })
    }

    fn bits(self) -> usize {
        match self {
            StoredDType::Float(dtype) => dtype.size() * 8,
            StoredDType::Other(_, bits) => bits,
        }
    }
}

impl fmt::Display for StoredDType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoredDType::Float(dtype) => dtype.fmt(f),
            StoredDType::Other(name, _) => f.write_str(name),
        }
    }
}

/// A name out of an untrusted file, fit to be printed: control characters escaped, not endlessly long.
pub(crate) struct Printable<'s>(pub &'s str);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MAX: usize = 120;
        for c in self.0.chars().take(MAX) {
            write!(f, "{}", c.escape_debug())?;
        }
        if self.0.chars().nth(MAX).is_some() { f.write_str("...") } else { Ok(()) }
    }
}

/// Why a file is not a whole safetensors file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FileProblem {
    /// A folder, a pipe or a device.
    #[error("not a regular file")]
    NotAFile,
    /// Another format, told by its first bytes.
    #[error("not a safetensors file but {looks_like}")]
    OtherFormat {
        /// Which.
        looks_like: &'static str,
    },
    /// No room even for the header's length.
    #[error("{bytes} bytes long, too short for a safetensors file")]
    TooShort {
        /// Length of the file.
        bytes: u64,
    },
    /// A header length no sane file has.
    #[error("claims a header of {header} bytes, at most {max} are read")]
    HeaderTooLong {
        /// Length claimed.
        header: u64,
        /// Largest allowed.
        max: u64,
    },
    /// The header does not fit the file.
    #[error("claims a header of {header} bytes and is only {file} bytes long")]
    HeaderBeyondFile {
        /// Length claimed.
        header: u64,
        /// Length of the file.
        file: u64,
    },
    /// The header is not a JSON object.
    #[error("the header is not valid: {}", Printable(message))]
    Json {
        /// What the parser says.
        message: String,
    },
    /// A tensor's description does not have the form it must have.
    #[error("the header describes `{}` wrongly: {}", Printable(name), Printable(message))]
    Entry {
        /// Tensor.
        name: String,
        /// What the parser says.
        message: String,
    },
    /// Two tensors of one name.
    #[error("has two tensors named `{}`", Printable(name))]
    Duplicate {
        /// Tensor.
        name: String,
    },
    /// An element type the format does not have.
    #[error("`{}` has the unknown dtype `{}`", Printable(name), Printable(dtype))]
    UnknownDType {
        /// Tensor.
        name: String,
        /// Type claimed.
        dtype: String,
    },
    /// More bytes than a number can count.
    #[error("`{}` has shape {shape:?} of {dtype}, more bytes than can be counted", Printable(name))]
    SizeOverflow {
        /// Tensor.
        name: String,
        /// Its shape.
        shape: Vec<usize>,
        /// Its element type.
        dtype: String,
    },
    /// Shape and byte range disagree.
    #[error("`{}` has shape {shape:?} of {dtype}, {expected} bytes, but is given {found}", Printable(name))]
    ByteCount {
        /// Tensor.
        name: String,
        /// Its shape.
        shape: Vec<usize>,
        /// Its element type.
        dtype: String,
        /// Bytes the shape needs.
        expected: u64,
        /// Bytes the range has.
        found: u64,
    },
    /// A gap between two tensors, an overlap, or a range that runs backwards.
    #[error("`{}` has bytes {from} to {to}, but the tensor before it ends at {expected}", Printable(name))]
    Offsets {
        /// Tensor.
        name: String,
        /// First byte.
        from: u64,
        /// One past the last byte.
        to: u64,
        /// Where it should begin.
        expected: u64,
    },
    /// The file ends before the tensor does.
    #[error("`{}` ends at byte {end} of the data, and there are only {available}", Printable(name))]
    BeyondFile {
        /// Tensor.
        name: String,
        /// One past its last byte.
        end: u64,
        /// Bytes of data in the file.
        available: u64,
    },
    /// The file goes on after the last tensor.
    #[error("{bytes} bytes follow the last tensor")]
    Trailing {
        /// How many.
        bytes: u64,
    },
}

impl FileProblem {
    pub(crate) fn hint(&self) -> String {
        match self {
            FileProblem::NotAFile => "pass a .safetensors file, or the folder that holds model_index.json",
            FileProblem::OtherFormat { looks_like } if looks_like.contains("LFS") => {
                "fetch the file itself with `git lfs pull`, or download it from the hub"
            }
            FileProblem::OtherFormat { .. } => "pass a .safetensors file",
            FileProblem::TooShort { .. }
            | FileProblem::HeaderBeyondFile { .. }
            | FileProblem::BeyondFile { .. }
            | FileProblem::Trailing { .. } => "download the file again: it is not whole",
            _ => "download the file again from a source you trust: it is damaged or not a safetensors file",
        }
        .into()
    }
}
