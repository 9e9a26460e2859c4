//! Pictures of one size and number of steps, denoised together: each with its own prompt, seed, references, observer
//! and cancel token. One picture alone is a batch of one.
//!
//! A pass of the text encoder or the flow transformer reads all weights, whether for one picture or for several, and a
//! small picture does not fill a GPU. References are encoded, and latents decoded, one after the other.

use std::cell::Cell;
use std::num::NonZeroUsize;
use std::panic::resume_unwind;
use std::thread;
use std::time::Duration;

use flux2_backend::{Backend, Tensor};

use super::Pipeline;
use super::progress::timed;
use super::prompts::{MAX_PREPARED_PROMPTS, TextEmbedding};
use super::results::{DecodedImage, DecodedPixels, DenoiseInputs, GeneratedImage, Pixels, Timings};
use super::start::Start;
use crate::compat::{Compat, round_to_bf16};
use crate::event::{CancelToken, Event, Observer, Phase};
use crate::models::flow_transformer::Batching;
use crate::request::{GRID_PX, GenerateRequest, ResolvedRequest};
use crate::upscale;
use crate::weights::Compute;
use crate::{Error, Result};

/// One picture of a batch.
pub struct BatchMember<'a> {
    /// What to make.
    pub request: &'a GenerateRequest,
    /// Receives the events of this picture: of its own stages, and of those it shares.
    pub observer: &'a mut dyn Observer,
    /// Cancels this picture. The others of the batch go on without it from the next step on.
    pub cancel: &'a CancelToken,
}

/// What pictures have in common that can be denoised in one pass. Their prompts, seeds and reference images may differ,
/// and so may the sizes of these images, as long as all of a picture's images have as many tokens together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BatchKey {
    width: u32,
    height: u32,
    steps: u32,
    guidance: Option<f32>,
    compat: Option<Compat>,
    reference_tokens: usize,
    /// Whether it has a source: noise levels and held tokens are those of one picture.
    is_alone: bool,
}

impl BatchKey {
    /// The key of a request; requests with equal keys can be denoised in one pass, unless they have sources.
    pub fn of(request: &ResolvedRequest) -> Self {
        let tokens = |px: u32| (px / GRID_PX) as usize;
        BatchKey {
            width: request.width,
            height: request.height,
            steps: request.steps,
            guidance: request.guidance,
            compat: request.compat,
            reference_tokens: request.reference_px().map(|[width, height]| tokens(width) * tokens(height)).sum(),
            is_alone: request.source.is_some(),
        }
    }

    /// Tokens of image and references.
    fn tokens(&self) -> usize {
        ((self.width / GRID_PX) * (self.height / GRID_PX)) as usize + self.reference_tokens
    }
}

/// A picture of a batch while it is made.
struct Job<B: Backend> {
    /// Its place among the members.
    member: usize,
    request: ResolvedRequest,
    timings: Timings,
    state: State<B>,
}

/// How far a picture is.
enum State<B: Backend> {
    /// Nothing done yet.
    Resolved,
    /// Ready to be denoised.
    Prepared(Box<Prepared<B>>),
    /// Latents, f32 `[n_img, c]`.
    Denoised(Tensor<B>),
    Failed(Error),
}

/// The embedding of a prompt; with guidance also that of the negative prompt, and the scale.
type Texts<B> = (TextEmbedding<B>, Option<(TextEmbedding<B>, f32)>);

/// What a picture is denoised from.
struct Prepared<B: Backend> {
    texts: Texts<B>,
    start: Start,
}

impl<B: Backend> Job<B> {
    fn inputs(&self) -> Option<DenoiseInputs<'_, B>> {
        let State::Prepared(prepared) = &self.state else { return None };
        let Prepared { texts: (text, guided), start: Start { latents, sigmas, held, references } } = &**prepared;
        let guided = guided.as_ref().map(|(negative, guidance)| (negative, *guidance));
        let held = held.as_ref();
        Some(DenoiseInputs { request: &self.request, latents, sigmas, held, text, guided, references })
    }
}

impl<B: Backend> Pipeline<B> {
    /// Make several pictures, those of one [`BatchKey`] together. Returns a result for each member, in their order:
    /// what goes wrong with one leaves the others alone. Stages that pictures share count in full in the timings of
    /// each.
    ///
    /// If memory is short, fewer pictures are denoised at a time. [`plan::largest_batch`](crate::plan::largest_batch)
    /// says beforehand how many fit.
    pub fn generate_batch(&mut self, members: &mut [BatchMember], batching: Batching) -> Vec<Result<GeneratedImage>> {
        self.draw_batch(members, batching).into_iter().map(|drawn| drawn?.convert()).collect()
    }

    /// As [`generate_batch`](Self::generate_batch), without the conversion to 8-bit colors, which needs no device.
    pub fn draw_batch(&mut self, members: &mut [BatchMember], batching: Batching) -> Vec<Result<DecodedImage>> {
        let mut results: Vec<Option<Result<DecodedImage>>> = members.iter().map(|_| None).collect();
        let mut groups: Vec<(BatchKey, Vec<Job<B>>)> = Vec::new();
        for (i, member) in members.iter_mut().enumerate() {
            let request = match ResolvedRequest::new(member.request, self.variant()) {
                Ok(request) => request,
                Err(error) => {
                    results[i] = Some(Err(error));
                    continue;
                }
            };
            let warnings = request.warnings.iter().cloned().chain(self.unknown(&request));
            warnings.for_each(|warning| member.observer.on_event(&Event::Warning(warning)));
            let key = BatchKey::of(&request);
            let job = Job { member: i, request, timings: Timings::default(), state: State::Resolved };
            match groups.iter_mut().find(|(known, _)| *known == key && !key.is_alone) {
                Some((_, jobs)) => jobs.push(job),
                None => groups.push((key, vec![job])),
            }
        }
        for (key, mut jobs) in groups {
            self.prepare(&mut jobs, members);
            self.denoise_all(key, &mut jobs, members, batching);
            for (member, result) in self.decode_all(jobs, members) {
                results[member] = Some(result);
            }
        }
        results.into_iter().map(|result| result.expect("every member is in a group or was refused")).collect()
    }

    /// Steps 1 to 4 of each picture.
    fn prepare(&mut self, jobs: &mut [Job<B>], members: &mut [BatchMember]) {
        // 1, 2. Prompt -> token ids -> text embedding; with guidance also that of the negative prompt. The host
        // always makes the noise of step 4; if another device encodes, at the same time.
        let channels = self.networks.files.transformer.config.in_channels;
        let (threads, is_parallel) = (self.networks.threads, self.be.is_asynchronous());
        // Copies without what is large, since the jobs change meanwhile.
        let of_noise = |r: &ResolvedRequest| ResolvedRequest {
            prompt: String::new(),
            negative_prompt: None,
            template: None,
            references: Vec::new(),
            source: None,
            warnings: Vec::new(),
            upscale: None,
            ..*r
        };
        let requests: Vec<ResolvedRequest> = jobs.iter().map(|job| of_noise(&job.request)).collect();
        let computes_in_f32 = self.networks.precision.compute() == Compute::F32;
        let latents_of = |request: &ResolvedRequest| noise_of(request, channels, threads, computes_in_f32);
        let noise = || -> Vec<_> { requests.iter().map(latents_of).collect() };
        let (texts, latents) = thread::scope(|scope| {
            let beside = is_parallel.then(|| thread::Builder::new().spawn_scoped(scope, noise).ok()).flatten();
            let mut texts = Vec::new();
            for jobs in jobs.chunks_mut(MAX_PREPARED_PROMPTS) {
                self.embed_together(jobs, members);
                texts.extend(jobs.iter_mut().map(|job| self.texts(job, &mut members[job.member])));
            }
            let latents = beside.map_or_else(|| Ok(noise()), |beside| beside.join());
            (texts, latents.unwrap_or_else(|panic| resume_unwind(panic)))
        });
        // 3. References -> tokens, and with a source the start of step 4.
        for ((job, texts), noise) in jobs.iter_mut().zip(texts).zip(latents) {
            let BatchMember { observer, cancel, .. } = &mut members[job.member];
            let prepared = texts.and_then(|texts| {
                let start = timed(&mut job.timings.references, || {
                    self.with_fallbacks(Phase::References, *observer, |this, observer| {
                        this.start(&job.request, noise.clone(), observer, cancel)
                    })
                })?;
                Ok(Prepared { texts, start })
            });
            job.state = match prepared {
                Ok(prepared) => State::Prepared(Box::new(prepared)),
                Err(error) => State::Failed(error),
            };
        }
    }

    /// Steps 1 and 2 of several pictures in one pass. What goes wrong, as a lack of memory, is left to
    /// [`texts`](Self::texts), which takes them one by one.
    fn embed_together(&mut self, jobs: &mut [Job<B>], members: &mut [BatchMember]) {
        if jobs.len() == 1 {
            return;
        }
        // Room is kept for one negative prompt, which is that of most batches.
        let guided = jobs.iter().find(|job| guidance_of(&job.request).is_some());
        let negative = guided.map(|job| negative_of(&job.request));
        let prompts = jobs.iter().map(|job| job.request.prompt.as_str()).chain(negative);
        let prompts: Vec<&str> = prompts.collect();
        let cancel = CancelToken::of_all(jobs.iter().map(|job| members[job.member].cancel));
        let (all, mut elapsed) = (Cell::new(jobs.len()), Duration::ZERO);
        let places: Vec<usize> = jobs.iter().map(|job| job.member).collect();
        let mut shared = Shared::of(members, &places, &all);
        let _ = timed(&mut elapsed, || self.prompts.embed_all(&prompts, &mut self.networks, &mut shared, &cancel));
        jobs.iter_mut().for_each(|job| job.timings.text += elapsed);
    }

    /// The embedding of a picture's prompt, and with guidance that of the negative prompt and the scale.
    fn texts(&mut self, job: &mut Job<B>, member: &mut BatchMember) -> Result<Texts<B>> {
        let (cancel, guidance) = (member.cancel, guidance_of(&job.request));
        let texts = timed(&mut job.timings.text, || {
            self.with_fallbacks(Phase::Text, member.observer, |this, observer| {
                let text = this.encode_prompt(&job.request.prompt, observer, cancel)?;
                let negative = guidance.map(|_| this.encode_prompt(negative_of(&job.request), observer, cancel));
                Ok((text, negative.transpose()?.zip(guidance)))
            })
        })?;
        if let Some(warning) = &texts.0.warning {
            member.observer.on_event(&Event::Warning(warning.clone()));
        }
        Ok(texts)
    }

    /// Steps 5 and 6 of all pictures that are ready, as many at a time as memory allows.
    fn denoise_all(&mut self, key: BatchKey, jobs: &mut [Job<B>], members: &mut [BatchMember], batching: Batching) {
        let is_ready = |job: &&mut Job<B>| matches!(job.state, State::Prepared(_));
        let mut most = usize::MAX;
        loop {
            let mut ready: Vec<&mut Job<B>> = jobs.iter_mut().filter(is_ready).take(most).collect();
            if ready.is_empty() {
                return;
            }
            let cancels: Vec<CancelToken> = ready.iter().map(|job| members[job.member].cancel.clone()).collect();
            let taken = Cell::new(0);
            let places: Vec<usize> = ready.iter().map(|job| job.member).collect();
            let mut shared = Shared::of(members, &places, &taken);
            let denoised = self.with_fallbacks(Phase::Denoise, &mut shared, |this, observer| {
                taken.set(this.ladder.begin_pass(ready.len(), key.tokens()));
                let inputs: Vec<_> = ready[..taken.get()].iter().filter_map(|job| job.inputs()).collect();
                this.denoise_together(&inputs, batching, &mut |_| {}, observer, &cancels[..taken.get()])
            });
            let taken = &mut ready[..taken.get()];
            match denoised {
                Ok(together) => {
                    for (job, latents) in taken.iter_mut().zip(together.latents) {
                        (job.timings.steps, job.timings.idle) = (together.steps.clone(), together.idle);
                        job.state = latents.map_or(State::Failed(Error::Cancelled), State::Denoised);
                    }
                }
                // Each by itself, for an error of its own.
                Err(_) if taken.len() > 1 => most = 1,
                Err(error) => taken[0].state = State::Failed(error),
            }
        }
    }

    /// Step 7 of all pictures that have latents. Returns the result of each with its place among the members.
    fn decode_all(&mut self, jobs: Vec<Job<B>>, members: &mut [BatchMember]) -> Vec<(usize, Result<DecodedImage>)> {
        let mut decode = |job: &mut Job<B>| -> Result<DecodedPixels> {
            let latents = match std::mem::replace(&mut job.state, State::Resolved) {
                State::Denoised(latents) => latents,
                State::Failed(error) => return Err(error),
                State::Resolved | State::Prepared(_) => unreachable!("every picture was denoised or has failed"),
            };
            let BatchMember { observer, cancel, .. } = &mut members[job.member];
            timed(&mut job.timings.decode, || {
                self.with_fallbacks(Phase::Decode, *observer, |this, observer| {
                    let decoded = this.decode_and_keep(&latents, &job.request, observer, cancel)?;
                    Ok(DecodedPixels { source: job.request.source.clone(), ..decoded })
                })
            })
        };
        let decoded: Vec<_> = jobs
            .into_iter()
            .map(|mut job| {
                let pixels = decode(&mut job);
                (job, pixels)
            })
            .collect();
        self.networks.after_decoding();
        let finished: Vec<_> = decoded
            .into_iter()
            .map(|(mut job, pixels)| {
                let pixels = pixels.and_then(|pixels| self.upscaled(pixels, &mut job, members));
                (job, pixels)
            })
            .collect();
        let (kernels, rescues) = (self.be.take_kernels_run(), self.ladder.take());
        let finish = |(job, pixels): (Job<B>, Result<Pixels>)| {
            let Job { member, request, timings, .. } = job;
            let (kernels, rescues) = (kernels.clone(), rescues.clone());
            let parameters = self.parameters(&request);
            (member, pixels.map(|pixels| DecodedImage { pixels, parameters, timings, kernels, rescues }))
        };
        finished.into_iter().map(finish).collect()
    }
}

impl<B: Backend> Pipeline<B> {
    /// Step 8 of a picture, if that is asked for. An upscaler takes 8-bit colors.
    fn upscaled(&mut self, pixels: DecodedPixels, job: &mut Job<B>, members: &mut [BatchMember]) -> Result<Pixels> {
        let Some(upscaling) = job.request.upscale.clone() else { return Ok(Pixels::Decoded(pixels)) };
        let (image, attached) = timed(&mut job.timings.decode, || pixels.convert())?;
        let from = [image.width(), image.height()];
        let BatchMember { observer, cancel, .. } = &mut members[job.member];
        timed(&mut job.timings.upscale, || {
            self.with_fallbacks(Phase::Upscale, *observer, |this, observer| {
                let image = this.upscale(&image, &upscaling, observer, cancel)?;
                let attached = upscale::attached(&attached, from, [image.width(), image.height()])?;
                Ok(Pixels::Converted(image, attached))
            })
        })
    }
}

/// The noise of a request, as tokens `[n_img, channels]`.
pub(super) fn noise_of(
    request: &ResolvedRequest,
    channels: usize,
    threads: NonZeroUsize,
    computes_in_f32: bool,
) -> Vec<f32> {
    let mut noise = request.initial_latents(channels, threads);
    if request.compat.is_some_and(|compat| compat.rounds_noise(computes_in_f32)) {
        round_to_bf16(&mut noise);
    }
    noise
}

/// The guidance scale of a request, if it takes a second pass.
fn guidance_of(request: &ResolvedRequest) -> Option<f32> {
    request.guidance.filter(|guidance| *guidance > 1.0)
}

/// The prompt that guidance leads away from.
fn negative_of(request: &ResolvedRequest) -> &str {
    request.negative_prompt.as_deref().unwrap_or_default()
}

/// Passes events on to the pictures of a pass, but for those that are cancelled.
struct Shared<'a> {
    each: Vec<(&'a mut dyn Observer, &'a CancelToken)>,
    /// The first so many are in the pass.
    taken: &'a Cell<usize>,
}

impl<'a> Shared<'a> {
    /// The observers of the members at `places`, which are in rising order.
    fn of(members: &'a mut [BatchMember], places: &[usize], taken: &'a Cell<usize>) -> Self {
        let meant = members.iter_mut().enumerate().filter(|(i, _)| places.contains(i));
        Shared { each: meant.map(|(_, member)| (&mut *member.observer as _, member.cancel)).collect(), taken }
    }
}

impl Observer for Shared<'_> {
    fn on_event(&mut self, event: &Event) {
        for (observer, cancel) in &mut self.each[..self.taken.get()] {
            if !cancel.is_cancelled() {
                observer.on_event(event);
            }
        }
    }

    fn on_event_of(&mut self, picture: usize, event: &Event) {
        if let Some((observer, cancel)) = self.each[..self.taken.get()].get_mut(picture)
            && !cancel.is_cancelled()
        {
            observer.on_event(event);
        }
    }

    fn wants_preview_of(&self, picture: usize) -> bool {
        self.each.get(picture).is_some_and(|(observer, _)| observer.wants_previews())
    }
}
