//! The recipe: from a prompt, a seed and perhaps reference images to a picture.
//!
//! [`Pipeline::generate`] reads as the numbered steps of ARCHITECTURE.md. Each step is a method of its own, so that it
//! can be called, watched and tested alone. What the steps share has rooms of its own:
//!
//! | file | holds |
//! |---|---|
//! | `networks` | the networks and the policy of what is resident when; each in a `slot` |
//! | `loading` | how a network is loaded: number format, placement, cancellation |
//! | `prompts`, `references` | embeddings and reference tokens, remembered in bounded caches (`recent`) |
//! | [`ladder`] | what a stage falls back to when memory is short |
//! | `progress` | events, cancellation and timing of a stage |
//! | `results` | what the steps take and return |

pub mod ladder;
mod loading;
mod networks;
mod progress;
mod prompts;
mod recent;
mod references;
mod results;
mod slot;

use std::num::NonZeroUsize;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::thread;

use flux2_backend::{Backend, Tensor, ops};

pub use flux2_backend::KernelRun;
pub use networks::Residency;
pub use prompts::{MAX_PREPARED_PROMPTS, TextEmbedding};
pub use references::ReferenceTokens;
pub use results::{DenoiseInputs, Denoised, GeneratedImage, StepState, Timings};

use ladder::Ladder;
use networks::Networks;
use progress::{Meter, StepClock, phase, timed};
use prompts::Prompts;
use references::EncodedReferences;

use crate::event::{CancelToken, Event, Observer, Phase, Warning};
use crate::image::{self, LoraParameters, Parameters, RgbImage, Transparency, metadata};
use crate::models::flow_transformer::References;
use crate::request::{GenerateRequest, Reference, ResolvedRequest};
use crate::sampler;
use crate::text::Tokenizer;
use crate::text_cache::TextCache;
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
    /// What the model knows, if it is one of few words.
    vocabulary: Option<Vocabulary>,
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
        let request = ResolvedRequest::new(request, self.variant())?;
        let warnings = request.warnings.iter().cloned().chain(self.unknown(&request));
        warnings.for_each(|warning| observer.on_event(&Event::Warning(warning)));
        let mut timings = Timings::default();

        // 1, 2. Prompt -> token ids -> text embedding; with guidance also that of the empty prompt. The host always
        // makes the noise of step 4; if another device encodes, at the same time.
        let guidance = request.guidance.filter(|g| *g > 1.0);
        let channels = self.networks.files.transformer.config.in_channels;
        let threads = self.networks.threads;
        let noise = &|| request.initial_latents(channels, threads);
        let is_parallel = self.be.is_asynchronous();
        let (latents, texts) = thread::scope(|scope| {
            let start = || thread::Builder::new().spawn_scoped(scope, noise).ok();
            let beside = is_parallel.then(start).flatten();
            let texts = timed(&mut timings.text, || {
                self.with_fallbacks(Phase::Text, observer, |this, observer| {
                    let text = this.encode_prompt(&request.prompt, observer, cancel)?;
                    let uncond = guidance.map(|_| this.encode_prompt("", observer, cancel)).transpose()?;
                    Ok((text, uncond))
                })
            });
            let latents = beside.map_or_else(|| Ok(noise()), |beside| beside.join());
            (latents.unwrap_or_else(|panic| resume_unwind(panic)), texts)
        });
        let (text, uncond) = texts?;
        if let Some(warning) = &text.warning {
            observer.on_event(&Event::Warning(warning.clone()));
        }

        // 3. References -> tokens.
        let references = timed(&mut timings.references, || {
            self.with_fallbacks(Phase::References, observer, |this, observer| {
                this.encode_references(&request.references, observer, cancel)
            })
        })?;

        // 4, 5, 6. Noise, schedule, steps.
        let guided = uncond.as_ref().zip(guidance);
        let inputs =
            DenoiseInputs { request: &request, latents: &latents, text: &text, guided, references: &references };
        let Denoised { latents, steps, idle } = self.with_fallbacks(Phase::Denoise, observer, |this, observer| {
            this.denoise(&inputs, &mut |_| {}, observer, cancel)
        })?;
        (timings.steps, timings.idle) = (steps, idle);

        // 7. Latents -> pixels.
        let image = timed(&mut timings.decode, || {
            self.with_fallbacks(Phase::Decode, observer, |this, observer| {
                this.decode(&latents, &request, observer, cancel)
            })
        })?;
        let (parameters, kernels) = (self.parameters(&request), self.be.take_kernels_run());
        Ok(GeneratedImage { image, parameters, timings, kernels, rescues: self.ladder.take() })
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
        let (be, procedure) = (&self.be, self.variant().procedure);
        let c = self.networks.files.transformer.config.in_channels;
        let transformer = self.networks.transformer(observer, cancel)?;
        let request = inputs.request;
        let [h, w] = request.grid();

        let mut latents = be.upload(&[h * w, c], inputs.latents)?; // [n_img, c]
        let sigmas = sampler::sigmas(request.steps, h * w)?;
        let modulations = transformer.modulations(&sigmas[..sigmas.len() - 1])?;

        let cached = procedure == Procedure::KvCache && !inputs.references.ids.is_empty();
        let passes = request.steps as usize * if inputs.guided.is_some() { 2 } else { 1 } + usize::from(cached);
        let mut meter = Meter::start(observer, cancel, Phase::Denoise, passes * transformer.blocks())?;
        let ReferenceTokens { tokens, ids } = inputs.references;
        let references = match cached {
            true => References::Cached(Arc::new(transformer.reference_cache(tokens, ids, &mut || meter.tick())?)),
            false => References::Tokens(tokens, ids),
        };
        let prompt = transformer.condition(&inputs.text.rows, [h, w], &references)?;
        let guided = match inputs.guided {
            Some((text, guidance)) => Some((transformer.with_text(&prompt, &text.rows)?, guidance)),
            None => None,
        };

        let mut clock = StepClock::start(be, request.steps);
        for (step, modulation) in modulations.iter().enumerate() {
            let begun = be.mark()?;
            let velocity = transformer.forward(&latents, &prompt, modulation, &mut || meter.tick())?;
            let dt = sigmas[step + 1] - sigmas[step];
            let mut velocity_uncond = None;
            if let Some((empty, guidance)) = &guided {
                let uncond = transformer.forward(&latents, empty, modulation, &mut || meter.tick())?;
                ops::euler_step(be, &mut latents, &ops::guide(be, &uncond, &velocity, *guidance)?, dt)?;
                velocity_uncond = Some(uncond);
            } else {
                ops::euler_step(be, &mut latents, &velocity, dt)?;
            }
            let velocity_uncond = velocity_uncond.as_ref();
            inspect(&StepState { step, velocity: &velocity, velocity_uncond, latents: &latents });
            clock.step_queued(begun, meter.observer)?;
        }
        let (steps, idle) = clock.finish(meter.observer)?;
        meter.finish();
        be.trim();
        Ok(Denoised { latents, steps, idle })
    }

    /// Step 7. From latents, f32 `[n_img, c]`, to the picture.
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
        let decoder = self.networks.decoder(observer, cancel)?;
        let pixels = phase(observer, cancel, Phase::Decode, decoder.blocks(), |pulse| {
            decoder.forward(latents, request.grid(), pulse)
        });
        self.networks.after_decoding();
        let pixels = pixels?;
        if !pixels.iter().all(|v| v.is_finite()) {
            return Err(Error::NotFinite);
        }
        image::from_model_output(&pixels, request.width, request.height, self.networks.threads)
    }

    /// What the model was never trained on, if it says what it was trained on.
    fn unknown(&self, request: &ResolvedRequest) -> impl Iterator<Item = Warning> + use<B> {
        let (variant, width, height) = (self.variant().name, request.width, request.height);
        let size = self.vocabulary.as_ref().map(|known| known.pictures).filter(|sizes| !sizes.contains(width, height));
        let size = size.map(|trained| Warning::UntrainedSize { width, height, variant, trained });
        let is_edit = !request.references.is_empty();
        let unknown = self.vocabulary.as_ref().and_then(|known| known.unknown_words(&request.prompt, is_edit));
        size.into_iter().chain(unknown.map(|unknown| Warning::UnknownWords { variant, unknown }))
    }

    /// What is stored with a picture of `request`.
    fn parameters(&self, request: &ResolvedRequest) -> Parameters {
        let lora =
            |lora: &Lora| LoraParameters { name: lora.name.clone(), scale: lora.scale, sha256: lora.sha256.clone() };
        // Recorded once: a request has one background for all its references.
        let transparency = request.references.iter().find_map(Reference::transparency);
        let (background, compat) = match transparency {
            Some(Transparency::Over(color)) => (Some(image::hexadecimal(color)), None),
            Some(Transparency::Dropped) => (None, Some("diffusers".to_owned())),
            None => (None, None),
        };
        Parameters {
            prompt: request.prompt.clone(),
            seed: request.seed,
            noise: request.noise.to_string(),
            model: self.name().to_owned(),
            variant: Some(self.variant().kind_name().into()),
            dtype: self.networks.precision.to_string(),
            steps: request.steps,
            guidance: request.guidance,
            width: request.width,
            height: request.height,
            references: request.references.iter().map(|r| r.sha256().to_owned()).collect(),
            background,
            compat,
            loras: self.loras().iter().map(lora).collect(),
            software: metadata::SOFTWARE.into(),
            version: env!("CARGO_PKG_VERSION").into(),
        }
    }
}
