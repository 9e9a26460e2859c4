//! Reference images and pictures, named by the SHA-256 of their bytes: [`Objects`].

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use async_nats::jetstream::object_store::{self as nats, GetErrorKind};
use bytes::Bytes;
use flux2::digest::sha256;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};
use tokio::io::AsyncReadExt as _;

use crate::connect::{Bus, KEPT};
use crate::error::{FleetError, Result};
use crate::names;
use crate::s3::S3;

/// Where reference images and pictures are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Place {
    /// A bucket of the NATS server.
    #[default]
    Nats,
    /// A folder that all machines see.
    Folder(PathBuf),
    /// A bucket of an S3-compatible store.
    S3(S3),
}

/// The text is no place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no place for pictures: use nats, file:///FOLDER or s3://BUCKET/FOLDER")]
pub struct ParsePlaceError(String);

impl FromStr for Place {
    type Err = ParsePlaceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || ParsePlaceError(text.to_owned());
        match text.split_once("://") {
            None if text == "nats" => Ok(Place::Nats),
            Some(("file", path)) if path.starts_with('/') => Ok(Place::Folder(path.into())),
            Some(("s3", path)) => S3::parse(path).map(Place::S3).ok_or_else(invalid),
            _ => Err(invalid()),
        }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Place::Nats => f.write_str("nats"),
            Place::Folder(path) => write!(f, "file://{}", path.display()),
            Place::S3(s3) => s3.fmt(f),
        }
    }
}

impl Place {
    /// Take what the place needs of the environment: keys of S3.
    pub fn with_variables(self, variables: impl Iterator<Item = (String, String)>) -> Self {
        match self {
            Place::S3(s3) => Place::S3(s3.with_variables(variables)),
            other => other,
        }
    }
}

/// What an object is, as a part of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A reference image, a source or a mask.
    Input,
    /// A picture.
    Picture,
}

impl Kind {
    fn name(self, digest: &str) -> String {
        match self {
            Kind::Input => format!("in/{digest}"),
            Kind::Picture => format!("out/{digest}"),
        }
    }
}

/// Reference images and pictures. Clones share the connection.
#[derive(Clone)]
pub struct Objects {
    place: Place,
    inner: Inner,
}

#[derive(Clone)]
enum Inner {
    Nats(Arc<nats::ObjectStore>),
    Other(Arc<dyn ObjectStore>),
}

impl Objects {
    /// Open a place, and make it if it is missing.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub async fn open(place: &Place, bus: &Bus) -> Result<Objects> {
        let failed = |reason: String| FleetError::Objects { place: place.to_string(), reason };
        let inner = match place {
            Place::Nats => Inner::Nats(Arc::new(bucket(bus).await.map_err(failed)?)),
            Place::Folder(path) => {
                std::fs::create_dir_all(path).map_err(|error| failed(error.to_string()))?;
                let store = LocalFileSystem::new_with_prefix(path).map_err(|error| failed(error.to_string()))?;
                Inner::Other(Arc::new(store))
            }
            Place::S3(s3) => Inner::Other(s3.open().map_err(|error| failed(error.to_string()))?),
        };
        Ok(Objects { place: place.clone(), inner })
    }

    /// Store bytes under their digest, unless they are there. Returns the digest.
    ///
    /// # Errors
    /// If they cannot be stored.
    pub async fn put(&self, kind: Kind, bytes: Bytes) -> Result<String> {
        let digest = sha256(&bytes);
        let name = kind.name(&digest);
        match &self.inner {
            Inner::Nats(store) => {
                if store.info(&name).await.is_err() {
                    store.put(name.as_str(), &mut &bytes[..]).await.map_err(|error| self.failed(error))?;
                }
            }
            Inner::Other(store) => {
                // Two that store the same at one moment store the same bytes.
                let path = Path::from(name);
                if store.head(&path).await.is_err() {
                    store.put(&path, bytes.into()).await.map_err(|error| self.failed(error))?;
                }
            }
        }
        Ok(digest)
    }

    /// The bytes of a digest; `None` if there are none, or not any more.
    ///
    /// # Errors
    /// If they cannot be read, are more than `most`, or are not those of the digest.
    pub async fn get(&self, kind: Kind, digest: &str, most: u64) -> Result<Option<Bytes>> {
        let is_digest = digest.len() == 64 && digest.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'));
        if !is_digest {
            return Err(self.failed(format!("{digest:?} is no SHA-256 in lower-case hexadecimal")));
        }
        let name = kind.name(digest);
        let check = |size: u64| match size > most {
            true => Err(self.failed(format!("{name} has {size} bytes; {most} are allowed"))),
            false => Ok(()),
        };
        let bytes = match &self.inner {
            Inner::Nats(store) => {
                let mut object = match store.get(&name).await {
                    Ok(object) => object,
                    Err(error) if error.kind() == GetErrorKind::NotFound => return Ok(None),
                    Err(error) => return Err(self.failed(error)),
                };
                check(object.info().size as u64)?;
                let mut bytes = Vec::with_capacity(object.info().size);
                object.read_to_end(&mut bytes).await.map_err(|error| self.failed(error))?;
                Bytes::from(bytes)
            }
            Inner::Other(store) => {
                let found = match store.get(&Path::from(name.as_str())).await {
                    Ok(found) => found,
                    Err(object_store::Error::NotFound { .. }) => return Ok(None),
                    Err(error) => return Err(self.failed(error)),
                };
                check(found.meta.size)?;
                found.bytes().await.map_err(|error| self.failed(error))?
            }
        };
        match sha256(&bytes) == digest {
            true => Ok(Some(bytes)),
            false => Err(self.failed(format!("{name} has other bytes than its name says"))),
        }
    }

    fn failed(&self, reason: impl std::fmt::Display) -> FleetError {
        FleetError::Objects { place: self.place.to_string(), reason: reason.to_string() }
    }
}

async fn bucket(bus: &Bus) -> Result<nats::ObjectStore, String> {
    if let Ok(store) = bus.jetstream.get_object_store(names::OBJECTS).await {
        return Ok(store);
    }
    let config = nats::Config {
        bucket: names::OBJECTS.into(),
        max_age: KEPT,
        num_replicas: bus.options.replicas,
        ..nats::Config::default()
    };
    bus.jetstream.create_object_store(config).await.map_err(|error| error.to_string())
}
