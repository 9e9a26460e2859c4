//! The cache folder that all clients of the hub share.
//!
//! ```text
//! models--OWNER--NAME/blobs/HASH                    the bytes of a file, named by its hash
//!                     snapshots/COMMIT/PATH         a relative link to them; the bytes, where links are not allowed
//!                     refs/main                     the newest commit
//!                     digests/COMMIT                hashes of the files of a snapshot; only this program writes it
//! .locks/models--OWNER--NAME/HASH.lock              held while a blob is written
//! ```
//!
//! A snapshot counts as a model only if every file that its parts need exists. Nothing but the disk is consulted. The
//! hub ignores upper and lower case in names of repositories, so their folders are found likewise.

use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind, Read as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::listing::{Digest, Plan, PlannedFile};
use crate::snapshot::{files_below, is_klein, missing, names};
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

impl Cache {
    /// The cache in a folder, which need not exist.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Cache { root: root.into() }
    }

    /// Path of the cache folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The newest complete snapshot of a repository.
    ///
    /// # Errors
    /// [`Error::Io`] if the folder cannot be read.
    pub fn find(&self, repo: &RepoId) -> Result<Option<PathBuf>> {
        Ok(match self.state(repo)? {
            Some(State::Complete(folder)) => Some(folder),
            _ => None,
        })
    }

    /// How much of a repository is in the cache; `None` for nothing. The snapshot that `refs/main` names is preferred;
    /// if it is not complete, the newest of the others that is.
    ///
    /// # Errors
    /// As [`find`](Self::find).
    pub fn state(&self, repo: &RepoId) -> Result<Option<State>> {
        let mut first = None;
        for folder in self.folders(repo)? {
            match state_of(&folder)? {
                complete @ State::Complete(_) => return Ok(Some(complete)),
                state => _ = first.get_or_insert(state),
            }
        }
        Ok(first)
    }

    /// All FLUX.2 \[klein\] models in the cache, and those of `also` that are, in alphabetical order.
    ///
    /// # Errors
    /// As [`find`](Self::find).
    pub fn list(&self, also: &[RepoId]) -> Result<Vec<Cached>> {
        let mut found = Vec::new();
        for name in names(&self.root)? {
            let Some(repo) = repo_of(&name) else { continue };
            let folder = self.root.join(name);
            if !also.iter().any(|known| known.is_same(&repo)) && !snapshots(&folder)?.iter().any(|it| is_klein(it)) {
                continue;
            }
            let (bytes, state) = (bytes_of(&folder)?, state_of(&folder)?);
            found.push(Cached { repo, folder, bytes, state });
        }
        found.sort_by(|a, b| a.repo.cmp(&b.repo));
        Ok(found)
    }

    /// The repositories of which something is in the cache, whatever they hold.
    ///
    /// # Errors
    /// As [`find`](Self::find).
    pub fn names(&self) -> Result<Vec<RepoId>> {
        Ok(names(&self.root)?.iter().filter_map(|name| repo_of(name)).collect())
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
        for name in names(&locks)? {
            let Ok(file) = File::options().write(true).open(locks.join(name)) else { continue };
            if matches!(file.try_lock(), Err(TryLockError::WouldBlock)) {
                return Err(Error::InUse { repo: repo.clone() });
            }
            held.push(file);
        }
        let bytes = bytes_of(&folder)?;
        // The snapshots disappear at once: whatever is left after an interruption is not a model.
        let removed = folder.join(".removed");
        for (from, to) in [(&removed, None), (&folder.join("snapshots"), Some(&removed)), (&folder, None)] {
            let done = match to {
                Some(to) => fs::rename(from, to),
                None => fs::remove_dir_all(from),
            };
            match done {
                Err(e) if e.kind() != ErrorKind::NotFound => return Err(Error::io(from, e)),
                _ => {}
            }
        }
        Ok(Some(bytes))
    }

    /// The folder of a repository, which need not exist.
    pub(crate) fn folder(&self, repo: &RepoId) -> PathBuf {
        let found = self.folders(repo).unwrap_or_default().into_iter().next();
        found.unwrap_or_else(|| self.root.join(folder_name(repo)))
    }

    /// The folders of a repository: that of exactly its name, then those that differ in upper and lower case.
    fn folders(&self, repo: &RepoId) -> Result<Vec<PathBuf>> {
        let mut found: Vec<String> = names(&self.root)?.into_iter().collect();
        found.retain(|name| repo_of(name).is_some_and(|found| found.is_same(repo)));
        found.sort_by_key(|name| *name != folder_name(repo));
        Ok(found.into_iter().map(|name| self.root.join(name)).collect())
    }

    /// The folder and the snapshot that are verified: complete, else the first.
    pub(crate) fn snapshot(&self, repo: &RepoId) -> Result<Option<(PathBuf, PathBuf)>> {
        let mut all = Vec::new();
        for folder in self.folders(repo)? {
            all.extend(snapshots(&folder)?.into_iter().map(|snapshot| (folder.clone(), snapshot)));
        }
        let complete = self.find(repo)?;
        let at = all.iter().position(|(_, snapshot)| Some(snapshot) == complete.as_ref()).unwrap_or(0);
        Ok(all.into_iter().nth(at))
    }

    pub(crate) fn locks(&self, repo: &RepoId) -> PathBuf {
        let folder = self.folder(repo);
        self.root.join(".locks").join(folder.file_name().unwrap_or_default())
    }

    pub(crate) fn blob(&self, repo: &RepoId, digest: &Digest) -> PathBuf {
        self.folder(repo).join("blobs").join(digest.hex())
    }

    /// Whether the blob of a file exists. A blob gets its name last, so one that exists is complete.
    pub(crate) fn has(&self, repo: &RepoId, file: &PlannedFile) -> bool {
        fs::metadata(self.blob(repo, &file.digest)).is_ok_and(|meta| meta.is_file() && meta.len() == file.size)
    }

    /// A file of a snapshot that is no link and has the length of `file`: its bytes, if their hash is that of `file`.
    pub(crate) fn copy(&self, repo: &RepoId, file: &PlannedFile) -> Option<PathBuf> {
        let copies = snapshots(&self.folder(repo)).ok()?.into_iter().map(|snapshot| snapshot.join(&file.path));
        let has_length =
            |path: &PathBuf| fs::symlink_metadata(path).is_ok_and(|meta| meta.is_file() && meta.len() == file.size);
        copies.into_iter().find(has_length)
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
        write_digests(&folder, plan)?;
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
}

/// How much of a model is in the folder of a repository. A whole pipeline is preferred to a file of weights.
fn state_of(folder: &Path) -> Result<State> {
    let (mut complete, mut lacks) = (None, None);
    for snapshot in snapshots(folder)? {
        let missing = missing(&snapshot)?;
        match missing.is_empty() {
            true if snapshot.join("model_index.json").is_file() => return Ok(State::Complete(snapshot)),
            true => _ = complete.get_or_insert(snapshot),
            false => _ = lacks.get_or_insert(missing),
        }
    }
    Ok(complete.map_or_else(|| State::Incomplete(lacks.unwrap_or_default()), State::Complete))
}

/// The snapshots in the folder of a repository: the one that `refs/main` names, then the others, the newest first.
fn snapshots(folder: &Path) -> Result<Vec<PathBuf>> {
    let place = folder.join("snapshots");
    let mut main = String::new();
    let read = File::open(folder.join("refs/main")).and_then(|file| file.take(100).read_to_string(&mut main));
    let main = read.map_or("", |_| main.trim());
    let is_commit = |name: &String| name.len() == 40 && Digest::new(name).is_some() && place.join(name).is_dir();
    let mut found: Vec<String> = names(&place)?.into_iter().filter(is_commit).collect();
    let changed = |name: &String| fs::metadata(place.join(name)).and_then(|meta| meta.modified()).ok();
    let age = |name: &String| std::cmp::Reverse(changed(name).unwrap_or(SystemTime::UNIX_EPOCH));
    found.sort_by_cached_key(|name| (name != main, age(name)));
    Ok(found.into_iter().map(|name| place.join(name)).collect())
}

/// The repository of a folder of the cache.
fn repo_of(name: &str) -> Option<RepoId> {
    let (owner, name) = name.strip_prefix("models--")?.split_once("--")?;
    format!("{owner}/{name}").parse().ok()
}

/// Bytes on disk of a repository: of its files that are no links, each once.
fn bytes_of(folder: &Path) -> Result<u64> {
    #[cfg(unix)]
    fn identity(meta: &fs::Metadata) -> Option<(u64, u64)> {
        use std::os::unix::fs::MetadataExt as _;
        (meta.nlink() > 1).then(|| (meta.dev(), meta.ino()))
    }
    #[cfg(not(unix))]
    fn identity(_: &fs::Metadata) -> Option<(u64, u64)> {
        None
    }
    let mut seen = std::collections::HashSet::new();
    let mut bytes = 0;
    for path in files_below(folder)? {
        let Ok(meta) = fs::symlink_metadata(folder.join(path)) else { continue };
        if meta.is_file() && identity(&meta).is_none_or(|identity| seen.insert(identity)) {
            bytes += meta.len();
        }
    }
    Ok(bytes)
}

/// The file with the hashes of a snapshot.
pub(crate) fn digests_of(folder: &Path, commit: &str) -> PathBuf {
    folder.join("digests").join(commit)
}

/// Writes the hashes of a plan, one file a line: hash, length, path.
fn write_digests(folder: &Path, plan: &Plan) -> Result<()> {
    let line = |file: &PlannedFile| format!("{} {} {}\n", file.digest.hex(), file.size, file.path);
    let path = digests_of(folder, &plan.commit);
    let write = || -> io::Result<()> {
        fs::create_dir_all(folder.join("digests"))?;
        let new = beside(&path);
        fs::write(&new, plan.files.iter().map(line).collect::<String>())?;
        fs::rename(&new, &path)
    };
    write().map_err(|e| Error::io(&path, e))
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
