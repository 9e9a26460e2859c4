//! Tests against Debian's nats-server, which each starts for itself.

mod front;
mod jobs;
mod site;
mod trouble;
