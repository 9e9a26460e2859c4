//! The file of a history: one change a line, as JSON.

use std::fs::{self, File, TryLockError};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Entry, Picture};
use crate::{Error, Result};

/// Most bytes of the file that are read: far more than a thousand pictures with the longest prompts.
const MAX_BYTES: u64 = 256 << 20;

/// A change of the history.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// A picture is added.
    Add(Box<Entry>),
    /// A picture gets a name.
    Name {
        /// Its number.
        number: u64,
        /// The name.
        name: String,
    },
    /// A picture is forgotten.
    Forget {
        /// Its number.
        number: u64,
    },
    /// The next picture has this number or a higher one.
    Next {
        /// The number.
        number: u64,
    },
}

/// The file, open at its end.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    file: File,
    lines: usize,
    /// Held as long as the history is open.
    _lock: File,
}

impl Log {
    /// Takes the folder for this process, and reads its file. The last value is the number of lines that are left out.
    pub fn open(folder: &Path) -> Result<(Self, Vec<Change>, usize)> {
        let of = |path: &Path| {
            let path = path.to_owned();
            move |source: io::Error| Error::Io { path, source }
        };
        fs::create_dir_all(folder).map_err(of(folder))?;
        let lock_path = folder.join("lock");
        let lock = File::options().create(true).truncate(false).write(true).open(&lock_path).map_err(of(&lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Error::InUse { folder: folder.to_owned() }),
            Err(TryLockError::Error(error)) => return Err(of(&lock_path)(error)),
        }
        let path = folder.join("history.jsonl");
        let file = File::options().create(true).append(true).read(true).open(&path).map_err(of(&path))?;
        let (mut changes, mut unread) = (Vec::new(), 0);
        let mut lines = BufReader::new((&file).take(MAX_BYTES));
        let mut line = Vec::new();
        while lines.read_until(b'\n', &mut line).map_err(of(&path))? > 0 {
            match serde_json::from_slice(&line) {
                Ok(change) => changes.push(change),
                Err(_) if line.trim_ascii().is_empty() => {}
                Err(_) => unread += 1,
            }
            line.clear();
        }
        let lines = changes.len();
        Ok((Log { path, file, lines, _lock: lock }, changes, unread))
    }

    /// Lines of the file.
    pub fn lines(&self) -> usize {
        self.lines
    }

    /// Adds a line.
    pub fn append(&mut self, change: &Change) -> Result<()> {
        let Some(line) = line_of(change) else { return Ok(()) };
        self.file.write_all(&line).map_err(|source| Error::Io { path: self.path.clone(), source })?;
        self.lines += 1;
        Ok(())
    }

    /// Replaces the file.
    pub fn rewrite(&mut self, changes: impl Iterator<Item = Change>) -> Result<()> {
        let lines: Vec<Vec<u8>> = changes.filter_map(|change| line_of(&change)).collect();
        let folder = self.path.parent().unwrap_or(Path::new("."));
        let replace = || {
            let mut file = tempfile::NamedTempFile::new_in(folder)?;
            file.write_all(&lines.concat())?;
            file.as_file().sync_all()?;
            file.persist(&self.path)?;
            File::options().append(true).open(&self.path)
        };
        self.file = replace().map_err(|source| Error::Io { path: self.path.clone(), source })?;
        self.lines = lines.len();
        Ok(())
    }
}

/// A change as a line; `None` for a picture in memory, which ends with the process.
fn line_of(change: &Change) -> Option<Vec<u8>> {
    let in_memory = |entry: &Entry| matches!(entry.picture, Picture::Bytes(_));
    if matches!(change, Change::Add(entry) if in_memory(entry)) {
        return None;
    }
    let mut line = serde_json::to_vec(change).ok()?;
    line.push(b'\n');
    Some(line)
}
