//! A server of the Model Context Protocol: an agent draws, edits and enlarges pictures with FLUX.2 \[klein\].
//!
//! Tools lead to the job engine of `flux2-jobs`, on standard input and output ([`stdio`]) or, with the feature `http`,
//! behind a server (`HttpService`). Errors of a call are sentences for the agent, in the answer of its tool.
//!
//! | room | holds |
//! |---|---|
//! | [`desk`] | where calls go: an engine of this process, or one behind the limits of a server |
//! | [`handler`] | requests of the protocol |
//! | `tools`, `input`, `schema`, `record` | the tools; what they take, as types and schemas; what they answer |
//! | `drawing`, `draft`, `call` | jobs of calls, handed in and waited for; progress |
//! | `album`, `picture` | numbered pictures of a caller; pictures that a call names |
//! | [`root`] | the folder that files are confined to |
//! | `content` | pictures in answers, within a number of bytes |
//! | [`stdio`], `transport`, `streamable` | the ways to a client |
//!
//! Nothing here prints or reads the environment. Standard output is the protocol's. Prompts are never logged.

#![forbid(unsafe_code)]

mod album;
mod call;
mod content;
pub mod desk;
mod draft;
mod drawing;
pub mod handler;
mod input;
mod picture;
mod record;
pub mod root;
mod schema;
pub mod stdio;
#[cfg(feature = "http")]
mod streamable;
mod tools;
mod transport;

pub use desk::{Desk, Direct, Limits, ToolError};
pub use handler::Handler;
pub use root::Root;
#[cfg(feature = "http")]
pub use streamable::{Admitted, HttpService, TooManySessions};
