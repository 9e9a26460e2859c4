//! What the steps of the recipe take and return.

use std::path::Path;
use std::time::Duration;

use flux2_backend::{Backend, KernelRun, Tensor};

use super::ladder::Rescue;
use super::prompts::TextEmbedding;
use super::references::ReferenceTokens;
use crate::Result;
use crate::image::codec::IfExists;
use crate::image::{self, Attached, ImageFormat, Parameters, RgbImage};
use crate::request::ResolvedRequest;
use crate::sampler::Held;

/// A picture and how it came about.
#[derive(Clone, Debug)]
pub struct GeneratedImage {
    /// The picture.
    pub image: RgbImage,
    /// What belongs to its pixels: of a picture with a source, its alpha channel and its color profile.
    pub attached: Attached,
    /// Everything needed to make it again; stored in the file.
    pub parameters: Parameters,
    /// How long the stages took.
    pub timings: Timings,
    /// The kernels that ran since the picture before, with the formats of the weights they multiplied.
    pub kernels: Vec<KernelRun>,
    /// Fallbacks taken where memory was short, in that order; mostly none.
    pub rescues: Vec<Rescue>,
}

impl GeneratedImage {
    /// Write the picture to a file, with its parameters, in the format of the name's extension: png, jpg, jpeg or
    /// webp. An existing file is replaced.
    ///
    /// # Errors
    /// [`Error::UnknownExtension`](crate::Error::UnknownExtension), and those of [`image::encode`] and
    /// [`image::save`].
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let bytes =
            image::encode_attached(&self.image, &self.attached, ImageFormat::from_path(path)?, Some(&self.parameters))?;
        image::save(path, &bytes, IfExists::Replace)
    }
}

/// How long the stages of a run took, loading included. A stage whose result was remembered took no time.
#[derive(Clone, Debug, Default)]
pub struct Timings {
    /// Prompt to text embedding.
    pub text: Duration,
    /// References to tokens.
    pub references: Duration,
    /// Each denoising step.
    pub steps: Vec<Duration>,
    /// Time between steps in which a GPU had no work, because the host had not queued any.
    pub idle: Duration,
    /// Latents to pixels.
    pub decode: Duration,
}

/// What the denoising loop starts from.
pub struct DenoiseInputs<'a, B: Backend> {
    /// Gives the size.
    pub request: &'a ResolvedRequest,
    /// What denoising starts from, `[n_img, c]`: see [`Start`](super::Start).
    pub latents: &'a [f32],
    /// Noise levels from that of the latents down to 0, at least two.
    pub sigmas: &'a [f32],
    /// Tokens that are held to a source. Such a picture is denoised alone.
    pub held: Option<&'a Held>,
    /// Embedding of the prompt.
    pub text: &'a TextEmbedding<B>,
    /// For classifier-free guidance: the embedding of the empty prompt, and the guidance scale.
    pub guided: Option<(&'a TextEmbedding<B>, f32)>,
    /// Tokens of the references, or none.
    pub references: &'a ReferenceTokens,
}

/// The state of the sampler after one step, for tests and tools.
pub struct StepState<'a, B: Backend> {
    /// 0 for the first.
    pub step: usize,
    /// Velocity for the prompt, f32 `[n_img, c]`.
    pub velocity: &'a Tensor<B>,
    /// With guidance: velocity for the empty prompt.
    pub velocity_uncond: Option<&'a Tensor<B>>,
    /// Latents after the step, f32 `[n_img, c]`.
    pub latents: &'a Tensor<B>,
}

/// The result of the denoising loop.
pub struct Denoised<B: Backend> {
    /// f32 `[n_img, c]`.
    pub latents: Tensor<B>,
    /// How long each step took.
    pub steps: Vec<Duration>,
    /// Time between steps in which the device had no work.
    pub idle: Duration,
}

/// The result of the denoising loop for pictures that were denoised together.
pub(super) struct DenoisedTogether<B: Backend> {
    /// f32 `[n_img, c]` of each picture; `None` if it was cancelled.
    pub(super) latents: Vec<Option<Tensor<B>>>,
    /// How long each step took.
    pub(super) steps: Vec<Duration>,
    /// Time between steps in which the device had no work.
    pub(super) idle: Duration,
}
