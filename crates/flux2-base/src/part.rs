//! The three networks of a model.

use std::fmt;

/// One of the three networks of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The flow transformer.
    Transformer,
    /// The Qwen3 text encoder.
    TextEncoder,
    /// The autoencoder.
    Vae,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Part::Transformer => "transformer",
            Part::TextEncoder => "text encoder",
            Part::Vae => "VAE",
        })
    }
}
