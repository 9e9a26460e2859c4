//! Many machines that draw with FLUX.2 \[klein\] behind one NATS server: exactly one result for each job.
//!
//! | room | holds |
//! |---|---|
//! | `connect` | the connection, streams, buckets, consumers |
//! | `record`, `store` | a job as it is stored, and its changes by compare-and-set |
//! | `objects` | reference images and pictures by their digest |
//! | `worker` | takes jobs in the order of [`flux2_jobs::lanes`], draws them, stores the pictures |
//! | `front` | the jobs of a fleet as a front end sees them |
//! | `roster` | what workers say of themselves |
//! | `dead`, `operator` | dead letters; a fleet as an operator sees it |
//!
//! The queue is a work-queue stream of JetStream. A worker has a job for as long as it gives signs of life; what it has
//! drawn counts if the record of the job is still its own. So a job may be drawn twice, and has one result.

#![forbid(unsafe_code)]

mod connect;
mod dead;
mod error;
mod front;
mod names;
mod objects;
mod operator;
mod record;
mod roster;
mod s3;
mod store;
mod wire;
mod worker;

pub use connect::{Bus, QueueOptions, Server};
pub use dead::DeadLetter;
pub use error::{FleetError, Result};
pub use front::{Front, FrontOptions};
pub use objects::{Objects, ParsePlaceError, Place};
pub use operator::{Operator, Overview, QueueLength};
pub use record::{Change, Drawer, Record, Stage, Step};
pub use roster::{Activity, Announcement, Held, Offer};
pub use s3::S3;
pub use worker::{Ended, Worker, WorkerOptions};
