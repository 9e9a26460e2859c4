//! What a front end that writes files of its own hears of every picture.

use std::time::Duration;

use flux2::Event;
use flux2::pipeline::GeneratedImage;

use crate::failure::JobFailure;
use crate::id::JobId;
use crate::spec::JobSpec;

/// A picture of a job, and the worker that draws it.
#[derive(Clone, Copy, Debug)]
pub struct PictureOf<'a> {
    /// The job.
    pub id: JobId,
    /// What is drawn.
    pub spec: &'a JobSpec,
    /// The picture, from 0.
    pub picture: u32,
    /// Number of the worker: the index of its device.
    pub worker: usize,
    /// Pictures that are drawn together with it, itself included.
    pub batch: usize,
}

/// Takes the pictures of all jobs in place of the engine's own store. Methods are called on threads of the engine and
/// should return quickly.
pub trait Sink: Send + Sync + 'static {
    /// A worker begins a picture.
    fn started(&self, of: PictureOf);

    /// An event of a picture, or of the prompts that are encoded before it.
    fn event(&self, of: PictureOf, event: &Event);

    /// Whether [`event`](Self::event) is to get previews.
    fn wants_previews(&self) -> bool {
        false
    }

    /// A picture is drawn and encoded: write it. Called in the order in which pictures were drawn, one at a time.
    /// `elapsed` is the time since the picture was begun.
    ///
    /// # Errors
    /// Why it could not be written; the job fails for this reason.
    fn save(&self, of: PictureOf, drawn: &GeneratedImage, bytes: Vec<u8>, elapsed: Duration) -> Result<(), JobFailure>;

    /// A job that had been accepted is over; `failure` is `None` if it is done, and cancelled jobs have none.
    fn ended(&self, id: JobId, spec: &JobSpec, failure: Option<&JobFailure>);
}
