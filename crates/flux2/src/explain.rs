//! A picture explained: what every stage of its run took in and gave out, as data.
//!
//! [`Pipeline::explain`](crate::Pipeline::explain) draws a picture as ever, watches the run, and returns an
//! [`Explanation`]. The picture has the bytes that it has without.
//!
//! | file | holds |
//! |---|---|
//! | `attention` | which words and images each image token attends to |
//! | `facts` | the data of all stages |
//! | `measure` | norms and distances |
//! | `timeline` | when each stage began and ended, and the memory that it took |
//!
//! All of it can be serialized; pictures become `data:` URLs of a PNG.

mod attention;
mod facts;
mod measure;
mod timeline;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Serializer, ser};

pub use attention::{Attended, Attention, AttentionStep, BlockName, Blocks};
pub(crate) use attention::{Keys, Reader};
pub use facts::{Explanation, Image, ImageRole, Kernel, Latents, ModelFacts, Schedule, Stage, Step, Tap, Text};
pub use measure::Spread;
pub(crate) use measure::{distance, norm};
pub use timeline::Span;
pub(crate) use timeline::Timeline;

use crate::Result;
use crate::image::{ImageFormat, RgbImage, encode};

/// What to explain beside what costs nothing.
#[derive(Clone, Debug, Default)]
pub struct ExplainOptions {
    /// The blocks of the flow transformer whose attention is read.
    pub blocks: Blocks,
}

/// The picture as a PNG in a `data:` URL.
///
/// # Errors
/// If there is no memory.
pub fn data_url(image: &RgbImage) -> Result<String> {
    Ok(png_url(&encode(image, ImageFormat::Png, None)?))
}

/// The bytes of a PNG as a `data:` URL.
pub fn png_url(png: &[u8]) -> String {
    format!("data:image/png;base64,{}", STANDARD.encode(png))
}

/// Serializes a picture as [`data_url`].
fn as_url<S: Serializer>(image: &RgbImage, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.serialize_str(&data_url(image).map_err(ser::Error::custom)?)
}
