//! A picture explained: drawn as ever, with a [`Recorder`] that is asked at every step.
//!
//! In:  a request. Out: the picture and its [`Explanation`].
//!
//! An ordinary run has no recorder, and the recipe asks for one in a single place, the denoising loop. What the other
//! stages make is found in the loop's inputs, or is computed again from the request once the picture is drawn.

use std::time::Instant;

use flux2_backend::{AttentionInput, Backend, KernelRun, MemoryUse, Tensor};

use super::batch::noise_of;
use super::results::{DenoiseInputs, StepState, Timings};
use super::{GeneratedImage, Pipeline};
use crate::event::{CancelToken, Observer, Phase};

use crate::Result;
use crate::explain::{
    ExplainOptions, Explanation, Image, ImageRole, Kernel, Keys, Latents, ModelFacts, Reader, Schedule, Span, Spread,
    Stage, Step, Tap, Text, Timeline, distance, norm,
};
use crate::latents::PositionId;
use crate::models::Pulse;
use crate::models::flow_transformer::{Conditioning, FlowTransformer, ModulationRows};
use crate::plan::{Order, StageMemory, StagePeaks};
use crate::preview::Projection;
use crate::request::{GRID_PX, GenerateRequest, ResolvedRequest};
use crate::sampler::schedule::empirical_mu;
use crate::text::Cut;
use crate::variant::Procedure;
use crate::weights::{Compute, ModelFiles, TransformerConfig};

/// The flow transformer of a run, with a recorder where its picture is explained.
pub(super) struct Watched<'a, B: Backend> {
    pub(super) transformer: &'a FlowTransformer<B>,
    pub(super) recorder: Option<&'a mut Recorder<B>>,
}

impl<B: Backend> Watched<'_, B> {
    /// See [`FlowTransformer::forward`].
    pub(super) fn forward(
        &mut self,
        latents: &Tensor<B>,
        conditioning: &Conditioning<B>,
        modulations: &ModulationRows<B>,
        pulse: &mut Pulse,
    ) -> Result<Tensor<B>> {
        let Some(recorder) = &mut self.recorder else {
            return self.forward_unwatched(latents, conditioning, modulations, pulse);
        };
        let watch = &mut |block, operands: &AttentionInput<B>| recorder.attention(block, operands);
        self.transformer.forward_watched(latents, conditioning, modulations, watch, pulse)
    }

    /// The same for the negative prompt, whose attention is not explained.
    pub(super) fn forward_unwatched(
        &self,
        latents: &Tensor<B>,
        conditioning: &Conditioning<B>,
        modulations: &ModulationRows<B>,
        pulse: &mut Pulse,
    ) -> Result<Tensor<B>> {
        self.transformer.forward(latents, conditioning, modulations, pulse)
    }

    /// A step is queued.
    pub(super) fn step(&mut self, state: &StepState<B>, inputs: &DenoiseInputs<B>) -> Result<()> {
        self.recorder.as_mut().map_or(Ok(()), |recorder| recorder.step(state, inputs))
    }
}

/// What the denoising loop tells of a picture that is explained.
pub(super) struct Recorder<B: Backend> {
    be: B,
    options: ExplainOptions,
    transformer: TransformerConfig,
    /// Number of taps of the text encoder.
    taps: usize,
    /// Tokens of the prompt that are not padding.
    valid: usize,
    /// Tokens of each image that the model sees.
    images: Vec<usize>,
    is_cached: bool,
    /// What was recorded since denoising began.
    run: Option<Recorded<B>>,
    /// Kernels that ran, without those that read the attention.
    kernels: Vec<KernelRun>,
    /// Peak of the device's memory, without what reading the attention takes.
    peak: MemoryUse,
}

/// A run of the denoising loop.
struct Recorded<B: Backend> {
    /// Those of the prompt; with guidance, then those of the negative prompt.
    taps: Vec<TapNorms>,
    ids: Vec<PositionId>,
    start: Vec<f32>,
    sigmas: Vec<f32>,
    reader: Option<Reader<B>>,
    steps: Vec<RecordedStep>,
    /// Seconds spent on explaining before the first step.
    spent_before: f64,
    /// Seconds spent on explaining in the step in progress.
    spent: f64,
}

/// Norms of the rows of each tap.
type TapNorms = Vec<Vec<f64>>;

/// A step, with the values that are compared once the picture is finished.
struct RecordedStep {
    latents: Vec<f32>,
    estimate: Vec<f32>,
    direction: Vec<f32>,
    velocity_norm: f64,
    negative_velocity_norm: Option<f64>,
    /// Seconds spent on explaining.
    spent: f64,
}

impl<B: Backend> Recorder<B> {
    fn new(be: &B, options: &ExplainOptions, files: &ModelFiles, request: &ResolvedRequest, valid: usize) -> Self {
        let tokens = |[width, height]: [u32; 2]| ((width / GRID_PX) * (height / GRID_PX)) as usize;
        let images: Vec<usize> = request.reference_px().map(tokens).collect();
        Recorder {
            be: be.clone(),
            options: options.clone(),
            transformer: files.transformer.config.clone(),
            taps: files.text_encoder.config.taps.len(),
            valid,
            is_cached: files.variant.procedure == Procedure::KvCache && !images.is_empty(),
            images,
            run: None,
            kernels: Vec::new(),
            peak: MemoryUse::default(),
        }
    }

    /// Denoising begins, perhaps once more with less memory.
    pub(super) fn begin(&mut self, inputs: &DenoiseInputs<B>) -> Result<()> {
        let (begun, be) = (Instant::now(), &self.be);
        let norms = |rows: &Tensor<B>| -> Result<TapNorms> {
            let (values, width) = (be.download(rows)?, rows.cols() / self.taps);
            let of_tap = |tap: usize| values.chunks_exact(width).skip(tap).step_by(self.taps).map(norm).collect();
            Ok((0..self.taps).map(of_tap).collect())
        };
        let negative = inputs.guided.map(|(negative, _)| negative);
        let taps = [Some(inputs.text), negative].into_iter().flatten().map(|text| norms(&text.rows));
        let (text, grid, images) = (inputs.text.rows.rows(), inputs.request.grid(), self.images.clone());
        let keys = Keys { valid: self.valid, text, grid, images, cached: self.is_cached };
        self.run = Some(Recorded {
            taps: taps.collect::<Result<_>>()?,
            ids: inputs.references.ids.clone(),
            start: inputs.latents.to_vec(),
            sigmas: inputs.sigmas.to_vec(),
            reader: Reader::new(be, &self.transformer, &self.options.blocks, keys)?,
            steps: Vec::new(),
            spent_before: begun.elapsed().as_secs_f64(),
            spent: 0.0,
        });
        Ok(())
    }

    /// Reads the attention of a block before it is computed. Work that is queued on the device counts as the step's.
    fn attention(&mut self, block: usize, operands: &AttentionInput<B>) -> Result<()> {
        let be = &self.be;
        let Recorded { reader, spent, .. } = self.run.as_mut().expect("denoising has begun");
        let Some(reader) = reader.as_mut().filter(|reader| reader.reads(block)) else { return Ok(()) };
        be.wait()?;
        let begun = Instant::now();
        add_kernels(&mut self.kernels, be.take_kernels_run());
        self.peak = larger(self.peak, be.take_memory_peak());
        reader.read(operands)?;
        be.take_kernels_run();
        be.take_memory_peak();
        *spent += begun.elapsed().as_secs_f64();
        Ok(())
    }

    fn step(&mut self, state: &StepState<B>, inputs: &DenoiseInputs<B>) -> Result<()> {
        let be = &self.be;
        be.wait()?;
        let begun = Instant::now();
        let run = self.run.as_mut().expect("denoising has begun");
        let (latents, direction) = (be.download(state.latents)?, be.download(state.direction)?);
        let sigma = run.sigmas[state.step + 1];
        let mut estimate: Vec<f32> = latents.iter().zip(&direction).map(|(x, v)| x - sigma * v).collect();
        inputs.held.iter().for_each(|held| held.apply(&mut estimate, state.step, 0.0));
        let norm_of = |velocity: &Tensor<B>| Ok::<_, crate::Error>(norm(&be.download(velocity)?));
        let (velocity_norm, negative) = (norm_of(state.velocity)?, state.velocity_uncond.map(norm_of).transpose()?);
        if let Some(reader) = &mut run.reader {
            reader.end_step();
        }
        let spent = std::mem::take(&mut run.spent) + begun.elapsed().as_secs_f64();
        run.steps.push(RecordedStep {
            latents,
            estimate,
            direction,
            velocity_norm,
            negative_velocity_norm: negative,
            spent,
        });
        Ok(())
    }
}

impl<B: Backend> Pipeline<B> {
    /// Make one picture and explain it. The picture has the bytes that [`generate`](Self::generate) makes.
    ///
    /// # Errors
    /// As there, and [`Error::NoSuchBlock`](crate::Error::NoSuchBlock).
    pub fn explain(
        &mut self,
        request: &GenerateRequest,
        options: &ExplainOptions,
        observer: &mut dyn Observer,
        cancel: &CancelToken,
    ) -> Result<(GeneratedImage, Explanation)> {
        let resolved = ResolvedRequest::new(request, self.variant())?;
        options.blocks.of(&self.networks.files.transformer.config)?;
        let projection = self.projection(true, observer, cancel)?.expect("one that is wanted is fitted");
        let valid = self.prompts.tokenize(&resolved.prompt, &self.networks.files).valid;
        self.recorder = Some(Recorder::new(&self.be, options, &self.networks.files, &resolved, valid));
        self.be.take_kernels_run();
        let mut timeline = Timeline::start(self.be.clone(), observer);
        let made = self.generate(request, &mut timeline, cancel);
        let seconds = timeline.seconds();
        let Timeline { spans, warnings, .. } = timeline;
        let recorder = self.recorder.take().expect("set above");
        let made = made?;
        let explanation =
            self.explained(&resolved, &projection, recorder, &made, (seconds, spans, warnings), request)?;
        Ok((made, explanation))
    }

    /// What was recorded, beside what the request says.
    fn explained(
        &self,
        request: &ResolvedRequest,
        projection: &Projection,
        mut recorder: Recorder<B>,
        made: &GeneratedImage,
        (seconds, mut spans, warnings): (f64, Vec<Span>, Vec<String>),
        asked: &GenerateRequest,
    ) -> Result<Explanation> {
        let Recorded { taps, ids, start, sigmas, reader, steps, spent_before, .. } =
            recorder.run.take().expect("a picture that is made was denoised");
        let (files, grid) = (&self.networks.files, request.grid());
        let paint =
            |tokens: &[f32]| Latents { grid, spread: Spread::of(tokens), image: projection.picture(tokens, grid) };
        let (channels, threads) = (files.transformer.config.in_channels, self.networks.threads);
        let noise = noise_of(request, channels, threads, self.networks.precision.compute() == Compute::F32);
        let explaining_seconds = spent_before + steps.iter().map(|step| step.spent).sum::<f64>();
        if let Some(denoise) = spans.iter_mut().rfind(|span| span.phase == Phase::Denoise) {
            // The reader's own tensors are in memory all the time.
            let held = reader.as_ref().map_or(0, Reader::bytes);
            let MemoryUse { allocated, mapped } = self.without_reading(denoise, recorder.peak, held);
            (denoise.allocated_bytes, denoise.mapped_bytes) = (allocated, mapped);
            denoise.explaining_seconds = explaining_seconds;
        }
        add_kernels(&mut recorder.kernels, made.kernels.clone());
        let last = steps.last().expect("a picture has a step").latents.clone();
        let n_img = grid[0] * grid[1];
        let count = sigmas.len() - 1;
        let even = |i| (f64::from(sigmas[0]) * (1.0 - i as f64 / count as f64)) as f32;
        let schedule = Schedule {
            linear: (0..=count).map(even).collect(),
            mu: empirical_mu(n_img, request.steps),
            image_tokens: n_img,
            sigmas,
        };
        let mut texts = taps.into_iter();
        let text = self.text(&request.prompt, texts.next().expect("the prompt has an embedding"));
        let negative = request.negative_prompt.as_deref().unwrap_or_default();
        let negative = texts.next().map(|norms| self.text(negative, norms));
        Ok(Explanation {
            model: model_facts(files),
            parameters: made.parameters.clone(),
            warnings,
            text,
            negative,
            images: images(request, &ids)?,
            noise: paint(&noise),
            start: paint(&start),
            steps: compared(&steps, &schedule, &start, &last, &made.timings, paint),
            schedule,
            attention: reader.map(Reader::finish),
            latents: paint(&last),
            decoded_px: [request.width, request.height],
            stages: self.stages(&spans, asked)?,
            timeline: spans,
            kernels: recorder.kernels.iter().map(kernel).collect(),
            rescues: made.rescues.iter().map(|rescue| [rescue.stage.name(), rescue.rung.name()]).collect(),
            seconds: seconds - explaining_seconds,
            explaining_seconds,
        })
    }

    /// The memory of denoising as it is when nothing is read.
    fn without_reading(&self, denoise: &Span, before: MemoryUse, held: usize) -> MemoryUse {
        let behind = MemoryUse { allocated: denoise.allocated_bytes, mapped: denoise.mapped_bytes };
        let peak = larger(behind, before);
        MemoryUse { allocated: peak.allocated.saturating_sub(held), ..peak }
    }

    /// A prompt with its tokens, and the norms of its embedding.
    fn text(&self, prompt: &str, norms: TapNorms) -> Text {
        let (files, config) = (&self.networks.files, &self.networks.files.text_encoder.config);
        let tokenized = self.prompts.tokenize(prompt, files);
        let (chat, mut tokens) = self.prompts.tokenizer().tokens(prompt);
        tokens.truncate(tokenized.valid);
        let tap = |(layer, norms): (&usize, Vec<f64>)| {
            let (tokens, padding) = norms.split_at(tokenized.valid);
            let padding_norm = padding.iter().sum::<f64>() / padding.len() as f64;
            let padding_norm = Some(padding_norm).filter(|_| !padding.is_empty());
            Tap { layer: *layer, token_norms: tokens.to_vec(), padding_norm }
        };
        Text {
            chat,
            tokens,
            padding: tokenized.ids.len() - tokenized.valid,
            padding_id: self.prompts.tokenizer().padding_id(),
            lost: tokenized.cut.map(|Cut { lost, .. }| lost),
            embedding: [tokenized.ids.len(), config.embedding_dim()],
            taps: config.taps.iter().zip(norms).map(tap).collect(),
        }
    }

    /// Time and memory of each stage, with the loading of its network. What the host holds beside the tensors of the
    /// processor counts as it does in a plan.
    fn stages(&self, spans: &[Span], request: &GenerateRequest) -> Result<Vec<Stage>> {
        let mut stages: Vec<(StageMemory, [f64; 2])> = Vec::new();
        let (mut peak, mut loading) = (MemoryUse::default(), 0.0);
        for span in spans {
            peak = larger(peak, MemoryUse { allocated: span.allocated_bytes, mapped: span.mapped_bytes });
            if span.is_load {
                loading += span.seconds;
                continue;
            }
            let seconds = span.seconds - span.explaining_seconds;
            match stages.iter_mut().find(|(stage, _)| stage.stage == span.phase) {
                Some((stage, [sum, loaded])) => {
                    stage.memory = larger(stage.memory, peak);
                    (*sum, *loaded) = (*sum + seconds, *loaded + loading);
                }
                None => stages.push((StageMemory { stage: span.phase, memory: peak }, [seconds, loading])),
            }
            (peak, loading) = (MemoryUse::default(), 0.0);
        }
        let (stages, times): (Vec<StageMemory>, Vec<[f64; 2]>) = stages.into_iter().unzip();
        let mut peaks = StagePeaks { stages, reference_bytes: self.reference_bytes() };
        if !self.be.is_asynchronous() {
            peaks.add_host_memory(self.variant(), std::slice::from_ref(request), Order::OneByOne, false)?;
        }
        let stage = |(StageMemory { stage, memory }, [seconds, load_seconds]): (_, [f64; 2])| Stage {
            stage: Phase::name(stage),
            seconds,
            load_seconds,
            allocated_bytes: memory.allocated,
            mapped_bytes: memory.mapped,
        };
        Ok(peaks.stages.into_iter().zip(times).map(stage).collect())
    }
}

/// The images that the model sees, whose tokens have these position ids.
fn images(request: &ResolvedRequest, ids: &[PositionId]) -> Result<Vec<Image>> {
    let mut images = Vec::new();
    if let Some(source) = request.source.as_ref().filter(|_| request.sees_source()) {
        let (file_px, sha256) = (source.source().canvas_px(), source.source().sha256().to_owned());
        images.push((ImageRole::Source, sha256, file_px, source.work()?.image));
    }
    let of_reference = |reference: &crate::Reference| {
        let (sha256, image) = (reference.sha256().to_owned(), reference.image().clone());
        (ImageRole::Reference, sha256, reference.source_px(), image)
    };
    images.extend(request.references.iter().map(of_reference));
    let mut from = 0;
    let image = |(i, (role, sha256, file_px, image)): (usize, (_, _, _, crate::image::RgbImage))| {
        let prepared_px = [image.width(), image.height()];
        let grid = [image.height(), image.width()].map(|px| (px / GRID_PX) as usize);
        let own = &ids[from..from + grid[0] * grid[1]];
        from += own.len();
        let position_ids = [own[0], own[own.len() - 1]];
        Image { number: i + 1, role, sha256, file_px, prepared_px, grid, position_ids, image }
    };
    Ok(images.into_iter().enumerate().map(image).collect())
}

/// The steps, compared with the latents they lead to.
fn compared(
    steps: &[RecordedStep],
    Schedule { sigmas, .. }: &Schedule,
    start: &[f32],
    last: &[f32],
    timings: &Timings,
    paint: impl Fn(&[f32]) -> Latents,
) -> Vec<Step> {
    let size = norm(last);
    let step = |(i, step): (usize, &RecordedStep)| {
        let RecordedStep { latents, estimate, direction, velocity_norm, negative_velocity_norm, spent } = step;
        let part = f64::from(sigmas[i + 1]) / f64::from(sigmas[0]);
        let line = start.iter().zip(last).map(|(a, b)| part * f64::from(*a) + (1.0 - part) * f64::from(*b));
        let before = i.checked_sub(1).map(|i| &steps[i].direction);
        let elapsed = timings.steps.get(i).map_or(0.0, |elapsed| elapsed.as_secs_f64());
        Step {
            number: i as u32 + 1,
            sigma: sigmas[i],
            next_sigma: sigmas[i + 1],
            velocity_norm: *velocity_norm,
            negative_velocity_norm: *negative_velocity_norm,
            guided_velocity_norm: negative_velocity_norm.map(|_| norm(direction)),
            turn_cosine: before.map(|before| cosine(before, direction)),
            estimate_distance: distance(estimate, last.iter().copied().map(f64::from)) / size,
            line_distance: distance(latents, line) / size,
            seconds: elapsed - spent,
            latents: paint(latents),
            estimate: paint(estimate),
        }
    };
    steps.iter().enumerate().map(step).collect()
}

/// Cosine of the angle between two vectors.
fn cosine(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>() / (norm(a) * norm(b))
}

fn model_facts(files: &ModelFiles) -> ModelFacts {
    let (text, transformer) = (&files.text_encoder.config, &files.transformer.config);
    ModelFacts {
        name: files.name.clone(),
        variant: files.variant.name,
        text_layers: text.used_layers(),
        text_hidden: text.hidden,
        double_blocks: transformer.double_blocks,
        single_blocks: transformer.single_blocks,
        heads: transformer.heads,
        head_dim: transformer.head_dim,
        token_channels: transformer.in_channels,
        latent_channels: files.vae.config.latent_channels,
        rope_axes: transformer.rope_axes.clone(),
    }
}

fn kernel(run: &KernelRun) -> Kernel {
    let KernelRun { op, weights, kernel, products } = run;
    Kernel { op, weights: weights.map(|dtype| dtype.to_string()), kernel: kernel.clone(), products: *products }
}

/// Adds runs to those of the same kernel.
fn add_kernels(all: &mut Vec<KernelRun>, new: Vec<KernelRun>) {
    for run in new {
        let is_same =
            |known: &&mut KernelRun| (known.op, known.weights, &known.kernel) == (run.op, run.weights, &run.kernel);
        match all.iter_mut().find(is_same) {
            Some(known) => known.products += run.products,
            None => all.push(run),
        }
    }
}

fn larger(a: MemoryUse, b: MemoryUse) -> MemoryUse {
    if b.total() > a.total() { b } else { a }
}
