//! Favorites, deleted pictures, searches, and what a job would take.

use std::time::Duration;

use flux2::image::{self, ImageFormat, RgbImage};
use flux2_jobs::fake::FakeOptions;
use flux2_jobs::{
    Draft, Filter, JobId, Jobs, ModelChoice, NotChanged, Options, Painting, Refused, Retention, SourceSpec, Submission,
};

use crate::common::{ended, endless, picture, start, wait_until};

/// A job of so many pictures that is done.
fn drawn(jobs: &Jobs, prompt: &str, count: u32) -> JobId {
    let draft = Draft { count: Some(count), ..picture(prompt).draft };
    let id = jobs.submit(Submission { draft, ..picture(prompt) }).unwrap().id;
    ended(jobs, id);
    id
}

#[test]
fn a_favorite_is_kept_when_others_grow_old_and_goes_last_when_there_are_too_many() {
    let retention = Retention { jobs: 3, age: Duration::from_secs(1000), ..Retention::default() };
    let jobs = start(Options { retention, ..Options::default() }, FakeOptions::default());
    let kept = drawn(&jobs, "kept", 1);
    jobs.set_favorite(kept, 0, true).unwrap();
    let others: Vec<_> = (0..5).map(|n| drawn(&jobs, &format!("{n}"), 1)).collect();
    assert!(jobs.get(kept).unwrap().images[0].is_favorite);
    assert_eq!(others.iter().filter(|id| jobs.get(**id).is_some()).count(), 2);
    jobs.set_favorite(kept, 0, false).unwrap();
    drawn(&jobs, "last", 1);
    assert!(jobs.get(kept).is_none());

    let retention = Retention { age: Duration::ZERO, ..Retention::default() };
    let jobs = start(Options { retention, ..Options::default() }, FakeOptions::default());
    let kept = drawn(&jobs, "kept", 1);
    jobs.set_favorite(kept, 0, true).unwrap();
    let plain = drawn(&jobs, "plain", 1);
    std::thread::sleep(Duration::from_millis(20)); // times are kept in milliseconds
    drawn(&jobs, "newest", 1);
    assert!(jobs.get(plain).is_none() && jobs.get(kept).is_some());

    // Only favorites, and too many of them.
    let retention = Retention { jobs: 2, ..Retention::default() };
    let jobs = start(Options { retention, ..Options::default() }, FakeOptions::default());
    let all: Vec<_> = (0..3)
        .map(|n| {
            let id = drawn(&jobs, &format!("{n}"), 1);
            jobs.set_favorite(id, 0, true).unwrap();
            id
        })
        .collect();
    assert_eq!(all.iter().map(|id| jobs.get(*id).is_some()).collect::<Vec<_>>(), [false, true, true]);
}

#[test]
fn favorites_and_deletions_survive_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let folder_options = Options { folder: Some(folder.path().join("state")), ..Options::default() };
    let options = || Options { undo: Duration::ZERO, ..folder_options.clone() };
    let jobs = start(options(), FakeOptions::default());
    let id = drawn(&jobs, "three", 3);
    let digests: Vec<_> = jobs.get(id).unwrap().images.into_iter().map(|image| image.sha256).collect();
    jobs.set_favorite(id, 2, true).unwrap();
    jobs.delete_image(id, 1).unwrap();
    assert!(jobs.image(id, 1).unwrap().is_none() && jobs.image(id, 2).unwrap().is_some());
    let file = folder.path().join("state/pictures").join(&digests[1]);
    wait_until("the file is removed", || !file.exists());
    drop(jobs);
    let jobs = start(options(), FakeOptions::default());
    let job = jobs.get(id).unwrap();
    let found: Vec<_> = job.images.iter().map(|image| (image.index, image.is_favorite)).collect();
    assert_eq!((found, job.drawn.len()), (vec![(0, false), (2, true)], 2));
    assert!(matches!(jobs.delete_image(id, 1), Err(NotChanged::Missing)));
}

/// A program that ends abruptly neither brings a deleted picture back nor ends the time in which that is possible.
#[test]
fn a_deletion_is_taken_back_within_its_time_also_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let options = |undo| Options { folder: Some(folder.path().join("state")), undo, ..Options::default() };
    let minute = Duration::from_secs(60);
    let jobs = start(options(minute), FakeOptions::default());
    let id = drawn(&jobs, "three", 3);
    let before = jobs.get(id).unwrap();
    let revision = |jobs: &Jobs| jobs.list(&Filter::default(), None, 1).revision;
    let first = revision(&jobs);
    jobs.delete_image(id, 1).unwrap();
    jobs.delete_image(id, 2).unwrap();
    assert_eq!(revision(&jobs), first + 2);
    assert!(matches!(jobs.delete_image(id, 1), Err(NotChanged::Missing)));
    assert!(matches!(jobs.restore_image(id, 0), Err(NotChanged::Missing)));
    drop(jobs);
    let jobs = start(options(minute), FakeOptions::default());
    assert_eq!(jobs.get(id).unwrap().images.len(), 1);
    jobs.restore_image(id, 1).unwrap();
    let file = folder.path().join("state/pictures").join(&before.images[2].sha256);
    assert!(jobs.image(id, 1).unwrap().is_some() && file.exists());
    assert_eq!(jobs.get(id).unwrap().images, before.images[..2]);
    drop(jobs);
    let jobs = start(options(Duration::ZERO), FakeOptions::default());
    assert!(matches!(jobs.restore_image(id, 2), Err(NotChanged::Missing)));
    wait_until("the file is removed", || !file.exists());
    assert_eq!(jobs.get(id).unwrap().images.len(), 2);
}

#[test]
fn a_picture_that_another_job_has_too_stays_on_disk() {
    let jobs = start(Options { undo: Duration::ZERO, ..Options::default() }, FakeOptions::default());
    let [first, second] = [drawn(&jobs, "same", 1), drawn(&jobs, "same", 1)];
    jobs.delete_image(first, 0).unwrap();
    // The janitor looks every 200 ms.
    std::thread::sleep(Duration::from_millis(500));
    assert!(jobs.image(first, 0).unwrap().is_none() && jobs.image(second, 0).unwrap().is_some());
}

#[test]
fn pictures_of_a_job_that_is_not_over_are_not_changed() {
    let fake = FakeOptions { step: Duration::from_secs(100), ..endless() };
    let jobs = start(Options::default(), fake);
    let id = jobs.submit(picture("p")).unwrap().id;
    // There is none yet.
    assert!(matches!(jobs.set_favorite(id, 0, true), Err(NotChanged::Missing)));

    let jobs = start(Options::default(), FakeOptions { step: Duration::from_millis(50), ..FakeOptions::default() });
    let draft = Draft { count: Some(3), ..picture("p").draft };
    let id = jobs.submit(Submission { draft, ..picture("p") }).unwrap().id;
    wait_until("the first picture is there", || !jobs.get(id).unwrap().images.is_empty());
    let result = jobs.delete_image(id, 0);
    let is_over = jobs.get(id).unwrap().state.is_final();
    assert!(is_over || matches!(result, Err(NotChanged::NotOver)), "{result:?}");
}

#[test]
fn jobs_are_found_by_words_model_and_favorites() {
    let models = ["a", "b"].map(String::from).to_vec();
    let jobs = start(Options::default(), FakeOptions { models, ..FakeOptions::default() });
    let fox = drawn(&jobs, "A red FOX in Ärmelkanal", 1);
    drawn(&jobs, "a red barn", 1);
    let model = ModelChoice { name: Some("b".into()), ..ModelChoice::default() };
    let of_b = Draft { model, ..picture("a red fox").draft };
    let of_b = jobs.submit(Submission { draft: of_b, ..picture("") }).unwrap().id;
    ended(&jobs, of_b);
    jobs.set_favorite(of_b, 0, true).unwrap();
    let found = |filter: Filter| jobs.list(&filter, None, 9).jobs.iter().map(|job| job.id).collect::<Vec<_>>();
    let words = |text: &str| Filter { words: text.split(' ').map(str::to_owned).collect(), ..Filter::default() };
    assert_eq!(found(words("fox RED")), [of_b, fox]);
    assert_eq!(found(words("ärmel")), [fox]);
    assert_eq!(found(words("fox barn")), []);
    assert_eq!(found(Filter { model: Some("b".into()), ..Filter::default() }), [of_b]);
    assert_eq!(found(Filter { only_favorites: true, ..Filter::default() }), [of_b]);
}

#[test]
fn a_forecast_is_the_job_that_would_be_and_submits_nothing() {
    let jobs = start(Options::default(), FakeOptions { step: Duration::from_secs(2), ..FakeOptions::default() });
    let draft = Draft { width: Some(96), height: Some(64), count: Some(2), ..Draft::default() };
    let forecast = jobs.forecast(draft.clone()).unwrap();
    assert_eq!((forecast.spec.width, forecast.spec.steps, forecast.spec.count), (96, 4, 2));
    // Four steps of two seconds, twice.
    assert!((forecast.seconds - 16.0).abs() < 1e-6, "{}", forecast.seconds);
    assert_eq!((forecast.wait, forecast.memory), (Duration::ZERO, Some((1 << 30) + 1024 * 96 * 64)));
    assert_eq!(jobs.stats().accepted, 0);
    assert!(matches!(jobs.forecast(Draft { width: Some(65), ..draft }), Err(Refused::Invalid(_))));
}

/// A source gives the size; a small part of a large one takes less time than all of it.
#[test]
fn a_forecast_reads_the_source() {
    let jobs = start(Options::default(), FakeOptions::default());
    let file = |rows: u32| {
        let pixels = (0..512 * 512).flat_map(|i| [if i / 512 < rows { 255 } else { 0 }; 3]).collect();
        image::encode(&RgbImage::new(512, 512, pixels).unwrap(), ImageFormat::Png, None).unwrap()
    };
    let [source, few, all] = [file(100), file(16), file(512)].map(|bytes| jobs.put_blob(&bytes).unwrap());
    let forecast = |mask: &str, strength: f64| {
        let painting = Painting { strength, ..Painting::default() };
        let source = Some(SourceSpec { source: source.clone(), mask: Some(mask.to_owned()), painting });
        jobs.forecast(Draft { source, ..Draft::default() })
    };
    let (part, whole) = (forecast(&few, 1.0).unwrap(), forecast(&all, 1.0).unwrap());
    assert_eq!([part.spec.width, part.spec.height, whole.spec.width], [512; 3]);
    assert_eq!(part.memory, Some((1 << 30) + 1024 * 512 * 512));
    assert!(part.seconds <= whole.seconds && whole.seconds.is_finite(), "{} and {}", part.seconds, whole.seconds);
    assert!(!whole.warnings.is_empty(), "the mask keeps nothing");
    assert!(matches!(forecast(&few, 0.0), Err(Refused::Invalid(_))));
    assert!(matches!(forecast(&"0".repeat(64), 1.0), Err(Refused::UnknownBlob { .. })));
    assert_eq!(jobs.stats().accepted, 0);
}
