//! Jobs that are drawn together.

use std::time::Duration;

use flux2_jobs::fake::FakeOptions;
use flux2_jobs::{Draft, FailureClass, JobState, Options, Submission};

use crate::common::{ended, picture, start};

fn slow() -> FakeOptions {
    FakeOptions { step: Duration::from_millis(10), ..FakeOptions::default() }
}

#[test]
fn equal_sizes_are_drawn_together_up_to_the_limit_with_the_bytes_of_one_alone() {
    let alone = start(Options::default(), FakeOptions::default());
    let together = start(Options { max_batch: 4, ..Options::default() }, slow());
    let prompts: Vec<_> = (0..12).map(|i| format!("fox {i}")).collect();
    let first = together.submit(picture("first")).unwrap().id;
    let ids: Vec<_> = prompts.iter().map(|prompt| together.submit(picture(prompt)).unwrap().id).collect();
    ended(&together, first);
    let views: Vec<_> = ids.iter().map(|id| ended(&together, *id)).collect();
    assert!(views.iter().all(|job| job.drawn[0].batch <= 4));
    assert!(views.iter().any(|job| job.drawn[0].batch == 4));
    for (job, prompt) in views.iter().zip(&prompts) {
        let one = ended(&alone, alone.submit(picture(prompt)).unwrap().id);
        assert_eq!(one.images[0].sha256, job.images[0].sha256);
        assert_eq!(one.drawn[0].batch, 1);
    }
}

#[test]
fn one_that_fails_leaves_the_others() {
    let failures = vec![("broken".to_owned(), FailureClass::NotFinite)];
    let jobs = start(Options { max_batch: 8, ..Options::default() }, FakeOptions { failures, ..slow() });
    jobs.submit(picture("first")).unwrap();
    let ids: Vec<_> =
        (0..8).map(|i| jobs.submit(picture(if i == 3 { "broken" } else { "fine" })).unwrap().id).collect();
    for (id, i) in ids.iter().zip(0..) {
        let expected = if i == 3 { JobState::Failed } else { JobState::Done };
        assert_eq!(ended(&jobs, *id).state, expected);
    }
}

#[test]
fn a_job_of_many_pictures_is_drawn_in_several_batches() {
    let jobs = start(Options { max_batch: 4, ..Options::default() }, FakeOptions::default());
    let draft = Draft { count: Some(10), ..picture("fox").draft };
    let job = ended(&jobs, jobs.submit(Submission { draft, ..picture("") }).unwrap().id);
    assert_eq!(job.drawn.iter().map(|drawn| drawn.batch).collect::<Vec<_>>(), [4, 4, 4, 4, 4, 4, 4, 4, 2, 2]);
    assert_eq!(job.images.iter().map(|image| image.seed).collect::<Vec<_>>(), (7..17).collect::<Vec<_>>());
}
