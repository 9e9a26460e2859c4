//! Drawing: a job, and those that can be drawn together with it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use flux2::event::Preview;
use flux2::image;
use flux2::pipeline::MAX_PREPARED_PROMPTS;
use flux2::{Error, ErrorKind, Event, GenerateRequest, Phase, Reference, Result, Source, UpscaleSize, Upscaling};

use super::{Taken, Task, Worker};
use crate::event::{EventKind, EventLog};
use crate::failure::JobFailure;
use crate::host::{self, Drawing, Drawn};
use crate::saver::{About, DrawnPicture, Handover};
use crate::scheduler::Wish;
use crate::sink::PictureOf;
use crate::spec::{JobSpec, UpscaleSpec};
use crate::state::{End, Shared, too_late};
use crate::submission::Refused;
use crate::view::{CacheHits, Progress};

/// One picture of a batch.
struct Pictured<'a> {
    job: &'a Taken,
    picture: u32,
    request: GenerateRequest,
}

/// What a panic of a model is reported as.
pub(super) fn panicked() -> Error {
    let source = std::io::Error::other("it panicked, which is a bug; the program's error output has the details");
    Error::Io { path: "the model".into(), source }
}

/// The request of one picture of a job. A source gives the size.
fn request_of(
    spec: &JobSpec,
    picture: u32,
    references: &[Reference],
    source: Option<&Source>,
    upscaling: Option<&Upscaling>,
) -> GenerateRequest {
    let own = |side: u32| source.is_none().then_some(side);
    GenerateRequest {
        prompt: spec.prompt.clone(),
        negative_prompt: spec.negative_prompt.clone(),
        template: spec.template.clone(),
        references: references.to_vec(),
        source: source.cloned(),
        width: own(spec.width),
        height: own(spec.height),
        steps: Some(spec.steps),
        guidance: spec.guidance,
        seed: spec.seed + u64::from(picture),
        noise: spec.noise,
        compat: spec.compat,
        upscale: upscaling.cloned(),
    }
}

impl Shared {
    /// How the pictures of a job are enlarged.
    fn upscaling(&self, spec: &JobSpec) -> Result<Option<Upscaling>, Refused> {
        let of = |UpscaleSpec { upscaler, by }: &UpscaleSpec| {
            let upscaler = host::upscaler(&*self.host, Some(upscaler))?;
            Ok(Upscaling { upscaler, size: UpscaleSize::By(*by) })
        };
        spec.upscale.as_ref().map(of).transpose()
    }
}

impl Worker {
    /// Draw a job, and others of its kind whose turn it is.
    pub(super) fn draw(&mut self, first: Taken) {
        let shared = Arc::clone(&self.shared);
        let model = first.spec.model.clone();
        let most = match self.models.get(&model, &shared) {
            Err(error) => return self.end_early(&first, error.into()),
            Ok(_) if shared.options.max_batch <= 1 || first.spec.source.is_some() => 1,
            Ok(loaded) => {
                // References that cannot be read fail with their job.
                let references = shared.references.all(&first.spec.references, &shared.uploads).unwrap_or_default();
                let request = request_of(&first.spec, 0, &references, None, None);
                loaded.largest_batch(&request, shared.options.max_batch).max(1)
            }
        };
        let jobs = self.fill(first, most);
        let mut pictures = Vec::new();
        let mut ended = Vec::new();
        for job in &jobs {
            let references = shared.references.all(&job.spec.references, &shared.uploads);
            let source = job.spec.source.as_ref().map(|source| shared.references.source(source, &shared.uploads));
            let inputs =
                references.and_then(|references| Ok((references, source.transpose()?, shared.upscaling(&job.spec)?)));
            match inputs {
                Ok((references, source, upscaling)) => pictures.extend((0..job.spec.count).map(|picture| Pictured {
                    job,
                    picture,
                    request: request_of(&job.spec, picture, &references, source.as_ref(), upscaling.as_ref()),
                })),
                Err(refused) => {
                    ended.push(job.id);
                    self.end_early(job, failure_of(refused));
                }
            }
        }
        self.prepare(&jobs);
        for batch in pictures.chunks(most) {
            let batch: Vec<&Pictured> = batch.iter().filter(|one| !ended.contains(&one.job.id)).collect();
            for (one, result) in batch.iter().zip(self.draw_batch(&batch)) {
                let job = one.job;
                if ended.contains(&job.id) {
                    continue;
                }
                match result {
                    Ok(drawn) => {
                        if drawn.about.is_last {
                            ended.push(job.id);
                        }
                        self.hand_over(Handover::Picture(Box::new(drawn)));
                    }
                    Err(error) => {
                        ended.push(job.id);
                        self.end_early(job, error.into());
                    }
                }
            }
        }
    }

    /// Add jobs that can be drawn together with `first` until there are `most` pictures.
    fn fill(&self, first: Taken, most: usize) -> Vec<Taken> {
        let spec = Arc::clone(&first.spec);
        let mut pictures = first.spec.count as usize;
        let mut jobs = vec![first];
        let mut late = Vec::new();
        let mut state = self.shared.lock();
        while pictures < most {
            match self.take(&mut state, Wish::Like(&spec)) {
                Some(Task::Draw(next)) => {
                    pictures += next.spec.count as usize;
                    jobs.push(next);
                }
                Some(Task::TooLate(id)) => late.push(id),
                _ => break,
            }
        }
        drop(state);
        for id in late {
            self.shared.finish(id, End::Failed(too_late()));
        }
        jobs
    }

    /// Encode the prompts of these jobs and of those that come next, if the model's text encoder is not kept.
    fn prepare(&mut self, jobs: &[Taken]) {
        let shared = Arc::clone(&self.shared);
        let Some(first) = jobs.first() else { return };
        let model = &first.spec.model;
        let is_prepared = self.prepared.as_ref().is_some_and(|(known, prompts)| {
            known == model && jobs.iter().all(|job| prompts.contains(&job.spec.prompt))
        });
        if is_prepared {
            return;
        }
        let Ok(loaded) = self.models.get(model, &shared) else { return };
        if !loaded.encodes_ahead() {
            return;
        }
        let specs: Vec<_> = jobs.iter().map(|job| Arc::clone(&job.spec)).collect();
        let prompts = {
            let mut state = shared.lock();
            let workers = state.workers.as_ref().map_or(1, Vec::len);
            state.scheduler.prompts_ahead(&specs, self.number, workers, MAX_PREPARED_PROMPTS)
        };
        // A single prompt is encoded with its picture, so that its time counts there.
        if prompts.len() > 1 {
            let of = PictureOf { id: first.id, spec: &first.spec, picture: 0, worker: self.number, batch: 1 };
            let texts: Vec<&str> = prompts.iter().map(String::as_str).collect();
            let mut observer = |event: &Event| observe(&shared, of, event);
            // If it fails, so does the picture, which reports it.
            let _ = loaded.prepare_prompts(&texts, &mut observer, &first.cancel);
        }
        self.prepared = Some((model.clone(), prompts));
    }

    /// Draw pictures together. Those that fail for a reason that may go away are tried once more.
    fn draw_batch(&mut self, batch: &[&Pictured]) -> Vec<Result<DrawnPicture>> {
        if batch.is_empty() {
            return Vec::new();
        }
        let mut results = self.draw_once(batch);
        let mut again = Vec::new();
        for (index, result) in results.iter().enumerate() {
            match result {
                // Alone, or with the memory of other models.
                Err(error)
                    if error.kind() == ErrorKind::OutOfMemory && (self.models.release_others() || batch.len() > 1) =>
                {
                    again.push(index);
                }
                Err(error) if error.kind() == ErrorKind::OutOfMemory => {}
                Err(Error::Backend(_)) => {
                    // A driver that failed may work again for a model that is loaded anew.
                    self.models.release_all();
                    again.push(index);
                }
                _ => {}
            }
        }
        for index in again {
            let alone = self.draw_once(&batch[index..=index]).pop();
            results[index] = alone.expect("a batch of one has one result");
        }
        results
    }

    fn draw_once<'a>(&mut self, batch: &[&Pictured<'a>]) -> Vec<Result<DrawnPicture>> {
        let (shared, begun) = (Arc::clone(&self.shared), Instant::now());
        let worker = self.number;
        let of = |one: &Pictured<'a>| PictureOf {
            id: one.job.id,
            spec: &one.job.spec,
            picture: one.picture,
            worker,
            batch: batch.len(),
        };
        let loaded = match self.models.get(&batch[0].job.spec.model, &shared) {
            Ok(loaded) => loaded,
            Err(error) => {
                let mut error = Some(error);
                let result = |_: &&Pictured| Err(error.take().unwrap_or(Error::Cancelled));
                return batch.iter().map(result).collect();
            }
        };
        let mut ran = vec![[false; 2]; batch.len()];
        if let Some(sink) = &shared.sink {
            batch.iter().for_each(|one| sink.started(of(one)));
        }
        let mut observer = |index: usize, event: &Event| {
            match event {
                Event::PhaseStarted { phase: Phase::Text, .. } => ran[index][0] = true,
                Event::PhaseStarted { phase: Phase::References, .. } => ran[index][1] = true,
                _ => {}
            }
            observe(&shared, of(batch[index]), event);
        };
        let sink_wants = shared.sink.as_ref().is_some_and(|sink| sink.wants_previews());
        let logs: Vec<_> = {
            let state = shared.lock();
            batch.iter().map(|one| state.jobs.get(&one.job.id).map(|job| Arc::clone(&job.log))).collect()
        };
        let wants = |log: &Option<Arc<EventLog>>| sink_wants || log.as_ref().is_some_and(|log| log.wants_previews());
        let wants: Vec<_> = logs.iter().map(|log| move || wants(log)).collect();
        let drawings: Vec<Drawing> = batch
            .iter()
            .zip(&wants)
            .map(|(one, wants)| Drawing { request: &one.request, cancel: &one.job.cancel, wants_previews: wants })
            .collect();
        let results = loaded.draw(&drawings, &mut observer);
        let each = begun.elapsed() / u32::try_from(batch.len()).unwrap_or(u32::MAX);
        self.learn(batch, &results, each);
        let wrap = |((one, result), [ran_text, ran_references]): ((&&Pictured, Result<Drawn>), [bool; 2])| {
            let spec = Arc::clone(&one.job.spec);
            let references = (!spec.references.is_empty() || spec.source.is_some()) && !ran_references;
            let cache = CacheHits { text: !ran_text, references, picture: false };
            let (id, picture, batch) = (one.job.id, one.picture, batch.len());
            let is_last = picture + 1 == spec.count;
            let about = About { id, spec, picture, worker, begun, batch, cache, is_last };
            result.map(|drawn| DrawnPicture { about, drawn })
        };
        batch.iter().zip(results).zip(ran).map(wrap).collect()
    }

    /// Learn from how long pictures took.
    fn learn(&self, batch: &[&Pictured], results: &[Result<Drawn>], each: Duration) {
        let mut state = self.shared.lock();
        state.stats.batches.add(batch.len() as f64);
        for (one, _) in batch.iter().zip(results).filter(|(_, result)| result.is_ok()) {
            state.estimates.learn(&one.job.spec, one.job.work, each);
        }
    }

    /// End a job without all of its pictures: put back, late, cancelled or failed.
    fn end_early(&self, job: &Taken, failure: JobFailure) {
        let mut state = self.shared.lock();
        let Some(known) = state.jobs.get(&job.id) else { return };
        let end = match () {
            () if known.cancel_requested => End::Cancelled,
            () if job.cancel.is_cancelled() && known.is_late(std::time::SystemTime::now()) => End::Failed(too_late()),
            () if job.cancel.is_cancelled() && known.put_back => return state.put_back(job.id, &self.shared),
            () => End::Failed(failure),
        };
        drop(state);
        self.hand_over(Handover::End(job.id, end));
    }
}

/// Tell readers and front end of an event of a picture.
fn observe(shared: &Shared, of: PictureOf, event: &Event) {
    if let Some(sink) = &shared.sink {
        sink.event(of, event);
    }
    let kind = match event {
        Event::PhaseFinished { phase: Phase::Load(_), elapsed } => {
            return shared.lock().stats.loads.add(elapsed.as_secs_f64());
        }
        Event::PhaseStarted { phase, .. } => EventKind::Stage { picture: of.picture, name: phase.name() },
        Event::Step { step, steps, .. } => EventKind::Step { picture: of.picture, step: *step, steps: *steps },
        Event::Warning(warning) => EventKind::Warning { text: warning.to_string() },
        Event::Preview(preview) => return show(shared, of, preview),
        _ => return,
    };
    let mut state = shared.lock();
    let Some(job) = state.jobs.get_mut(&of.id) else { return };
    let progress = job.progress.get_or_insert_with(Progress::default);
    if progress.picture != of.picture {
        *progress = Progress { picture: of.picture, ..Progress::default() };
    }
    progress.steps = of.spec.steps;
    match &kind {
        EventKind::Stage { name, .. } => progress.stage = Some(name),
        EventKind::Step { step, .. } => progress.step = *step,
        EventKind::Warning { text } => {
            if job.outcome.warnings.contains(text) {
                return;
            }
            job.outcome.warnings.push(text.clone());
            return job.log.push_state(kind);
        }
        _ => {}
    }
    job.log.push_progress(kind);
}

/// Tell readers what a picture looks like, if one of them has asked for it.
fn show(shared: &Shared, of: PictureOf, preview: &Preview) {
    let log = shared.lock().jobs.get(&of.id).map(|job| Arc::clone(&job.log));
    let Some(log) = log.filter(|log| log.wants_previews()) else { return };
    // That a preview cannot be encoded is no failure of the picture.
    if let Ok(bytes) = image::encode(&preview.image, of.spec.format, None) {
        log.push_progress(EventKind::Preview { picture: of.picture, step: preview.step, bytes: bytes.into() });
    }
}

fn failure_of(refused: Refused) -> JobFailure {
    match refused {
        Refused::Invalid(error) => error.into(),
        Refused::Storage(failure) | Refused::Unavailable(failure) => failure,
        other => JobFailure::new(crate::FailureClass::Invalid, other.to_string()),
    }
}
