//! The header of a GGUF file: reading, checking, writing.
//!
//! In:  a file. Out: names, dtypes, shapes and byte ranges that all lie within the file, and its metadata.
//!
//! Format, little-endian: magic, version, number of tensors, number of metadata entries; the entries; the tensors'
//! names, dimensions (innermost first), types and offsets; then data, each tensor at the next multiple of the
//! alignment. Source: `docs/gguf.md` in ggml-org/ggml, whose own reader refuses the same gaps and overlaps.
//!
//! Every count is compared with the length of the file before anything is allocated. Long values, such as a vocabulary,
//! are skipped.

use std::collections::BTreeMap;
use std::io::{self, BufReader, Read};

use flux2_backend::DType;

use crate::tensor_file::{
    FileProblem, MAX_AXES, MAX_HEADER_BYTES, MAX_TENSORS, NewTensor, ReadProblem, StoredDType, StoredTensor,
};

/// First bytes of every file.
pub(super) const MAGIC: &[u8] = b"GGUF";

/// Default alignment of the data and of each tensor, in bytes.
pub(super) const ALIGNMENT: u64 = 32;
const MAX_ALIGNMENT: u64 = 1 << 20;
/// Most metadata entries accepted; the family's files have a few dozen.
const MAX_ENTRIES: u64 = 1 << 16;
/// Longest name of a tensor or an entry; a limit of the format.
const MAX_NAME: u64 = u16::MAX as u64;
/// Longest text value that is kept, in bytes.
const MAX_TEXT: u64 = 4096;
/// Deepest nesting of arrays accepted.
const MAX_DEPTH: usize = 4;

/// Metadata of a file.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metadata(BTreeMap<String, Entry>);

/// A metadata value of a kind that is used.
#[derive(Clone, Debug, PartialEq)]
enum Entry {
    Number(f64),
    Text(String),
    /// A bool, an array or a long text.
    Other,
}

impl Metadata {
    /// The number at `key`, of any numeric type.
    pub fn number(&self, key: &str) -> Option<f64> {
        match self.0.get(key) {
            Some(Entry::Number(value)) => Some(*value),
            _ => None,
        }
    }

    pub fn text(&self, key: &str) -> Option<&str> {
        match self.0.get(key) {
            Some(Entry::Text(value)) => Some(value),
            _ => None,
        }
    }

    /// All texts and numbers, as text.
    pub fn texts(&self) -> BTreeMap<String, String> {
        let text = |(key, entry): (&String, &Entry)| match entry {
            Entry::Number(value) => Some((key.clone(), value.to_string())),
            Entry::Text(value) => Some((key.clone(), value.clone())),
            Entry::Other => None,
        };
        self.0.iter().filter_map(text).collect()
    }
}

/// Reads tensors and metadata of a file of `len` bytes from its start.
///
/// # Errors
/// For anything that is not a complete GGUF file.
pub(super) fn read(file: &mut dyn Read, len: u64) -> Result<(BTreeMap<String, StoredTensor>, Metadata), ReadProblem> {
    let mut header = Header { file: BufReader::new(file), at: 0, len };
    header.skip(MAGIC.len() as u64, "the magic")?;
    let version = header.u32("the version")?;
    if !(2..=3).contains(&version) {
        return Err(FileProblem::GgufVersion { version }.into());
    }
    let (tensors, entries) = (header.u64("the number of tensors")?, header.u64("the number of entries")?);
    at_most("the number of tensors", tensors, MAX_TENSORS as u64)?;
    at_most("the number of metadata entries", entries, MAX_ENTRIES)?;

    let mut metadata = BTreeMap::new();
    for _ in 0..entries {
        let key = header.text("the name of an entry", MAX_NAME)?;
        let kind = header.u32("the type of an entry")?;
        let entry = header.entry(&key, kind, 0)?;
        if metadata.contains_key(&key) {
            return Err(invalid(format!("has two entries `{key}`")));
        }
        metadata.insert(key, entry);
    }
    let metadata = Metadata(metadata);
    let alignment = match metadata.0.get("general.alignment") {
        None => ALIGNMENT,
        Some(Entry::Number(n)) if *n >= 1.0 && *n <= MAX_ALIGNMENT as f64 && (*n as u64).is_power_of_two() => *n as u64,
        Some(other) => {
            return Err(invalid(format!("general.alignment is {other:?}, not a power of two up to {MAX_ALIGNMENT}")));
        }
    };

    let infos = (0..tensors).map(|_| header.tensor()).collect::<Result<Vec<_>, _>>()?;
    let data = header.at.next_multiple_of(alignment);
    Ok((place(infos, data, alignment, len)?, metadata))
}

/// A tensor as the header describes it.
struct Info {
    name: String,
    dtype: StoredDType,
    shape: Vec<usize>,
    offset: u64,
}

/// Tensors by name. Checks that each begins where the one before it ends. `data` is the offset of the data, `file` the
/// length of the file.
fn place(
    infos: Vec<Info>,
    data: u64,
    alignment: u64,
    file: u64,
) -> Result<BTreeMap<String, StoredTensor>, FileProblem> {
    let available = file.saturating_sub(data);
    let mut placed = Vec::with_capacity(infos.len());
    for Info { name, dtype, shape, offset } in infos {
        let Some(bytes) = dtype.bytes_of(&shape) else {
            let block = dtype.block_len();
            let dtype = dtype.to_string();
            return Err(match shape.last().copied().unwrap_or(1).is_multiple_of(block) {
                true => FileProblem::SizeOverflow { name, shape, dtype },
                false => FileProblem::Blocks { name, shape, dtype, block },
            });
        };
        match offset.checked_add(bytes) {
            Some(end) if end <= available => placed.push((offset, end, name, dtype, shape)),
            end => return Err(FileProblem::BeyondFile { name, end: end.unwrap_or(u64::MAX), available }),
        }
    }
    placed.sort_by_key(|(from, to, ..)| (*from, *to));
    let (mut end, mut tensors) = (0u64, BTreeMap::new());
    for (from, to, name, dtype, shape) in placed {
        let expected = end.next_multiple_of(alignment);
        if from != expected {
            return Err(FileProblem::Offsets { name, from, to, expected });
        }
        end = to;
        let range = (data + from) as usize..(data + to) as usize;
        if tensors.contains_key(&name) {
            return Err(FileProblem::Duplicate { name });
        }
        tensors.insert(name, StoredTensor { dtype, shape, range });
    }
    Ok(tensors)
}

fn at_most(what: &str, found: u64, max: u64) -> Result<(), ReadProblem> {
    match found <= max {
        true => Ok(()),
        false => Err(FileProblem::GgufCount { what: what.into(), found, max }.into()),
    }
}

fn invalid(message: String) -> ReadProblem {
    FileProblem::Gguf { message }.into()
}

/// Reads a header and keeps count of the position.
struct Header<R> {
    file: BufReader<R>,
    at: u64,
    len: u64,
}

impl<R: Read> Header<R> {
    /// Refuses to read `bytes` more if they go beyond the file or the limit of a header.
    fn need(&self, bytes: u64, what: &str) -> Result<(), ReadProblem> {
        let end = self.at.saturating_add(bytes);
        if end > self.len {
            let (what, at, file) = (what.to_owned(), self.at, self.len);
            return Err(FileProblem::GgufCut { what, at, needed: bytes, file }.into());
        }
        if end > MAX_HEADER_BYTES {
            return Err(FileProblem::HeaderTooLong { header: end, max: MAX_HEADER_BYTES }.into());
        }
        Ok(())
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], ReadProblem> {
        self.need(N as u64, what)?;
        let mut bytes = [0; N];
        self.file.read_exact(&mut bytes)?;
        self.at += N as u64;
        Ok(bytes)
    }

    fn u32(&mut self, what: &str) -> Result<u32, ReadProblem> {
        self.array(what).map(u32::from_le_bytes)
    }

    fn u64(&mut self, what: &str) -> Result<u64, ReadProblem> {
        self.array(what).map(u64::from_le_bytes)
    }

    fn skip(&mut self, bytes: u64, what: &str) -> Result<(), ReadProblem> {
        self.need(bytes, what)?;
        let skipped = io::copy(&mut self.file.by_ref().take(bytes), &mut io::sink())?;
        self.at += bytes;
        if skipped == bytes { Ok(()) } else { Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()) }
    }

    fn text(&mut self, what: &str, max: u64) -> Result<String, ReadProblem> {
        let len = self.u64(what)?;
        at_most(&format!("the length of {what}"), len, max)?;
        self.need(len, what)?;
        let mut bytes = vec![0; len as usize];
        self.file.read_exact(&mut bytes)?;
        self.at += len;
        String::from_utf8(bytes).map_err(|_| invalid(format!("{what} is not UTF-8")))
    }

    /// Reads the value of entry `key`.
    fn entry(&mut self, key: &str, kind: u32, depth: usize) -> Result<Entry, ReadProblem> {
        let what = &format!("entry `{key}`");
        Ok(match kind {
            0 => Entry::Number(f64::from(self.array(what).map(u8::from_le_bytes)?)),
            1 => Entry::Number(f64::from(self.array(what).map(i8::from_le_bytes)?)),
            2 => Entry::Number(f64::from(self.array(what).map(u16::from_le_bytes)?)),
            3 => Entry::Number(f64::from(self.array(what).map(i16::from_le_bytes)?)),
            4 => Entry::Number(f64::from(self.u32(what)?)),
            5 => Entry::Number(f64::from(self.array(what).map(i32::from_le_bytes)?)),
            6 => Entry::Number(f64::from(self.array(what).map(f32::from_le_bytes)?)),
            10 => Entry::Number(self.u64(what)? as f64),
            11 => Entry::Number(self.array(what).map(i64::from_le_bytes)? as f64),
            12 => Entry::Number(self.array(what).map(f64::from_le_bytes)?),
            7 => {
                self.skip(1, what)?;
                Entry::Other
            }
            8 => {
                let len = self.u64(what)?;
                if len > MAX_TEXT {
                    self.skip(len, what)?;
                    return Ok(Entry::Other);
                }
                self.need(len, what)?;
                let mut bytes = vec![0; len as usize];
                self.file.read_exact(&mut bytes)?;
                self.at += len;
                String::from_utf8(bytes).map_or(Entry::Other, Entry::Text)
            }
            9 if depth < MAX_DEPTH => {
                let (kind, count) = (self.u32(what)?, self.u64(what)?);
                // The fewest bytes of an element: a length for a text, a type and a length for an array.
                let least = match kind {
                    0 | 1 | 7 => 1,
                    2 | 3 => 2,
                    4..=6 => 4,
                    8 | 10..=12 => 8,
                    9 => 12,
                    _ => return Err(invalid(format!("{what} is an array of the unknown type {kind}"))),
                };
                self.need(count.saturating_mul(least), what)?;
                match kind {
                    8 => {
                        for _ in 0..count {
                            let len = self.u64(what)?;
                            self.skip(len, what)?;
                        }
                    }
                    9 => {
                        for _ in 0..count {
                            self.entry(key, kind, depth + 1)?;
                        }
                    }
                    _ => self.skip(count * least, what)?,
                }
                Entry::Other
            }
            9 => return Err(invalid(format!("{what} has arrays nested more than {MAX_DEPTH} deep"))),
            _ => return Err(invalid(format!("{what} has the unknown type {kind}"))),
        })
    }

    /// Reads the description of a tensor.
    fn tensor(&mut self) -> Result<Info, ReadProblem> {
        let name = self.text("the name of a tensor", MAX_NAME)?;
        let what = &format!("tensor `{name}`");
        let axes = self.u32(what)?;
        at_most(&format!("the number of axes of {what}"), axes.into(), MAX_AXES as u64)?;
        let mut shape = Vec::with_capacity(axes as usize);
        for _ in 0..axes {
            let size = self.u64(what)?;
            shape.push(usize::try_from(size).map_err(|_| invalid(format!("{what} has an axis of {size}")))?);
        }
        shape.reverse();
        let kind = self.u32(what)?;
        let Some(dtype) = parse_dtype(kind) else {
            return Err(FileProblem::UnknownDType { name, dtype: kind.to_string() }.into());
        };
        Ok(Info { name, dtype, shape, offset: self.u64(what)? })
    }
}

/// Element types by number; missing numbers were removed from the format. Source: `ggml.h` and `ggml-common.h`.
fn parse_dtype(kind: u32) -> Option<StoredDType> {
    use StoredDType::{Known, Other};
    Some(match kind {
        0 => Known(DType::F32),
        1 => Known(DType::F16),
        2 => Known(DType::Q4_0),
        3 => Known(DType::Q4_1),
        6 => Known(DType::Q5_0),
        7 => Known(DType::Q5_1),
        8 => Known(DType::Q8_0),
        9 => Other("q8_1", [32, 36]),
        10 => Other("q2_k", [256, 84]),
        11 => Other("q3_k", [256, 110]),
        12 => Known(DType::Q4K),
        13 => Known(DType::Q5K),
        14 => Known(DType::Q6K),
        15 => Other("q8_k", [256, 292]),
        16 => Other("iq2_xxs", [256, 66]),
        17 => Other("iq2_xs", [256, 74]),
        18 => Other("iq3_xxs", [256, 98]),
        19 => Other("iq1_s", [256, 50]),
        20 => Other("iq4_nl", [32, 18]),
        21 => Other("iq3_s", [256, 110]),
        22 => Other("iq2_s", [256, 82]),
        23 => Other("iq4_xs", [256, 136]),
        24 => Other("i8", [1, 1]),
        25 => Other("i16", [1, 2]),
        26 => Other("i32", [1, 4]),
        27 => Other("i64", [1, 8]),
        28 => Other("f64", [1, 8]),
        29 => Other("iq1_m", [256, 56]),
        30 => Known(DType::Bf16),
        34 => Other("tq1_0", [256, 54]),
        35 => Other("tq2_0", [256, 66]),
        39 => Other("mxfp4", [32, 17]),
        40 => Other("nvfp4", [64, 36]),
        _ => return None,
    })
}

// ---- writing ----

/// A metadata value to write.
#[derive(Clone, Debug)]
pub(super) enum Value {
    U32(u32),
    F32(f32),
    Text(String),
}

impl From<usize> for Value {
    fn from(value: usize) -> Self {
        Value::U32(value.try_into().expect("sizes of models are small"))
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Value::Text(value.to_owned())
    }
}

/// The header of a file whose data are `tensors` in their order, each at the next multiple of [`ALIGNMENT`].
///
/// # Panics
/// If the format lacks the dtype of a tensor.
pub(super) fn header(tensors: &[NewTensor], metadata: &[(&str, Value)]) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    let text = |out: &mut Vec<u8>, text: &str| {
        out.extend((text.len() as u64).to_le_bytes());
        out.extend(text.as_bytes());
    };
    out.extend(3u32.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata {
        text(&mut out, key);
        match value {
            Value::U32(value) => [4, *value].iter().for_each(|n| out.extend(n.to_le_bytes())),
            Value::F32(value) => [6, value.to_bits()].iter().for_each(|n| out.extend(n.to_le_bytes())),
            Value::Text(value) => {
                out.extend(8u32.to_le_bytes());
                text(&mut out, value);
            }
        }
    }
    let mut offset = 0u64;
    for tensor in tensors {
        text(&mut out, &tensor.name);
        out.extend((tensor.shape.len() as u32).to_le_bytes());
        tensor.shape.iter().rev().for_each(|n| out.extend((*n as u64).to_le_bytes()));
        let kind = (0..64).find(|kind| parse_dtype(*kind) == Some(StoredDType::Known(tensor.dtype)));
        out.extend(kind.unwrap_or_else(|| panic!("no GGUF file holds {}", tensor.dtype)).to_le_bytes());
        out.extend(offset.to_le_bytes());
        offset = (offset + tensor.bytes() as u64).next_multiple_of(ALIGNMENT);
    }
    out.resize(out.len().next_multiple_of(ALIGNMENT as usize), 0);
    out
}
