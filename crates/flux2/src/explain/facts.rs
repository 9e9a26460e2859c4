//! What is said about a picture, stage by stage.

use serde::Serialize;

use super::{Attention, Span, Spread, as_url};
use crate::image::{Parameters, RgbImage};
use crate::text::PromptToken;

/// A run, explained. Stages are in the order of the run.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    /// The model and the sizes of its networks.
    pub model: ModelFacts,
    /// Everything that makes the picture again.
    pub parameters: Parameters,
    /// What was ignored or probably not meant, for people.
    pub warnings: Vec<String>,
    /// The prompt: tokens and embedding.
    pub text: Text,
    /// With guidance, the prompt that it leads away from.
    pub negative: Option<Text>,
    /// The images that the model sees, in the order of their position ids: the source, then the references.
    pub images: Vec<Image>,
    /// The noise that the seed gives.
    pub noise: Latents,
    /// What denoising starts from: the noise, or a source with noise.
    pub start: Latents,
    /// The noise levels.
    pub schedule: Schedule,
    /// The denoising steps.
    pub steps: Vec<Step>,
    /// Which words and images the image tokens attend to, if it was read.
    pub attention: Option<Attention>,
    /// What was decoded.
    pub latents: Latents,
    /// Width and height of what the decoder drew, in pixels.
    pub decoded_px: [u32; 2],
    /// Stages with the loading of their networks, as they ran.
    pub timeline: Vec<Span>,
    /// The memory of each stage at its peak.
    pub stages: Vec<Stage>,
    /// Kernels that computed products.
    pub kernels: Vec<Kernel>,
    /// Fallbacks taken where memory was short: stage and fallback.
    pub rescues: Vec<[&'static str; 2]>,
    /// Time of the run, without what explaining it took.
    pub seconds: f64,
    /// Time that explaining took beside the run: reading the attention, copies to the host.
    pub explaining_seconds: f64,
}

/// The model.
#[derive(Clone, Debug, Serialize)]
pub struct ModelFacts {
    /// Its name in the parameters of its pictures.
    pub name: String,
    /// The member of the family.
    pub variant: &'static str,
    /// Layers of the text encoder that run: up to the last tap.
    pub text_layers: usize,
    /// Width of the text encoder.
    pub text_hidden: usize,
    /// Double blocks of the flow transformer.
    pub double_blocks: usize,
    /// Single blocks of the flow transformer.
    pub single_blocks: usize,
    /// Attention heads of the flow transformer.
    pub heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Features of an image token.
    pub token_channels: usize,
    /// Channels of the autoencoder's latents, of which a token holds 2x2 pixels.
    pub latent_channels: usize,
    /// Channels of a head that each position axis (t, h, w, l) rotates.
    pub rope_axes: Vec<usize>,
}

/// A prompt on its way to the flow transformer.
#[derive(Clone, Debug, Serialize)]
pub struct Text {
    /// The prompt in its chat template, as it is tokenized.
    pub chat: String,
    /// Tokens that are not padding.
    pub tokens: Vec<PromptToken>,
    /// Padding tokens behind them.
    pub padding: usize,
    /// Id of the padding token.
    pub padding_id: u32,
    /// The part of the prompt that did not fit.
    pub lost: Option<String>,
    /// Rows and columns of the embedding.
    pub embedding: [usize; 2],
    /// The embedding of each tap, side by side in its columns.
    pub taps: Vec<Tap>,
}

/// A tap of the text encoder: the residual stream after a layer.
#[derive(Clone, Debug, Serialize)]
pub struct Tap {
    /// After how many layers it is read.
    pub layer: usize,
    /// L2 norm of each row that is not padding.
    pub token_norms: Vec<f64>,
    /// Mean L2 norm of the padding's rows; none without padding.
    pub padding_norm: Option<f64>,
}

/// What an image is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ImageRole {
    /// Painted into, and seen like a reference.
    Source,
    /// Edited or combined.
    Reference,
}

/// An image that the model sees.
#[derive(Clone, Debug, Serialize)]
pub struct Image {
    /// Its number in the prompt, from 1.
    pub number: usize,
    /// What it is for.
    pub role: ImageRole,
    /// SHA-256 of its file, in hexadecimal.
    pub sha256: String,
    /// Width and height of the file's image.
    pub file_px: [u32; 2],
    /// Width and height as the model takes it.
    pub prepared_px: [u32; 2],
    /// Rows and columns of tokens.
    pub grid: [usize; 2],
    /// Position ids (t, h, w, l) of its first and its last token.
    pub position_ids: [[u32; 4]; 2],
    /// As the model takes it.
    #[serde(serialize_with = "as_url")]
    pub image: RgbImage,
}

/// Latents of the picture, as tokens.
#[derive(Clone, Debug, Serialize)]
pub struct Latents {
    /// Rows and columns of tokens.
    pub grid: [usize; 2],
    /// Their values.
    pub spread: Spread,
    /// In colors, by a linear map: 2 pixels a token.
    #[serde(serialize_with = "as_url")]
    pub image: RgbImage,
}

/// The noise levels of a picture.
#[derive(Clone, Debug, Serialize)]
pub struct Schedule {
    /// One more than there are steps, falling to 0.
    pub sigmas: Vec<f32>,
    /// As many evenly spaced levels from the first one down to 0, for comparison.
    pub linear: Vec<f32>,
    /// Logarithm of the shift towards high noise, which depends on image tokens and steps.
    pub mu: f64,
    /// Image tokens that `mu` is computed from.
    pub image_tokens: usize,
}

/// A denoising step.
#[derive(Clone, Debug, Serialize)]
pub struct Step {
    /// From 1.
    pub number: u32,
    /// Noise level before it.
    pub sigma: f32,
    /// Noise level behind it.
    pub next_sigma: f32,
    /// L2 norm of the velocity for the prompt.
    pub velocity_norm: f64,
    /// With guidance, L2 norm of the velocity for the negative prompt.
    pub negative_velocity_norm: Option<f64>,
    /// With guidance, L2 norm of the velocity that the latents moved along.
    pub guided_velocity_norm: Option<f64>,
    /// Cosine of the angle between this step's direction and the one before.
    pub turn_cosine: Option<f64>,
    /// Distance of the estimate, the end of the straight line from here, to the final latents, relative to their norm.
    pub estimate_distance: f64,
    /// Distance of the latents behind the step to the straight line from the start to the final latents, at the same
    /// noise level, relative to the norm of the final latents.
    pub line_distance: f64,
    /// Seconds, without what explaining took.
    pub seconds: f64,
    /// Latents behind the step.
    pub latents: Latents,
    /// The final latents as estimated in this step.
    pub estimate: Latents,
}

/// Memory of a stage at its peak, the loading of its network included.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Stage {
    /// Name of the stage.
    pub stage: &'static str,
    /// Seconds of the stage, without loading and without what explaining took.
    pub seconds: f64,
    /// Seconds in which its network was loaded.
    pub load_seconds: f64,
    /// Allocated bytes: tensors, images, weights that are not read in place.
    pub allocated_bytes: usize,
    /// Mapped pages of weight files.
    pub mapped_bytes: usize,
}

/// Products that one kernel computed in the run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Kernel {
    /// What was computed.
    pub op: &'static str,
    /// How the weights were stored; none for attention.
    pub weights: Option<String>,
    /// The kernel.
    pub kernel: String,
    /// Number of products.
    pub products: u64,
}
