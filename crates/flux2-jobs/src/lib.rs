//! A queue of pictures to draw with FLUX.2 \[klein\]: one engine behind every front end.
//!
//! A front end hands in a [`Submission`] and gets an id. Worker threads, one for each GPU or one for the processor, own
//! the models; other threads encode and save what they draw. With a folder, accepted jobs survive the end of the
//! process at any point.
//!
//! | room | holds |
//! |---|---|
//! | [`Jobs`] | the facade: submit, get, list, events, cancel, images, uploads, statistics, drain |
//! | [`spec`], [`submission`], [`view`], [`failure`], [`event`], [`stats`], [`options`] | the data of the facade |
//! | [`host`] | what draws, as traits |
//! | [`engine`] | the host of real models |
//! | [`fake`] | the host for tests of front ends |
//!
//! Nothing here prints, reads the environment, speaks HTTP or starts an async runtime.

#![forbid(unsafe_code)]

pub mod engine;
mod estimate;
pub mod event;
pub mod failure;
pub mod fake;
pub mod host;
mod id;
mod janitor;
mod jobs;
mod journal;
pub mod options;
mod references;
mod saver;
mod scheduler;
pub mod sink;
pub mod spec;
mod state;
pub mod stats;
mod store;
pub mod submission;
mod submit;
pub mod view;
mod worker;

pub use event::{EventKind, JobEvent, Next, Subscription};
pub use failure::{FailureClass, JobFailure};
pub use host::{ModelHost, ModelInfo};
pub use id::{JobId, ParseJobIdError};
pub use jobs::{CancelOutcome, Drained, Jobs, Readiness};
pub use options::{Affinity, Options, Retention};
pub use sink::{PictureOf, Sink};
pub use spec::{JobSpec, LoraKey, ModelKey};
pub use stats::{Histogram, Stats};
pub use submission::{Accepted, Draft, ModelChoice, Priority, Refused, Submission};
pub use view::{CacheHits, DrawingRecord, Filter, ImageInfo, JobState, JobView, Page, Picture, Progress, Times};
