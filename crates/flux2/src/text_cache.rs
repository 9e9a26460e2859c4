//! Text embeddings on disk: what the text encoder made of a prompt, for the next run that asks it the same.
//!
//! In:  a folder, and everything an embedding depends on. Out: its values bit for bit, or nothing.
//!
//! An entry is one file, named by the SHA-256 of what its values depend on ([`Inputs`]): no prompt and no path is stored. The
//! folder is not trusted. A file counts only if its name, header, length and checksum are those of the entry asked for;
//! any other of that name is removed and made again. Entries are written to a temporary file and renamed, so that several
//! processes may share a folder; those used longest ago go when there is no room. What is not an entry is never touched.
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

/// To be raised when the format changes, or what the encoder computes without any of [`Inputs`] telling.
const VERSION: u32 = 2;
const MAGIC: &[u8; 8] = b"F2-TEXT\n";
const DTYPE_F32: u32 = 0;

/// Of an entry's file name, behind the key in hexadecimal.
const EXTENSION: &str = ".text";
/// Of a file that becomes an entry.
const TEMPORARY: [&str; 2] = [".dj-flux2-text-", ".tmp"];

/// A folder of text embeddings, and what may go into it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextCache {
    /// Where; made when the first entry is written. Nothing in it is touched but entries.
    pub folder: PathBuf,
    /// Bytes of all entries together, at most. An entry of a 4B model takes 16 MB, one of a 9B model 25 MB.
    pub max_bytes: u64,
    /// Text encoders with fewer parameters in the layers that are run are asked again each time: that takes less than a
    /// second, and reading a file is not much faster.
    pub min_parameters: u64,
}

impl TextCache {
    /// A cache of 512 MiB in `folder`, for encoders of 100 million parameters or more.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        TextCache { folder: folder.into(), max_bytes: 512 << 20, min_parameters: 100_000_000 }
    }

    /// The place of what `inputs` give.
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

    /// Remove the entries used longest ago until `bytes` more fit.
    fn make_room(&self, bytes: u64) -> io::Result<()> {
        let mut entries = vec![];
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            // One that is gone again takes no room.
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
                // Another process made room too.
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => total -= len,
            }
        }
        Ok(())
    }
}

/// Whether a file of that name was written here: an entry, or what is left of one that was not finished.
fn is_ours(name: &str) -> bool {
    let is_key = |key: &str| key.len() == 64 && key.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let [prefix, suffix] = TEMPORARY;
    name.strip_suffix(EXTENSION).is_some_and(is_key) || (name.starts_with(prefix) && name.ends_with(suffix))
}

/// Everything the values of an embedding depend on. The tokenizer is not among it: what it makes of the prompt is.
pub(crate) struct Inputs<'a> {
    /// Tells the weights from others; see [`Component::fingerprint`](crate::weights::Component::fingerprint).
    pub encoder: [u8; 32],
    /// Sizes, taps and constants of the network.
    pub config: &'a TextConfig,
    /// See [`Backend::kernels`](flux2_backend::Backend::kernels).
    pub kernels: &'a str,
    /// Token ids, padding included.
    pub ids: &'a [u32],
    /// How many of them are real.
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

/// The place of one embedding.
pub(crate) struct Entry {
    cache: TextCache,
    path: PathBuf,
    /// What its file begins with, up to the checksum.
    header: Vec<u8>,
    /// How many follow.
    values: usize,
}

const HEADER_BYTES: usize = 64;
const CHECKSUM_BYTES: usize = 32;

impl Entry {
    /// The values, if they are there. A file in their place that does not hold them is removed.
    pub fn load(&self, observer: &mut dyn Observer) -> Option<Vec<f32>> {
        let meta = fs::symlink_metadata(&self.path).ok()?;
        let values = meta.is_file().then(|| self.read(meta.len())).flatten();
        match values {
            // What was used last is what is kept longest; in a folder that cannot be written to, nothing goes anyway.
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

    /// Keep the values; that this may fail is no reason for anything else to.
    pub fn store(&self, values: &[f32], observer: &mut dyn Observer) {
        if let Err(error) = self.write(values) {
            let (path, reason) = (self.path.clone(), error.to_string());
            observer.on_event(&Event::TextCache(TextCacheEvent::NotKept { path, reason }));
        }
    }

    /// Whole or not at all.
    fn write(&self, values: &[f32]) -> io::Result<()> {
        assert_eq!(values.len(), self.values, "an entry has the size of its inputs' embedding");
        if self.len() > self.cache.max_bytes {
            let (len, max) = (self.len(), self.cache.max_bytes);
            return Err(io::Error::other(format!("an entry has {len} bytes, the cache at most {max}")));
        }
        let mut folder = DirBuilder::new();
        folder.recursive(true);
        // Who has an embedding can draw the prompt it was made of.
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
        // Not synced: the checksum tells what a crash leaves.
        file.persist(&self.path)?;
        Ok(())
    }

    fn len(&self) -> u64 {
        (HEADER_BYTES + CHECKSUM_BYTES + 4 * self.values) as u64
    }
}
