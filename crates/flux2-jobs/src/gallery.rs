//! What people do with finished pictures: mark favorites, delete.

use crate::failure::{FailureClass, JobFailure};
use crate::id::JobId;
use crate::jobs::Jobs;
use crate::journal::Change;
use crate::state::Job;

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
}

impl Jobs {
    /// Mark a picture as a favorite, or not. Favorites are kept when other pictures grow old (blocks on the disk).
    ///
    /// # Errors
    /// [`NotChanged`].
    pub fn set_favorite(&self, id: JobId, index: u32, is_favorite: bool) -> Result<(), NotChanged> {
        self.change(id, index, |job, at| job.outcome.images[at].is_favorite = is_favorite)
    }

    /// Delete a picture of a job; the job stays (blocks on the disk).
    ///
    /// # Errors
    /// [`NotChanged`].
    pub fn delete_image(&self, id: JobId, index: u32) -> Result<(), NotChanged> {
        let mut digest = String::new();
        self.change(id, index, |job, at| {
            digest = job.outcome.images.remove(at).sha256;
            // The records are in the order of the pictures.
            if at < job.outcome.drawn.len() {
                job.outcome.drawn.remove(at);
            }
        })?;
        self.shared().pictures.release(&digest);
        self.shared().pictures.remove_unheld(&digest);
        Ok(())
    }

    /// Change a picture of a job that is over, and wait until the journal has it. `change` gets the picture's place.
    fn change(&self, id: JobId, index: u32, change: impl FnOnce(&mut Job, usize)) -> Result<(), NotChanged> {
        let shared = self.shared();
        let mut state = shared.lock();
        let job = state.jobs.get_mut(&id).filter(|job| job.is_committed).ok_or(NotChanged::Missing)?;
        let at = job.outcome.images.iter().position(|image| image.index == index).ok_or(NotChanged::Missing)?;
        if !job.state.is_final() {
            return Err(NotChanged::NotOver);
        }
        change(job, at);
        let pending = shared.begin(Change::Put(Box::new(job.row())));
        drop(state);
        let written = pending.map_or(Ok(()), |pending| pending.wait());
        written.map_err(|reason| {
            let message = format!("the journal cannot be written: {reason}");
            NotChanged::Storage(JobFailure::new(FailureClass::Storage, message))
        })
    }
}
