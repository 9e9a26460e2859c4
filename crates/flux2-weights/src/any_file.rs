//! A file of tensors in either of the containers that small networks are published in: `.safetensors` or `.pth`.

use std::collections::BTreeMap;
use std::io::Read as _;

use flux2_backend::{DType, HostBytes, HostTensor};

use crate::Result;
use crate::config::ExpectedTensor;
use crate::location::Location;
use crate::mismatch::{Mismatch, WrongShape};
use crate::pth::{self, PthFile};
use crate::tensor_file::{StoredDType, StoredTensor, TensorFile};

/// A checked file. Holds the map of the file, and no tensor data.
pub(crate) enum AnyFile {
    Safetensors(TensorFile, HostBytes),
    Pth(PthFile),
}

impl AnyFile {
    /// Opens the file at `location`. Its first bytes say which container it is.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) and [`Error::Checkpoint`](crate::Error::Checkpoint) if it is no file of tensors.
    pub(crate) fn open(location: &Location) -> Result<Self> {
        let mut start = Vec::new();
        if location.stat()?.is_file {
            location.reader()?.take(512).read_to_end(&mut start).map_err(|e| location.io(e))?;
        }
        if pth::is_pth(&start) {
            return Ok(AnyFile::Pth(PthFile::open(location)?));
        }
        let file = TensorFile::open(location)?;
        let bytes = file.bytes()?;
        Ok(AnyFile::Safetensors(file, bytes))
    }

    /// Names, dtypes and shapes.
    pub(crate) fn tensors(&self) -> Box<dyn Iterator<Item = (&String, &StoredTensor)> + '_> {
        match self {
            AnyFile::Safetensors(file, _) => Box::new(file.tensors.iter()),
            AnyFile::Pth(file) => Box::new(file.tensors()),
        }
    }

    /// The tensor `name`.
    ///
    /// # Panics
    /// If there is none of that name, or this engine does not compute with its dtype.
    pub(crate) fn tensor(&self, name: &str) -> Result<HostTensor> {
        match self {
            AnyFile::Safetensors(file, bytes) => {
                let StoredTensor { dtype, shape, range } = &file.tensors[name];
                let StoredDType::Known(dtype) = dtype else { unreachable!("{name} was checked") };
                Ok(HostTensor::new(*dtype, shape.clone(), bytes.slice(range.clone()))?)
            }
            AnyFile::Pth(file) => file.tensor(name),
        }
    }

    /// The tensors by their canonical names. Of two with the same one, the second counts as unknown.
    pub(crate) fn named(&self, name: impl Fn(&str) -> Name) -> NamedTensors<'_> {
        let mut named = NamedTensors { tensors: BTreeMap::new(), unknown: Vec::new() };
        for (stored, tensor) in self.tensors() {
            match name(stored) {
                Name::Canonical(name) if !named.tensors.contains_key(&name) => {
                    named.tensors.insert(name, (stored, tensor));
                }
                Name::Ignored => {}
                _ => named.unknown.push(stored.clone()),
            }
        }
        named
    }

    /// All bytes of the file.
    pub(crate) fn bytes(&self) -> &HostBytes {
        match self {
            AnyFile::Safetensors(_, bytes) => bytes,
            AnyFile::Pth(file) => file.bytes(),
        }
    }

    /// `safetensors` or `pth`.
    pub(crate) fn container(&self) -> &'static str {
        match self {
            AnyFile::Safetensors(..) => "safetensors",
            AnyFile::Pth(_) => "pth",
        }
    }
}

/// What a stored name means.
pub(crate) enum Name {
    /// A tensor of the network.
    Canonical(String),
    /// Something that belongs in such a file and is not read.
    Ignored,
    Unknown,
}

/// Tensors of a file by their canonical names.
pub(crate) struct NamedTensors<'a> {
    /// Stored names and headers.
    tensors: BTreeMap<String, (&'a String, &'a StoredTensor)>,
    /// Stored names of the others.
    unknown: Vec<String>,
}

impl NamedTensors<'_> {
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    pub(crate) fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|(_, tensor)| &tensor.shape[..])
    }

    /// The stored name of each expected tensor, or how the file differs from what is expected.
    pub(crate) fn check(mut self, expected: Vec<ExpectedTensor>) -> Result<BTreeMap<String, String>, Mismatch> {
        let mut mismatch = Mismatch { unused: self.unknown, ..Mismatch::default() };
        let mut stored_names = BTreeMap::new();
        for (name, expected) in expected {
            let Some((stored, tensor)) = self.tensors.remove(&name) else {
                mismatch.missing.push(name);
                continue;
            };
            if tensor.shape != expected {
                mismatch.shapes.push(WrongShape { name: stored.clone(), found: tensor.shape.clone(), expected });
            } else if !matches!(tensor.dtype, StoredDType::Known(DType::F32 | DType::F16 | DType::Bf16)) {
                mismatch.dtypes.push((stored.clone(), tensor.dtype.to_string()));
            }
            stored_names.insert(name, stored.clone());
        }
        mismatch.unused.extend(self.tensors.into_values().map(|(stored, _)| stored.clone()));
        if mismatch.count() == 0 {
            return Ok(stored_names);
        }
        mismatch.suggest_names(stored_names.values());
        Err(mismatch)
    }
}

/// A `.safetensors` file of zeros with these tensors, in f16.
#[cfg(test)]
pub(crate) fn file_of_zeros(folder: &tempfile::TempDir, name: &str, tensors: &[ExpectedTensor]) -> std::path::PathBuf {
    use serde_json::{Map, Value, json};

    let mut header = Map::new();
    let mut at = 0;
    for (name, shape) in tensors {
        let end = at + 2 * shape.iter().product::<usize>();
        header.insert(name.clone(), json!({"dtype": "F16", "shape": shape, "data_offsets": [at, end]}));
        at = end;
    }
    let mut header = Value::Object(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    let path = folder.path().join(name);
    std::fs::write(&path, [&(header.len() as u64).to_le_bytes()[..], &header, &vec![0; at]].concat()).unwrap();
    path
}
