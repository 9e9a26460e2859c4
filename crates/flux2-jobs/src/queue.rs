//! What a front end needs of the jobs, wherever they are drawn: [`Queue`].

use std::sync::Arc;
use std::time::Duration;

use flux2::image::ImageFormat;
use flux2::upscale::Before;
use flux2::{CancelToken, UpscaleSize, Upscaler};

use crate::event::Subscription;
use crate::failure::JobFailure;
use crate::forecast::Forecast;
use crate::gallery::NotChanged;
use crate::host::ModelInfo;
use crate::id::JobId;
use crate::jobs::{CancelOutcome, Drained, Enlarged, Jobs, Readiness};
use crate::stats::Stats;
use crate::submission::{Accepted, Draft, ModelChoice, Refused, Submission};
use crate::view::{Filter, JobView, Page, Picture};

/// Jobs as a front end sees them: those of [an engine in this process](Jobs), or those of many machines. The methods of
/// [`Jobs`] say what each does.
#[expect(missing_docs, reason = "the methods of `Jobs` have the same names")]
pub trait Queue: Send + Sync + 'static {
    fn notices(&self) -> Vec<String>;
    fn preload(&self, model: &ModelChoice) -> Result<(), Refused>;
    fn readiness(&self) -> Readiness;
    fn submit(&self, submission: Submission) -> Result<Accepted, Refused>;
    fn forecast(&self, draft: Draft) -> Result<Forecast, Refused>;
    fn get(&self, id: JobId) -> Option<JobView>;
    fn list(&self, filter: &Filter, cursor: Option<JobId>, limit: usize) -> Page;
    fn events(&self, id: JobId, after: u64) -> Option<Subscription>;
    fn want_previews(&self, id: JobId);
    fn cancel(&self, id: JobId) -> Option<CancelOutcome>;
    fn image(&self, id: JobId, index: u32) -> Result<Option<Picture>, JobFailure>;
    fn set_favorite(&self, id: JobId, index: u32, is_favorite: bool) -> Result<(), NotChanged>;
    fn delete_image(&self, id: JobId, index: u32) -> Result<(), NotChanged>;
    fn restore_image(&self, id: JobId, index: u32) -> Result<(), NotChanged>;
    fn put_blob(&self, bytes: &[u8]) -> Result<String, JobFailure>;
    fn blob(&self, digest: &str) -> Result<Option<Arc<[u8]>>, JobFailure>;
    fn models(&self) -> Vec<ModelInfo>;
    fn loras(&self) -> Vec<String>;
    fn upscalers(&self) -> Vec<Upscaler>;
    fn enlarge(
        &self,
        before: &Before,
        upscaler: Option<&str>,
        size: UpscaleSize,
        format: ImageFormat,
        cancel: &CancelToken,
    ) -> Result<Enlarged, Refused>;
    fn stats(&self) -> Stats;
    fn drain(&self, timeout: Duration) -> Drained;
}

/// Methods of an engine that have the same name and arguments.
macro_rules! same {
    ($($name:ident($($arg:ident: $type:ty),*) -> $out:ty;)*) => {
        $(fn $name(&self, $($arg: $type),*) -> $out {
            Jobs::$name(self, $($arg),*)
        })*
    };
}

impl Queue for Jobs {
    same! {
        notices() -> Vec<String>;
        preload(model: &ModelChoice) -> Result<(), Refused>;
        readiness() -> Readiness;
        submit(submission: Submission) -> Result<Accepted, Refused>;
        forecast(draft: Draft) -> Result<Forecast, Refused>;
        get(id: JobId) -> Option<JobView>;
        list(filter: &Filter, cursor: Option<JobId>, limit: usize) -> Page;
        events(id: JobId, after: u64) -> Option<Subscription>;
        want_previews(id: JobId) -> ();
        cancel(id: JobId) -> Option<CancelOutcome>;
        image(id: JobId, index: u32) -> Result<Option<Picture>, JobFailure>;
        set_favorite(id: JobId, index: u32, is_favorite: bool) -> Result<(), NotChanged>;
        delete_image(id: JobId, index: u32) -> Result<(), NotChanged>;
        restore_image(id: JobId, index: u32) -> Result<(), NotChanged>;
        put_blob(bytes: &[u8]) -> Result<String, JobFailure>;
        blob(digest: &str) -> Result<Option<Arc<[u8]>>, JobFailure>;
        models() -> Vec<ModelInfo>;
        loras() -> Vec<String>;
        upscalers() -> Vec<Upscaler>;
        enlarge(
            before: &Before, upscaler: Option<&str>, size: UpscaleSize, format: ImageFormat, cancel: &CancelToken
        ) -> Result<Enlarged, Refused>;
        stats() -> Stats;
        drain(timeout: Duration) -> Drained;
    }
}
