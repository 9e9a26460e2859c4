//! Files named by the SHA-256 of their content: pictures and uploads.
//!
//! In:  bytes. Out: their digest; later the bytes again.
//!
//! A file is written to a temporary name, synced and renamed, so one that is there is complete. Every user of a file
//! holds it; the last one to release it removes it. Without a folder, everything is in memory.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use flux2::digest::sha256;

/// Beginning of the name of a file that is being written.
const TEMPORARY: &str = ".flux2-";

/// A folder of content-named files, or the same in memory.
#[derive(Debug)]
pub(crate) struct Store {
    folder: Option<PathBuf>,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    files: HashMap<String, Entry>,
    /// Bytes of all files.
    bytes: u64,
    /// Increases with every use.
    clock: u64,
}

#[derive(Debug)]
struct Entry {
    bytes: u64,
    /// Number of users that hold it.
    holders: usize,
    last_use: u64,
    /// The content, if there is no folder.
    content: Option<Arc<[u8]>>,
    /// Whether the file is complete; while it is written it has no content to read.
    is_written: bool,
}

impl Store {
    /// A store in memory.
    pub fn in_memory() -> Self {
        Store { folder: None, inner: Mutex::default() }
    }

    /// A store in `folder`, which is made if it is missing. Files that an earlier process did not finish are removed.
    ///
    /// # Errors
    /// If the folder cannot be read or made.
    pub fn open(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let mut found = Vec::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let (name, meta) = (entry.file_name().to_string_lossy().into_owned(), entry.metadata()?);
            if name.starts_with(TEMPORARY) {
                fs::remove_file(entry.path())?;
            } else if meta.is_file() && is_digest(&name) {
                found.push((meta.modified().ok(), name, meta.len()));
            }
        }
        found.sort();
        let mut inner = Inner::default();
        for (_, name, bytes) in found {
            inner.clock += 1;
            inner.bytes += bytes;
            let entry = Entry { bytes, holders: 0, last_use: inner.clock, content: None, is_written: true };
            inner.files.insert(name, entry);
        }
        Ok(Store { folder: Some(folder.to_owned()), inner: Mutex::new(inner) })
    }

    /// Keep `bytes`, held once more, and return their digest.
    ///
    /// # Errors
    /// If they cannot be written; then nothing is held.
    pub fn put(&self, bytes: &[u8]) -> io::Result<String> {
        let digest = sha256(bytes);
        if self.hold(&digest) {
            return Ok(digest);
        }
        // Held while it is written, so that nobody removes it. Two writers at once write the same.
        {
            let mut inner = self.lock();
            inner.clock += 1;
            let last_use = inner.clock;
            let new = Entry { bytes: bytes.len() as u64, holders: 0, last_use, content: None, is_written: false };
            inner.files.entry(digest.clone()).or_insert(new).holders += 1;
        }
        let written = match &self.folder {
            Some(folder) => write(folder, &digest, bytes),
            None => Ok(()),
        };
        let mut inner = self.lock();
        let Inner { files, bytes: total, .. } = &mut *inner;
        let entry = files.get_mut(&digest).expect("a held file stays");
        match written {
            Ok(()) => {
                if !entry.is_written {
                    entry.is_written = true;
                    entry.content = self.folder.is_none().then(|| Arc::from(bytes));
                    *total += entry.bytes;
                }
                Ok(digest)
            }
            Err(error) => {
                entry.holders -= 1;
                if entry.holders == 0 && !entry.is_written {
                    files.remove(&digest);
                }
                Err(error)
            }
        }
    }

    /// Hold a file once more; `false` if it is not there.
    pub fn hold(&self, digest: &str) -> bool {
        let mut inner = self.lock();
        inner.clock += 1;
        let clock = inner.clock;
        let Some(entry) = inner.files.get_mut(digest).filter(|entry| entry.is_written) else { return false };
        entry.holders += 1;
        entry.last_use = clock;
        true
    }

    /// Hold a file once less. It stays until it is [dropped](Self::shrink) or [removed](Self::remove_unheld).
    pub fn release(&self, digest: &str) {
        if let Some(entry) = self.lock().files.get_mut(digest) {
            entry.holders = entry.holders.saturating_sub(1);
        }
    }

    /// Hold a file once less, and remove it if nobody does any more.
    pub fn give_back(&self, digest: &str) {
        self.release(digest);
        self.remove_unheld(digest);
    }

    /// Remove a file unless somebody holds it.
    pub fn remove_unheld(&self, digest: &str) {
        let mut inner = self.lock();
        if inner.files.get(digest).is_some_and(|entry| entry.holders == 0) {
            self.remove(&mut inner, digest);
        }
    }

    /// Remove all files that nobody holds.
    pub fn remove_all_unheld(&self) {
        self.shrink(0);
    }

    /// Remove the least recently used files that nobody holds until at most `bytes` are left, as far as possible.
    /// Returns the bytes that are left.
    pub fn shrink(&self, bytes: u64) -> u64 {
        let mut inner = self.lock();
        if inner.bytes <= bytes {
            return inner.bytes;
        }
        let unheld = inner.files.iter().filter(|(_, entry)| entry.holders == 0 && entry.is_written);
        let mut oldest: Vec<(u64, String)> = unheld.map(|(name, entry)| (entry.last_use, name.clone())).collect();
        oldest.sort_unstable();
        for (_, name) in oldest {
            if inner.bytes <= bytes {
                break;
            }
            self.remove(&mut inner, &name);
        }
        inner.bytes
    }

    /// The content of a file; `None` if it is not there.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn get(&self, digest: &str) -> io::Result<Option<Arc<[u8]>>> {
        let mut inner = self.lock();
        inner.clock += 1;
        let clock = inner.clock;
        let Some(entry) = inner.files.get_mut(digest).filter(|entry| entry.is_written) else { return Ok(None) };
        entry.last_use = clock;
        match (&self.folder, &entry.content) {
            (None, content) => Ok(content.clone()),
            (Some(folder), _) => {
                let path = folder.join(digest);
                drop(inner);
                match fs::read(path) {
                    Ok(bytes) => Ok(Some(bytes.into())),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                    Err(error) => Err(error),
                }
            }
        }
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.lock().bytes
    }

    fn remove(&self, inner: &mut Inner, digest: &str) {
        if let Some(entry) = inner.files.remove(digest) {
            inner.bytes -= entry.bytes;
            if let Some(folder) = &self.folder {
                // A file that cannot be removed is found, and removed, at the next start.
                let _ = fs::remove_file(folder.join(digest));
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Write a file under its digest, so that it is complete whenever it is there.
fn write(folder: &Path, digest: &str, bytes: &[u8]) -> io::Result<()> {
    let mut file = tempfile::Builder::new().prefix(TEMPORARY).tempfile_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(folder.join(digest))?;
    // Some file systems cannot sync a folder; the file itself is safe.
    if let Ok(folder) = File::open(folder) {
        let _ = folder.sync_all();
    }
    Ok(())
}

/// Whether `name` is a SHA-256 in lower-case hexadecimal.
pub(crate) fn is_digest(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn each(test: impl Fn(&Store)) {
        let folder = tempfile::tempdir().unwrap();
        test(&Store::in_memory());
        test(&Store::open(folder.path()).unwrap());
    }

    #[test]
    fn a_file_stays_while_somebody_holds_it() {
        each(|store| {
            let digest = store.put(b"fox").unwrap();
            assert_eq!(store.put(b"fox").unwrap(), digest);
            assert_eq!((digest.len(), store.bytes()), (64, 3));
            store.release(&digest);
            store.remove_unheld(&digest);
            assert_eq!(store.get(&digest).unwrap().as_deref(), Some(b"fox".as_slice()));
            store.release(&digest);
            store.remove_unheld(&digest);
            assert_eq!((store.get(&digest).unwrap(), store.bytes()), (None, 0));
            assert!(!store.hold(&digest));
        });
    }

    #[test]
    fn the_least_recently_used_file_that_nobody_holds_goes_first() {
        each(|store| {
            let [a, b, c] = [b"aa", b"bb", b"cc"].map(|bytes| store.put(bytes).unwrap());
            store.release(&a);
            store.release(&b);
            store.get(&a).unwrap();
            assert_eq!(store.shrink(5), 4);
            assert!(store.get(&a).unwrap().is_some() && store.get(&b).unwrap().is_none());
            assert_eq!(store.shrink(0), 2);
            assert!(store.get(&c).unwrap().is_some());
        });
    }

    #[test]
    fn files_are_found_again_and_unfinished_ones_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let digest = Store::open(folder.path()).unwrap().put(b"fox").unwrap();
        fs::write(folder.path().join(format!("{TEMPORARY}x")), b"half").unwrap();
        fs::write(folder.path().join("notes.txt"), b"mine").unwrap();
        let store = Store::open(folder.path()).unwrap();
        assert_eq!(store.get(&digest).unwrap().as_deref(), Some(b"fox".as_slice()));
        store.remove_all_unheld();
        let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["notes.txt"]);
    }

    #[test]
    fn what_cannot_be_written_is_not_held() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("gone")).unwrap();
        fs::remove_dir(folder.path().join("gone")).unwrap();
        assert!(store.put(b"fox").is_err());
        assert_eq!((store.bytes(), store.lock().files.len()), (0, 0));
    }
}
