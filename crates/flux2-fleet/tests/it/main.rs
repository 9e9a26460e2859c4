//! Tests against Debian's nats-server, which each starts for itself.

mod front;
mod jobs;
mod s3;
mod secure;
mod site;
mod trouble;
