//! The engine as a front end uses it, with the fake host and with klein-mini.

mod common;

mod batches;
mod cancel;
mod crash;
#[cfg(unix)]
mod disk;
mod gallery;
mod lifecycle;
mod limits;
mod models;
mod restart;
mod saving;
