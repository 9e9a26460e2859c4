//! A job from its submission to its pictures.

use std::time::Duration;

use flux2::image::{ImageFormat, RgbImage, encode, metadata};
use flux2::{Precision, digest};
use flux2_jobs::fake::FakeOptions;
use flux2_jobs::{
    Draft, EventKind, FailureClass, Filter, JobState, LoraKey, ModelChoice, Options, Readiness, Refused, Submission,
};

use crate::common::{ended, endless, events, picture, start, wait_until};

#[test]
fn a_job_is_resolved_drawn_and_kept() {
    let jobs = start(Options::default(), FakeOptions::default());
    let draft = Draft { prompt: "a fox".into(), count: Some(3), ..Draft::default() };
    let accepted = jobs.submit(Submission { draft, owner: "me".into(), ..Submission::default() }).unwrap();
    let job = ended(&jobs, accepted.id);
    assert_eq!((job.state, job.owner.as_str(), job.attempts), (JobState::Done, "me", 1));
    let spec = &job.spec;
    assert_eq!((spec.model.name.as_str(), spec.width, spec.height, spec.steps), ("klein-4b", 512, 512, 4));
    assert_eq!((spec.model.precision, spec.format, spec.metadata), (Precision::BF16, ImageFormat::Png, true));
    assert!(spec.seed < 1 << 53, "{}", spec.seed);
    assert_eq!(job.images.len(), 3);
    for (image, index) in job.images.iter().zip(0..) {
        assert_eq!((image.index, image.seed), (index, spec.seed + u64::from(index)));
        let picture = jobs.image(job.id, index).unwrap().unwrap();
        assert_eq!(picture.info, *image);
        assert_eq!(digest::sha256(&picture.bytes), image.sha256);
        let parameters = metadata::read(&picture.bytes).unwrap().unwrap();
        assert_eq!((parameters.seed, parameters.prompt.as_str()), (image.seed, "a fox"));
    }
    assert!(jobs.image(job.id, 3).unwrap().is_none());
    let (accepted, started, finished) = (job.times.accepted, job.times.started.unwrap(), job.times.finished.unwrap());
    assert!(accepted <= started && started <= finished);
    assert_eq!((job.device.as_deref(), job.drawn.len(), job.drawn[0].batch), (Some("fake:0"), 3, 1));
    assert_eq!(job.drawn[0].steps.len(), 4);
}

#[test]
fn events_are_numbered_and_in_order() {
    let jobs = start(Options::default(), FakeOptions::default());
    let id = jobs.submit(picture("a fox")).unwrap().id;
    let events = events(&jobs, id);
    assert!(events.is_sorted_by(|a, b| a.0 < b.0), "{events:?}");
    // Of a job that is over, progress may be gone.
    let states = events.iter().map(|(_, kind)| kind.name()).filter(|name| !["stage", "step"].contains(name));
    assert_eq!(states.collect::<Vec<_>>(), ["queued", "started", "image_ready", "done"]);
    assert_eq!(jobs.get(id).unwrap().last_event, events.last().unwrap().0);
}

#[test]
fn progress_is_seen_while_a_job_runs() {
    let jobs = start(Options::default(), endless());
    let id = jobs.submit(picture("a fox")).unwrap().id;
    wait_until("the first stage", || {
        jobs.get(id).unwrap().progress.is_some_and(|progress| progress.stage == Some("denoise"))
    });
    let job = jobs.get(id).unwrap();
    assert_eq!((job.state, job.position), (JobState::Running, None));
    assert_eq!(job.progress.unwrap().steps, 4);
    assert_eq!(jobs.stats().running, 1);
    assert!(jobs.stats().devices[0].is_busy);
}

#[test]
fn a_repetition_is_the_same_picture() {
    let jobs = start(Options::default(), FakeOptions::default());
    let first = ended(&jobs, jobs.submit(Submission { draft: Draft::default(), ..picture("") }).unwrap().id);
    let again = Draft { seed: Some(first.spec.seed), ..Draft::default() };
    let second = ended(&jobs, jobs.submit(Submission { draft: again, ..picture("") }).unwrap().id);
    assert_eq!(first.images[0].sha256, second.images[0].sha256);
    assert_eq!(*first.spec, *second.spec);
}

#[test]
fn references_are_uploads_by_digest() {
    let jobs = start(Options::default(), FakeOptions::default());
    let image = RgbImage::new(96, 80, vec![128; 96 * 80 * 3]).unwrap();
    let file = encode(&image, ImageFormat::Png, None).unwrap();
    let upload = jobs.put_blob(&file).unwrap();
    assert_eq!(jobs.blob(&upload).unwrap().as_deref(), Some(file.as_slice()));
    let with = |references: Vec<String>| {
        let draft = Draft { references, width: None, height: None, ..picture("edit").draft };
        jobs.submit(Submission { draft, ..picture("") })
    };
    let job = ended(&jobs, with(vec![upload.clone()]).unwrap().id);
    assert_eq!((job.state, job.spec.width, job.spec.height), (JobState::Done, 96, 80));
    assert_eq!(job.spec.references, [upload]);
    let unknown = "ab".repeat(32);
    assert!(matches!(with(vec![unknown.clone()]), Err(Refused::UnknownBlob { digest }) if digest == unknown));
    let no_image = jobs.put_blob(b"no image").unwrap();
    let Err(Refused::Invalid(error)) = with(vec![no_image]) else { panic!("it is no image") };
    assert_eq!(error.kind(), flux2::ErrorKind::BadImage);
    assert_eq!(jobs.blob(&unknown).unwrap(), None);
}

#[test]
fn what_no_model_can_do_is_refused() {
    let jobs = start(Options::default(), FakeOptions { loras: vec!["style".into()], ..FakeOptions::default() });
    let refused = |change: &dyn Fn(&mut Draft)| {
        let mut submission = picture("a fox");
        change(&mut submission.draft);
        jobs.submit(submission).unwrap_err()
    };
    assert!(matches!(refused(&|draft| draft.width = Some(100)), Refused::Invalid(_)));
    assert!(matches!(refused(&|draft| draft.steps = Some(0)), Refused::Invalid(_)));
    assert!(matches!(refused(&|draft| draft.count = Some(0)), Refused::Count { count: 0, max: 16 }));
    assert!(matches!(refused(&|draft| draft.count = Some(17)), Refused::Count { .. }));
    let last = |draft: &mut Draft| (draft.seed, draft.count) = (Some(u64::MAX), Some(2));
    assert!(matches!(refused(&last), Refused::SeedRange { .. }));
    let model = |draft: &mut Draft| draft.model = ModelChoice { name: Some("klein-4".into()), ..Default::default() };
    let Refused::UnknownModel { name, nearest } = refused(&model) else { panic!("no such model") };
    assert_eq!((name.as_str(), nearest.as_deref()), ("klein-4", Some("klein-4b")));
    let lora = |draft: &mut Draft| draft.model.loras = vec![LoraKey { name: "stile".into(), scale: 1.0 }];
    assert!(matches!(refused(&lora), Refused::UnknownLora { nearest: Some(nearest), .. } if nearest == "style"));
    let rejected = jobs.stats().rejected;
    assert_eq!(rejected, [("invalid", 5), ("unknown_model", 2)]);
    assert_eq!(jobs.stats().accepted, 0);
}

#[test]
fn a_failure_has_a_class_and_ends_no_other_job() {
    let failures: Vec<_> = FailureClass::ALL.iter().map(|class| (format!("fail-{}", class.name()), *class)).collect();
    let jobs = start(Options::default(), FakeOptions { failures, ..FakeOptions::default() });
    let class = |prompt: &str| {
        let job = ended(&jobs, jobs.submit(picture(prompt)).unwrap().id);
        assert_eq!(job.state, JobState::Failed, "{prompt}");
        job.failure.unwrap().class
    };
    assert_eq!(class("a fail-out_of_memory"), FailureClass::OutOfMemory);
    assert_eq!(class("a fail-not_finite"), FailureClass::NotFinite);
    assert_eq!(class("a fail-model_unavailable"), FailureClass::ModelUnavailable);
    assert_eq!(class("a fail-internal"), FailureClass::Internal);
    // The fake model panics.
    assert_eq!(class("a fail-crashed"), FailureClass::Internal);
    assert_eq!(ended(&jobs, jobs.submit(picture("fine")).unwrap().id).state, JobState::Done);
    let failed = jobs.stats().failed;
    assert!(failed.contains(&(FailureClass::Internal, 2)) && failed.len() == 4, "{failed:?}");
}

#[test]
fn without_markers_a_prompt_cannot_make_a_job_fail() {
    let jobs = start(Options::default(), FakeOptions::default());
    let job = ended(&jobs, jobs.submit(picture("fail-internal")).unwrap().id);
    assert_eq!(job.state, JobState::Done);
}

#[test]
fn jobs_are_listed_in_pages_the_newest_first() {
    let jobs = start(Options::default(), FakeOptions::default());
    let ids: Vec<_> = (0..7)
        .map(|i| {
            let owner = if i == 3 { "b" } else { "a" };
            jobs.submit(Submission { owner: owner.into(), ..picture("") }).unwrap().id
        })
        .collect();
    ids.iter().for_each(|id| drop(ended(&jobs, *id)));
    let page = jobs.list(&Filter::default(), None, 3);
    let found: Vec<_> = page.jobs.iter().map(|job| job.id).collect();
    assert_eq!((found, page.next), (vec![ids[6], ids[5], ids[4]], Some(ids[4])));
    let owner = Filter { owner: Some("a".into()), ..Filter::default() };
    let page = jobs.list(&owner, page.next, 99);
    let found: Vec<_> = page.jobs.iter().map(|job| job.id).collect();
    assert_eq!((found, page.next), (vec![ids[2], ids[1], ids[0]], None));
    let queued = Filter { states: vec![JobState::Queued], ..Filter::default() };
    assert!(jobs.list(&queued, None, 9).jobs.is_empty());
}

#[test]
fn a_key_is_one_job_also_for_submissions_at_once() {
    let jobs = start(Options::default(), FakeOptions::default());
    let submit = |owner: &str| {
        let key = Some("k".to_owned());
        jobs.submit(Submission { idempotency_key: key, owner: owner.into(), ..picture("a fox") }).unwrap()
    };
    let ids: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..16).map(|_| scope.spawn(|| submit("a"))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(ids.iter().all(|accepted| accepted.id == ids[0].id));
    assert_eq!(ids.iter().filter(|accepted| !accepted.is_repeat).count(), 1);
    assert_ne!(submit("b").id, ids[0].id, "keys of different owners are different");
    ended(&jobs, ids[0].id);
    let again = submit("a");
    assert_eq!((again.id, again.is_repeat, again.position), (ids[0].id, true, None));
}

#[test]
fn a_model_is_loaded_before_the_engine_is_ready() {
    let load = Duration::from_millis(50);
    let jobs = start(Options::default(), FakeOptions { devices: 2, load, ..FakeOptions::default() });
    jobs.preload(&ModelChoice::default()).unwrap();
    wait_until("ready", || jobs.is_ready());
    let devices = jobs.stats().devices;
    assert_eq!(devices.len(), 2);
    assert!(devices.iter().all(|device| device.models.len() == 1 && device.models[0].0.to_string() == "klein-4b bf16"));
    assert_eq!(jobs.stats().loads.count(), 2);
    assert_eq!((jobs.stats().images, jobs.list(&Filter::default(), None, 9).jobs.len()), (0, 0));
    let failures = vec![(String::new(), FailureClass::NotFinite)];
    let broken = start(Options::default(), FakeOptions { failures, ..FakeOptions::default() });
    broken.preload(&ModelChoice::default()).unwrap();
    wait_until("failure", || matches!(broken.readiness(), Readiness::Failed(_)));
}

#[test]
fn a_finished_picture_is_reused_if_that_is_wanted() {
    let options = Options { reuse_pictures: true, ..Options::default() };
    let jobs = start(options, FakeOptions::default());
    let first = ended(&jobs, jobs.submit(picture("a fox")).unwrap().id);
    assert!(!first.drawn[0].cache.picture);
    let second = ended(&jobs, jobs.submit(picture("a fox")).unwrap().id);
    assert_eq!((second.state, second.attempts), (JobState::Done, 0));
    assert!(second.drawn[0].cache.picture);
    assert_eq!(second.images, first.images);
    assert!(jobs.image(second.id, 0).unwrap().is_some());
    assert_eq!(
        jobs.stats().cache_hits,
        [("text", 0), ("picture", 1)].into_iter().filter(|hit| hit.1 > 0).collect::<Vec<_>>()
    );
    let other = ended(&jobs, jobs.submit(picture("a hare")).unwrap().id);
    assert!(!other.drawn[0].cache.picture);
    let kinds: Vec<_> = events(&jobs, second.id).into_iter().map(|(_, kind)| kind).collect();
    assert!(
        matches!(kinds[..], [EventKind::Queued { .. }, EventKind::ImageReady { .. }, EventKind::Done]),
        "{kinds:?}"
    );
}
