//! Where the calls of tools go: to an engine of this process directly, or through the limits of a server.

use flux2::image::ImageFormat;
use flux2::upscale::Before;
use flux2::{CancelToken, UpscaleSize};
use flux2_jobs::{Accepted, Draft, Enlarged, Forecast, JobFailure, JobId, Jobs, Queue, Refused, Submission};

/// Why a tool did not do what it was asked for: a sentence that the agent reads, with what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ToolError(pub String);

/// Result of a tool or a part of one.
pub type Result<T, E = ToolError> = std::result::Result<T, E>;

impl ToolError {
    /// What happened, and what to do about it.
    pub fn new(message: impl std::fmt::Display, hint: impl std::fmt::Display) -> Self {
        ToolError(format!("{message}; {hint}"))
    }
}

/// What a call may ask for and take.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Bytes of one image.
    pub image_bytes: usize,
    /// Pixels of a picture to draw.
    pub pixels: u64,
    /// Characters of a prompt.
    pub prompt_chars: usize,
    /// Reference images of a job.
    pub references: usize,
    /// Pictures of a job.
    pub count: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { image_bytes: 32 << 20, pixels: 4 << 20, prompt_chars: 32_000, references: 4, count: 10 }
    }
}

/// How many times more pixels than a picture that is drawn an enlarged one may have.
const MAX_GROWTH: u64 = 16;

impl Limits {
    /// Whether these allow a draft; the model's own limits are checked by the engine.
    ///
    /// # Errors
    /// Which one does not, and its value.
    pub fn check(&self, draft: &Draft) -> Result<()> {
        let chars = draft.prompt.chars().count();
        if chars > self.prompt_chars {
            let message = format!("the prompt has {chars} characters");
            return Err(ToolError::new(message, format_args!("use at most {}", self.prompt_chars)));
        }
        let (count, references) = (draft.count.unwrap_or(1), draft.references.len());
        if !(1..=self.count).contains(&count) {
            return Err(ToolError::new(format!("count is {count}"), format_args!("use 1 to {}", self.count)));
        }
        if references > self.references {
            let message = format!("there are {references} reference images");
            return Err(ToolError::new(message, format_args!("use at most {}", self.references)));
        }
        if let (Some(width), Some(height)) = (draft.width, draft.height) {
            self.check_size([width, height], 1)?;
            let by = draft.upscale.as_ref().map_or(1.0, |upscale| upscale.by);
            let larger = |side: u32| (f64::from(side) * f64::from(by)).min(f64::from(u32::MAX)) as u32;
            self.check_size([larger(width), larger(height)], MAX_GROWTH)?;
        }
        Ok(())
    }

    fn check_size(&self, [width, height]: [u32; 2], growth: u64) -> Result<()> {
        let most = self.pixels.saturating_mul(growth);
        match u64::from(width) * u64::from(height) <= most {
            true => Ok(()),
            false => {
                Err(ToolError::new(format!("{width}x{height} is too large"), format_args!("at most {most} pixels")))
            }
        }
    }

    /// Whether these allow an enlarged picture.
    ///
    /// # Errors
    /// If it has too many pixels.
    pub fn check_enlarged(&self, size: [u32; 2]) -> Result<()> {
        self.check_size(size, MAX_GROWTH)
    }
}

/// Takes the calls of one caller to an engine. Its methods may block.
pub trait Desk: Send + Sync + 'static {
    /// The engine.
    fn jobs(&self) -> &dyn Queue;

    /// Owner of the jobs that are made, and of the pictures that `$1` names.
    fn owner(&self) -> &str;

    /// What a call may ask for.
    fn limits(&self) -> Limits;

    /// Hand in a job; images of the draft are digests of uploads.
    ///
    /// # Errors
    /// Why it is not accepted.
    fn submit(&self, draft: Draft) -> Result<Accepted>;

    /// What a job would take.
    ///
    /// # Errors
    /// Why it would not be accepted.
    fn forecast(&self, draft: Draft) -> Result<Forecast>;

    /// Enlarge a picture.
    ///
    /// # Errors
    /// If the size or the upscaler is not possible, or the caller has asked too often; after `cancel`.
    fn enlarge(
        &self,
        before: &Before,
        upscaler: Option<&str>,
        by: f32,
        format: ImageFormat,
        cancel: &CancelToken,
    ) -> Result<Enlarged>;

    /// Path below the server's address where a picture of a job can be fetched; `None` where there is no server.
    fn path_of(&self, id: JobId, index: u32) -> Option<String>;
}

/// Calls go to an engine of this process, which belongs to the one caller there is.
#[derive(Clone)]
pub struct Direct {
    /// The engine.
    pub jobs: Jobs,
    /// What a call may ask for.
    pub limits: Limits,
}

/// The owner of all jobs of an engine with one caller.
const OWNER: &str = "mcp";

impl Desk for Direct {
    fn jobs(&self) -> &dyn Queue {
        &self.jobs
    }

    fn owner(&self) -> &str {
        OWNER
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn submit(&self, draft: Draft) -> Result<Accepted> {
        self.limits.check(&draft)?;
        Ok(self.jobs.submit(Submission { draft, owner: OWNER.into(), ..Submission::default() })?)
    }

    fn forecast(&self, draft: Draft) -> Result<Forecast> {
        self.limits.check(&draft)?;
        Ok(self.jobs.forecast(draft)?)
    }

    fn enlarge(
        &self,
        before: &Before,
        upscaler: Option<&str>,
        by: f32,
        format: ImageFormat,
        cancel: &CancelToken,
    ) -> Result<Enlarged> {
        let size = UpscaleSize::By(by);
        self.limits.check_enlarged(size.of([before.image().width(), before.image().height()])?)?;
        Ok(self.jobs.enlarge(before, upscaler, size, format, cancel)?)
    }

    fn path_of(&self, _id: JobId, _index: u32) -> Option<String> {
        None
    }
}

impl From<flux2::Error> for ToolError {
    fn from(error: flux2::Error) -> Self {
        match error.remedy() {
            Some(remedy) => ToolError::new(error, remedy),
            None => ToolError(error.to_string()),
        }
    }
}

impl From<JobFailure> for ToolError {
    fn from(failure: JobFailure) -> Self {
        match &failure.remedy {
            Some(remedy) => ToolError::new(&failure, remedy),
            None => ToolError(failure.message),
        }
    }
}

impl From<Refused> for ToolError {
    fn from(refused: Refused) -> Self {
        let message = refused.to_string();
        match refused {
            Refused::Full { retry_after, .. } => {
                ToolError::new(message, format_args!("try again in {} s", retry_after.as_secs().max(1)))
            }
            Refused::Invalid(error) => error.into(),
            Refused::Unavailable(failure) | Refused::Storage(failure) => failure.into(),
            Refused::UnknownModel { nearest, .. }
            | Refused::UnknownLora { nearest, .. }
            | Refused::UnknownUpscaler { nearest, .. } => match nearest {
                Some(nearest) => ToolError::new(message, format_args!("use {nearest:?}")),
                None => ToolError::new(message, "list_models says what there is"),
            },
            _ => ToolError(message),
        }
    }
}
