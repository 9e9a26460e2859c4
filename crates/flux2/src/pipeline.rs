//! The recipe: from a prompt, a seed and perhaps reference images to a picture.
//!
//! [`Pipeline::generate_batch`] goes through the numbered steps of ARCHITECTURE.md. Each step is a method of its own,
//! so that it can be called, watched and tested alone. What the steps share has rooms of its own:
//!
//! | file | holds |
//! |---|---|
//! | `batch` | the steps, for several pictures or for one |
//! | `joined` | latents and conditioning of the pictures of a pass, as one |
//! | `networks` | the networks and the policy of what is resident when; each in a `slot` |
//! | `loading` | how a network is loaded: number format, placement, cancellation |
//! | `start` | what denoising starts from: noise, or a source with noise |
//! | `prompts`, `references` | embeddings and reference tokens, remembered in bounded caches (`recent`) |
//! | [`ladder`] | what a stage falls back to when memory is short |
//! | `previews` | pictures of single steps, where they are wanted |
//! | `progress` | events, cancellation and timing of a stage |
//! | `explain` | what a picture is explained with, where that is asked for |
//! | `results` | what the steps take and return |

mod batch;
mod explain;
mod joined;
pub mod ladder;
mod loading;
mod networks;
mod previews;
mod progress;
mod prompts;
mod recent;
mod references;
mod results;
mod slot;
mod start;

use std::num::NonZeroUsize;
use std::sync::Arc;

use flux2_backend::{Backend, Tensor, ops};

pub use batch::{BatchKey, BatchMember};
pub use flux2_backend::KernelRun;
pub use networks::Residency;
pub use prompts::{MAX_PREPARED_PROMPTS, TextEmbedding};
pub use references::ReferenceTokens;
pub use results::{DecodedImage, DenoiseInputs, Denoised, GeneratedImage, StepState, Timings};
pub use start::Start;

use explain::{Recorder, Watched};
use joined::{Batch, Joined};
use ladder::Ladder;
use networks::Networks;
use previews::{Previewer, Previews};
pub(crate) use progress::phase;
use progress::{Meter, StepClock};
use prompts::Prompts;
use references::EncodedReferences;
use results::{DecodedPixels, DenoisedTogether};

use crate::canvas::Placed;
use crate::compat::Compat;
use crate::device::Device;
use crate::event::{CancelToken, Event, Observer, Phase, Warning};
use crate::image::{self, LoraParameters, Parameters, RgbImage, SourceParameters, Transparency, metadata};
pub use crate::models::flow_transformer::Batching;
use crate::models::flow_transformer::References;
use crate::preview::PreviewOptions;
use crate::request::{GenerateRequest, Reference, ResolvedRequest};
use crate::sampler::Held;
use crate::text::Tokenizer;
use crate::text_cache::TextCache;
use crate::upscale::{Enlarge, Tiling, Upscaler, UpscalerSlot, Upscaling, with_events, with_smaller_tiles};
use crate::variant::{Procedure, Variant};
use crate::vocabulary::Vocabulary;
use crate::weights::{Lora, ModelFiles, ModelPaths, Precision};
use crate::{Error, Result};

/// A model ready to make pictures: files checked once, networks loaded when their stage comes.
pub struct Pipeline<B: Backend> {
    be: B,
    networks: Networks<B>,
    prompts: Prompts<B>,
    references: EncodedReferences,
    ladder: Ladder,
    previewer: Previewer<B>,
    /// The upscaler of the last picture, if it may stay loaded.
    upscaler: UpscalerSlot<B>,
    /// What the model knows, if it is one of few words.
    vocabulary: Option<Vocabulary>,
    /// While a picture is explained.
    recorder: Option<Recorder<B>>,
}

impl<B: Backend> Pipeline<B> {
    /// Open and check a model; its networks are loaded when a picture needs them.
    ///
    /// # Errors
    /// If files are missing, damaged or do not belong together.
    pub fn load(be: B, paths: &ModelPaths, residency: Residency) -> Result<Self> {
        Self::of_files(be, ModelFiles::open(paths)?, residency)
    }

    /// As [`load`](Self::load), with a model that was opened before or that is in no file.
    ///
    /// # Errors
    /// If its tokenizer cannot be read, or has more tokens than the text encoder knows.
    pub fn of_files(be: B, files: ModelFiles, residency: Residency) -> Result<Self> {
        let tokenizer = match &files.tokenizer {
            Some(file) => Tokenizer::from_file(file.clone())?,
            None => Tokenizer::builtin(),
        };
        Ok(Pipeline {
            vocabulary: files.vocabulary.as_ref().and_then(Vocabulary::read),
            prompts: Prompts::new(tokenizer, &files.text_encoder.config)?,
            networks: Networks::new(be.clone(), files, residency),
            references: EncodedReferences::new(),
            ladder: Ladder::default(),
            previewer: Previewer::new(PreviewOptions::default()),
            upscaler: UpscalerSlot::new(),
            recorder: None,
            be,
        })
    }

    /// The same in another number format. Whatever was loaded or remembered in another one is dropped.
    ///
    /// # Panics
    /// If the backend does not compute in what `precision` needs.
    pub fn with_precision(mut self, precision: Precision) -> Self {
        self.networks.set_precision(precision);
        self.prompts.clear();
        self.references.clear();
        self.upscaler.release();
        self.previewer.release();
        self
    }

    /// Change what stays loaded between stages from now on.
    pub(crate) fn set_residency(&mut self, residency: Residency) {
        self.networks.set_residency(residency);
    }

    /// The files of the model.
    pub(crate) fn files(&self) -> &ModelFiles {
        &self.networks.files
    }

    /// The same with text embeddings kept on disk, unless the text encoder is too small for that to pay.
    pub fn with_text_cache(mut self, cache: Option<TextCache>) -> Self {
        let parameters = self.networks.files.text_encoder.config.layer_parameters();
        self.prompts.set_disk_cache(cache.filter(|cache| parameters >= cache.min_parameters));
        self
    }

    /// The same with at most so many host threads for what the backend does not do; by default, as many as the process
    /// may use.
    pub fn with_threads(mut self, threads: NonZeroUsize) -> Self {
        self.networks.threads = threads;
        self
    }

    /// The backend it runs on.
    pub fn backend(&self) -> &B {
        &self.be
    }

    /// The member of the family it is.
    pub fn variant(&self) -> &'static Variant {
        self.networks.files.variant
    }

    /// The name of the model in the parameters of its pictures.
    pub fn name(&self) -> &str {
        &self.networks.files.name
    }

    /// The LoRAs that are added to its flow transformer.
    pub fn loras(&self) -> &[Lora] {
        &self.networks.files.loras
    }

    /// Host memory that remembered and current reference tokens take, in bytes. The backend does not count it.
    pub(crate) fn reference_bytes(&self) -> usize {
        self.references.bytes()
    }

    /// Make one picture. A prompt or a reference that is remembered is not encoded again.
    ///
    /// # Errors
    /// [`Error::Cancelled`], anything wrong with the request, or no memory.
    pub fn generate(
        &mut self,
        request: &GenerateRequest,
        observer: &mut dyn Observer,
        cancel: &CancelToken,
    ) -> Result<GeneratedImage> {
        let members = &mut [BatchMember { request, observer, cancel }];
        self.generate_batch(members, Batching::SameBytes).swap_remove(0)
    }

    /// Encode up to [`MAX_PREPARED_PROMPTS`] prompts one after the other, so that the text encoder is loaded once for
    /// all.
    ///
    /// # Errors
    /// [`Error::Cancelled`], or if the text encoder cannot be read.
    pub fn prepare_prompts(
        &mut self,
        prompts: &[&str],
        observer: &mut dyn Observer,
        cancel: &CancelToken,
    ) -> Result<()> {
        let empty = self.variant().default_guidance.map(|_| "");
        for prompt in empty.into_iter().chain(prompts.iter().copied().take(MAX_PREPARED_PROMPTS)) {
            self.with_fallbacks(Phase::Text, observer, |this, observer| this.encode_prompt(prompt, observer, cancel))?;
        }
        Ok(())
    }

    /// Steps 1 and 2. The embedding of a prompt: remembered, found on disk, or computed.
    ///
    /// # Errors
    /// [`Error::Cancelled`], or if the text encoder cannot be read.
    pub fn encode_prompt(
        &mut self,
        prompt: &str,
        observer: &mut dyn Observer,
        cancel: &CancelToken,
    ) -> Result<TextEmbedding<B>> {
        self.prompts.embed(prompt, &mut self.networks, observer, cancel)
    }

    /// Step 3. Tokens of prepared reference images, each remembered or computed.
    ///
    /// # Errors
    /// [`Error::Cancelled`], or if the autoencoder cannot be read.
    pub fn encode_references(
        &mut self,
        references: &[Reference],
        observer: &mut dyn Observer,
        cancel: &CancelToken,
    ) -> Result<ReferenceTokens> {
        self.references.encode(references, &mut self.networks, observer, cancel)
    }

    /// Steps 5 and 6. From noise to latents; `inspect` sees the state after every step.
    ///
    /// # Errors
    /// [`Error::Cancelled`], or if the transformer cannot be read.
    pub fn denoise(
        &mut self,
        inputs: &DenoiseInputs<B>,
        inspect: &mut dyn FnMut(&StepState<B>),
        observer: &mut dyn Observer,
        cancel: &CancelToken,
    ) -> Result<Denoised<B>> {
        let inputs = std::slice::from_ref(inputs);
        let cancels = std::slice::from_ref(cancel);
        let DenoisedTogether { mut latents, steps, idle } =
            self.denoise_together(inputs, Batching::SameBytes, inspect, observer, cancels)?;
        let latents = latents.swap_remove(0).ok_or(Error::Cancelled)?;
        Ok(Denoised { latents, steps, idle })
    }

    /// Steps 5 and 6 of pictures of one [`BatchKey`]. A picture leaves the batch at the step after it is cancelled, and
    /// has no latents then.
    ///
    /// # Errors
    /// [`Error::Cancelled`] once all are cancelled, or if the transformer cannot be read.
    fn denoise_together(
        &mut self,
        inputs: &[DenoiseInputs<B>],
        batching: Batching,
        inspect: &mut dyn FnMut(&StepState<B>),
        observer: &mut dyn Observer,
        cancels: &[CancelToken],
    ) -> Result<DenoisedTogether<B>> {
        let cancel = &CancelToken::of_all(cancels);
        self.prepare_previews(inputs.len(), observer, cancel)?;
        let (be, procedure) = (&self.be, self.variant().procedure);
        let mut recorder = self.recorder.as_mut();
        recorder.as_mut().map_or(Ok(()), |recorder| recorder.begin(&inputs[0]))?;
        let c = self.networks.files.transformer.config.in_channels;
        let transformer = self.networks.transformer(observer, cancel)?;
        let request = inputs[0].request;
        let [h, w] = request.grid();

        let sigmas = inputs[0].sigmas;
        let steps = sigmas.len() - 1;
        let modulations = transformer.modulations(&sigmas[..steps])?;
        let cached = procedure == Procedure::KvCache && !inputs[0].references.ids.is_empty();
        let passes = steps * if inputs[0].guided.is_some() { 2 } else { 1 };
        let passes = passes + if cached { inputs.len() } else { 0 };
        let mut meter = Meter::start(observer, cancel, Phase::Denoise, passes * transformer.blocks())?;
        let mut batch = Batch::new(transformer, batching);
        for inputs in inputs {
            let ReferenceTokens { tokens, ids } = inputs.references;
            let references = match cached {
                true => References::Cached(Arc::new(transformer.reference_cache(tokens, ids, &mut || meter.tick())?)),
                false => References::Tokens(tokens, ids),
            };
            let prompt = transformer.condition(&inputs.text.rows, [h, w], &references)?;
            let empty = inputs.guided.map(|(text, _)| transformer.with_text(&prompt, &text.rows)).transpose()?;
            batch.add(be.upload(&[h * w, c], inputs.latents)?, prompt, empty); // [n_img, c]
        }
        let guidance = inputs[0].guided.map(|(_, guidance)| guidance);

        let mut previews = Previews::new(&self.previewer, [h, w], steps as u32, inputs[0].held);
        let mut transformer = Watched { transformer, recorder };
        let mut clock = StepClock::start(be, steps as u32);
        for (step, modulation) in modulations.iter().enumerate() {
            batch.keep(|picture| !cancels[picture].is_cancelled());
            let pictures = batch.places();
            let Joined { latents, prompt, empty } = batch.joined(be)?;
            let begun = be.mark()?;
            let velocity = transformer.forward(latents, prompt, modulation, &mut || meter.tick())?;
            let dt = sigmas[step + 1] - sigmas[step];
            let (mut velocity_uncond, mut guided) = (None, None);
            if let Some((empty, guidance)) = empty.as_ref().zip(guidance) {
                let uncond = transformer.forward_unwatched(latents, empty, modulation, &mut || meter.tick())?;
                guided = Some(ops::guide(be, &uncond, &velocity, guidance)?);
                velocity_uncond = Some(uncond);
            }
            let direction = guided.as_ref().unwrap_or(&velocity);
            ops::euler_step(be, latents, direction, dt)?;
            previews.queue(be, step, &pictures, [&*latents, direction], sigmas[step + 1], meter.observer)?;
            hold(be, inputs[0].held, latents, step, sigmas[step + 1])?;
            let velocity_uncond = velocity_uncond.as_ref();
            let state = StepState { step, velocity: &velocity, velocity_uncond, direction, latents };
            inspect(&state);
            transformer.step(&state, &inputs[0])?;
            clock.step_queued(begun, meter.observer)?;
            previews.show(be, clock.reported(), meter.observer, cancel)?;
        }
        clock.wait_for_all(meter.observer)?;
        previews.show(be, clock.reported(), meter.observer, cancel)?;
        let (steps, idle) = clock.finish(meter.observer)?;
        meter.finish();
        let latents = batch.finish(inputs.len());
        be.trim();
        Ok(DenoisedTogether { latents, steps, idle })
    }

    /// Step 7. From latents, f32 `[n_img, c]`, to what was drawn, which is not put into a source here.
    ///
    /// # Errors
    /// [`Error::Cancelled`], or if the autoencoder cannot be read.
    pub fn decode(
        &mut self,
        latents: &Tensor<B>,
        request: &ResolvedRequest,
        observer: &mut dyn Observer,
        cancel: &CancelToken,
    ) -> Result<RgbImage> {
        let decoded = self.decode_and_keep(latents, request, observer, cancel);
        self.networks.after_decoding();
        Ok(decoded?.convert()?.0)
    }

    /// As [`decode`](Self::decode), but colors are not converted, and the decoder stays loaded for the next picture of
    /// a batch.
    fn decode_and_keep(
        &mut self,
        latents: &Tensor<B>,
        request: &ResolvedRequest,
        observer: &mut dyn Observer,
        cancel: &CancelToken,
    ) -> Result<DecodedPixels> {
        let decoder = self.networks.decoder(observer, cancel)?;
        let values = phase(observer, cancel, Phase::Decode, decoder.blocks(), |pulse| {
            decoder.forward(latents, request.grid(), pulse)
        });
        let threads = self.networks.threads;
        let (rounding, width, height) = (request.rounding(), request.width, request.height);
        Ok(DecodedPixels { values: values?, rounding, source: None, width, height, threads })
    }

    /// Step 8. A larger picture, with the tiles that the residency and the device allow.
    ///
    /// # Errors
    /// [`Error::Cancelled`], or if the upscaler cannot be read.
    fn upscale(
        &mut self,
        image: &RgbImage,
        upscaling: &Upscaling,
        observer: &mut dyn Observer,
        cancel: &CancelToken,
    ) -> Result<RgbImage> {
        let to = upscaling.size.of([image.width(), image.height()])?;
        let place = if self.be.is_asynchronous() { Device::Cuda(None) } else { Device::Cpu };
        let tiling = if self.networks.keeps_little() { Tiling::small() } else { Tiling::usual(place) };
        let name = upscaling.upscaler.name();
        let network = match &upscaling.upscaler {
            Upscaler::Lanczos => None,
            Upscaler::Network(file) => Some(self.upscaler.get(&self.be, file)? as &dyn Enlarge),
        };
        let threads = self.networks.threads;
        let (image, report) = with_smaller_tiles(network, tiling, |network| {
            with_events(image, to, name, network, threads, observer, cancel)
        })?;
        observer.on_event(&Event::Upscaled(report));
        if self.networks.releases() {
            self.upscaler.release();
        }
        self.be.trim();
        Ok(image)
    }

    /// What the model was never trained on, if it says what it was trained on.
    fn unknown(&self, request: &ResolvedRequest) -> impl Iterator<Item = Warning> + use<B> {
        let (variant, width, height) = (self.variant().name, request.width, request.height);
        let size = self.vocabulary.as_ref().map(|known| known.pictures).filter(|sizes| !sizes.contains(width, height));
        let size = size.map(|trained| Warning::UntrainedSize { width, height, variant, trained });
        let is_edit = !request.references.is_empty() || request.sees_source();
        let unknown = self.vocabulary.as_ref().and_then(|known| known.unknown_words(&request.prompt, is_edit));
        size.into_iter().chain(unknown.map(|unknown| Warning::UnknownWords { variant, unknown }))
    }

    /// What is stored with a picture of `request`.
    fn parameters(&self, request: &ResolvedRequest) -> Parameters {
        let lora =
            |lora: &Lora| LoraParameters { name: lora.name.clone(), scale: lora.scale, sha256: lora.sha256.clone() };
        // Recorded once: a request has one background for all its references.
        let transparency = request.references.iter().find_map(Reference::transparency);
        let of_source = request.source.as_ref().map(Placed::source);
        let of_source = of_source.filter(|source| source.is_transparent()).map(|source| source.options().transparency);
        let [width, height] = request.picture_px();
        let source = request.source.as_ref().map(SourceParameters::from);
        let (background, dropped_by) = match transparency.or(of_source) {
            Some(Transparency::Over(color)) => (Some(image::hexadecimal(color)), None),
            // A program of that kind; others that do the same have their name in the request.
            Some(Transparency::Dropped) => (None, Some(Compat::Diffusers.name())),
            None => (None, source.as_ref().and_then(|source| source.rule.as_deref())),
        };
        let compat = request.compat.map(Compat::name).or(dropped_by).map(str::to_owned);
        Parameters {
            prompt: request.prompt.clone(),
            negative_prompt: request.negative_prompt.clone(),
            template: request.template.clone(),
            seed: request.seed,
            noise: request.noise.to_string(),
            model: self.name().to_owned(),
            variant: Some(self.variant().kind_name().into()),
            dtype: self.networks.precision.to_string(),
            steps: request.steps,
            guidance: request.guidance,
            width,
            height,
            references: request.references.iter().map(|r| r.sha256().to_owned()).collect(),
            source,
            background,
            compat,
            loras: self.loras().iter().map(lora).collect(),
            upscale: request.upscale.as_ref().map(Upscaling::parameters),
            software: metadata::SOFTWARE.into(),
            version: env!("CARGO_PKG_VERSION").into(),
        }
    }
}

/// Set the held tokens of the latents of a picture after a step, which leaves noise of level `sigma`. They pass through
/// the host, which takes little beside a step.
fn hold<B: Backend>(be: &B, held: Option<&Held>, latents: &mut Tensor<B>, step: usize, sigma: f32) -> Result<()> {
    let Some(held) = held.filter(|held| held.holds_after(step)) else { return Ok(()) };
    let mut values = be.download(latents)?;
    held.apply(&mut values, step, sigma);
    *latents = be.upload(latents.shape(), &values)?;
    Ok(())
}
