//! How a picture was drawn.

use flux2_jobs::{CacheHits, DrawingRecord};
use serde::Serialize;
use utoipa::ToSchema;

/// Seconds of each stage of an image, and what did not have to be computed.
#[derive(Debug, Serialize, ToSchema)]
pub struct Times {
    /// From prompt to text embedding.
    pub text: f64,
    /// From references to tokens.
    pub references: f64,
    /// Each denoising step.
    pub steps: Vec<f64>,
    /// From latents to pixels.
    pub decode: f64,
    /// From pixels to more pixels.
    pub upscale: f64,
    /// From pixels to a saved file.
    pub save: f64,
    /// Images that were drawn together with this one, this one included.
    pub batch: u32,
    /// Results that were found in a cache.
    pub cache: Caches,
}

/// Results that were found in a cache.
#[derive(Debug, Serialize, ToSchema)]
pub struct Caches {
    /// The text embedding.
    pub text: bool,
    /// The tokens of all references.
    pub references: bool,
    /// The finished image: nothing was drawn.
    pub picture: bool,
}

impl From<DrawingRecord> for Times {
    fn from(record: DrawingRecord) -> Self {
        let DrawingRecord { text, references, steps, decode, upscale, save, batch, cache } = record;
        let CacheHits { text: known_text, references: known_references, picture } = cache;
        let cache = Caches { text: known_text, references: known_references, picture };
        Times { text, references, steps, decode, upscale, save, batch, cache }
    }
}
