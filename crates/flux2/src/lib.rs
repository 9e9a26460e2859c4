//! FLUX.2 [klein] text-to-image and image editing.

pub mod error;
pub mod event;
pub mod image;
pub mod sampler;
pub mod text;
pub mod weights;

pub use error::{Error, ErrorKind, Result};
pub use event::{CancelToken, Event, Observer, Phase, Warning};
