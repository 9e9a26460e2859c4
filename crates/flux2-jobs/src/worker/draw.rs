//! Drawing: a job, and those that can be drawn together with it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use flux2::pipeline::{GeneratedImage, MAX_PREPARED_PROMPTS};
use flux2::{Error, ErrorKind, Event, GenerateRequest, Phase, Reference, Result, Source};

use super::{Taken, Task, Worker};
use crate::event::EventKind;
use crate::failure::JobFailure;
use crate::host::Drawing;
use crate::saver::{DrawnPicture, Handover};
use crate::scheduler::Wish;
use crate::sink::PictureOf;
use crate::spec::JobSpec;
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
fn request_of(spec: &JobSpec, picture: u32, references: &[Reference], source: Option<&Source>) -> GenerateRequest {
    let own = |side: u32| source.is_none().then_some(side);
    GenerateRequest {
        prompt: spec.prompt.clone(),
        references: references.to_vec(),
        source: source.cloned(),
        width: own(spec.width),
        height: own(spec.height),
        steps: Some(spec.steps),
        guidance: spec.guidance,
        seed: spec.seed + u64::from(picture),
        noise: spec.noise,
    }
}

impl Worker {
    /// Draw a job, and others of its kind whose turn it is.
    pub(super) fn draw(&mut self, first: Taken) {
        let shared = Arc::clone(&self.shared);
        let model = first.spec.model.clone();
        let most = match self.models.get(&model, &shared) {
            Err(error) => return self.end_early(&first, error.into()),
            Ok(loaded) => {
                let most = shared.options.max_batch.max(1);
                match most == 1 || first.spec.source.is_some() {
                    true => 1,
                    false => loaded.largest_batch(&request_of(&first.spec, 0, &[], None), most).max(1),
                }
            }
        };
        let jobs = self.fill(first, most);
        let mut pictures = Vec::new();
        let mut ended = Vec::new();
        for job in &jobs {
            let references = shared.references.all(&job.spec.references, &shared.uploads);
            let source = job.spec.source.as_ref().map(|source| shared.references.source(source, &shared.uploads));
            match references.and_then(|references| Ok((references, source.transpose()?))) {
                Ok((references, source)) => pictures.extend((0..job.spec.count).map(|picture| Pictured {
                    job,
                    picture,
                    request: request_of(&job.spec, picture, &references, source.as_ref()),
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
                let is_last = one.picture + 1 == job.spec.count;
                match result {
                    Ok(drawn) => {
                        self.hand_over(Handover::Picture(Box::new(drawn)));
                        if is_last {
                            ended.push(job.id);
                            self.hand_over(Handover::End(job.id, End::Done));
                        }
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
            let of = PictureOf { id: first.id, spec: &first.spec, picture: 0, worker: self.number };
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

    fn draw_once(&mut self, batch: &[&Pictured]) -> Vec<Result<DrawnPicture>> {
        let (shared, begun) = (Arc::clone(&self.shared), Instant::now());
        let of = |one: &Pictured<'_>| (one.job.id, Arc::clone(&one.job.spec), one.picture);
        let worker = self.number;
        let loaded = match self.models.get(&batch[0].job.spec.model, &shared) {
            Ok(loaded) => loaded,
            Err(error) => {
                let mut error = Some(error);
                let result = |_: &&Pictured| Err(error.take().unwrap_or(Error::Cancelled));
                return batch.iter().map(result).collect();
            }
        };
        let mut ran = vec![[false; 2]; batch.len()];
        for one in batch {
            let picture_of = PictureOf { id: one.job.id, spec: &one.job.spec, picture: one.picture, worker };
            if let Some(sink) = &shared.sink {
                sink.started(picture_of);
            }
        }
        let mut observer = |index: usize, event: &Event| {
            let one = batch[index];
            match event {
                Event::PhaseStarted { phase: Phase::Text, .. } => ran[index][0] = true,
                Event::PhaseStarted { phase: Phase::References, .. } => ran[index][1] = true,
                _ => {}
            }
            observe(&shared, PictureOf { id: one.job.id, spec: &one.job.spec, picture: one.picture, worker }, event);
        };
        let drawings: Vec<Drawing> =
            batch.iter().map(|one| Drawing { request: &one.request, cancel: &one.job.cancel }).collect();
        let results = loaded.draw(&drawings, &mut observer);
        let each = begun.elapsed() / u32::try_from(batch.len()).unwrap_or(u32::MAX);
        self.learn(batch, &results, each);
        let wrap = |((one, result), [ran_text, ran_references]): ((&&Pictured, Result<GeneratedImage>), [bool; 2])| {
            let (id, spec, picture) = of(one);
            let references = (!spec.references.is_empty() || spec.source.is_some()) && !ran_references;
            let cache = CacheHits { text: !ran_text, references, picture: false };
            let batch = batch.len();
            result.map(|drawn| DrawnPicture { id, spec, picture, worker, drawn, begun, batch, cache })
        };
        batch.iter().zip(results).zip(ran).map(wrap).collect()
    }

    /// Learn from how long pictures took.
    fn learn(&self, batch: &[&Pictured], results: &[Result<GeneratedImage>], each: Duration) {
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

fn failure_of(refused: Refused) -> JobFailure {
    match refused {
        Refused::Invalid(error) => error.into(),
        Refused::Storage(failure) | Refused::Unavailable(failure) => failure,
        other => JobFailure::new(crate::FailureClass::Invalid, other.to_string()),
    }
}
