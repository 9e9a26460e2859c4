//! A cache of text embeddings on disk, shared by runs and processes.
//!
//! In:  a folder, and everything an embedding depends on. Out: its values bit for bit, or nothing.
//!
//! An entry is one file, named by the SHA-256 of everything its values depend on (`Inputs`). No prompt and no path is
//! stored.
//!
//! The folder is not trusted: a file is read only if its name, header, length and checksum are those of the entry asked
//! for. Any other file of that name is removed and written again. Entries are written to a temporary file and renamed,
//! so that several processes can share a folder. The least recently used ones are removed when the limit is reached.
//! Files that are not entries are never touched.
//!
//! | bytes | little-endian |
//! |---|---|
//! | 0..8 | magic |
//! | 8..12, 12..16 | version; element type, 0 for f32 |
//! | 16..24, 24..32 | rows, columns |
//! | 32..64 | the key: SHA-256 of the inputs |
//! | 64..96 | SHA-256 of the values |
//! | 96.. | the values, row by row |

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read as _, Write as _};
use std::path::PathBuf;
use std::time::SystemTime;

use flux2_base::digest::hex;
use sha2::{Digest, Sha256};

use crate::event::{Event, Observer, TextCacheEvent};
use crate::weights::TextConfig;

/// Increment when the format changes, or when the encoder's results change and no field of [`Inputs`] does.
const VERSION: u32 = 2;
const MAGIC: &[u8; 8] = b"F2-TEXT\n";
const DTYPE_F32: u32 = 0;

/// File name of an entry: the key in hexadecimal, then this.
const EXTENSION: &str = ".text";
/// Prefix and suffix of an entry that is being written.
const TEMPORARY: [&str; 2] = [".dj-flux2-text-", ".tmp"];

/// A folder of text embeddings and its limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextCache {
    /// The folder; created when the first entry is written.
    pub folder: PathBuf,
    /// Most bytes of all entries together. An entry of a 4B model takes 16 MB, one of a 9B model 25 MB.
    pub max_bytes: u64,
    /// Text encoders with fewer parameters in the layers that are run are not cached: they take less than a second, and
    /// reading a file is not much faster.
    pub min_parameters: u64,
}

impl TextCache {
    /// A cache of 512 MiB in `folder`, for encoders of 100 million parameters or more.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        TextCache { folder: folder.into(), max_bytes: 512 << 20, min_parameters: 100_000_000 }
    }

    /// The entry of the embedding that `inputs` determine.
    pub(crate) fn entry(&self, inputs: &Inputs) -> Entry {
        let key = inputs.digest();
        let mut header = Vec::with_capacity(HEADER_BYTES);
        header.extend(MAGIC);
        header.extend([VERSION, DTYPE_F32].iter().flat_map(|n| n.to_le_bytes()));
        let shape = [inputs.ids.len(), inputs.config.embedding_dim()];
        header.extend(shape.iter().flat_map(|n| (*n as u64).to_le_bytes()));
        header.extend(key);
        let path = self.folder.join(hex(&key) + EXTENSION);
        Entry { cache: self.clone(), path, header, values: shape[0] * shape[1] }
    }

    /// Remove the least recently used entries until `bytes` more fit.
    fn make_room(&self, bytes: u64) -> io::Result<()> {
        let mut entries = vec![];
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            // Another process may have removed it.
            let Ok(meta) = entry.metadata() else { continue };
            if meta.is_file() && entry.file_name().to_str().is_some_and(is_ours) {
                entries.push((meta.modified().unwrap_or(SystemTime::UNIX_EPOCH), meta.len(), entry.path()));
            }
        }
        entries.sort();
        let mut total: u64 = entries.iter().map(|(_, len, _)| len).sum();
        for (_, len, path) in entries {
            if total.saturating_add(bytes) <= self.max_bytes {
                break;
            }
            match fs::remove_file(path) {
                // Another process may have removed it.
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => total -= len,
            }
        }
        Ok(())
    }
}

/// Whether a file of that name was written by this cache: an entry, or one that was not finished.
fn is_ours(name: &str) -> bool {
    let is_key = |key: &str| key.len() == 64 && key.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let [prefix, suffix] = TEMPORARY;
    name.strip_suffix(EXTENSION).is_some_and(is_key) || (name.starts_with(prefix) && name.ends_with(suffix))
}

/// Everything the values of an embedding depend on. Token ids stand for prompt and tokenizer.
pub(crate) struct Inputs<'a> {
    /// Identifies the weights; see [`Component::fingerprint`](crate::weights::Component::fingerprint).
    pub encoder: [u8; 32],
    /// Sizes, taps and constants of the network.
    pub config: &'a TextConfig,
    /// Name of the kernels; see [`Backend::kernels`](flux2_backend::Backend::kernels).
    pub kernels: &'a str,
    /// Token ids, padding included.
    pub ids: &'a [u32],
    /// How many of them are not padding.
    pub valid: usize,
}

impl Inputs<'_> {
    fn digest(&self) -> [u8; 32] {
        let Inputs { encoder, config, kernels, ids, valid } = self;
        let mut sha = Sha256::new();
        // Another version of the program may have other kernels under the same name.
        let version = env!("CARGO_PKG_VERSION");
        sha.update(format!("text embedding {VERSION} of {version}\n{config:?}\n{kernels}\n{valid} of {}\n", ids.len()));
        sha.update(encoder);
        ids.iter().for_each(|id| sha.update(id.to_le_bytes()));
        sha.finalize().into()
    }
}

/// The file of one embedding, which may not exist.
pub(crate) struct Entry {
    cache: TextCache,
    path: PathBuf,
    /// The first bytes of the file, up to the checksum.
    header: Vec<u8>,
    /// Number of f32 values.
    values: usize,
}

const HEADER_BYTES: usize = 64;
const CHECKSUM_BYTES: usize = 32;

impl Entry {
    /// The values, if the file is valid. An invalid one is removed.
    pub fn load(&self, observer: &mut dyn Observer) -> Option<Vec<f32>> {
        let meta = fs::symlink_metadata(&self.path).ok()?;
        let values = meta.is_file().then(|| self.read(meta.len())).flatten();
        match values {
            // Record the use for `make_room`. That may fail in a read-only folder, where nothing is removed anyway.
            Some(_) => {
                let file = File::options().write(true).open(&self.path);
                let _ = file.and_then(|file| file.set_modified(SystemTime::now()));
                observer.on_event(&Event::TextCache(TextCacheEvent::Found { path: self.path.clone() }));
            }
            None => {
                let _ = fs::remove_file(&self.path);
            }
        }
        values
    }

    fn read(&self, len: u64) -> Option<Vec<f32>> {
        if len != self.len() {
            return None;
        }
        let mut bytes = Vec::with_capacity(len as usize);
        File::open(&self.path).ok()?.take(len).read_to_end(&mut bytes).ok()?;
        let rest = bytes.strip_prefix(self.header.as_slice())?;
        let (checksum, values) = rest.split_at_checked(CHECKSUM_BYTES)?;
        if values.len() != 4 * self.values || Sha256::digest(values)[..] != *checksum {
            return None;
        }
        Some(values.as_chunks().0.iter().map(|value| f32::from_le_bytes(*value)).collect())
    }

    /// Write the values. A failure is reported as an event and otherwise ignored.
    pub fn store(&self, values: &[f32], observer: &mut dyn Observer) {
        if let Err(error) = self.write(values) {
            let (path, reason) = (self.path.clone(), error.to_string());
            observer.on_event(&Event::TextCache(TextCacheEvent::NotKept { path, reason }));
        }
    }

    /// Write the file atomically.
    fn write(&self, values: &[f32]) -> io::Result<()> {
        assert_eq!(values.len(), self.values, "an entry has the size of its inputs' embedding");
        if self.len() > self.cache.max_bytes {
            let (len, max) = (self.len(), self.cache.max_bytes);
            return Err(io::Error::other(format!("an entry has {len} bytes, the cache at most {max}")));
        }
        let mut folder = DirBuilder::new();
        folder.recursive(true);
        // Private: whoever has an embedding can draw its prompt.
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut folder, 0o700);
        folder.create(&self.cache.folder)?;
        self.cache.make_room(self.len())?;

        let values: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let [prefix, suffix] = TEMPORARY;
        let mut file = tempfile::Builder::new().prefix(prefix).suffix(suffix).tempfile_in(&self.cache.folder)?;
        file.write_all(&self.header)?;
        file.write_all(&Sha256::digest(&values))?;
        file.write_all(&values)?;
        // Not synced: the checksum detects what a crash leaves incomplete.
        file.persist(&self.path)?;
        Ok(())
    }

    fn len(&self) -> u64 {
        (HEADER_BYTES + CHECKSUM_BYTES + 4 * self.values) as u64
    }
}
