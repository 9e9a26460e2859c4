//! The journal: accepted jobs on disk, in SQLite.
//!
//! In:  changes of jobs, written by one thread in groups. Out: at the next start, all jobs as they were.
//!
//! Every commit is on disk when it returns (WAL, `synchronous=FULL`), so a process may end at any point. A database
//! that cannot be read is renamed and an empty one takes its place, with the jobs that could still be read.

mod rows;

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;
use std::time::{SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, ErrorCode};

use crate::failure::{FailureClass, JobFailure};
use crate::id::JobId;
pub(crate) use rows::{Outcome, Row};

/// Version of the tables. Another one is set aside like a damaged journal.
const VERSION: i64 = 1;
/// Name of the database in the folder.
const FILE: &str = "journal.sqlite";
/// Most changes in one commit.
const GROUP: usize = 256;

/// A change to write.
#[derive(Debug)]
pub(crate) enum Change {
    /// A job as it is now.
    Put(Box<Row>),
    /// Jobs that are forgotten.
    Delete(Vec<JobId>),
}

/// What was found in a folder.
#[derive(Debug)]
pub(crate) struct Opened {
    pub journal: Journal,
    pub rows: Vec<Row>,
    /// How often the journal was opened, this time included.
    pub generation: u64,
    /// What an operator should know.
    pub notices: Vec<String>,
}

/// A handle of the thread that writes. The thread ends when all handles are dropped.
#[derive(Debug)]
pub(crate) struct Journal {
    sender: Option<Sender<Message>>,
    thread: Option<JoinHandle<()>>,
}

/// A change on its way to the disk.
#[must_use]
pub(crate) struct Pending(Receiver<Result<(), JobFailure>>);

impl Pending {
    /// Wait until the change is on disk.
    ///
    /// # Errors
    /// If it cannot be written: a full disk, say.
    pub fn wait(self) -> Result<(), JobFailure> {
        let closed = || JobFailure::new(FailureClass::Storage, "the journal was closed");
        self.0.recv().unwrap_or_else(|_| Err(closed()))
    }
}

struct Message {
    change: Change,
    /// Gets the result once it is on disk.
    reply: Option<SyncSender<Result<(), JobFailure>>>,
}

impl Journal {
    /// Open the journal in `folder` and read all jobs.
    ///
    /// # Errors
    /// A message, if the folder cannot be written.
    pub fn open(folder: &Path) -> Result<Opened, String> {
        let path = folder.join(FILE);
        let mut notices = Vec::new();
        let (connection, rows, generation) = match open_database(&path) {
            Ok(opened) => opened,
            Err(reason) => {
                let (salvaged, aside) = set_aside(&path)?;
                let found = salvaged.len();
                notices.push(format!(
                    "the journal could not be read ({reason}) and was renamed to {}; {found} of its jobs were recovered",
                    aside.display()
                ));
                let (mut connection, _, generation) =
                    open_database(&path).map_err(|reason| format!("{}: {reason}", path.display()))?;
                let changes: Vec<_> = salvaged.iter().map(|row| Change::Put(Box::new(row.clone()))).collect();
                write(&mut connection, &changes).map_err(|error| format!("{}: {error}", path.display()))?;
                (connection, salvaged, generation)
            }
        };
        let (sender, receiver) = channel();
        let thread = std::thread::Builder::new().name("journal".into()).spawn(move || run(connection, &receiver));
        let thread = thread.map_err(|error| format!("no thread for the journal: {error}"))?;
        let journal = Journal { sender: Some(sender), thread: Some(thread) };
        Ok(Opened { journal, rows, generation, notices })
    }

    /// Write a change some time soon, after all changes before it.
    pub fn write(&self, change: Change) {
        self.send(change, None);
    }

    /// Write a change; the result says when it is on disk.
    pub fn begin(&self, change: Change) -> Pending {
        let (reply, result) = sync_channel(1);
        self.send(change, Some(reply));
        Pending(result)
    }

    fn send(&self, change: Change, reply: Option<SyncSender<Result<(), JobFailure>>>) {
        let sender = self.sender.as_ref().expect("the sender lives as long as the journal");
        // The thread ends only when this handle does.
        let _ = sender.send(Message { change, reply });
    }
}

/// Waits until everything is on disk.
impl Drop for Journal {
    fn drop(&mut self) {
        self.sender = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Write what comes, in groups: one commit serves all that wait for one.
fn run(mut connection: Connection, messages: &Receiver<Message>) {
    while let Ok(first) = messages.recv() {
        let group: Vec<Message> = std::iter::once(first).chain(messages.try_iter().take(GROUP - 1)).collect();
        let (changes, replies): (Vec<_>, Vec<_>) = group.into_iter().map(|m| (m.change, m.reply)).unzip();
        let result = write(&mut connection, &changes).or_else(|_| {
            // A full disk has no room for a longer log. Its content goes to the database, and it begins anew.
            let _ = connection.pragma_update(None, "wal_checkpoint", "TRUNCATE");
            write(&mut connection, &changes)
        });
        let result = result.map_err(|error| not_written(&error));
        for reply in replies.into_iter().flatten() {
            // Nobody may wait any more.
            let _ = reply.send(result.clone());
        }
    }
    // Without the log beside it, a database is one file that can be copied.
    let _ = connection.pragma_update(None, "wal_checkpoint", "TRUNCATE");
}

/// Why a change is not in the journal, and what would help.
fn not_written(error: &rusqlite::Error) -> JobFailure {
    let kind = match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => Some(ErrorKind::StorageFull),
        Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
            Some(ErrorKind::PermissionDenied)
        }
        _ => None,
    };
    let failure = JobFailure::new(FailureClass::Storage, format!("the journal cannot be written: {error}"));
    JobFailure { remedy: kind.and_then(flux2::Remedy::for_io), ..failure }
}

fn write(connection: &mut Connection, changes: &[Change]) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    for change in changes {
        match change {
            Change::Put(row) => rows::put(&transaction, row)?,
            Change::Delete(ids) => rows::delete(&transaction, ids)?,
        }
    }
    transaction.commit()
}

/// Open or make the database, and read it all.
fn open_database(path: &Path) -> Result<(Connection, Vec<Row>, u64), String> {
    let open = || -> rusqlite::Result<_> {
        let connection = Connection::open(path)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        // The log begins anew after so many pages, so that it takes little of a disk that gets full.
        connection.pragma_update(None, "wal_autocheckpoint", 32)?;
        // In KiB. Jobs are read at the start only, so pages that stay in memory save nothing.
        connection.pragma_update(None, "cache_size", -256)?;
        let check: String = connection.query_row("PRAGMA quick_check", [], |row| row.get(0))?;
        let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        let is_new = version == 0;
        if is_new {
            rows::create(&connection)?;
            connection.pragma_update(None, "user_version", VERSION)?;
        }
        Ok((connection, check, if is_new { VERSION } else { version }))
    };
    let (connection, check, version) = open().map_err(|error| error.to_string())?;
    if check != "ok" {
        return Err(check.lines().next().unwrap_or("damaged").to_owned());
    }
    if version != VERSION {
        return Err(format!("its version is {version}, this program writes {VERSION}"));
    }
    let all = rows::read_all(&connection)?;
    let generation = rows::next_generation(&connection).map_err(|error| error.to_string())?;
    Ok((connection, all, generation))
}

/// Rename a database that cannot be read, and return the jobs that can.
fn set_aside(path: &Path) -> Result<(Vec<Row>, PathBuf), String> {
    let salvaged = Connection::open(path).map(|connection| rows::read_what_can_be(&connection)).unwrap_or_default();
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let numbered = |n: u64| path.with_file_name(format!("journal.damaged-{seconds}-{n}.sqlite"));
    let aside = (1..).map(numbered).find(|aside| !aside.exists()).expect("some number is free");
    for suffix in ["", "-wal", "-shm"] {
        let with_suffix = |path: &Path| {
            let mut name = path.as_os_str().to_owned();
            name.push(suffix);
            PathBuf::from(name)
        };
        let (from, to) = (with_suffix(path), with_suffix(&aside));
        if from.exists() {
            fs::rename(&from, &to).map_err(|error| format!("{}: {error}", from.display()))?;
        }
    }
    Ok((salvaged, aside))
}

#[cfg(test)]
mod tests;
