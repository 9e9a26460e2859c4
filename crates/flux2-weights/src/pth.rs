//! PyTorch files (`.pth`): a ZIP archive of a pickle and of the tensors' bytes. Nothing in it is executed.
//!
//! In:  any file. Out: names, dtypes, shapes and places of tensors whose bytes all lie within it.
//!
//! A pickle is a program for a stack machine that may call any function of Python. `pickle` runs the few instructions
//! that a dictionary of tensors needs, in which functions are symbols that are never called, and refuses the rest by
//! name. `zip` finds the members.

mod pickle;
mod zip;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use flux2_backend::{HostBytes, HostTensor};

use crate::location::Location;
use crate::tensor_file::{FileProblem, MAX_TENSORS, Printable, StoredDType, StoredTensor};
use crate::{Error, Result};

use zip::Archive;

/// First bytes of a ZIP archive.
pub(crate) const MAGIC: &[u8] = b"PK\x03\x04";
/// First bytes of what `torch.save` wrote before version 1.6: a pickled number.
const LEGACY: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19";
/// Where a TAR archive says that it is one.
const TAR: (Range<usize>, &[u8]) = (257..262, b"ustar");

/// Names under which files keep the dictionary of tensors, the preferred one first.
const DICTIONARIES: [&str; 7] =
    ["model_state_dict", "state_dict", "params_ema", "params-ema", "params", "model", "net"];

/// A checked file. Holds the map of the file, and no tensor data.
pub(crate) struct PthFile {
    bytes: HostBytes,
    tensors: BTreeMap<String, Strided>,
}

/// A tensor over a storage, as its file describes it.
struct Strided {
    stored: StoredTensor,
    /// Distance between neighbors along each axis, in elements.
    strides: Vec<usize>,
}

/// Whether a file that begins with `start` is read by this module, be it to refuse it.
pub(crate) fn is_pth(start: &[u8]) -> bool {
    start.starts_with(MAGIC) || start.starts_with(LEGACY) || start.get(TAR.0).is_some_and(|mark| mark == TAR.1)
}

impl PthFile {
    /// Reads the archive's directory and its pickle.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read, [`Error::Checkpoint`] for anything that is not a whole archive of tensors.
    pub fn open(location: &Location) -> Result<Self> {
        let stat = location.stat()?;
        let refuse = |problem: FileProblem| Error::Checkpoint { path: location.path().to_owned(), problem };
        if !stat.is_file {
            return Err(refuse(FileProblem::NotAFile));
        }
        if stat.len < MAGIC.len() as u64 {
            return Err(refuse(FileProblem::TooShort { bytes: stat.len }));
        }
        let bytes = location.bytes(stat)?;
        let tensors = tensors_of(&bytes).map_err(|problem| refuse(problem.into()))?;
        Ok(PthFile { bytes, tensors })
    }

    /// Names, dtypes and shapes. The range of a tensor holds its first and its last element.
    pub fn tensors(&self) -> impl Iterator<Item = (&String, &StoredTensor)> {
        self.tensors.iter().map(|(name, tensor)| (name, &tensor.stored))
    }

    /// All bytes of the file.
    pub(crate) fn bytes(&self) -> &HostBytes {
        &self.bytes
    }

    /// The tensor `name`. Its values are shared with the file, or copied in row-major order if they lie otherwise.
    ///
    /// # Panics
    /// If there is none of that name, or this engine does not compute with its dtype.
    pub fn tensor(&self, name: &str) -> Result<HostTensor> {
        let Strided { stored, strides } = &self.tensors[name];
        let StoredDType::Known(dtype) = stored.dtype else { panic!("{name} is {}", stored.dtype) };
        let (shape, size) = (&stored.shape, dtype.bytes(1));
        let values = match is_row_major(shape, strides) {
            true => self.bytes.slice(stored.range.clone()),
            false => HostBytes::new(Arc::new(gather(&self.bytes[stored.range.clone()], shape, strides, size))),
        };
        Ok(HostTensor::new(dtype, shape.clone(), values)?)
    }
}

/// The tensors of the whole file `bytes`, by name.
fn tensors_of(bytes: &[u8]) -> Result<BTreeMap<String, Strided>, PthProblem> {
    if bytes.starts_with(LEGACY) {
        return Err(PthProblem::Old { format: "PyTorch before version 1.6" });
    }
    if bytes.get(TAR.0).is_some_and(|mark| mark == TAR.1) {
        return Err(PthProblem::Old { format: "a TAR archive" });
    }
    let archive = Archive::read(bytes)?;
    if archive.member("byteorder").is_ok_and(|range| &bytes[range] != b"little") {
        return Err(PthProblem::BigEndian);
    }
    let pickle = archive.member("data.pkl")?;
    let pickled = pickle::read(&bytes[pickle])?;
    let mut tensors = BTreeMap::new();
    let mut total = 0u64;
    for (name, tensor) in pickled.dictionary(&DICTIONARIES)? {
        let strided = placed(name, tensor, &archive)?;
        total += strided.stored.dtype.bytes_of(&strided.stored.shape).unwrap_or(u64::MAX);
        if total > MAX_SHARING * bytes.len() as u64 {
            return Err(PthProblem::Shared { name: name.to_owned() });
        }
        tensors.insert(name.to_owned(), strided);
        if tensors.len() > MAX_TENSORS {
            return Err(PthProblem::TooMany { what: "tensors", max: MAX_TENSORS });
        }
    }
    match tensors.is_empty() {
        true => Err(PthProblem::NoTensors),
        false => Ok(tensors),
    }
}

/// How often the bytes of a file may be shared by its tensors, so that no file takes many times its length in memory.
const MAX_SHARING: u64 = 4;

/// Checks that a tensor lies within its storage, and the storage within the archive.
fn placed(name: &str, tensor: &pickle::Tensor, archive: &Archive) -> Result<Strided, PthProblem> {
    let named = |what| PthProblem::Tensor { name: name.to_owned(), what };
    let pickle::Tensor { dtype, key, elements, offset, shape, strides } = tensor;
    let storage = archive.member(&format!("data/{key}"))?;
    let size = dtype.bytes_of(&[1]).expect("one element") as usize;
    if elements.checked_mul(size) != Some(storage.len()) {
        return Err(named("a storage of another length"));
    }
    // Distance between the first and the last element. No elements, no distance.
    let count = shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d)).ok_or(named("more elements than can be"))?;
    let reach = shape
        .iter()
        .zip(strides)
        .try_fold(0usize, |sum, (d, stride)| sum.checked_add(d.saturating_sub(1).checked_mul(*stride)?));
    let reach = reach.ok_or(named("strides beyond its storage"))?;
    let end = match count {
        0 => *offset,
        _ => offset.checked_add(reach).and_then(|last| last.checked_add(1)).unwrap_or(usize::MAX),
    };
    // A tensor that repeats its elements could be of any size.
    if end > *elements || count > *elements {
        return Err(named("elements beyond its storage"));
    }
    let range = storage.start + offset * size..storage.start + end * size;
    Ok(Strided { stored: StoredTensor { dtype: *dtype, shape: shape.clone(), range }, strides: strides.clone() })
}

/// Whether elements lie in row-major order without gaps.
fn is_row_major(shape: &[usize], strides: &[usize]) -> bool {
    let mut expected = 1;
    shape.iter().zip(strides).rev().all(|(d, stride)| {
        let fits = *d <= 1 || *stride == expected;
        expected *= d;
        fits
    }) || shape.contains(&0)
}

/// The elements of a tensor in row-major order; `bytes` begin with its first one.
fn gather(bytes: &[u8], shape: &[usize], strides: &[usize], size: usize) -> Vec<u8> {
    let count: usize = shape.iter().product();
    let mut gathered = Vec::with_capacity(count * size);
    let mut index = vec![0; shape.len()];
    for _ in 0..count {
        let at = index.iter().zip(strides).map(|(i, stride)| i * stride).sum::<usize>() * size;
        gathered.extend_from_slice(&bytes[at..at + size]);
        for axis in (0..shape.len()).rev() {
            index[axis] += 1;
            if index[axis] < shape[axis] {
                break;
            }
            index[axis] = 0;
        }
    }
    gathered
}

/// Why a PyTorch file is not read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PthProblem {
    /// A format of old versions of PyTorch.
    #[error("a PyTorch file in an old format, that of {format}, which is not read")]
    Old {
        /// Whose format.
        format: &'static str,
    },
    /// The numbers have their bytes in the other order.
    #[error("a PyTorch file with big-endian numbers, which are not read")]
    BigEndian,
    /// The archive is cut short or damaged.
    #[error("the archive is damaged: {what}")]
    Archive {
        /// What is wrong.
        what: &'static str,
    },
    /// A member of the archive that is not there.
    #[error("the archive has no member `{}`", Printable(name))]
    NoMember {
        /// Name of the member.
        name: String,
    },
    /// A member that is compressed or encrypted.
    #[error("`{}` of the archive is {how}, only stored members are read", Printable(name))]
    NotStored {
        /// Name of the member.
        name: String,
        /// `compressed` or `encrypted`.
        how: &'static str,
    },
    /// The pickle names something that is no tensor.
    #[error("the file wants to load `{}`, which could run code; only tensors are read", Printable(name))]
    Forbidden {
        /// Module and name of the Python object.
        name: String,
    },
    /// The pickle has an instruction that no dictionary of tensors needs.
    #[error("the pickle has the instruction {opcode:#04x} at byte {at}, which no dictionary of tensors needs")]
    Opcode {
        /// The instruction.
        opcode: u8,
        /// Its offset in the pickle.
        at: usize,
    },
    /// The pickle is damaged.
    #[error("the pickle is damaged at byte {at}: {what}")]
    Pickle {
        /// What is wrong.
        what: &'static str,
        /// Offset in the pickle.
        at: usize,
    },
    /// The pickle is larger than any model's.
    #[error("the pickle has more than {max} {what}")]
    TooMany {
        /// What is counted.
        what: &'static str,
        /// Most that are read.
        max: usize,
    },
    /// A tensor that does not fit its storage.
    #[error("`{}` has {what}", Printable(name))]
    Tensor {
        /// Name of the tensor.
        name: String,
        /// What is wrong.
        what: &'static str,
    },
    /// Tensors share their bytes too often.
    #[error("`{}` and others share the same bytes more than {MAX_SHARING} times", Printable(name))]
    Shared {
        /// Name of the tensor.
        name: String,
    },
    /// No dictionary of tensors.
    #[error("the file holds no dictionary of tensors")]
    NoTensors,
}

impl PthProblem {
    /// Whether the file may be whole, but is of a kind that is not read.
    pub(crate) fn is_of_format(&self) -> bool {
        use PthProblem::{BigEndian, Forbidden, NoTensors, NotStored, Old, Opcode};
        matches!(self, Old { .. } | BigEndian | NotStored { .. } | Forbidden { .. } | Opcode { .. } | NoTensors)
    }
}

#[cfg(test)]
mod tests;
