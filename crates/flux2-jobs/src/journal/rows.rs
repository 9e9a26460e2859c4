//! The table of jobs, and a job as a row of it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, OptionalExtension as _, Transaction, params};
use serde::{Deserialize, Serialize};

use crate::failure::JobFailure;
use crate::id::JobId;
use crate::spec::JobSpec;
use crate::submission::Priority;
use crate::view::{DrawingRecord, ImageInfo, JobState, Times};

/// A job as it is written.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Row {
    pub id: JobId,
    pub owner: String,
    pub idempotency_key: Option<String>,
    pub priority: Priority,
    pub state: JobState,
    pub spec: JobSpec,
    pub times: Times,
    pub attempts: u32,
    /// Floating-point operations of one picture.
    pub work: f64,
    pub device: Option<String>,
    pub outcome: Outcome,
}

/// What came of a job so far.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Outcome {
    pub warnings: Vec<String>,
    pub images: Vec<ImageInfo>,
    pub drawn: Vec<DrawingRecord>,
    pub failure: Option<JobFailure>,
    /// Pictures that somebody deleted not long ago: nobody sees them, their files are still there.
    pub deleted: Vec<Deleted>,
}

/// A picture whose deletion can be taken back for a while.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Deleted {
    pub image: ImageInfo,
    pub drawn: Option<DrawingRecord>,
    pub at: SystemTime,
}

impl Outcome {
    /// Whether there is a picture of this number, deleted or not.
    pub fn has(&self, index: u32) -> bool {
        self.files().any(|image| image.index == index)
    }

    /// All pictures that have a file.
    pub fn files(&self) -> impl Iterator<Item = &ImageInfo> {
        self.images.iter().chain(self.deleted.iter().map(|deleted| &deleted.image))
    }

    /// Mark a picture as a favorite, or not. Returns whether there is one of this number.
    pub fn set_favorite(&mut self, index: u32, is_favorite: bool) -> bool {
        let image = self.images.iter_mut().find(|image| image.index == index);
        image.map(|image| image.is_favorite = is_favorite).is_some()
    }

    /// Take a picture away; [`restore`](Self::restore) brings it back. Returns whether there is one of this number.
    pub fn delete(&mut self, index: u32) -> bool {
        let Some(place) = self.images.iter().position(|image| image.index == index) else { return false };
        let image = self.images.remove(place);
        // The records are in the order of the pictures.
        let drawn = (place < self.drawn.len()).then(|| self.drawn.remove(place));
        self.deleted.push(Deleted { image, drawn, at: SystemTime::now() });
        true
    }

    /// Bring a picture back that was deleted less than `undo` ago. Returns whether there is one of this number.
    pub fn restore(&mut self, index: u32, undo: Duration) -> bool {
        let is_it = |deleted: &Deleted| deleted.image.index == index && !deleted.is_older(undo);
        let Some(found) = self.deleted.iter().position(is_it) else { return false };
        let Deleted { image, drawn, .. } = self.deleted.remove(found);
        let place = self.images.partition_point(|other| other.index < index);
        self.images.insert(place, image);
        if let Some(drawn) = drawn {
            self.drawn.insert(place.min(self.drawn.len()), drawn);
        }
        true
    }

    /// Forget the pictures that were deleted `undo` ago or earlier, and return them.
    pub fn forget_deleted(&mut self, undo: Duration) -> Vec<ImageInfo> {
        self.deleted.extract_if(.., |deleted| deleted.is_older(undo)).map(|deleted| deleted.image).collect()
    }
}

impl Deleted {
    /// Whether it was deleted so long ago. Where the clock was set back, not yet.
    fn is_older(&self, age: Duration) -> bool {
        self.at.elapsed().is_ok_and(|elapsed| elapsed >= age)
    }
}

const COLUMNS: &str = "id, owner, idempotency_key, priority, state, spec, accepted, started, finished, deadline, attempts, work, device, \
     outcome";

pub(super) fn create(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(
        "CREATE TABLE job (
            id TEXT PRIMARY KEY,
            owner TEXT NOT NULL,
            idempotency_key TEXT,
            priority TEXT NOT NULL,
            state TEXT NOT NULL,
            spec TEXT NOT NULL,
            accepted INTEGER NOT NULL,
            started INTEGER,
            finished INTEGER,
            deadline INTEGER,
            attempts INTEGER NOT NULL,
            work REAL NOT NULL,
            device TEXT,
            outcome TEXT NOT NULL
        ) WITHOUT ROWID;
        CREATE TABLE opened (generation INTEGER NOT NULL);
        INSERT INTO opened VALUES (0);",
    )
}

/// Count one more opening of the journal, and return the number.
pub(super) fn next_generation(connection: &Connection) -> rusqlite::Result<u64> {
    connection.execute("UPDATE opened SET generation = generation + 1", [])?;
    let found: Option<i64> = connection.query_row("SELECT generation FROM opened", [], |row| row.get(0)).optional()?;
    Ok(found.and_then(|generation| u64::try_from(generation).ok()).unwrap_or(1))
}

pub(super) fn put(transaction: &Transaction, row: &Row) -> rusqlite::Result<()> {
    let Row { id, owner, idempotency_key, priority, state, spec, times, attempts, work, device, outcome } = row;
    let mut statement = transaction.prepare(&format!(
        "INSERT OR REPLACE INTO job ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)"
    ))?;
    statement.execute(params![
        id.to_string(),
        owner,
        idempotency_key,
        priority.name(),
        state.name(),
        json(spec),
        millis(times.accepted),
        times.started.map(millis),
        times.finished.map(millis),
        times.deadline.map(millis),
        attempts,
        work,
        device,
        json(outcome),
    ])?;
    Ok(())
}

pub(super) fn delete(transaction: &Transaction, ids: &[JobId]) -> rusqlite::Result<()> {
    let mut statement = transaction.prepare("DELETE FROM job WHERE id = ?1")?;
    ids.iter().try_for_each(|id| statement.execute([id.to_string()]).map(drop))
}

/// All jobs by the time of acceptance.
///
/// # Errors
/// A message, if a single one cannot be read.
pub(super) fn read_all(connection: &Connection) -> Result<Vec<Row>, String> {
    let mut statement =
        connection.prepare(&format!("SELECT {COLUMNS} FROM job ORDER BY id")).map_err(|error| error.to_string())?;
    let rows = statement.query_map([], |row| Ok(read(row))).map_err(|error| error.to_string())?;
    rows.map(|row| row.map_err(|error| error.to_string())?).collect()
}

/// As [`read_all`], as far as rows can be read.
pub(super) fn read_what_can_be(connection: &Connection) -> Vec<Row> {
    let Ok(mut statement) = connection.prepare(&format!("SELECT {COLUMNS} FROM job ORDER BY id")) else {
        return Vec::new();
    };
    let Ok(rows) = statement.query_map([], |row| Ok(read(row))) else { return Vec::new() };
    // After an error of the database there are no further rows; a row whose columns cannot be read is left out.
    rows.map_while(Result::ok).filter_map(Result::ok).collect()
}

fn read(row: &rusqlite::Row) -> Result<Row, String> {
    let text = |column: usize| row.get::<_, String>(column).map_err(|error| error.to_string());
    let maybe_text = |column: usize| row.get::<_, Option<String>>(column).map_err(|error| error.to_string());
    let time = |column: usize| row.get::<_, Option<i64>>(column).map(|ms| ms.map(of_millis)).map_err(|e| e.to_string());
    let id: JobId = text(0)?.parse().map_err(|error| format!("{error}"))?;
    let of_job = |what: &str| format!("job {id} has an unknown {what}");
    let (priority, state) = (text(3)?, text(4)?);
    let priority = Priority::ALL.into_iter().find(|known| known.name() == priority);
    let state = JobState::ALL.into_iter().find(|known| known.name() == state);
    let damaged = |error: serde_json::Error| format!("job {id}: {error}");
    let accepted = time(6)?.ok_or_else(|| of_job("time"))?;
    Ok(Row {
        id,
        owner: text(1)?,
        idempotency_key: maybe_text(2)?,
        priority: priority.ok_or_else(|| of_job("priority"))?,
        state: state.ok_or_else(|| of_job("state"))?,
        spec: serde_json::from_str(&text(5)?).map_err(damaged)?,
        times: Times { accepted, started: time(7)?, finished: time(8)?, deadline: time(9)? },
        attempts: row.get(10).map_err(|error| error.to_string())?,
        work: row.get(11).map_err(|error| error.to_string())?,
        device: maybe_text(12)?,
        outcome: serde_json::from_str(&text(13)?).map_err(damaged)?,
    })
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("strings and numbers serialize")
}

/// Milliseconds since 1970.
fn millis(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

fn of_millis(millis: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(millis.unsigned_abs())
}
