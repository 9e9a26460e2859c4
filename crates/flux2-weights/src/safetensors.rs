//! The header of a safetensors file: reading, checking, writing.
//!
//! In:  a file. Out: names, dtypes, shapes and byte ranges that all lie within the file, and its metadata.
//!
//! The `safetensors` crate makes the same checks, and tests compare the two. Our own reader names the tensor and the
//! numbers in its errors, and refuses a name that occurs twice, which a map of tensors loses.
//!
//! Format: 8 bytes little-endian header length, JSON header, data without gaps.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;

use flux2_backend::DType;
use serde::Deserialize;
use serde::de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::json;

use crate::tensor_file::{
    FileProblem, MAX_AXES, MAX_HEADER_BYTES, MAX_METADATA_TEXT, MAX_TENSORS, NewTensor, ReadProblem, StoredDType,
    StoredTensor,
};

/// `__metadata__` of a file: texts by key.
pub(super) type Metadata = BTreeMap<String, String>;

/// Reads tensors and metadata of a file of `len` bytes from its start.
///
/// # Errors
/// For anything that is not a complete safetensors file.
pub(super) fn read(file: &mut dyn Read, len: u64) -> Result<(BTreeMap<String, StoredTensor>, Metadata), ReadProblem> {
    let mut start = Vec::with_capacity(8);
    file.take(8).read_to_end(&mut start)?;
    let Some(length) = start.first_chunk::<8>() else { return Err(FileProblem::TooShort { bytes: len }.into()) };
    let header = u64::from_le_bytes(*length);
    if header > MAX_HEADER_BYTES {
        return Err(FileProblem::HeaderTooLong { header, max: MAX_HEADER_BYTES }.into());
    }
    if header > len.saturating_sub(8) {
        return Err(FileProblem::HeaderBeyondFile { header, file: len }.into());
    }
    let mut json = Vec::new();
    file.take(header).read_to_end(&mut json)?;
    Ok(parse_header(&json, 8 + header, len)?)
}

/// Tensors by name and the metadata, from the header's JSON. `data` is the offset of the data, `file` the file's
/// length.
fn parse_header(json: &[u8], data: u64, file: u64) -> Result<(BTreeMap<String, StoredTensor>, Metadata), FileProblem> {
    let mut problem = None;
    let json = std::str::from_utf8(json).map_err(|e| FileProblem::Json { message: e.to_string() })?;
    let mut reader = serde_json::Deserializer::from_str(json);
    let entries = HeaderSeed { problem: &mut problem }.deserialize(&mut reader).and_then(|e| {
        reader.end()?;
        Ok(e)
    });
    let (entries, metadata) = match (entries, problem) {
        (_, Some(problem)) => return Err(problem),
        (Err(e), None) => return Err(FileProblem::Json { message: e.to_string() }),
        (Ok(header), None) => header,
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
        let Some(expected) = entry.dtype.bytes_of(&entry.shape) else {
            return Err(FileProblem::SizeOverflow { name: name(), shape: entry.shape.clone(), dtype });
        };
        if expected != to - from {
            let shape = entry.shape.clone();
            return Err(FileProblem::ByteCount { name: name(), shape, dtype, expected, found: to - from });
        }
        end = to;
    }
    if end != available {
        return Err(FileProblem::Trailing { bytes: available - end });
    }
    let absolute = |offset: u64| (data + offset) as usize;
    let tensors = entries.into_iter().map(|(name, Entry { dtype, shape, data_offsets: [from, to] })| {
        (name, StoredTensor { dtype, shape, range: absolute(from)..absolute(to) })
    });
    Ok((tensors.collect(), metadata))
}

/// Reads the header object. Stores in `problem` what an error of serde cannot carry.
struct HeaderSeed<'p> {
    problem: &'p mut Option<FileProblem>,
}

impl<'de> DeserializeSeed<'de> for HeaderSeed<'_> {
    type Value = (BTreeMap<String, Entry>, Metadata);

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for HeaderSeed<'_> {
    type Value = (BTreeMap<String, Entry>, Metadata);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let (mut entries, mut metadata) = (BTreeMap::new(), Metadata::new());
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                let texts = map.next_value::<Option<BTreeMap<String, Text>>>()?.unwrap_or_default();
                metadata = texts.into_iter().map(|(key, Text(text))| (key, text)).collect();
                continue;
            }
            let seed = EntrySeed { name: &name, problem: self.problem };
            let entry = map.next_value_seed(seed)?;
            if entries.contains_key(&name) {
                return Err(note(self.problem, FileProblem::Duplicate { name }));
            }
            entries.insert(name, entry);
            if entries.len() > MAX_TENSORS {
                return Err(note(self.problem, FileProblem::TooManyTensors { max: MAX_TENSORS }));
            }
        }
        Ok((entries, metadata))
    }
}

/// A text of the metadata, truncated behind [`MAX_METADATA_TEXT`] bytes.
struct Text(String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Cut;
        impl Visitor<'_> for Cut {
            type Value = Text;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Text, E> {
                Ok(Text(text[..text.len().min(text.ceil_char_boundary(MAX_METADATA_TEXT + 1))].to_owned()))
            }
        }
        deserializer.deserialize_str(Cut)
    }
}

/// Stores `problem` for the caller and stops serde.
fn note<E: de::Error>(slot: &mut Option<FileProblem>, problem: FileProblem) -> E {
    let error = E::custom(&problem);
    *slot = Some(problem);
    error
}

/// One tensor as the header describes it.
struct Entry {
    dtype: StoredDType,
    shape: Vec<usize>,
    data_offsets: [u64; 2],
}

/// Reads the description of one tensor, so that an error can name the tensor.
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
        let Some(dtype) = parse_dtype(&raw.dtype) else {
            return Err(note(self.problem, FileProblem::UnknownDType { name: self.name.to_owned(), dtype: raw.dtype }));
        };
        Ok(Entry { dtype, shape: raw.shape.0, data_offsets: raw.data_offsets })
    }
}

/// At most [`MAX_AXES`] numbers: a header must not make us allocate a multiple of its own length.
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

/// The header of a file whose data are `tensors` in their order, without gaps.
///
/// # Panics
/// If the format lacks the dtype of a tensor.
pub(super) fn header(tensors: &[NewTensor], metadata: &[(&str, String)]) -> Vec<u8> {
    let metadata: serde_json::Map<_, _> = metadata.iter().map(|(k, v)| ((*k).to_owned(), json!(v))).collect();
    let mut entries = serde_json::Map::from_iter([("__metadata__".to_owned(), metadata.into())]);
    let mut from = 0;
    for tensor in tensors {
        let to = from + tensor.bytes();
        let dtype = match tensor.dtype {
            DType::F32 => "F32",
            DType::F16 => "F16",
            DType::Bf16 => "BF16",
            DType::I8 => "I8",
            other => panic!("no safetensors file holds {other}"),
        };
        entries.insert(tensor.name.clone(), json!({"dtype": dtype, "shape": tensor.shape, "data_offsets": [from, to]}));
        from = to;
    }
    let mut text = serde_json::Value::Object(entries).to_string().into_bytes();
    // Data at a multiple of 8 is aligned for every dtype.
    text.resize(text.len().next_multiple_of(8), b' ');
    [&(text.len() as u64).to_le_bytes()[..], &text].concat()
}

/// The dtypes of the format, without those of fewer than 8 bits, which no model here uses.
fn parse_dtype(name: &str) -> Option<StoredDType> {
    use StoredDType::{Known, Other};
    Some(match name {
        "F32" => Known(DType::F32),
        "F16" => Known(DType::F16),
        "BF16" => Known(DType::Bf16),
        "F8_E4M3" => Known(DType::F8E4M3),
        "I8" => Known(DType::I8),
        "F64" => Other("F64", [1, 8]),
        "I64" => Other("I64", [1, 8]),
        "U64" => Other("U64", [1, 8]),
        "C64" => Other("C64", [1, 8]),
        "I32" => Other("I32", [1, 4]),
        "U32" => Other("U32", [1, 4]),
        "I16" => Other("I16", [1, 2]),
        "U16" => Other("U16", [1, 2]),
        "U8" => Other("U8", [1, 1]),
        "BOOL" => Other("BOOL", [1, 1]),
        "F8_E5M2" => Other("F8_E5M2", [1, 1]),
        "F8_E8M0" => Other("F8_E8M0", [1, 1]),
        "F8_E4M3FNUZ" => Other("F8_E4M3FNUZ", [1, 1]),
        "F8_E5M2FNUZ" => Other("F8_E5M2FNUZ", [1, 1]),
        _ => return None,
    })
}
