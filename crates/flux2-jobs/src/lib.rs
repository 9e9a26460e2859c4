//! A queue of pictures to draw with FLUX.2 \[klein\]: one engine behind every front end.
//!
//! A front end hands in a [`Submission`] and gets an id. Worker threads, one for each GPU or one for the processor, own
//! the models; other threads encode and save what they draw. With a folder, accepted jobs survive the end of the
//! process at any point.
//!
//! ```no_run
//! use std::sync::Arc;
//! use std::time::Duration;
//!
//! use flux2_jobs::engine::{EngineHost, EngineHostOptions, OfferedModel};
//! use flux2_jobs::{Draft, Jobs, Next, Options, Submission};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let paths = flux2::ModelPaths { model: "FLUX.2-klein-4B".into(), ..Default::default() };
//! let model = OfferedModel { name: "klein-4b".into(), aliases: vec![], paths, synthetic: None };
//! let host = EngineHost::new(EngineHostOptions { models: vec![model], ..Default::default() });
//! let jobs = Jobs::start(Options { folder: Some("jobs".into()), ..Options::default() }, Arc::new(host))?;
//! let draft = Draft { prompt: "a red fox".into(), ..Draft::default() };
//! let id = jobs.submit(Submission { draft, ..Submission::default() })?.id;
//! let mut events = jobs.events(id, 0).expect("the job was accepted");
//! while let Next::Event(event) = events.next(Duration::from_secs(600)) {
//!     println!("{} {}", event.seq, event.kind.name());
//! }
//! std::fs::write("fox.png", &jobs.image(id, 0)?.expect("it is done").bytes)?;
//! # Ok(())
//! # }
//! ```
//!
//! | room | holds |
//! |---|---|
//! | [`Jobs`] | the facade: submit, get, list, events, cancel, images, uploads, statistics, drain |
//! | [`Queue`] | the same as a trait, for front ends that do not care where jobs are drawn |
//! | [`spec`], [`submission`], [`view`], [`failure`], [`event`], [`stats`], [`options`] | the data of the facade |
//! | [`host`], [`sink`] | what draws, and what a front end takes over, as traits |
//! | [`engine`], [`fake`] | the host of real models, and the one for tests of front ends |
//! | `scheduler`, `estimate` | the order of waiting jobs and how long they take: neither threads nor a clock |
//! | [`lanes`] | the queue that a worker of a fleet looks into next: neither threads nor a clock |
//! | `forecast`, `gallery` | what a job would take; favorites, and pictures that are deleted and restored |
//! | `submit`, `worker`, `saver`, `janitor` | acceptance; the threads that draw, save and watch the clock |
//! | `state` | all jobs in memory, behind one lock |
//! | `journal`, `store` | jobs, pictures and uploads on disk |
//!
//! Nothing here prints, reads the environment, speaks HTTP or starts an async runtime.

#![forbid(unsafe_code)]

pub mod canvas;
pub mod engine;
mod estimate;
pub mod event;
pub mod failure;
pub mod fake;
mod forecast;
mod gallery;
pub mod host;
mod id;
mod janitor;
mod jobs;
mod journal;
pub mod lanes;
pub mod options;
mod queue;
mod references;
mod saver;
mod scheduler;
#[cfg(test)]
mod simulation;
pub mod sink;
pub mod spec;
mod state;
pub mod stats;
mod store;
pub mod submission;
mod submit;
pub mod view;
mod worker;

pub use canvas::{Painting, SourceSpec};
pub use event::{EventKind, EventLog, JobEvent, Next, Subscription};
pub use failure::{FailureClass, JobFailure};
pub use forecast::Forecast;
pub use gallery::NotChanged;
pub use host::{ModelHost, ModelInfo};
pub use id::{JobId, ParseJobIdError};
pub use jobs::{CancelOutcome, Drained, Enlarged, Jobs, Readiness};
pub use options::{Affinity, Options, Retention, Signer};
pub use queue::Queue;
pub use sink::{PictureOf, Sink};
pub use spec::{JobSpec, LoraKey, ModelKey, UpscaleSpec};
pub use stats::{Histogram, Stats};
pub use submission::{Accepted, Draft, ModelChoice, Priority, Refused, Submission, UpscaleChoice};
pub use view::{CacheHits, DrawingRecord, Filter, ImageInfo, JobState, JobView, Page, Picture, Progress, Times};
