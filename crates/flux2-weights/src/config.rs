//! Sizes of the three networks, and the tensors that follow from them.
//!
//! In:  `config.json`, or the shapes of the tensors and the metadata of a GGUF file. Out: a configuration within
//!      limits.
//!
//! A configuration determines which tensors a checkpoint must contain ([`TransformerConfig::expected_tensors`] and its
//! siblings), so a checkpoint that disagrees is refused before anything is computed. Values that this engine does not
//! support are refused here, by key and value. Keys are those of diffusers (`Flux2Transformer2DModel`,
//! `AutoencoderKLFlux2`) and transformers (`Qwen3Config`).

mod text;
mod transformer;
mod vae;

pub(crate) use text::Taps;
pub use text::TextConfig;
pub use transformer::TransformerConfig;
pub use vae::VaeConfig;

/// A canonical name and its shape.
pub type ExpectedTensor = (String, Vec<usize>);

/// Largest width accepted. The family's widest layer is 12288, the input of its MLP 24576.
const MAX_WIDTH: usize = 1 << 16;
/// Most blocks or layers of one kind accepted. The family has at most 36.
const MAX_BLOCKS: usize = 256;

/// A configuration value that tensor shapes cannot reveal and that differs from the default. It would be lost in a file
/// without a configuration.
pub(crate) struct LostValue {
    pub key: &'static str,
    pub found: String,
    pub default: String,
}

/// The first of `values` (key, value, default) that differs from its default.
fn first_lost(values: impl IntoIterator<Item = (&'static str, String, String)>) -> Option<LostValue> {
    let differs = values.into_iter().find(|(_, found, default)| found != default);
    differs.map(|(key, found, default)| LostValue { key, found, default })
}

/// Epsilon of the norms in all published models.
const NORM_EPS: f32 = 1e-6;
