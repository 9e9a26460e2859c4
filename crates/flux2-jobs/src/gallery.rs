//! What people do with finished pictures: mark favorites, delete, take that back.

use std::sync::Arc;

use crate::failure::{FailureClass, JobFailure};
use crate::id::JobId;
use crate::jobs::Jobs;
use crate::journal::{Change, Outcome};
use crate::state::State;

/// Why a picture was not changed.
#[derive(Debug, thiserror::Error)]
pub enum NotChanged {
    /// There is no such picture, or not any more.
    #[error("there is no such picture, or not any more")]
    Missing,
    /// Its job is not over: until then its pictures may be drawn again.
    #[error("the job of the picture is not over")]
    NotOver,
    /// The journal cannot be written.
    #[error("{0}")]
    Storage(JobFailure),
    /// Jobs of many machines do not have this.
    #[error("{0}")]
    Unsupported(&'static str),
}

impl Jobs {
    /// Mark a picture as a favorite, or not. Favorites are kept when other pictures grow old (blocks on the disk).
    ///
    /// # Errors
    /// [`NotChanged`].
    pub fn set_favorite(&self, id: JobId, index: u32, is_favorite: bool) -> Result<(), NotChanged> {
        self.change(id, index, |outcome| outcome.set_favorite(index, is_favorite))
    }

    /// Delete a picture of a job; the job stays (blocks on the disk). Its file is removed when
    /// [`Options::undo`](crate::Options::undo) has passed.
    ///
    /// # Errors
    /// [`NotChanged`].
    pub fn delete_image(&self, id: JobId, index: u32) -> Result<(), NotChanged> {
        self.change(id, index, |outcome| outcome.delete(index))
    }

    /// Take the deletion of a picture back (blocks on the disk).
    ///
    /// # Errors
    /// [`NotChanged::Missing`] after [`Options::undo`](crate::Options::undo), or if it was not deleted.
    pub fn restore_image(&self, id: JobId, index: u32) -> Result<(), NotChanged> {
        let undo = self.shared().options.undo;
        self.change(id, index, |outcome| outcome.restore(index, undo))
    }

    /// Change a picture of a job that is over, and wait until the journal has it. `change` returns whether it did.
    fn change(&self, id: JobId, index: u32, change: impl FnOnce(&mut Outcome) -> bool) -> Result<(), NotChanged> {
        let shared = self.shared();
        let mut state = shared.lock();
        let State { jobs, with_deleted, revisions, .. } = &mut *state;
        let job = jobs.get_mut(&id).filter(|job| job.is_committed && job.outcome.has(index));
        let job = job.ok_or(NotChanged::Missing)?;
        if !job.state.is_final() {
            return Err(NotChanged::NotOver);
        }
        if !change(&mut job.outcome) {
            return Err(NotChanged::Missing);
        }
        match job.outcome.deleted.is_empty() {
            true => with_deleted.remove(&id),
            false => with_deleted.insert(id),
        };
        *revisions.entry(Arc::clone(&job.owner)).or_default() += 1;
        let pending = shared.begin(Change::Put(Box::new(job.row())));
        drop(state);
        let written = pending.map_or(Ok(()), |pending| pending.wait());
        written.map_err(|reason| {
            let message = format!("the journal cannot be written: {reason}");
            NotChanged::Storage(JobFailure::new(FailureClass::Storage, message))
        })
    }
}
