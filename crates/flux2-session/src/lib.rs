//! A session of pictures: what was drawn so far, by number and name, and what a line of text asks for.
//!
//! ```
//! use flux2_session::{History, HistoryOptions, Made, NewEntry, Picture, resolve};
//!
//! # fn main() -> Result<(), flux2_session::Error> {
//! let mut history = History::in_memory(HistoryOptions::default());
//! let made = Made { prompt: "a red fox".into(), seed: 7, ..Made::default() };
//! history.add(NewEntry { picture: Picture::Bytes([0].as_slice().into()), name: None, made, parent: None })?;
//! history.set_name(1, "fox")?;
//! let resolved = resolve("put a hat on $fox", &history, 0)?;
//! assert_eq!((resolved.text.as_str(), resolved.numbers.as_slice()), ("put a hat on image 1", [1].as_slice()));
//! # Ok(())
//! # }
//! ```
//!
//! | room | holds |
//! |---|---|
//! | [`history`] | [`History`]: numbered pictures, with names, kept in a folder as JSON lines |
//! | [`names`] | references such as `$1`, `$-1` and `$cat` in text |
//! | [`mod@line`] | what a line asks for: a prompt, or a command such as `!seed 7` |
//! | [`studio`] | [`Studio`]: what draws, as a trait |
//! | [`local`] | the studio in this process, with a model that stays loaded |
//!
//! Nothing here prints, reads the environment, speaks HTTP or knows a terminal.

#![forbid(unsafe_code)]

mod error;
pub mod history;
pub mod line;
pub mod local;
mod made;
pub mod names;
pub mod studio;

pub use error::Error;
pub use history::{Entry, History, HistoryOptions, NewEntry, Picture};
pub use line::{Command, Line};
pub use local::LocalStudio;
pub use made::Made;
pub use names::{Reference, Resolved, resolve};
pub use studio::{Drawn, Heard, Studio};

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;
