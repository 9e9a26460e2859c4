//! A file of tensors in either of the containers that small networks are published in: `.safetensors` or `.pth`.

use std::io::Read as _;

use flux2_backend::{HostBytes, HostTensor};

use crate::Result;
use crate::location::Location;
use crate::pth::{self, PthFile};
use crate::tensor_file::{StoredDType, StoredTensor, TensorFile};

/// A checked file. Holds the map of the file, and no tensor data.
pub(crate) enum AnyFile {
    Safetensors(TensorFile, HostBytes),
    Pth(PthFile),
}

impl AnyFile {
    /// The file at `location`, told by its first bytes.
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
