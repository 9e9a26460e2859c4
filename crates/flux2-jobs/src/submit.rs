//! Acceptance of a job: defaults are filled in, limits checked, the journal written.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use flux2::event::{Input, InputMark};
use flux2::image::ImageFormat;
use flux2::marks::Found;
use flux2::marks::watermark::check_size;
use flux2::{GenerateRequest, Reference, ResolvedRequest, UpscaleSize, Upscaling, Warning};

use crate::event::{EventKind, EventLog};
use crate::failure::{FailureClass, JobFailure};
use crate::host;
use crate::id::JobId;
use crate::journal::{Change, Outcome, Row};
use crate::spec::{JobSpec, UpscaleSpec};
use crate::state::{End, Job, Mode, Shared, State, picture_key};
use crate::stats;
use crate::submission::{Accepted, Draft, Refused, Submission, UpscaleChoice};
use crate::view::{CacheHits, DrawingRecord, ImageInfo, JobState, Times};

/// Longest wait for a journal or for another submission with the same key.
const TICK: Duration = Duration::from_millis(100);

/// A draft with every default filled in.
pub(crate) struct Resolved {
    pub spec: JobSpec,
    pub work: f64,
    pub warnings: Vec<Warning>,
}

impl Shared {
    /// See [`Jobs::submit`](crate::Jobs::submit).
    pub fn submit(&self, submission: Submission) -> Result<Accepted, Refused> {
        let result = self.try_submit(submission);
        let mut state = self.lock();
        match &result {
            Ok(accepted) if !accepted.is_repeat => state.stats.accepted += 1,
            Ok(_) => {}
            Err(refused) => stats::count(&mut state.stats.rejected, refused.reason()),
        }
        result
    }

    fn try_submit(&self, submission: Submission) -> Result<Accepted, Refused> {
        let Submission { draft, owner, priority, deadline, idempotency_key, previews } = submission;
        let owner: Arc<str> = owner.into();
        let key = idempotency_key.clone().map(|key| (Arc::clone(&owner), key));
        // A full queue is answered before any work.
        if let Some(earlier) = self.repeat_or_refuse(key.as_ref(), 0.0)? {
            return Ok(earlier);
        }
        let Resolved { spec, work, warnings } = self.resolve(draft)?;
        let now = SystemTime::now();
        let row = Row {
            id: JobId::new(),
            owner: owner.to_string(),
            idempotency_key,
            priority,
            state: JobState::Queued,
            spec,
            times: Times {
                accepted: now,
                started: None,
                finished: None,
                deadline: deadline.and_then(|deadline| now.checked_add(deadline)),
            },
            attempts: 0,
            work,
            device: None,
            outcome: Outcome { warnings: warnings.iter().map(Warning::to_string).collect(), ..Outcome::default() },
        };
        let id = row.id;
        let mut held = Held { shared: self, digests: Vec::new() };
        for digest in row.spec.uploads().filter(|digest| !self.references.is_pinned(digest)) {
            if !self.uploads.hold(digest) {
                return Err(Refused::UnknownBlob { digest: digest.clone() });
            }
            held.digests.push(digest.clone());
        }
        let seconds = self.lock().estimates.seconds(&row.spec, work);
        if let Some(earlier) = self.repeat_or_refuse(key.as_ref(), seconds)? {
            return Ok(earlier);
        }
        let mut state = self.lock();
        // Somebody may have been faster.
        if key.as_ref().is_some_and(|key| state.keys.contains_key(key)) {
            drop(state);
            let failed =
                || JobFailure::new(FailureClass::Storage, "a submission with the same key failed at this moment");
            return self.repeat_or_refuse(key.as_ref(), seconds)?.ok_or_else(|| Refused::Storage(failed()));
        }
        let job = Job::new(row.clone(), EventLog::new(self.first_seq));
        if previews {
            job.log.want_previews();
        }
        state.keys.extend(key.clone().map(|key| (key, id)));
        state.jobs.insert(id, job);
        state.uncommitted += 1;
        let pending = self.begin(Change::Put(Box::new(row)));
        drop(state);
        let written = pending.map_or(Ok(()), |pending| pending.wait());

        let mut state = self.lock();
        state.uncommitted -= 1;
        if let Err(failure) = written {
            state.jobs.remove(&id);
            key.map(|key| state.keys.remove(&key));
            self.notify();
            return Err(Refused::Storage(failure));
        }
        held.digests.clear();
        let (position, wait) = self.enqueue(&mut state, id);
        // Under the same lock, or a worker may draw it first.
        let is_known = self.options.reuse_pictures && self.take_known_pictures(&mut state, id);
        drop(state);
        self.notify();
        let is_over = is_known && self.finish(id, End::Done);
        Ok(Accepted { id, is_repeat: false, position: position.filter(|_| !is_over), wait, warnings })
    }

    /// Let a job that the journal has wait for its turn.
    fn enqueue(&self, state: &mut State, id: JobId) -> (Option<usize>, Duration) {
        let State { jobs, scheduler, estimates, .. } = state;
        let Some(job) = jobs.get_mut(&id) else { return (None, Duration::ZERO) };
        job.is_committed = true;
        scheduler.push(job.waiting(estimates.seconds(&job.spec, job.work)));
        let (position, before) = scheduler.position(id).unwrap_or_default();
        job.told_position = position;
        job.log.push_state(EventKind::Queued { position });
        for text in &job.outcome.warnings {
            job.log.push_state(EventKind::Warning { text: text.clone() });
        }
        (Some(position), state.wait_behind(before))
    }

    /// The job of an earlier submission with the same key, or why there can be no new one of so many seconds.
    fn repeat_or_refuse(&self, key: Option<&(Arc<str>, String)>, seconds: f64) -> Result<Option<Accepted>, Refused> {
        let mut state = self.lock();
        while let Some(id) = key.and_then(|key| state.keys.get(key)).copied() {
            match state.jobs.get(&id) {
                Some(job) if job.is_committed => return Ok(Some(state.repeated(id))),
                Some(_) => state = self.wait(state, TICK),
                None => break,
            }
        }
        if state.mode != Mode::Running {
            return Err(Refused::Draining);
        }
        if let Some(failure) = &state.no_device {
            return Err(Refused::Unavailable(failure.clone()));
        }
        state.check_room(&self.options, seconds)?;
        Ok(None)
    }

    /// Fill in every default and check every limit.
    pub(crate) fn resolve(&self, draft: Draft) -> Result<Resolved, Refused> {
        let metadata = draft.metadata.unwrap_or(true);
        let watermark = draft.watermark.unwrap_or(false) || self.options.watermark;
        let Draft { model, prompt, negative_prompt, template, references, source, width, height, .. } = draft;
        let Draft { steps, guidance, noise, compat, seed, count, format, quality, upscale, .. } = draft;
        let model = self.host.resolve(&model)?;
        let (count, max) = (count.unwrap_or(1), self.options.max_count);
        if !(1..=max).contains(&count) {
            return Err(Refused::Count { count, max });
        }
        let seed = seed.unwrap_or_else(fresh_seed);
        if seed.checked_add(u64::from(count) - 1).is_none() {
            return Err(Refused::SeedRange { seed, count });
        }
        let noise = noise.unwrap_or_default();
        let upscaling = upscale.as_ref().map(|UpscaleChoice { by, upscaler }| {
            let upscaler = host::upscaler(&*self.host, upscaler.as_deref())?;
            Ok::<_, Refused>(Upscaling { upscaler, size: UpscaleSize::By(*by) })
        });
        let upscaling = upscaling.transpose()?;
        let upscale = upscaling
            .as_ref()
            .zip(upscale.as_ref())
            .map(|(known, asked)| UpscaleSpec { upscaler: known.upscaler.name().to_owned(), by: asked.by });
        let texts = GenerateRequest { prompt, negative_prompt, template, ..Default::default() };
        let request =
            GenerateRequest { width, height, steps, guidance, seed, noise, compat, upscale: upscaling, ..texts };
        // What costs nothing is checked before images are decoded.
        ResolvedRequest::new(&request, model.variant)?;
        let images = self.references.all(&references, &self.uploads)?;
        let painted = source.as_ref().map(|source| self.references.source(source, &self.uploads)).transpose()?;
        let request = GenerateRequest { references: images, source: painted, ..request };
        let resolved = ResolvedRequest::new(&request, model.variant)?;
        let work = self.host.work(&model.key, &resolved);
        let [width, height] = resolved.picture_px();
        if watermark {
            check_size(width, height)?;
        }
        let lost = marks_not_kept(&resolved, metadata, watermark, self.options.signer.is_some());
        let ResolvedRequest { prompt, negative_prompt, template, steps, guidance, mut warnings, .. } = resolved;
        warnings.extend(lost);
        let spec = JobSpec {
            model: model.key,
            prompt,
            negative_prompt,
            template,
            references,
            source,
            width,
            height,
            steps,
            guidance,
            noise,
            compat,
            seed,
            count,
            format: format.unwrap_or(ImageFormat::Png),
            quality,
            metadata,
            watermark,
            upscale,
        };
        Ok(Resolved { spec, work, warnings })
    }

    /// Give a job its pictures, out of turn, if all of them were drawn before and are still kept.
    fn take_known_pictures(&self, state: &mut State, id: JobId) -> bool {
        let State { jobs, finished, scheduler, stats, .. } = state;
        let Some(job) = jobs.get_mut(&id).filter(|job| job.state == JobState::Queued) else { return false };
        let known = |index| {
            let image = finished.get(&picture_key(&job.spec, index))?;
            let image = ImageInfo { index, ..image.clone() };
            self.pictures.hold(&image.sha256).then_some(image)
        };
        let images: Vec<ImageInfo> = (0..job.spec.count).map_while(known).collect();
        if images.len() < job.spec.count as usize {
            images.iter().for_each(|image| self.pictures.release(&image.sha256));
            return false;
        }
        if scheduler.remove(id).is_none() {
            images.iter().for_each(|image| self.pictures.release(&image.sha256));
            return false;
        }
        let cache = CacheHits { picture: true, ..CacheHits::default() };
        job.outcome.drawn = vec![DrawingRecord { cache, ..DrawingRecord::default() }; images.len()];
        images.iter().for_each(|_| stats::count(&mut stats.cache_hits, "picture"));
        images.iter().for_each(|image| job.log.push_state(EventKind::ImageReady { image: image.clone() }));
        job.outcome.images = images;
        true
    }
}

impl State {
    /// The answer to a repeated submission.
    fn repeated(&self, id: JobId) -> Accepted {
        let place = self.scheduler.position(id);
        let wait = place.map_or(Duration::ZERO, |(_, before)| self.wait_behind(before));
        Accepted { id, is_repeat: true, position: place.map(|(position, _)| position), wait, warnings: vec![] }
    }

    /// Whether a job of so many seconds may join the queue.
    fn check_room(&self, options: &crate::Options, seconds: f64) -> Result<(), Refused> {
        let jobs = self.scheduler.len() + self.uncommitted;
        if jobs == 0 && options.max_queued > 0 {
            return Ok(());
        }
        let wait = self.wait();
        let own = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
        let over = wait.saturating_add(own).saturating_sub(options.max_wait);
        if jobs < options.max_queued && over.is_zero() {
            return Ok(());
        }
        // Seconds pass by themselves; a place is free when a running job ends.
        let next = if jobs >= options.max_queued { self.wait_behind(0.0) } else { Duration::ZERO };
        let retry_after = over.max(next).max(Duration::from_secs(1));
        Err(Refused::Full { jobs, wait, retry_after })
    }
}

/// Marks of the source and the reference images that the pictures will not carry.
fn marks_not_kept(request: &ResolvedRequest, metadata: bool, watermark: bool, is_signed: bool) -> Vec<Warning> {
    let lost = |(input, marks): (Input, &Found)| {
        let lost = [
            (InputMark::SourceType, marks.says_drawn() && !metadata),
            (InputMark::Watermark, marks.watermark.is_some() && !watermark),
            (InputMark::Credentials, marks.has_credentials && !is_signed),
        ];
        let lost = lost.into_iter().filter(|(_, is_lost)| *is_lost);
        lost.map(move |(mark, _)| Warning::MarkNotKept { input, mark })
    };
    let source = request.source.iter().map(|placed| (Input::Source, placed.source().marks()));
    let references = (1..).map(Input::Reference).zip(request.references.iter().map(Reference::marks));
    source.chain(references).flat_map(lost).collect()
}

/// Releases uploads that were held for a job that is not accepted.
struct Held<'a> {
    shared: &'a Shared,
    digests: Vec<String>,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.digests.iter().for_each(|digest| self.shared.uploads.release(digest));
    }
}

/// A random seed of 53 bits: programs that read JSON numbers as floating point would change a longer one.
fn fresh_seed() -> u64 {
    RandomState::new().hash_one(()) >> 11
}
