//! What the steps of the recipe take and return.

use std::num::NonZeroUsize;
use std::path::Path;
use std::time::Duration;

use flux2_backend::{Backend, KernelRun, Tensor};

use super::ladder::Rescue;
use super::progress::timed;
use super::prompts::TextEmbedding;
use super::references::ReferenceTokens;
use crate::canvas::Placed;
use crate::image::codec::IfExists;
use crate::image::{self, Attached, Embedded, ImageFormat, Parameters, Quality, RgbImage, Rounding};
use crate::request::ResolvedRequest;
use crate::sampler::Held;
use crate::{Error, Result};

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
        let (format, embedded) = (ImageFormat::from_path(path)?, Some(Embedded::Picture(&self.parameters)));
        let bytes = image::encode_attached(&self.image, &self.attached, format, &Quality::default(), embedded)?;
        image::save(path, &bytes, IfExists::Replace)
    }
}

/// A picture as the decoder leaves it: values that are not converted to 8-bit colors yet. The conversion needs no
/// device, so another thread can do it while the next picture is drawn.
#[derive(Clone, Debug)]
pub struct DecodedImage {
    pub(super) pixels: Pixels,
    pub(super) parameters: Parameters,
    pub(super) timings: Timings,
    pub(super) kernels: Vec<KernelRun>,
    pub(super) rescues: Vec<Rescue>,
}

/// The pixels of a [`DecodedImage`].
#[derive(Clone, Debug)]
pub(super) enum Pixels {
    Decoded(DecodedPixels),
    /// With what belongs to them.
    Converted(RgbImage, Attached),
}

/// Output of the decoder.
#[derive(Clone, Debug)]
pub(super) struct DecodedPixels {
    /// `[height, width, 3]`, where -1..=1 is black to white.
    pub(super) values: Vec<f32>,
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) rounding: Rounding,
    /// The source that it is painted into.
    pub(super) source: Option<Placed>,
    /// Most threads that convert it.
    pub(super) threads: NonZeroUsize,
}

impl DecodedPixels {
    /// The picture in 8-bit colors, put into its source, and what belongs to its pixels.
    ///
    /// # Errors
    /// [`Error::NotFinite`], those of [`Placed::paste`], or no memory.
    pub(super) fn convert(&self) -> Result<(RgbImage, Attached)> {
        if !self.values.iter().all(|value| value.is_finite()) {
            return Err(Error::NotFinite);
        }
        let drawn = image::from_model_output_by(self.rounding, &self.values, self.width, self.height, self.threads)?;
        match &self.source {
            Some(source) => source.paste(drawn),
            None => Ok((drawn, Attached::default())),
        }
    }
}

impl DecodedImage {
    /// The picture in 8-bit colors. The time of the conversion counts as decoding.
    ///
    /// # Errors
    /// [`Error::NotFinite`] if there are no numbers in it, or no memory.
    pub fn convert(self) -> Result<GeneratedImage> {
        let DecodedImage { pixels, parameters, mut timings, kernels, rescues } = self;
        let (image, attached) = match pixels {
            Pixels::Decoded(decoded) => timed(&mut timings.decode, || decoded.convert())?,
            Pixels::Converted(image, attached) => (image, attached),
        };
        Ok(GeneratedImage { image, attached, parameters, timings, kernels, rescues })
    }
}

/// A picture that is converted already, for devices that have no other.
impl From<GeneratedImage> for DecodedImage {
    fn from(made: GeneratedImage) -> Self {
        let GeneratedImage { image, attached, parameters, timings, kernels, rescues } = made;
        DecodedImage { pixels: Pixels::Converted(image, attached), parameters, timings, kernels, rescues }
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
    /// Pixels to more pixels, if that was asked for.
    pub upscale: Duration,
}

/// What the denoising loop starts from.
pub struct DenoiseInputs<'a, B: Backend> {
    /// Gives the size.
    pub request: &'a ResolvedRequest,
    /// What denoising starts from, `[n_img, c]`: see [`Start`](super::Start).
    pub latents: &'a [f32],
    /// Decreasing noise levels, at least two, from that of the latents down to 0; or to a level from which a loop of the
    /// caller goes on.
    pub sigmas: &'a [f32],
    /// Tokens that are held to a source. Such a picture is denoised alone.
    pub held: Option<&'a Held>,
    /// Embedding of the prompt.
    pub text: &'a TextEmbedding<B>,
    /// For classifier-free guidance: the embedding of the negative prompt, and the guidance scale.
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
    /// With guidance: velocity for the negative prompt.
    pub velocity_uncond: Option<&'a Tensor<B>>,
    /// What the latents moved along: the velocity, with guidance both of them combined.
    pub direction: &'a Tensor<B>,
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
