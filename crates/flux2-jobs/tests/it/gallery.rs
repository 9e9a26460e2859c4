//! Favorites, deleted pictures, searches, and what a job would take.

use std::time::Duration;

use flux2_jobs::fake::FakeOptions;
use flux2_jobs::{Draft, Filter, JobId, Jobs, ModelChoice, NotChanged, Options, Refused, Retention, Submission};

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
    let options = || Options { folder: Some(folder.path().join("state")), ..Options::default() };
    let jobs = start(options(), FakeOptions::default());
    let id = drawn(&jobs, "three", 3);
    let digests: Vec<_> = jobs.get(id).unwrap().images.into_iter().map(|image| image.sha256).collect();
    jobs.set_favorite(id, 2, true).unwrap();
    jobs.delete_image(id, 1).unwrap();
    assert!(jobs.image(id, 1).unwrap().is_none() && jobs.image(id, 2).unwrap().is_some());
    assert!(!folder.path().join("state/pictures").join(&digests[1]).exists());
    drop(jobs);
    let jobs = start(options(), FakeOptions::default());
    let job = jobs.get(id).unwrap();
    let found: Vec<_> = job.images.iter().map(|image| (image.index, image.is_favorite)).collect();
    assert_eq!((found, job.drawn.len()), (vec![(0, false), (2, true)], 2));
    assert!(matches!(jobs.delete_image(id, 1), Err(NotChanged::Missing)));
}

#[test]
fn a_picture_that_another_job_has_too_stays_on_disk() {
    let jobs = start(Options::default(), FakeOptions::default());
    let [first, second] = [drawn(&jobs, "same", 1), drawn(&jobs, "same", 1)];
    jobs.delete_image(first, 0).unwrap();
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
