//! The ground floor of the workspace: what all its crates share. Depends on none of them.
//!
//! | room | holds |
//! |---|---|
//! | [`part`] | the three networks of a model |
//! | [`remedy`] | what would help after an error, for front ends to word; the kind of an error |
//! | [`cancel`] | stopping work from another thread |
//! | [`transfer`] | progress of downloads, checks and conversions |
//! | [`units`] | bytes, memory and time as people read them |
//! | [`digest`] | SHA-256 and hexadecimal |
//! | [`environment`] | paths in variables of the environment, which callers read |
//! | [`parallel`] | loops over many values on several threads |

pub mod cancel;
pub mod digest;
pub mod environment;
pub mod parallel;
pub mod part;
pub mod remedy;
pub mod transfer;
pub mod units;

pub use cancel::{CancelToken, Cancelled};
pub use part::Part;
pub use remedy::{ErrorKind, Remedy};
pub use transfer::{TransferEvent, TransferObserver};
