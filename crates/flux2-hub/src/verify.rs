//! Compares the files of a folder with their hashes.
//!
//! Where the hash of a file comes from, the first that there is:
//!
//! 1. the name of the blob that it is, by a symbolic or a hard link
//! 2. `digests/COMMIT`, which this program writes when it downloads
//! 3. `.cache/huggingface/download/PATH.metadata`, which huggingface_hub writes beside files in a folder of the user
//! 4. a blob with the same bytes
//!
//! huggingface_hub writes no hash of files in a cache without links, so these stay unknown: neither whole nor damaged.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use flux2_base::{CancelToken, TransferEvent, TransferObserver};

use crate::cache::{Cache, digests_of};
use crate::listing::{Digest, Hasher};
use crate::snapshot::{files_below, names};
use crate::{Error, RepoId, Result};

/// A file that was compared with its hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// Path in the repository, or in the folder.
    pub path: String,
    /// The file.
    pub file: PathBuf,
    /// The blob whose name is the hash, if there is one.
    pub blob: Option<PathBuf>,
    /// The result.
    pub verdict: Verdict,
}

/// What comparing a file with its hash shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Its bytes have the hash.
    Whole,
    /// They have another.
    Damaged,
    /// There is no such file, or a link leads nowhere.
    Missing,
    /// Nothing says what its hash is.
    Unknown,
}

/// What is known of a file before it is read.
struct Expected {
    path: String,
    file: PathBuf,
    size: u64,
    hash: Hash,
}

enum Hash {
    Known(Digest),
    /// One of these blobs may have the same bytes.
    AnyOf(Vec<Digest>),
    Missing,
}

impl Cache {
    /// Reads every file of a repository's snapshot, the one that [`find`](Self::find) returns or else the newest, and
    /// compares its hash. Empty if there is none.
    ///
    /// # Errors
    /// [`Error::Io`] if a file cannot be read, [`Error::Cancelled`] on request.
    pub fn verify(
        &self,
        repo: &RepoId,
        observer: &mut dyn TransferObserver,
        cancel: &CancelToken,
    ) -> Result<Vec<Checked>> {
        match self.snapshot(repo)? {
            Some((_, snapshot)) => verify_folder(&snapshot, observer, cancel),
            None => Ok(vec![]),
        }
    }
}

/// Reads every file of a model's folder and compares its hash: a snapshot of a cache, or a folder that huggingface_hub
/// downloaded to.
///
/// # Errors
/// As [`Cache::verify`].
pub fn verify_folder(folder: &Path, observer: &mut dyn TransferObserver, cancel: &CancelToken) -> Result<Vec<Checked>> {
    let hashes = Hashes::of(folder)?;
    let files = hashes.files(folder)?;
    let is_read = |file: &&Expected| !matches!(&file.hash, Hash::Missing) && !file.hash.is_unknown();
    let total = files.iter().filter(is_read).map(|file| file.size).sum();
    let (count, mut done) = (files.iter().filter(is_read).count(), 0);
    if count > 0 {
        observer.on_transfer(&TransferEvent::Started { files: count, done, total });
    }
    let mut checked = Vec::new();
    for Expected { path, file, size, hash } in files {
        let (verdict, digest) = match hash {
            Hash::Missing => (Verdict::Missing, None),
            Hash::AnyOf(digests) if digests.is_empty() => (Verdict::Unknown, None),
            Hash::Known(digest) => {
                let found = read(&file, vec![digest.hasher(size)], &mut done, observer, cancel)?;
                let is_whole = found.iter().any(|found| found == digest.hex());
                (if is_whole { Verdict::Whole } else { Verdict::Damaged }, Some(digest))
            }
            Hash::AnyOf(digests) => {
                let hashers = digests.iter().map(|digest| digest.hasher(size)).collect();
                let found = read(&file, hashers, &mut done, observer, cancel)?;
                let same = digests.into_iter().zip(&found).find(|(digest, found)| digest.hex() == *found);
                (if same.is_some() { Verdict::Whole } else { Verdict::Unknown }, same.map(|(digest, _)| digest))
            }
        };
        let blob = digest.map(|digest| hashes.blobs.join(digest.hex())).filter(|blob| blob.is_file());
        checked.push(Checked { path, file, blob, verdict });
    }
    if count > 0 {
        observer.on_transfer(&TransferEvent::Finished);
    }
    Ok(checked)
}

/// Computes several hashes of a file.
fn read(
    path: &Path,
    mut hashers: Vec<Hasher>,
    done: &mut u64,
    observer: &mut dyn TransferObserver,
    cancel: &CancelToken,
) -> Result<Vec<String>> {
    let mut file = File::open(path).map_err(|e| Error::io(path, e))?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        cancel.check()?;
        let read = file.read(&mut buffer).map_err(|e| Error::io(path, e))?;
        if read == 0 {
            return Ok(hashers.into_iter().map(Hasher::hex).collect());
        }
        hashers.iter_mut().for_each(|hasher| hasher.update(&buffer[..read]));
        *done += read as u64;
        observer.on_transfer(&TransferEvent::Progress { done: *done });
    }
}

impl Hash {
    fn is_unknown(&self) -> bool {
        matches!(self, Hash::AnyOf(digests) if digests.is_empty())
    }
}

/// The hashes that are known of a folder.
struct Hashes {
    /// The folder of blobs, which need not exist.
    blobs: PathBuf,
    /// Hash and length of each blob.
    of_blobs: Vec<(Digest, fs::Metadata)>,
    /// Length and hash by path.
    recorded: BTreeMap<String, (u64, Digest)>,
    /// The folder of huggingface_hub's metadata, which need not exist.
    downloads: PathBuf,
}

/// Longest text with hashes that is read.
const MAX_TEXT: u64 = 1 << 20;

impl Hashes {
    fn of(folder: &Path) -> Result<Self> {
        let real = folder.canonicalize().map_err(|e| Error::io(folder, e))?;
        let snapshots = real.parent().filter(|parent| parent.ends_with("snapshots"));
        let repository = snapshots.and_then(Path::parent).unwrap_or(Path::new(""));
        // Only the folder of a snapshot has blobs.
        let blobs = match snapshots {
            Some(_) => repository.join("blobs"),
            None => real.join(".cache/huggingface/blobs"),
        };
        let mut of_blobs = Vec::new();
        for name in names(&blobs)? {
            let meta = fs::metadata(blobs.join(&name)).ok().filter(fs::Metadata::is_file);
            of_blobs.extend(Digest::new(&name).zip(meta));
        }
        let commit = real.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let recorded = snapshots.and_then(|_| text(&digests_of(repository, commit))).unwrap_or_default();
        let line = |line: &str| {
            let mut words = line.splitn(3, ' ');
            let (digest, size, path) = (Digest::new(words.next()?)?, words.next()?.parse().ok()?, words.next()?);
            Some((path.to_owned(), (size, digest)))
        };
        let recorded = recorded.lines().filter_map(line).collect();
        Ok(Hashes { blobs, of_blobs, recorded, downloads: real.join(".cache/huggingface/download") })
    }

    /// The files of the folder, and those that should be there.
    fn files(&self, folder: &Path) -> Result<Vec<Expected>> {
        let mut found = Vec::new();
        for path in files_below(folder)? {
            let is_hidden = path.split('/').any(|part| part.starts_with('.'));
            let file = folder.join(&path);
            let hash = match fs::metadata(&file) {
                Ok(meta) if meta.is_file() => self.hash(&path, &file, &meta),
                Ok(_) => Hash::AnyOf(vec![]),
                Err(_) if is_of_model(&path) || self.recorded.contains_key(&path) => Hash::Missing,
                Err(_) => continue,
            };
            let size = fs::metadata(&file).map_or(0, |meta| meta.len());
            // What the user put there is not part of the model.
            if !hash.is_unknown() || !is_hidden && is_of_model(&path) {
                found.push(Expected { path, file, size, hash });
            }
        }
        let absent = self.recorded.keys().filter(|path| fs::symlink_metadata(folder.join(path)).is_err());
        found.extend(absent.map(|path| Expected {
            path: path.clone(),
            file: folder.join(path),
            size: 0,
            hash: Hash::Missing,
        }));
        Ok(found)
    }

    fn hash(&self, path: &str, file: &Path, meta: &fs::Metadata) -> Hash {
        let blob = file.canonicalize().ok().filter(|real| real.parent() == self.blobs.canonicalize().ok().as_deref());
        let of_link = blob.and_then(|blob| Digest::new(blob.file_name()?.to_str()?));
        let of_hard_link = || self.of_blobs.iter().find(|(_, blob)| is_same_file(blob, meta)).map(|(it, _)| it.clone());
        let of_record = || self.recorded.get(path).map(|(_, digest)| digest.clone());
        let of_download = || Digest::new(text(&self.downloads.join(format!("{path}.metadata")))?.lines().nth(1)?);
        let known = of_link.or_else(of_hard_link).or_else(of_record).or_else(of_download);
        let same_size = || self.of_blobs.iter().filter(|(_, blob)| blob.len() == meta.len());
        known.map_or_else(|| Hash::AnyOf(same_size().map(|(digest, _)| digest.clone()).collect()), Hash::Known)
    }
}

/// Whether a file has the name of weights, a configuration or a tokenizer.
fn is_of_model(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    let end = name.rsplit_once('.').map_or("", |(_, end)| end);
    ["safetensors", "gguf", "json"].contains(&end) || name == "merges.txt" || name == "vocab.txt"
}

#[cfg(unix)]
fn is_same_file(a: &fs::Metadata, b: &fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

#[cfg(not(unix))]
fn is_same_file(_: &fs::Metadata, _: &fs::Metadata) -> bool {
    false
}

/// A short text; `None` if there is none.
fn text(path: &Path) -> Option<String> {
    let mut text = String::new();
    File::open(path).ok()?.take(MAX_TEXT).read_to_string(&mut text).ok()?;
    Some(text)
}
