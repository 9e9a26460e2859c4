//! What all crates of the workspace share. Depends on none of them.
//!
//! | room | holds |
//! |---|---|
//! | [`part`] | the three networks of a model |
//! | [`remedy`] | what would help after an error, for front ends to word; what kind of error it was |

pub mod part;
pub mod remedy;

pub use part::Part;
pub use remedy::{ErrorKind, Remedy};
