//! The cache folder that all clients of the hub share.
//!
//! ```text
//! models--OWNER--NAME/blobs/HASH                    the bytes of a file, named by its hash
//!                     snapshots/COMMIT/PATH         a link to them, relative
//!                     refs/main                     the newest commit
//! .locks/models--OWNER--NAME/HASH.lock              held while a blob is written
//! ```
//!
//! A snapshot counts as a model only if every file that its parts need exists. Nothing but the disk is consulted.

use std::collections::BTreeSet;
use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind, Read as _};
use std::path::{Path, PathBuf};

use flux2_base::{CancelToken, TransferEvent, TransferObserver};
use serde::Deserialize;

use crate::listing::{Digest, INDEX, NETWORKS, Plan, PlannedFile, is_shard};
use crate::{Error, RepoId, Result};

/// The cache folder.
#[derive(Clone, Debug)]
pub struct Cache {
    root: PathBuf,
}

/// A repository that is in the cache, wholly or in part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cached {
    /// Repository on the hub.
    pub repo: RepoId,
    /// Its folder in the cache.
    pub folder: PathBuf,
    /// Bytes on disk.
    pub bytes: u64,
    /// How much of a model is in the cache.
    pub state: State,
}

/// How much of a model is in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Everything, in this folder.
    Complete(PathBuf),
    /// A part; these files are missing. Empty if the missing files are not known.
    Incomplete(Vec<String>),
}

/// A file whose hash was computed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// Path in the repository.
    pub path: String,
    /// The blob that holds its bytes.
    pub blob: PathBuf,
    /// Whether its bytes have the hash that the blob is named by.
    pub is_whole: bool,
}

impl Cache {
    /// The cache in a folder, which need not exist.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Cache { root: root.into() }
    }

    /// Path of the cache folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Free bytes on the disk of the cache; `None` where the system does not say.
    pub fn free_bytes(&self) -> Option<u64> {
        let folder = self.root.ancestors().find(|folder| folder.is_dir())?;
        fs4::available_space(folder).ok()
    }

    /// The newest snapshot of a repository, if it is complete.
    ///
    /// # Errors
    /// [`Error::Io`] if the folder cannot be read.
    pub fn find(&self, repo: &RepoId) -> Result<Option<PathBuf>> {
        Ok(match self.state(repo)? {
            Some(State::Complete(folder)) => Some(folder),
            _ => None,
        })
    }

    /// How much of a repository's newest snapshot is in the cache; `None` for nothing.
    ///
    /// # Errors
    /// As [`find`](Self::find).
    pub fn state(&self, repo: &RepoId) -> Result<Option<State>> {
        let folder = self.folder(repo);
        if !folder.try_exists().map_err(|e| Error::io(&folder, e))? {
            return Ok(None);
        }
        let Some(snapshot) = self.newest(repo) else { return Ok(Some(State::Incomplete(vec![]))) };
        let missing = missing(&snapshot)?;
        Ok(Some(if missing.is_empty() { State::Complete(snapshot) } else { State::Incomplete(missing) }))
    }

    /// All FLUX.2 \[klein\] models in the cache, and those of `also` that are, in alphabetical order.
    ///
    /// # Errors
    /// As [`find`](Self::find).
    pub fn list(&self, also: &[RepoId]) -> Result<Vec<Cached>> {
        let mut found = Vec::new();
        let entries = match fs::read_dir(&self.root) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(found),
            entries => entries.map_err(|e| Error::io(&self.root, e))?,
        };
        for entry in entries {
            let name = entry.map_err(|e| Error::io(&self.root, e))?.file_name();
            let repo = name.to_str().and_then(|name| name.strip_prefix("models--")?.split_once("--"));
            let Some(repo) = repo.and_then(|(owner, name)| format!("{owner}/{name}").parse::<RepoId>().ok()) else {
                continue;
            };
            let is_klein = || self.newest(&repo).is_some_and(|snapshot| is_klein(&snapshot));
            if !also.contains(&repo) && !is_klein() {
                continue;
            }
            if let Some(state) = self.state(&repo)? {
                let folder = self.folder(&repo);
                let bytes = bytes_below(&folder.join("blobs"));
                found.push(Cached { repo, folder, bytes, state });
            }
        }
        found.sort_by(|a, b| a.repo.cmp(&b.repo));
        Ok(found)
    }

    /// Reads every file of a repository's newest snapshot and compares its hash with the name of its blob.
    ///
    /// # Errors
    /// [`Error::Io`] if a file cannot be read, [`Error::Cancelled`] on request.
    pub fn verify(
        &self,
        repo: &RepoId,
        observer: &mut dyn TransferObserver,
        cancel: &CancelToken,
    ) -> Result<Vec<Checked>> {
        let Some(snapshot) = self.newest(repo) else { return Ok(vec![]) };
        let mut files = Vec::new();
        files_below(&snapshot, "", &mut files);
        let blobs = self.folder(repo).join("blobs").canonicalize();
        let mut planned = Vec::new();
        for path in files {
            // A dangling link is a missing file. A file that is not a link has no hash to compare with.
            let Ok(blob) = snapshot.join(&path).canonicalize() else { continue };
            let digest = blob.file_name().and_then(|name| Digest::new(name.to_str()?));
            let size = fs::metadata(&blob).map_err(|e| Error::io(&blob, e))?.len();
            if let Some(digest) = digest.filter(|_| blobs.as_ref().is_ok_and(|blobs| blob.starts_with(blobs))) {
                planned.push((PlannedFile { path, size, digest }, blob));
            }
        }
        let total = planned.iter().map(|(file, _)| file.size).sum();
        let mut done = 0;
        observer.on_transfer(&TransferEvent::Started { files: planned.len(), done, total });
        let mut checked = Vec::new();
        for (file, blob) in planned {
            let mut hasher = file.digest.hasher(file.size);
            let mut reader = File::open(&blob).map_err(|e| Error::io(&blob, e))?;
            let mut buffer = vec![0; 1 << 20];
            loop {
                cancel.check()?;
                let read = reader.read(&mut buffer).map_err(|e| Error::io(&blob, e))?;
                if read == 0 {
                    break;
                }
                hasher.update(&buffer[..read]);
                done += read as u64;
                observer.on_transfer(&TransferEvent::Progress { done });
            }
            let is_whole = hasher.hex() == file.digest.hex();
            checked.push(Checked { path: file.path, blob, is_whole });
        }
        observer.on_transfer(&TransferEvent::Finished);
        Ok(checked)
    }

    /// Removes a repository and returns the bytes that are freed; `None` if it was not in the cache.
    ///
    /// # Errors
    /// [`Error::InUse`] if a process is downloading it, [`Error::Io`] if a file cannot be removed.
    pub fn remove(&self, repo: &RepoId) -> Result<Option<u64>> {
        let folder = self.folder(repo);
        if !folder.try_exists().map_err(|e| Error::io(&folder, e))? {
            return Ok(None);
        }
        let locks = self.locks(repo);
        let mut held = Vec::new();
        for entry in fs::read_dir(&locks).into_iter().flatten().flatten() {
            let Ok(file) = File::options().write(true).open(entry.path()) else { continue };
            if matches!(file.try_lock(), Err(TryLockError::WouldBlock)) {
                return Err(Error::InUse { repo: repo.clone() });
            }
            held.push(file);
        }
        let bytes = bytes_below(&folder.join("blobs"));
        // In this order: whatever is left after an interruption is not a complete model.
        for part in ["refs", "snapshots", ""] {
            let path = folder.join(part);
            match fs::remove_dir_all(&path) {
                Err(e) if e.kind() != ErrorKind::NotFound => return Err(Error::io(&path, e)),
                _ => {}
            }
        }
        Ok(Some(bytes))
    }

    pub(crate) fn folder(&self, repo: &RepoId) -> PathBuf {
        self.root.join(folder_name(repo))
    }

    pub(crate) fn locks(&self, repo: &RepoId) -> PathBuf {
        self.root.join(".locks").join(folder_name(repo))
    }

    pub(crate) fn blob(&self, repo: &RepoId, digest: &Digest) -> PathBuf {
        self.folder(repo).join("blobs").join(digest.hex())
    }

    /// Whether the blob of a file exists. A blob gets its name last, so one that exists is complete.
    pub(crate) fn has(&self, repo: &RepoId, file: &PlannedFile) -> bool {
        fs::metadata(self.blob(repo, &file.digest)).is_ok_and(|meta| meta.is_file() && meta.len() == file.size)
    }

    /// Links the files of a plan, whose blobs all exist, into a snapshot; then makes it the newest one.
    pub(crate) fn publish(&self, plan: &Plan) -> Result<PathBuf> {
        let folder = self.folder(&plan.repo);
        let snapshot = folder.join("snapshots").join(&plan.commit);
        for file in &plan.files {
            let link = snapshot.join(&file.path);
            let up = "../".repeat(file.path.matches('/').count() + 2);
            let target = PathBuf::from(format!("{up}blobs/{}", file.digest.hex()));
            let place = || -> io::Result<()> {
                fs::create_dir_all(link.parent().expect("a file of a snapshot is in a folder"))?;
                if fs::read_link(&link).is_ok_and(|found| found == target) {
                    return Ok(());
                }
                let new = beside(&link);
                make_link(&target, &new, &self.blob(&plan.repo, &file.digest))?;
                fs::rename(&new, &link)
            };
            place().map_err(|e| Error::io(&link, e))?;
        }
        let main = folder.join("refs").join("main");
        let write = || -> io::Result<()> {
            if fs::read_to_string(&main).is_ok_and(|commit| commit == plan.commit) {
                return Ok(());
            }
            fs::create_dir_all(folder.join("refs"))?;
            let new = beside(&main);
            fs::write(&new, &plan.commit)?;
            fs::rename(&new, &main)
        };
        write().map_err(|e| Error::io(&main, e))?;
        Ok(snapshot)
    }

    /// The snapshot folder of the newest commit.
    fn newest(&self, repo: &RepoId) -> Option<PathBuf> {
        let folder = self.folder(repo);
        let mut commit = String::new();
        File::open(folder.join("refs/main")).ok()?.take(100).read_to_string(&mut commit).ok()?;
        let commit = commit.trim();
        let fits = commit.len() == 40 && Digest::new(commit).is_some();
        fits.then(|| folder.join("snapshots").join(commit)).filter(|snapshot| snapshot.is_dir())
    }
}

fn folder_name(repo: &RepoId) -> String {
    format!("models--{}--{}", repo.owner, repo.name)
}

/// A temporary path beside `path`, unique to this process.
fn beside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let new = path.with_file_name(format!(".{name}.{}", std::process::id()));
    let _ = fs::remove_file(&new);
    new
}

#[cfg(unix)]
fn make_link(target: &Path, link: &Path, _blob: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

/// Where symbolic links are not allowed, makes a hard link or a copy.
#[cfg(not(unix))]
fn make_link(target: &Path, link: &Path, blob: &Path) -> io::Result<()> {
    #[cfg(windows)]
    if std::os::windows::fs::symlink_file(target, link).is_ok() {
        return Ok(());
    }
    let _ = target;
    fs::hard_link(blob, link).or_else(|_| fs::copy(blob, link).map(drop))
}

/// Paths of the files and links in a folder, in alphabetical order.
fn files_below(folder: &Path, prefix: &str, found: &mut Vec<String>) {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    for name in names {
        let path = folder.join(&name);
        let is_folder = fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_dir());
        match is_folder {
            true => files_below(&path, &format!("{prefix}{name}/"), found),
            false => found.push(format!("{prefix}{name}")),
        }
    }
}

fn bytes_below(folder: &Path) -> u64 {
    let mut files = Vec::new();
    files_below(folder, "", &mut files);
    files.iter().filter_map(|file| Some(fs::symlink_metadata(folder.join(file)).ok()?.len())).sum()
}

/// Whether the model in this folder is one of the family.
fn is_klein(snapshot: &Path) -> bool {
    #[derive(Deserialize)]
    struct Index {
        #[serde(rename = "_class_name")]
        class: String,
    }
    let index: Option<Index> = read_json(&snapshot.join("model_index.json"));
    index.is_some_and(|index| index.class.starts_with("Flux2Klein"))
}

/// Parses a JSON file of limited size; `None` if it cannot be read.
fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Option<T> {
    const MAX_BYTES: u64 = 64 << 20;
    let meta = fs::metadata(path).ok()?;
    let is_small = meta.is_file() && meta.len() <= MAX_BYTES;
    serde_json::from_slice(&is_small.then(|| fs::read(path).ok()).flatten()?).ok()
}

/// Files that a model in this folder lacks. The contents of the others are the loader's to check.
fn missing(snapshot: &Path) -> Result<Vec<String>> {
    let mut missing = Vec::new();
    let is_file = |path: &str| snapshot.join(path).is_file();
    if !is_file("model_index.json") {
        return Ok(missing_weights(snapshot, ""));
    }
    for folder in NETWORKS {
        let config = format!("{folder}/config.json");
        if !is_file(&config) {
            missing.push(config);
        }
        missing.extend(missing_weights(snapshot, folder));
    }
    Ok(missing)
}

/// Weights that a folder of a snapshot lacks.
fn missing_weights(snapshot: &Path, folder: &str) -> Vec<String> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: std::collections::BTreeMap<String, String>,
    }
    let place = snapshot.join(folder);
    let path = |name: &str| if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") };
    let entries = fs::read_dir(&place).into_iter().flatten().flatten();
    let names: BTreeSet<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    let weights = || names.iter().filter(|name| name.ends_with(".safetensors"));
    if let Some(index) = names.iter().find(|name| name.ends_with(INDEX)) {
        return match read_json::<Index>(&place.join(index)) {
            Some(Index { weight_map }) => {
                let shards: BTreeSet<String> = weight_map.into_values().collect();
                shards.iter().filter(|name| !place.join(name).is_file()).map(|name| path(name)).collect()
            }
            None => vec![path(index)],
        };
    }
    if weights().next().is_none() {
        return vec![path("*.safetensors")];
    }
    let dangling = weights().filter(|name| !place.join(name).is_file()).map(|name| path(name));
    // Shards without an index: the index is missing.
    let of_shards = weights().find_map(|name| {
        let stem = &name[..name.len() - ".safetensors".len()];
        stem.match_indices('-').map(|(at, _)| name.split_at(at)).find(|(_, end)| is_shard(end))
    });
    dangling.chain(of_shards.map(|(stem, _)| path(&format!("{stem}{INDEX}")))).collect()
}
