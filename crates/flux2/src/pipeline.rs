//! The recipe: from a prompt, a seed and perhaps reference images to a picture.
//!
//! [`Pipeline::generate`] reads as the numbered steps do; each step is a method of its own, so that it can be called,
//! watched and tested alone. Here lives also the memory policy: which network is resident when. What becomes of it where memory
//! is short is [`ladder`]'s.

pub mod ladder;
mod loading;
mod progress;

use std::num::NonZeroUsize;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use flux2_backend::{Backend, Compute, Placement, Tensor, ops};

pub use flux2_backend::KernelRun;

use ladder::{Ladder, Rescue};
use loading::{Terms, load};
use progress::{Meter, StepClock, phase, timed};

use crate::event::{CancelToken, Event, Observer, Phase, Warning};
use crate::image::{self, LoraParameters, Parameters, RgbImage, metadata};
use crate::latents::{self, PositionId};
use crate::models::flow_transformer::{FlowTransformer, References};
use crate::models::qwen3::Qwen3;
use crate::models::vae;
use crate::request::{GRID_PX, GenerateRequest, Reference, ResolvedRequest};
use crate::sampler;
use crate::text::{Cut, TokenizedPrompt, Tokenizer};
use crate::text_cache::{Entry, Inputs, TextCache};
use crate::variant::{Procedure, Variant};
use crate::weights::{Lora, ModelFiles, ModelPaths, Part, Precision, WithLoras};
use crate::{Error, Result};

/// Which networks stay in memory between the stages of a run: in that of a GPU if there is one, else in the host's. A GPU's
/// weights that stay on the host come for every use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Residency {
    /// As [`Streamed`](Self::Streamed), and the decoder keeps no large map: some are computed three times.
    Smallest,
    /// Weights are not kept, as far as files hold them in the form of the run; each network is released when its stage is over.
    /// Files are read for every use; a GPU's flow transformer is not released but stays on the host.
    Streamed,
    /// Each network is released when its stage is over. The text encoder's weights, which are used once, are not kept.
    #[default]
    OneAtATime,
    /// The text encoder is released when its stage is over, the others stay for the next picture: for series. If it is
    /// needed again, a GPU's stays on the host from then on.
    KeepForNext,
    /// Everything that was loaded stays.
    KeepAll,
}

impl Residency {
    /// Whether a network is released when its stage is over.
    fn releases(self) -> bool {
        !matches!(self, Residency::KeepAll | Residency::KeepForNext)
    }

    /// Whether the flow transformer's weights come for every use.
    fn streams_blocks(self) -> bool {
        matches!(self, Residency::Streamed | Residency::Smallest)
    }

    /// This one and those that keep less in memory.
    pub(crate) fn and_smaller(self) -> impl Iterator<Item = Residency> {
        use Residency::{KeepAll, KeepForNext, OneAtATime, Smallest, Streamed};
        [KeepAll, KeepForNext, OneAtATime, Streamed, Smallest].into_iter().skip_while(move |r| *r != self)
    }
}

/// A picture and how it came about.
#[derive(Clone, Debug)]
pub struct GeneratedImage {
    /// The picture.
    pub image: RgbImage,
    /// What made it; goes into the file.
    pub parameters: Parameters,
    /// How long the stages took.
    pub timings: Timings,
    /// What really ran since the picture before: kernels, and the formats of the weights they multiplied.
    pub kernels: Vec<KernelRun>,
    /// What was given up for it where memory was short, in that order; mostly nothing.
    pub rescues: Vec<Rescue>,
}

/// How long the stages of a run took; a stage whose result was still known took no time.
#[derive(Clone, Debug, Default)]
pub struct Timings {
    /// Prompt to text embedding, with the loading of the encoder.
    pub text: Duration,
    /// References to tokens.
    pub references: Duration,
    /// Each denoising step.
    pub steps: Vec<Duration>,
    /// What a GPU had nothing to do between steps, waiting for the host.
    pub idle: Duration,
    /// Latents to pixels.
    pub decode: Duration,
}

/// Reference images in the space of the flow transformer.
#[derive(Clone, Debug, Default)]
pub struct ReferenceTokens {
    /// `[n_ref, c]`, all images one after the other.
    pub tokens: Vec<f32>,
    /// Of each token.
    pub ids: Vec<PositionId>,
}

/// The output of the text encoder for one prompt.
pub struct TextEmbedding<B: Backend> {
    /// f32 `[n_txt, d_text]`.
    pub rows: Tensor<B>,
    /// If the prompt was too long.
    pub warning: Option<Warning>,
}

impl<B: Backend> Clone for TextEmbedding<B> {
    fn clone(&self) -> Self {
        TextEmbedding { rows: self.rows.clone(), warning: self.warning.clone() }
    }
}

/// What the sampler saw at one step, for those who want to look inside.
pub struct StepState<'a, B: Backend> {
    /// 0 for the first.
    pub step: usize,
    /// Of the prompt, f32 `[n_img, c]`.
    pub velocity: &'a Tensor<B>,
    /// Of the empty prompt, with guidance.
    pub velocity_uncond: Option<&'a Tensor<B>>,
    /// After the step, f32 `[n_img, c]`.
    pub latents: &'a Tensor<B>,
}

/// What the sampler made of noise.
pub struct Denoised<B: Backend> {
    /// f32 `[n_img, c]`.
    pub latents: Tensor<B>,
    /// How long each step took.
    pub steps: Vec<Duration>,
    /// How long the device had nothing to do between them.
    pub idle: Duration,
}

/// A model ready to make pictures: checked once, its networks loaded when their stage comes.
pub struct Pipeline<B: Backend> {
    be: B,
    files: ModelFiles,
    tokenizer: Tokenizer,
    residency: Residency,
    ladder: Ladder,
    precision: Precision,
    /// Of the host, for what the backend does not do: adding LoRAs to weights.
    threads: NonZeroUsize,
    /// With where its weights stay.
    text_encoder: Option<(Qwen3<B>, Placement)>,
    /// How often it was loaded.
    text_encoders: u32,
    transformer: Option<(FlowTransformer<B>, Placement)>,
    decoder: Option<vae::Decoder<B>>,
    /// Prompts and their embeddings, latest last.
    embeddings: Vec<(String, TextEmbedding<B>)>,
    text_cache: Option<TextCache>,
    /// Of the text encoder, once the cache has asked for it.
    text_fingerprint: Option<[u8; 32]>,
    /// The references of the last run, by digest, and their tokens.
    references: Option<(Vec<String>, Arc<ReferenceTokens>)>,
}

/// Prompts that can be encoded ahead. Their embeddings stay in memory, 16 MB each for the 4B model, and beside them that
/// of the empty prompt.
pub const MAX_PREPARED_PROMPTS: usize = 16;

impl<B: Backend> Pipeline<B> {
    /// Open and check a model; its networks are loaded when a picture needs them.
    ///
    /// # Errors
    /// If files are missing, damaged or do not belong together.
    pub fn load(be: B, paths: &ModelPaths, residency: Residency) -> Result<Self> {
        Self::of_files(be, ModelFiles::open(paths)?, residency)
    }

    /// The same with a model that was opened before, or one that is in no file.
    ///
    /// # Errors
    /// If its tokenizer cannot be read, or has more tokens than the text encoder knows.
    pub fn of_files(be: B, files: ModelFiles, residency: Residency) -> Result<Self> {
        let tokenizer = match &files.tokenizer {
            Some(file) => Tokenizer::from_file(file.clone())?,
            None => Tokenizer::builtin(),
        };
        let (highest, rows) = (tokenizer.highest_id(), files.text_encoder.config.vocab);
        if highest >= rows {
            return Err(Error::TokenizerVocabulary { highest, rows });
        }
        let precision = match be.compute() {
            Compute::F32 => Precision::F32,
            Compute::Bf16 => Precision::BF16,
        };
        Ok(Pipeline {
            be,
            files,
            tokenizer,
            residency,
            ladder: Ladder::default(),
            precision,
            threads: thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            text_encoder: None,
            text_encoders: 0,
            transformer: None,
            decoder: None,
            embeddings: Vec::new(),
            text_cache: None,
            text_fingerprint: None,
            references: None,
        })
    }

    /// The same in another number format, for networks that are not loaded yet.
    ///
    /// # Panics
    /// If the backend does not compute in what `precision` needs.
    pub fn with_precision(self, precision: Precision) -> Self {
        assert_eq!(self.be.compute(), precision.compute(), "{precision} on this backend");
        Pipeline { precision, ..self }
    }

    /// The same with text embeddings kept on disk, unless the text encoder is too small for that to pay.
    pub fn with_text_cache(self, cache: Option<TextCache>) -> Self {
        let parameters = self.files.text_encoder.config.layer_parameters();
        let text_cache = cache.filter(|cache| parameters >= cache.min_parameters);
        Pipeline { text_cache, ..self }
    }

    /// The same with at most so many threads of the host where the backend does not work; without this, as many as the
    /// process may use.
    pub fn with_threads(self, threads: NonZeroUsize) -> Self {
        Pipeline { threads, ..self }
    }

    /// The backend it runs on.
    pub fn backend(&self) -> &B {
        &self.be
    }

    /// Which member of the family it is.
    pub fn variant(&self) -> &'static Variant {
        self.files.variant
    }

    /// What the model is called in the parameters of its pictures.
    pub fn name(&self) -> &str {
        &self.files.name
    }

    /// The LoRAs that are added to its transformer.
    pub fn loras(&self) -> &[Lora] {
        &self.files.loras
    }

    /// Make one picture.
    ///
    /// A prompt or references that were used before are not encoded again.
    ///
    /// # Errors
    /// [`Error::Cancelled`], anything wrong with the request, or no memory.
    pub fn generate(
        &mut self,
        request: &GenerateRequest,
        observer: &mut dyn Observer,
        cancel: &CancelToken,
    ) -> Result<GeneratedImage> {
        let request = ResolvedRequest::new(request, self.files.variant)?;
        request.warnings.iter().for_each(|w| observer.on_event(&Event::Warning(w.clone())));
        let mut timings = Timings::default();

        // 1, 2. Prompt -> token ids -> text embedding; with guidance also that of the empty prompt. Noise is always made by the host:
        // meanwhile, if it is another device that encodes.
        let guidance = request.guidance.filter(|g| *g > 1.0);
        let channels = self.files.transformer.config.in_channels;
        let threads = self.threads;
        let noise = || request.initial_latents(channels, threads);
        let beside = self.be.works_beside_host();
        let (latents, texts) = thread::scope(|scope| {
            let other = beside.then(|| scope.spawn(noise));
            let texts = timed(&mut timings.text, || {
                self.in_memory(Phase::Text, observer, |this, observer| {
                    let text = this.encode_prompt(&request.prompt, observer, cancel)?;
                    let uncond = guidance.map(|_| this.encode_prompt("", observer, cancel)).transpose()?;
                    Ok((text, uncond))
                })
            });
            let latents = other.map_or_else(|| Ok(noise()), |other| other.join());
            (latents.unwrap_or_else(|panic| resume_unwind(panic)), texts)
        });
        let (text, uncond) = texts?;
        if let Some(warning) = &text.warning {
            observer.on_event(&Event::Warning(warning.clone()));
        }

        // 3. References -> tokens.
        let references = timed(&mut timings.references, || {
            self.in_memory(Phase::References, observer, |this, observer| {
                this.encode_references(&request.references, observer, cancel)
            })
        })?;

        // 4, 5, 6. Noise, schedule, steps.
        let guided = uncond.as_ref().zip(guidance);
        let inputs =
            DenoiseInputs { request: &request, latents: &latents, text: &text, guided, references: &references };
        let denoised = self
            .in_memory(Phase::Denoise, observer, |this, observer| this.denoise(&inputs, &mut |_| {}, observer, cancel));
        let Denoised { latents, steps, idle } = denoised?;
        (timings.steps, timings.idle) = (steps, idle);

        // 7. Latents -> pixels.
        let image = timed(&mut timings.decode, || {
            self.in_memory(Phase::Decode, observer, |this, observer| this.decode(&latents, &request, observer, cancel))
        })?;
        let (parameters, kernels) = (self.parameters(&request), self.be.take_kernels_run());
        Ok(GeneratedImage { image, parameters, timings, kernels, rescues: self.ladder.take() })
    }

    /// Encode up to [`MAX_PREPARED_PROMPTS`] prompts one after the other, so that the encoder is loaded once for all.
    ///
    /// # Errors
    /// [`Error::Cancelled`], or if the text encoder cannot be read.
    pub fn prepare_prompts(
        &mut self,
        prompts: &[&str],
        observer: &mut dyn Observer,
        cancel: &CancelToken,
    ) -> Result<()> {
        let empty = self.files.variant.default_guidance.map(|_| "");
        for prompt in empty.into_iter().chain(prompts.iter().copied().take(MAX_PREPARED_PROMPTS)) {
            self.in_memory(Phase::Text, observer, |this, observer| this.encode_prompt(prompt, observer, cancel))?;
        }
        Ok(())
    }

    /// The embedding of a prompt: remembered, found on disk, or computed.
    ///
    /// # Errors
    /// [`Error::Cancelled`], or if the text encoder cannot be read.
    pub fn encode_prompt(
        &mut self,
        prompt: &str,
        observer: &mut dyn Observer,
        cancel: &CancelToken,
    ) -> Result<TextEmbedding<B>> {
        if let Some(i) = self.embeddings.iter().position(|(known, _)| known == prompt) {
            let known = self.embeddings.remove(i);
            self.embeddings.push(known.clone());
            return Ok(known.1);
        }
        let TokenizedPrompt { ids, valid, cut } =
            self.tokenizer.encode_prompt(prompt, self.files.text_encoder.config.max_length);
        let on_disk = self.text_cache_entry(&ids, valid)?;
        let rows = match on_disk.as_ref().and_then(|entry| entry.load(observer)) {
            Some(rows) => self.be.upload(&[ids.len(), self.files.text_encoder.config.embedding_dim()], &rows)?,
            None => {
                let rows = self.run_text_encoder(&ids, valid, observer, cancel)?;
                if let Some(entry) = on_disk {
                    entry.store(&self.be.download(&rows)?, observer);
                }
                rows
            }
        };

        let kept = ids.len();
        let warning = cut.map(|Cut { tokens, more, lost }| Warning::PromptCut { tokens, more, kept, lost });
        let embedding = TextEmbedding { rows, warning };
        if self.embeddings.len() > MAX_PREPARED_PROMPTS {
            self.embeddings.remove(0);
        }
        self.embeddings.push((prompt.to_owned(), embedding.clone()));
        Ok(embedding)
    }

    /// Tokens of prepared reference images, computed or remembered from the last run.
    ///
    /// # Errors
    /// [`Error::Cancelled`], or if the VAE cannot be read.
    pub fn encode_references(
        &mut self,
        references: &[Reference],
        observer: &mut dyn Observer,
        cancel: &CancelToken,
    ) -> Result<Arc<ReferenceTokens>> {
        if references.is_empty() {
            return Ok(Arc::default());
        }
        let digests: Vec<String> = references.iter().map(|r| r.sha256().to_owned()).collect();
        if let Some((_, tokens)) = self.references.as_ref().filter(|(known, _)| *known == digests) {
            return Ok(Arc::clone(tokens));
        }
        self.release_text_encoder();
        let encoder = load(observer, cancel, self.terms(Part::Vae), &self.files.vae, |c, weights| {
            vae::Encoder::load(&self.be, c, weights)
        })?;
        let tokens = phase(observer, cancel, Phase::References, references.len(), |pulse| {
            let mut all = ReferenceTokens::default();
            for (k, image) in references.iter().map(Reference::image).enumerate() {
                let size = [image.height() as usize, image.width() as usize];
                let [h, w] = size.map(|px| px / GRID_PX as usize);
                // One unit of progress for each image; within one, only cancellation is looked for.
                all.tokens.extend(encoder.forward(&image::to_model_input(image), size, &mut || Ok(cancel.check()?))?);
                all.ids.extend(latents::reference_ids(k, h, w));
                pulse()?;
            }
            Ok(all)
        });
        self.be.trim();
        let tokens = Arc::new(tokens?);
        self.references = Some((digests, Arc::clone(&tokens)));
        Ok(tokens)
    }

    /// From noise to latents; `inspect` is shown every step.
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
        self.load_transformer(observer, cancel)?;
        let (be, (transformer, _)) = (&self.be, self.transformer.as_ref().expect("loaded above"));
        let request = inputs.request;
        let [h, w] = request.grid();
        let c = self.files.transformer.config.in_channels;

        let mut latents = be.upload(&[h * w, c], inputs.latents)?; // [n_img, c]
        let sigmas = sampler::sigmas(request.steps, h * w)?;
        let modulations = transformer.modulations(&sigmas[..sigmas.len() - 1])?;

        let cached = self.files.variant.procedure == Procedure::KvCache && !inputs.references.ids.is_empty();
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
            clock.step_called(begun, meter.observer)?;
        }
        let (steps, idle) = clock.finish(meter.observer)?;
        meter.finish();
        be.trim();
        Ok(Denoised { latents, steps, idle })
    }

    /// From latents, f32 `[n_img, c]`, to the picture.
    ///
    /// # Errors
    /// [`Error::Cancelled`], or if the VAE cannot be read.
    pub fn decode(
        &mut self,
        latents: &Tensor<B>,
        request: &ResolvedRequest,
        observer: &mut dyn Observer,
        cancel: &CancelToken,
    ) -> Result<RgbImage> {
        if self.residency.releases() {
            self.release_transformer();
            self.be.trim();
        }
        if self.decoder.is_none() {
            let decoder = load(observer, cancel, self.terms(Part::Vae), &self.files.vae, |c, weights| {
                vae::Decoder::load(&self.be, c, weights)
            })?;
            self.decoder = Some(decoder);
        }
        let decoder = self.decoder.as_mut().expect("loaded above");
        if self.residency == Residency::Smallest || self.ladder.streams_decoder {
            decoder.keep_no_large_map();
        }
        let pixels = phase(observer, cancel, Phase::Decode, decoder.blocks(), |pulse| {
            decoder.forward(latents, request.grid(), pulse)
        });
        if self.residency.releases() {
            self.decoder = None;
        }
        self.be.trim();
        let pixels = pixels?;
        if !pixels.iter().all(|v| v.is_finite()) {
            return Err(Error::NotFinite);
        }
        image::from_model_output(&pixels, request.width, request.height, self.threads)
    }
}

/// What the denoising loop starts from.
pub struct DenoiseInputs<'a, B: Backend> {
    /// Size and steps.
    pub request: &'a ResolvedRequest,
    /// [What the steps start from](ResolvedRequest::initial_latents), `[n_img, c]`.
    pub latents: &'a [f32],
    /// Embedding of the prompt.
    pub text: &'a TextEmbedding<B>,
    /// Embedding of the empty prompt and the guidance scale, for steps with guidance.
    pub guided: Option<(&'a TextEmbedding<B>, f32)>,
    /// Tokens of the references, or none.
    pub references: &'a ReferenceTokens,
}

impl<B: Backend> Pipeline<B> {
    /// Where the embedding of token ids is on disk, if it is kept there at all.
    fn text_cache_entry(&mut self, ids: &[u32], valid: usize) -> Result<Option<Entry>> {
        let Some(cache) = &self.text_cache else { return Ok(None) };
        let encoder = match self.text_fingerprint {
            Some(known) => known,
            None => *self.text_fingerprint.insert(self.files.text_encoder.fingerprint()?),
        };
        let config = &self.files.text_encoder.config;
        let weights = self.precision.format(Part::TextEncoder, "layer.0.q");
        let kernels = match weights.dtype() {
            None => self.be.kernels(),
            Some(dtype) => format!("{}, weights in {dtype}", self.be.kernels()),
        };
        Ok(Some(cache.entry(&Inputs { encoder, config, kernels: &kernels, ids, valid })))
    }

    /// Token ids to rows, f32 `[n_txt, d_text]`; the encoder is loaded if it is not there.
    fn run_text_encoder(
        &mut self,
        ids: &[u32],
        valid: usize,
        observer: &mut dyn Observer,
        cancel: &CancelToken,
    ) -> Result<Tensor<B>> {
        if self.text_encoder.is_none() {
            let placement = self.placement(Part::TextEncoder);
            if self.residency != Residency::KeepAll && !self.is_away(placement) {
                self.release_transformer(); // the two large ones are never resident together
                self.be.trim();
            }
            let (be, terms) = (&self.be, self.terms(Part::TextEncoder));
            let encoder = load(observer, cancel, terms, &self.files.text_encoder, |c, w| Qwen3::load(be, c, w))?;
            self.text_encoder = Some((encoder, placement));
            self.text_encoders += 1;
        }
        let (encoder, _) = self.text_encoder.as_ref().expect("loaded above");
        let rows = phase(observer, cancel, Phase::Text, encoder.blocks(), |pulse| {
            let rows = encoder.forward(ids, valid, pulse)?;
            self.be.wait()?;
            Ok(rows)
        });
        self.be.trim();
        rows
    }

    fn load_transformer(&mut self, observer: &mut dyn Observer, cancel: &CancelToken) -> Result<()> {
        self.release_text_encoder();
        if self.transformer.is_none() {
            let (part, threads) = (&self.files.transformer, self.threads);
            let transformer = load(observer, cancel, self.terms(Part::Transformer), part, |c, base| {
                FlowTransformer::load(&self.be, c, &WithLoras { base, loras: &self.files.loras, threads })
            })?;
            self.transformer = Some((transformer, self.placement(Part::Transformer)));
        }
        Ok(())
    }

    fn terms(&self, part: Part) -> Terms {
        Terms { part, precision: self.precision, placement: self.placement(part) }
    }

    /// Where the weights of a network are to be between their uses, if it is loaded now.
    fn placement(&self, part: Part) -> Placement {
        let offloaded = self.be.works_beside_host() && self.text_encoders > 0;
        match (part, self.residency) {
            (Part::TextEncoder, residency) if residency.releases() => Placement::File, // each is used once
            (Part::TextEncoder, Residency::KeepForNext) if offloaded => Placement::Host,
            (Part::TextEncoder, _) if self.ladder.offloads_encoder => Placement::Host,
            (Part::Transformer, residency) if residency.streams_blocks() => Placement::Host,
            _ => Placement::Device,
        }
    }

    /// Whether a network whose weights stay there takes nothing of what memory is short of.
    fn is_away(&self, placement: Placement) -> bool {
        self.be.works_beside_host() && placement == Placement::Host
    }

    fn release_text_encoder(&mut self) {
        let stays = |placement| self.residency == Residency::KeepAll || self.is_away(placement);
        if self.text_encoder.as_ref().is_some_and(|(_, placement)| !stays(*placement)) {
            self.text_encoder = None;
            self.be.trim();
        }
    }

    fn release_transformer(&mut self) {
        if self.transformer.as_ref().is_some_and(|(_, placement)| !self.is_away(*placement)) {
            self.transformer = None;
        }
    }

    fn parameters(&self, request: &ResolvedRequest) -> Parameters {
        let lora =
            |lora: &Lora| LoraParameters { name: lora.name.clone(), scale: lora.scale, sha256: lora.sha256.clone() };
        Parameters {
            prompt: request.prompt.clone(),
            seed: request.seed,
            noise: request.noise.to_string(),
            model: self.files.name.clone(),
            variant: Some(self.files.variant.kind_name().into()),
            dtype: self.precision.to_string(),
            steps: request.steps,
            guidance: request.guidance,
            width: request.width,
            height: request.height,
            references: request.references.iter().map(|r| r.sha256().to_owned()).collect(),
            loras: self.files.loras.iter().map(lora).collect(),
            software: metadata::SOFTWARE.into(),
            version: env!("CARGO_PKG_VERSION").into(),
        }
    }
}
