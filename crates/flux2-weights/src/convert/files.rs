//! Output files of a conversion: locked, renamed when complete, resumed after an interruption.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::time::Instant;

use flux2_backend::Threads;
use flux2_base::digest::hex;
use flux2_base::{CancelToken, Cancelled, TransferEvent, TransferObserver};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::network::Network;
use super::{ConvertProblem, io_error, refuse};
use crate::MAX_INDEX_BYTES;
use crate::json::Json;
use crate::location::Location;
use crate::{Error, Result};

/// Bytes read or written at a time.
const BUFFER: usize = 1 << 20;

/// A file to write.
pub(super) struct NewFile {
    /// Path in the output folder.
    pub path: String,
    pub content: Content,
}

pub(super) enum Content {
    Copy(Location),
    /// The text encoder's configuration without `quantization_config`.
    TextConfig(Location),
    Network(Box<Network>),
}

impl NewFile {
    pub fn bytes(&self) -> u64 {
        match &self.content {
            Content::Copy(from) | Content::TextConfig(from) => from.stat().map_or(0, |stat| stat.len),
            Content::Network(network) => network.bytes(),
        }
    }

    /// Bytes that exist already, finished or partial, and need no more disk space.
    pub fn here(&self, path: &Path, in_folder: bool) -> u64 {
        let len = |path: &Path| fs::metadata(path).map_or(0, |meta| meta.len());
        let finished = if in_folder { len(path) } else { 0 };
        finished.max(len(&sibling(path, ".part"))).min(self.bytes())
    }

    pub fn write(&self, path: &Path, in_folder: bool, threads: &Threads, progress: &mut Progress) -> Result<()> {
        let start = Instant::now();
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            fs::create_dir_all(folder).map_err(|e| io_error(folder, e))?;
        }
        match &self.content {
            Content::Copy(from) => {
                let mut bytes = from.reader()?;
                write_whole(path, |file| {
                    let mut buffer = vec![0; BUFFER];
                    loop {
                        match bytes.read(&mut buffer).map_err(|e| from.io(e))? {
                            0 => return Ok(()),
                            n => file.write_all(&buffer[..n]).map_err(|e| io_error(path, e))?,
                        }
                        progress.cancel.check()?;
                    }
                })?;
                progress.add(self.bytes())?;
            }
            Content::TextConfig(from) => {
                let mut json = Json::read(from, MAX_INDEX_BYTES)?.object;
                json.remove("quantization_config");
                let text = serde_json::to_string_pretty(&Value::Object(json)).expect("JSON serializes") + "\n";
                write_whole(path, |file| file.write_all(text.as_bytes()).map_err(|e| io_error(path, e)))?;
                progress.add(self.bytes())?;
            }
            Content::Network(network) if in_folder && is_finished(path, network)? => progress.add(network.bytes())?,
            Content::Network(network) => {
                network.write(path, threads, progress)?;
                let (path, size, elapsed) = (self.path.clone(), network.bytes(), start.elapsed());
                progress.observer.on_transfer(&TransferEvent::FileFinished { path, size, elapsed });
            }
        }
        Ok(())
    }
}

/// Whether `path` has the header and length of the file that would be written.
fn is_finished(path: &Path, network: &Network) -> Result<bool> {
    match File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(io_error(path, e)),
        Ok(mut file) => {
            let len = file.metadata().map_err(|e| io_error(path, e))?.len();
            Ok(len == network.bytes() && starts_with(&mut file, &network.header).map_err(|e| io_error(path, e))?)
        }
    }
}

fn starts_with(file: &mut File, header: &[u8]) -> io::Result<bool> {
    let mut found = Vec::with_capacity(header.len());
    file.take(header.len() as u64).read_to_end(&mut found)?;
    Ok(found == header)
}

/// Writes a small file under a temporary name and renames it.
fn write_whole(path: &Path, fill: impl FnOnce(&mut File) -> Result<()>) -> Result<()> {
    let part = sibling(path, ".part");
    let mut file = File::create(&part).map_err(|e| io_error(&part, e))?;
    fill(&mut file)?;
    finish(&file, &part, path)
}

/// Syncs the file to disk, then renames it.
fn finish(file: &File, part: &Path, path: &Path) -> Result<()> {
    file.sync_all().map_err(|e| io_error(part, e))?;
    fs::rename(part, path).map_err(|e| io_error(path, e))?;
    sync_folder(path);
    Ok(())
}

/// Removes what another conversion to the same path left in `folder`.
pub(super) fn remove_others(folder: &Path, wanted: &[PathBuf]) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(|e| io_error(folder, e))? {
        let path = entry.map_err(|e| io_error(folder, e))?.path();
        if wanted.iter().any(|file| file.starts_with(&path) && *file != path) {
            remove_others(&path, wanted)?;
        } else if !wanted.contains(&path) {
            remove(&path)?;
        }
    }
    Ok(())
}

pub(super) fn remove(path: &Path) -> Result<()> {
    let remove = if path.is_dir() { fs::remove_dir_all } else { fs::remove_file };
    remove(path).map_err(|e| io_error(path, e))
}

/// Syncs the folder, so that a rename survives a power cut. Not every file system can; the bytes are safe either way.
pub(super) fn sync_folder(path: &Path) {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let _ = File::open(folder).and_then(|folder| folder.sync_all());
}

impl Network {
    /// Writes the file, or resumes a partial one.
    fn write(&self, path: &Path, threads: &Threads, progress: &mut Progress) -> Result<()> {
        let (part, list) = (sibling(path, ".part"), sibling(path, ".part.done"));
        let open = |path: &Path| {
            let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
            file.map_err(|e| io_error(path, e))
        };
        let (mut digests, mut file) = (open(&list)?, open(&part)?);
        let done = self.verified(&mut file, &mut digests, progress).map_err(|problem| match problem {
            Stopped::Io(e) => io_error(&part, e),
            Stopped::Cancelled(e) => e,
        })?;
        if done.is_empty() {
            let fresh = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(&self.header));
            fresh.map_err(|e| io_error(&part, e))?;
            progress.add(self.header.len() as u64)?;
        }
        let lines: String = done.iter().map(|digest| format!("{digest}\n")).collect();
        let kept =
            digests.set_len(0).and_then(|()| digests.rewind()).and_then(|()| digests.write_all(lines.as_bytes()));
        kept.map_err(|e| io_error(&list, e))?;
        for tensor in &self.tensors[done.len()..] {
            let mut sha = Sha256::new();
            self.encode(tensor, threads, &mut |bytes| {
                sha.update(bytes);
                file.write_all(bytes).map_err(|e| io_error(&part, e))?;
                progress.add(bytes.len() as u64)
            })?;
            let line = hex(&sha.finalize()) + "\n";
            digests.write_all(line.as_bytes()).map_err(|e| io_error(&list, e))?;
        }
        finish(&file, &part, path)?;
        fs::remove_file(&list).map_err(|e| io_error(&list, e))
    }

    /// Digests of the leading tensors in `file` that match `digests`. Truncates `file` behind them and seeks to its
    /// end.
    fn verified(
        &self,
        file: &mut File,
        digests: &mut File,
        progress: &mut Progress,
    ) -> std::result::Result<Vec<String>, Stopped> {
        let mut done = vec![];
        if !starts_with(file, &self.header)? {
            return Ok(done);
        }
        progress.add(self.header.len() as u64)?;
        let lines = BufReader::new(digests).take(100 * self.tensors.len() as u64).lines();
        let mut end = self.header.len() as u64;
        let mut buffer = vec![0; BUFFER];
        for (tensor, line) in self.tensors.iter().zip(lines) {
            let (Ok(line), size) = (line, self.size(tensor) as u64) else { break };
            let (mut sha, mut left) = (Sha256::new(), size);
            while left > 0 {
                let n = file.read(&mut buffer[..left.min(BUFFER as u64) as usize])?;
                if n == 0 {
                    break;
                }
                sha.update(&buffer[..n]);
                left -= n as u64;
                progress.cancel.check()?;
            }
            if left > 0 || hex(&sha.finalize()) != line {
                break;
            }
            progress.add(size)?;
            (end, _) = (end + size, done.push(line));
        }
        if done.is_empty() {
            progress.done -= self.header.len() as u64; // the header is written again
        }
        file.set_len(end)?;
        file.seek(SeekFrom::End(0))?;
        Ok(done)
    }
}

/// Why verifying a partial file stopped.
enum Stopped {
    Io(io::Error),
    Cancelled(Error),
}

impl From<Cancelled> for Stopped {
    fn from(cancelled: Cancelled) -> Self {
        Stopped::Cancelled(cancelled.into())
    }
}

impl From<io::Error> for Stopped {
    fn from(error: io::Error) -> Self {
        Stopped::Io(error)
    }
}

impl From<Error> for Stopped {
    fn from(error: Error) -> Self {
        Stopped::Cancelled(error)
    }
}

/// Reports bytes to the observer and checks for cancellation.
pub(super) struct Progress<'a> {
    pub done: u64,
    pub observer: &'a mut dyn TransferObserver,
    pub cancel: &'a CancelToken,
}

impl Progress<'_> {
    fn add(&mut self, bytes: u64) -> Result<()> {
        self.done += bytes;
        self.observer.on_transfer(&TransferEvent::Progress { done: self.done });
        Ok(self.cancel.check()?)
    }
}

/// The path of `.NAME` plus an ending, beside `path`.
pub(super) fn sibling(path: &Path, ending: &str) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(ending);
    path.with_file_name(name)
}

/// `path` with links resolved, whether or not it exists.
pub(super) fn canonical(path: &Path) -> Option<PathBuf> {
    path.canonicalize().ok().or_else(|| {
        let folder = path.parent()?;
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        Some(canonical(folder)?.join(path.file_name()?))
    })
}

/// Refuses to start if the disk has too little room.
pub(super) fn make_room(work: &Path, needed: u64) -> Result<()> {
    let folder = work.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // If the file system does not report its free space, try.
    match fs4::available_space(folder) {
        Ok(free) if free < needed => refuse(ConvertProblem::DiskFull { path: folder.to_owned(), needed, free }),
        _ => Ok(()),
    }
}

/// Keeps out other conversions to the same path while it exists.
pub(super) struct Lock {
    path: PathBuf,
    file: File,
}

impl Lock {
    pub fn of(out: &Path) -> Result<Self> {
        let path = sibling(out, ".lock");
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            fs::create_dir_all(folder).map_err(|e| io_error(folder, e))?;
        }
        let open = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
        let file = open.map_err(|e| io_error(&path, e))?;
        let is_free = match file.try_lock() {
            Err(fs::TryLockError::WouldBlock) => false,
            // A file system without locks: assume that nobody else converts.
            Ok(()) | Err(fs::TryLockError::Error(_)) => is_at(&file, &path),
        };
        if is_free { Ok(Lock { path, file }) } else { refuse(ConvertProblem::Busy { path: out.to_owned() }) }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Removed while locked: whoever opened it before and locks it later finds that the path is gone.
        let _ = fs::remove_file(&self.path);
        let _ = self.file.unlock();
    }
}

/// Whether `path` still names `file`.
fn is_at(file: &File, path: &Path) -> bool {
    let (Ok(file), Ok(there)) = (file.metadata(), path.metadata()) else { return false };
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt as _;
        (file.dev(), file.ino()) == (there.dev(), there.ino())
    }
    #[cfg(not(unix))]
    {
        file.is_file() && there.is_file()
    }
}
