//! `serve --fleet`: jobs are drawn by workers elsewhere.

use std::time::Duration;

use flux2_fleet::{Front, FrontOptions, QueueOptions};
use flux2_jobs::Options;

use crate::args::{KeepArgs, ServeArgs};
use crate::commands::fleet::{failed, server};
use crate::failure::Result;

/// Connects to a fleet.
pub fn front(args: &ServeArgs, addresses: &str, jobs: Options) -> Result<Front> {
    let options = FrontOptions {
        server: server(addresses, &args.credentials),
        queue: queue_options(&args.keep),
        place: args.keep.objects.clone().with_variables(std::env::vars()),
        max_input: args.max_body as u64,
        same_device: args.same_device.clone(),
        jobs,
    };
    Front::connect(options).map_err(failed)
}

/// How the queue is kept.
pub fn queue_options(args: &KeepArgs) -> QueueOptions {
    QueueOptions {
        lease: Duration::from_secs(args.lease.into()),
        max_jobs: args.fleet_jobs as usize,
        replicas: args.replicas.into(),
    }
}
