//! The studio in this process: one job engine, whose model stays loaded from one picture to the next.

use std::sync::Arc;
use std::time::Duration;

use flux2::image::ImageFormat;
use flux2::upscale::Before;
use flux2::{CancelToken, Error, Reference, Source, UpscaleSize};
use flux2_jobs::{
    Draft, EventKind, FailureClass, JobFailure, JobId, Jobs, ModelChoice, ModelHost, Next, Options, Priority,
    Readiness, Refused, Retention, Submission,
};

use crate::made::Made;
use crate::studio::{Drawn, Heard, Studio, StudioError};

/// Longest time until a cancelled token is noticed here.
const POLL: Duration = Duration::from_millis(20);
/// Most bytes of reference images that are kept for the next pictures.
const MAX_UPLOADS: u64 = 256 << 20;
/// Jobs whose pictures are kept until they are taken.
const MAX_JOBS: usize = 4;

/// An engine, started.
#[derive(Clone)]
pub struct LocalStudio {
    jobs: Jobs,
}

impl LocalStudio {
    /// Starts an engine, which begins to load the default model. `options` say how pictures are marked and signed; what
    /// is kept of jobs is decided here.
    ///
    /// # Errors
    /// If no threads can be started.
    pub fn start(host: Arc<dyn ModelHost>, options: Options) -> Result<Self, JobFailure> {
        let options = Options {
            folder: None,
            max_count: u32::MAX,
            max_wait: Duration::MAX,
            max_upload_bytes: MAX_UPLOADS,
            retention: Retention { jobs: MAX_JOBS, ..Retention::default() },
            ..options
        };
        Ok(LocalStudio { jobs: Jobs::start(options, host)? })
    }

    /// Begins to load the default model, if that is not done yet.
    ///
    /// # Errors
    /// If its files cannot be opened.
    pub fn preload(&self) -> Result<(), Refused> {
        self.jobs.preload(&ModelChoice::default())
    }

    /// Whether the model is loaded, or why it cannot be.
    pub fn readiness(&self) -> Readiness {
        self.jobs.readiness()
    }

    /// Keeps a decoded reference image as long as the engine, for drafts to name: one that is prepared in another way
    /// than usual.
    pub fn pin_reference(&self, reference: Reference) {
        self.jobs.put_reference(reference);
    }

    /// The same for a source.
    pub fn pin_source(&self, source: Source) {
        self.jobs.put_source(source);
    }

    /// Waits for a job, and stops it after `cancel`.
    fn wait(&self, id: JobId, heard: &mut dyn FnMut(&Heard), cancel: &CancelToken) -> Result<(), StudioError> {
        let gone = || JobFailure::new(FailureClass::Internal, "the job is gone");
        let mut events = self.jobs.events(id, 0).ok_or_else(gone)?;
        let mut is_cancelled = false;
        loop {
            if cancel.is_cancelled() && !is_cancelled {
                self.jobs.cancel(id);
                is_cancelled = true;
            }
            let event = match events.next(POLL) {
                Next::Event(event) => event,
                Next::Timeout => continue,
                Next::End => return Err(gone().into()),
            };
            match &event.kind {
                EventKind::Done => return Ok(()),
                EventKind::Failed { failure } => return Err(failure.clone().into()),
                EventKind::Cancelled => return Err(StudioError::Cancelled),
                kind => Heard::of_event(kind).iter().for_each(&mut *heard),
            }
        }
    }
}

impl Studio for LocalStudio {
    fn models(&self) -> Result<Vec<String>, StudioError> {
        Ok(self.jobs.models().into_iter().map(|model| model.name).collect())
    }

    fn keep(&self, file: &[u8]) -> Result<String, StudioError> {
        Ok(self.jobs.put_blob(file)?)
    }

    fn draw(
        &self,
        draft: Draft,
        heard: &mut dyn FnMut(&Heard),
        cancel: &CancelToken,
    ) -> Result<Vec<Drawn>, StudioError> {
        let submission = Submission { draft, priority: Priority::High, ..Submission::default() };
        let id = self.jobs.submit(submission)?.id;
        self.wait(id, heard, cancel)?;
        let gone = || JobFailure::new(FailureClass::Internal, "the pictures of the job are gone");
        let view = self.jobs.get(id).ok_or_else(gone)?;
        let drawn = |index: u32| {
            let picture = self.jobs.image(id, index)?.ok_or_else(gone)?;
            let made = Made::of_job(&view.spec, &picture.info);
            Ok::<_, StudioError>(Drawn { bytes: picture.bytes.to_vec(), made, info: picture.info })
        };
        (0..view.spec.count).map(drawn).collect()
    }

    fn enlarge(
        &self,
        file: &[u8],
        by: Option<f32>,
        upscaler: Option<&str>,
        cancel: &CancelToken,
    ) -> Result<Vec<u8>, StudioError> {
        let of = |error: Error| StudioError::Failed(error.into());
        let usual = self.jobs.upscaler(upscaler)?.scale().map_or(2.0, |scale| scale as f32);
        let before = Before::read(file, "the picture").map_err(of)?;
        let size = UpscaleSize::By(by.unwrap_or(usual));
        let enlarged = self.jobs.enlarge(&before, upscaler, size, ImageFormat::Png, cancel);
        let enlarged = enlarged.map_err(|refused| match refused {
            Refused::Invalid(Error::Cancelled) => StudioError::Cancelled,
            other => other.into(),
        })?;
        Ok(enlarged.file)
    }
}
