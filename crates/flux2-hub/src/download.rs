//! Download of the files of a plan: several workers, each file resumed, verified, locked, and renamed at the end.
//!
//! In:  a [`Plan`]. Out: the folder of its snapshot, in which every file has the length and the hash that the hub
//!      lists.
//!
//! A partial file is `HASH.incomplete`; the next attempt resumes at its length, in this process or another. It is
//! renamed once its hash is verified, and the snapshot is published after all files. A process may end at any point:
//! what it leaves is resumed by the next one.

use std::fs::{self, File, TryLockError};
use std::io::{ErrorKind, Read as _, Seek as _, Write as _};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use flux2_base::{CancelToken, Cancelled, TransferEvent, TransferObserver};
use ureq::http::Response;
use ureq::http::header::{CONTENT_LENGTH, CONTENT_RANGE};
use ureq::{Body, http};

use crate::http::{Client, RequestError, describe};
use crate::listing::{Hasher, Plan, PlannedFile};
use crate::{Error, Hub, Result};

/// Interval between checks for cancellation.
const TICK: Duration = Duration::from_millis(50);
/// Bytes read at a time.
const BUFFER_BYTES: usize = 256 << 10;
/// Complete downloads of a file before a wrong hash is an error. The first may have resumed a bad partial file.
const WHOLE_ATTEMPTS: u32 = 2;

impl Hub {
    /// Bytes of a plan that are still to be downloaded.
    pub fn missing_bytes(&self, plan: &Plan) -> u64 {
        let missing = plan.files.iter().filter(|file| !self.cache().has(&plan.repo, file));
        missing.map(|file| file.size.saturating_sub(self.received(plan, file))).sum()
    }

    /// Downloads the files of a plan and returns the folder of the snapshot. Several processes may do this at once.
    ///
    /// # Errors
    /// [`Error::Io`] if a file cannot be written, [`Error::Cancelled`] on request; others if the hub does not deliver.
    pub fn download(&self, plan: &Plan, observer: &mut dyn TransferObserver, cancel: &CancelToken) -> Result<PathBuf> {
        let missing: Vec<&PlannedFile> = plan.files.iter().filter(|file| !self.cache().has(&plan.repo, file)).collect();
        if missing.is_empty() {
            return self.cache().publish(plan);
        }
        let client = Client::new(self, &plan.repo)?;
        self.make_room(plan)?;
        let received: Vec<u64> = missing.iter().map(|file| self.received(plan, file)).collect();
        let mut progress = Progress { total: missing.iter().map(|file| file.size).sum(), received };
        observer.on_transfer(&TransferEvent::Started {
            files: missing.len(),
            done: progress.done(),
            total: progress.total,
        });

        let (stop, next) = (AtomicBool::new(false), AtomicUsize::new(0));
        let (messages, inbox) = mpsc::channel();
        let mut failure = None;
        thread::scope(|scope| {
            for i in 0..self.options.files_at_once.clamp(1, missing.len()) {
                let worker = Worker { hub: self, client: &client, plan, stop: &stop, messages: messages.clone() };
                let (missing, next) = (&missing, &next);
                let started = thread::Builder::new().spawn_scoped(scope, move || worker.work(missing, next));
                // Fewer threads than wanted take longer.
                if let (0, Err(source)) = (i, started) {
                    failure = Some(Error::NoThreads { source });
                }
            }
            drop(messages);
            loop {
                let mut fail = |error| {
                    failure.get_or_insert(error);
                    if !stop.swap(true, Ordering::Relaxed) {
                        client.stop();
                    }
                };
                match inbox.recv_timeout(TICK) {
                    Ok(WorkerMessage::Failed(error)) => fail(error),
                    Ok(WorkerMessage::Received { file, bytes }) => {
                        progress.received[file] = bytes;
                        observer.on_transfer(&TransferEvent::Progress { done: progress.done() });
                    }
                    Ok(WorkerMessage::Event(event)) => observer.on_transfer(&event),
                    Err(RecvTimeoutError::Disconnected) => break,
                    Err(RecvTimeoutError::Timeout) => {}
                }
                if cancel.is_cancelled() {
                    fail(Cancelled.into());
                }
            }
        });
        observer.on_transfer(&TransferEvent::Finished);
        match failure {
            Some(error) => Err(error),
            None => self.cache().publish(plan),
        }
    }

    /// Refuses to start if the disk has too little room.
    fn make_room(&self, plan: &Plan) -> Result<()> {
        let blobs = self.cache().folder(&plan.repo).join("blobs");
        fs::create_dir_all(&blobs).map_err(|e| Error::io(&blobs, e))?;
        let needed = self.missing_bytes(plan);
        // If the file system does not report its free space, try.
        match fs4::available_space(&blobs) {
            Ok(free) if free < needed => Err(Error::DiskFull { path: self.cache().root().into(), needed, free }),
            _ => Ok(()),
        }
    }

    fn incomplete(&self, plan: &Plan, file: &PlannedFile) -> PathBuf {
        self.cache().blob(&plan.repo, &file.digest).with_extension("incomplete")
    }

    /// Bytes of a file that are here: from an earlier attempt, or in a snapshot without links.
    fn received(&self, plan: &Plan, file: &PlannedFile) -> u64 {
        if self.cache().copy(&plan.repo, file).is_some() {
            return file.size;
        }
        fs::metadata(self.incomplete(plan, file)).map_or(0, |meta| meta.len().min(file.size))
    }
}

/// Progress of the download.
struct Progress {
    /// Bytes received of each file.
    received: Vec<u64>,
    total: u64,
}

impl Progress {
    fn done(&self) -> u64 {
        self.received.iter().sum()
    }
}

/// Sent by a worker to the thread that called [`Hub::download`].
enum WorkerMessage {
    Received { file: usize, bytes: u64 },
    Event(TransferEvent),
    Failed(Error),
}

/// Downloads one file after the other on its own thread.
struct Worker<'a> {
    hub: &'a Hub,
    client: &'a Client<'a>,
    plan: &'a Plan,
    stop: &'a AtomicBool,
    messages: Sender<WorkerMessage>,
}

impl Worker<'_> {
    fn work(&self, missing: &[&PlannedFile], next: &AtomicUsize) {
        while let Some(file) = missing.get(next.fetch_add(1, Ordering::Relaxed)) {
            let number = missing.iter().position(|other| other.path == file.path).unwrap_or_default();
            let start = Instant::now();
            match self.download_file(number, file) {
                Ok(()) => {
                    self.send(WorkerMessage::Received { file: number, bytes: file.size });
                    let (path, size, elapsed) = (file.path.clone(), file.size, start.elapsed());
                    self.send(WorkerMessage::Event(TransferEvent::FileFinished { path, size, elapsed }));
                }
                Err(error) => return self.send(WorkerMessage::Failed(error)),
            }
        }
    }

    fn send(&self, message: WorkerMessage) {
        // The receiver outlives the workers, so sending cannot fail.
        let _ = self.messages.send(message);
    }

    /// Downloads one file completely.
    fn download_file(&self, number: usize, file: &PlannedFile) -> Result<()> {
        let _lock = self.lock(file)?;
        // Another process may have downloaded it while this one waited for the lock.
        if self.hub.cache().has(&self.plan.repo, file) {
            return Ok(());
        }
        if self.take_copy(file)? {
            return Ok(());
        }
        let mut partial = Partial::open(self.hub.incomplete(self.plan, file), file, &|| self.check())?;
        for attempt in 1.. {
            self.receive_all(number, file, &mut partial)?;
            let found = partial.digest();
            if found == file.digest.hex() {
                break;
            }
            partial.restart()?;
            let expected = file.digest.hex().to_owned();
            let problem = Error::Digest { file: file.path.clone(), found, expected };
            if attempt == WHOLE_ATTEMPTS {
                return Err(problem);
            }
            self.send(WorkerMessage::Received { file: number, bytes: 0 });
            self.send(WorkerMessage::Event(TransferEvent::Retry {
                reason: problem.to_string(),
                pause: Duration::ZERO,
            }));
        }
        partial.finish(self.hub.cache().blob(&self.plan.repo, &file.digest))
    }

    /// Makes a blob of the file that a cache without links holds, if its hash is right. Returns whether it did.
    fn take_copy(&self, file: &PlannedFile) -> Result<bool> {
        let Some(copy) = self.hub.cache().copy(&self.plan.repo, file) else { return Ok(false) };
        let mut reader = File::open(&copy).map_err(|e| Error::io(&copy, e))?;
        let (mut hasher, mut buffer) = (file.digest.hasher(file.size), vec![0; BUFFER_BYTES]);
        loop {
            self.check()?;
            match reader.read(&mut buffer).map_err(|e| Error::io(&copy, e))? {
                0 => break,
                read => hasher.update(&buffer[..read]),
            }
        }
        if hasher.hex() != file.digest.hex() {
            return Ok(false);
        }
        let blob = self.hub.cache().blob(&self.plan.repo, &file.digest);
        if fs::hard_link(&copy, &blob).is_ok() {
            return Ok(true);
        }
        // A file system without hard links.
        let new = self.hub.incomplete(self.plan, file);
        let copied = fs::copy(&copy, &new).and_then(|_| fs::rename(&new, &blob));
        copied.map_err(|e| Error::io(&blob, e))?;
        Ok(true)
    }

    /// Receives the rest of a file. Retries as long as attempts receive something.
    fn receive_all(&self, number: usize, file: &PlannedFile, partial: &mut Partial) -> Result<()> {
        let patience = self.hub.options.patience;
        let (mut most, mut in_vain) = (partial.len, 0);
        while partial.len < file.size {
            let (reason, pause, last) = match self.receive(number, file, partial) {
                Ok(()) => continue,
                Err(RequestError::Fatal(error)) => return Err(error),
                Err(RequestError::Retry { reason, pause, last }) => (reason, pause, last),
            };
            self.check()?;
            // A server that sends the same part again and again makes no progress.
            in_vain = if partial.len > most { 1 } else { in_vain + 1 };
            most = most.max(partial.len);
            if in_vain >= patience.attempts {
                let (file, here, size) = (file.path.clone(), partial.len, file.size);
                let cut_short = Error::CutShort { file, reason, here, size };
                return Err(last.map_or(cut_short, |last| *last));
            }
            let pause = pause.unwrap_or_else(|| patience.pause * 2u32.pow((in_vain - 1).min(6)));
            self.send(WorkerMessage::Event(TransferEvent::Retry { reason: format!("{}: {reason}", file.path), pause }));
            let start = Instant::now();
            while start.elapsed() < pause {
                self.check()?;
                thread::sleep(TICK.min(pause));
            }
        }
        Ok(())
    }

    /// Receives what one response holds of the rest of a file.
    fn receive(&self, number: usize, file: &PlannedFile, partial: &mut Partial) -> Result<(), RequestError> {
        let response = self.client.file(&self.plan.commit, file, partial.len)?;
        if self.starts_over(&response, file, partial.len)? {
            partial.restart()?;
        }
        if response.status() == http::StatusCode::RANGE_NOT_SATISFIABLE {
            return Err(RequestError::connection("the server has less of the file than is here"));
        }
        let mut reader = response.into_body().into_reader();
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            self.check()?;
            let read =
                reader.read(&mut buffer).map_err(|e| RequestError::connection(describe(&ureq::Error::from(e))))?;
            if read == 0 {
                break;
            }
            if read as u64 > file.size - partial.len {
                let (file, found, expected) = (file.path.clone(), partial.len + read as u64, file.size);
                return Err(Error::Length { file, found, expected }.into());
            }
            partial.write(&buffer[..read])?;
            self.send(WorkerMessage::Received { file: number, bytes: partial.len });
        }
        match partial.len < file.size {
            true => Err(RequestError::connection("the connection was cut")),
            false => Ok(()),
        }
    }

    /// Whether a response holds the file from its first byte, not from byte `from` as requested.
    fn starts_over(&self, response: &Response<Body>, file: &PlannedFile, from: u64) -> Result<bool, RequestError> {
        let length = |found| Error::Length { file: file.path.clone(), found, expected: file.size };
        match response.status() {
            http::StatusCode::PARTIAL_CONTENT => {
                let range = response.headers().get(CONTENT_RANGE).and_then(|value| content_range(value.to_str().ok()?));
                match range {
                    Some((start, total)) if start == from => match total.filter(|total| *total != file.size) {
                        Some(total) => Err(length(total).into()),
                        None => Ok(false),
                    },
                    _ => {
                        let reason = format!("{}: asked for byte {from} on, it sends others", file.path);
                        Err(Error::Answer { host: self.client.host(), reason }.into())
                    }
                }
            }
            http::StatusCode::OK => {
                let found = response.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
                match found.filter(|found| *found != file.size) {
                    Some(found) => Err(length(found).into()),
                    None => Ok(true),
                }
            }
            _ => Ok(true),
        }
    }

    /// Locks a file while it is written. Other clients of the hub use the same lock.
    fn lock(&self, file: &PlannedFile) -> Result<File> {
        let folder = self.hub.cache().locks(&self.plan.repo);
        let path = folder.join(format!("{}.lock", file.digest.hex()));
        let open = fs::create_dir_all(&folder)
            .and_then(|()| File::options().create(true).write(true).truncate(false).open(&path));
        let lock = open.map_err(|e| Error::io(&path, e))?;
        let mut waiting = false;
        loop {
            match lock.try_lock() {
                Ok(()) => return Ok(lock),
                Err(TryLockError::WouldBlock) => {
                    if !waiting {
                        self.send(WorkerMessage::Event(TransferEvent::Waiting { path: file.path.clone() }));
                    }
                    waiting = true;
                    self.check()?;
                    thread::sleep(TICK);
                }
                // A file system without locks. Two processes that write the same file end with a wrong hash.
                Err(TryLockError::Error(e)) if e.kind() == ErrorKind::Unsupported => return Ok(lock),
                Err(TryLockError::Error(e)) => return Err(Error::io(&path, e)),
            }
        }
    }

    /// Stops this worker if another one has failed or the download is cancelled.
    fn check(&self) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) { Err(Cancelled.into()) } else { Ok(()) }
    }
}

/// First byte and total length in `bytes 5-9/10`; a length of `*` is `None`.
fn content_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (start, _) = range.split_once('-')?;
    Some((start.trim().parse().ok()?, if total == "*" { None } else { Some(total.trim().parse().ok()?) }))
}

/// A partial file.
struct Partial<'a> {
    path: PathBuf,
    file: File,
    /// Bytes received.
    len: u64,
    /// Hash of these bytes.
    hasher: Hasher,
    of: &'a PlannedFile,
}

impl<'a> Partial<'a> {
    /// Opens or creates a partial file and hashes what it holds.
    fn open(path: PathBuf, of: &'a PlannedFile, check: &dyn Fn() -> Result<()>) -> Result<Self> {
        let open = File::options().create(true).read(true).write(true).truncate(false).open(&path);
        let file = open.map_err(|e| Error::io(&path, e))?;
        let mut partial = Partial { path, file, len: 0, hasher: of.digest.hasher(of.size), of };
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            check()?;
            let read = partial.file.read(&mut buffer).map_err(|e| Error::io(&partial.path, e))?;
            if read == 0 {
                return Ok(partial);
            }
            partial.len += read as u64;
            if partial.len > of.size {
                partial.restart()?;
                return Ok(partial);
            }
            partial.hasher.update(&buffer[..read]);
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|e| Error::io(&self.path, e))?;
        self.hasher.update(bytes);
        self.len += bytes.len() as u64;
        Ok(())
    }

    fn restart(&mut self) -> Result<()> {
        let emptied = self.file.set_len(0).and_then(|()| self.file.rewind());
        emptied.map_err(|e| Error::io(&self.path, e))?;
        self.hasher = self.of.digest.hasher(self.of.size);
        self.len = 0;
        Ok(())
    }

    /// Hash of all bytes, in hexadecimal. Resets the hasher.
    fn digest(&mut self) -> String {
        std::mem::replace(&mut self.hasher, self.of.digest.hasher(self.of.size)).hex()
    }

    fn finish(self, blob: PathBuf) -> Result<()> {
        // Blobs are trusted by their length: a crash of the system must not leave one with other bytes.
        self.file.sync_all().map_err(|e| Error::io(&self.path, e))?;
        drop(self.file);
        fs::rename(&self.path, &blob).map_err(|e| Error::io(&blob, e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_or_refused() {
        assert_eq!(content_range("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(content_range("bytes 5-9/*"), Some((5, None)));
        for wrong in ["", "bytes */10", "5-9/10", "bytes -9/10", "bytes 5/10", "bytes 5-9/x"] {
            assert_eq!(content_range(wrong), None, "{wrong}");
        }
    }
}
