//! What outlives the process: accepted jobs, pictures, uploads. A journal that is damaged.

use std::fs;
use std::path::Path;
use std::time::Duration;

use flux2::image::{self, ImageFormat, RgbImage};
use flux2_jobs::fake::FakeOptions;
use flux2_jobs::{Draft, EventKind, FailureClass, JobState, Options, Painting, Refused, SourceSpec, Submission};

use crate::common::{ended, endless, events, picture, start, wait_until};

fn in_folder(folder: &Path) -> Options {
    Options { folder: Some(folder.join("state")), ..Options::default() }
}

#[test]
fn waiting_jobs_are_drawn_by_the_next_start_and_finished_ones_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let jobs = start(in_folder(folder.path()), FakeOptions::default());
    let key = Some("k".to_owned());
    let done = jobs.submit(Submission { idempotency_key: key.clone(), ..picture("done") }).unwrap().id;
    let before = ended(&jobs, done);
    let bytes = jobs.image(done, 0).unwrap().unwrap().bytes;
    drop(jobs);

    let jobs = start(in_folder(folder.path()), endless());
    let running = jobs.submit(picture("running")).unwrap().id;
    let queued = jobs.submit(Submission { owner: "b".into(), ..picture("queued") }).unwrap().id;
    wait_until("it runs", || jobs.get(running).unwrap().state == JobState::Running);
    assert_eq!(jobs.drain(Duration::ZERO).left, 2);
    assert_eq!(jobs.get(running).unwrap().state, JobState::Queued);
    drop(jobs);

    let jobs = start(in_folder(folder.path()), FakeOptions::default());
    assert!(jobs.notices().is_empty());
    for id in [running, queued] {
        let job = ended(&jobs, id);
        assert_eq!((job.state, job.attempts), (JobState::Done, 1), "{:?}", job.failure);
    }
    let after = jobs.get(done).unwrap();
    assert_eq!((after.state, &after.images, &after.spec), (JobState::Done, &before.images, &before.spec));
    assert_eq!(jobs.image(done, 0).unwrap().unwrap().bytes, bytes);
    let again = jobs.submit(Submission { idempotency_key: key, ..picture("done") }).unwrap();
    assert!(again.is_repeat && again.id == done);
    // The events of the finished job can be read, with higher numbers than before.
    let kinds = events(&jobs, done);
    assert!(matches!(kinds[..], [(_, EventKind::ImageReady { .. }), (_, EventKind::Done)]), "{kinds:?}");
    assert!(kinds[0].0 > before.last_event);
}

/// The journal names source and mask by their digests, and holds their uploads until the job is over.
#[test]
fn a_source_is_painted_into_after_a_restart() {
    let image = |width: u32, bytes: Vec<u8>| {
        let image = RgbImage::new(width, 64, bytes).unwrap();
        image::encode(&image, ImageFormat::Png, None).unwrap()
    };
    let (source, mask) =
        (image(80, vec![90; 3 * 80 * 64]), image(80, [vec![255; 3 * 80 * 20], vec![0; 3 * 80 * 44]].concat()));
    let folder = tempfile::tempdir().unwrap();
    let jobs = start(in_folder(folder.path()), endless());
    let digests = [&source, &mask].map(|file| jobs.put_blob(file).unwrap());
    let spec = SourceSpec {
        source: digests[0].clone(),
        mask: Some(digests[1].clone()),
        painting: Painting { strength: 0.5, feather: Some(0), ..Painting::default() },
    };
    let draft = Draft { source: Some(spec.clone()), seed: Some(1), ..picture("fox").draft };
    let draft = Draft { width: None, height: None, ..draft };
    let id = jobs.submit(Submission { draft, ..picture("fox") }).unwrap().id;
    assert_eq!((jobs.get(id).unwrap().spec.width, jobs.get(id).unwrap().spec.height), (80, 64));
    drop(jobs);

    let jobs = start(in_folder(folder.path()), FakeOptions::default());
    let job = ended(&jobs, id);
    assert_eq!((job.state, job.spec.source.as_ref()), (JobState::Done, Some(&spec)));
    let drawn = image::decode(&jobs.image(id, 0).unwrap().unwrap().bytes, "it").unwrap();
    assert_eq!((drawn.width(), drawn.height()), (80, 64));
    assert!((20..64).all(|y| (0..80).all(|x| drawn.pixel(x, y) == [90; 3])));
    assert!((0..80).any(|x| drawn.pixel(x, 0) != [90; 3]));
    // An upload that is not there is refused at once.
    let missing = SourceSpec { mask: Some("0".repeat(64)), ..spec };
    let draft = Draft { source: Some(missing), width: None, height: None, ..picture("fox").draft };
    let refused = jobs.submit(Submission { draft, ..picture("fox") }).unwrap_err();
    assert!(matches!(refused, Refused::UnknownBlob { .. }), "{refused}");
}

#[test]
fn a_picture_is_the_same_after_a_restart() {
    let alone = start(Options::default(), FakeOptions::default());
    let expected = ended(&alone, alone.submit(picture("fox")).unwrap().id).images[0].sha256.clone();
    let folder = tempfile::tempdir().unwrap();
    let jobs = start(in_folder(folder.path()), endless());
    let id = jobs.submit(picture("fox")).unwrap().id;
    drop(jobs);
    let jobs = start(in_folder(folder.path()), FakeOptions::default());
    assert_eq!(ended(&jobs, id).images[0].sha256, expected);
}

#[test]
fn uploads_outlive_the_process() {
    let folder = tempfile::tempdir().unwrap();
    let image = flux2::image::RgbImage::new(64, 64, vec![9; 64 * 64 * 3]).unwrap();
    let file = flux2::image::encode(&image, flux2::image::ImageFormat::Png, None).unwrap();
    let jobs = start(in_folder(folder.path()), endless());
    let upload = jobs.put_blob(&file).unwrap();
    let draft = Draft { references: vec![upload.clone()], ..picture("edit").draft };
    let id = jobs.submit(Submission { draft, ..picture("") }).unwrap().id;
    drop(jobs);
    let jobs = start(in_folder(folder.path()), FakeOptions::default());
    assert_eq!(ended(&jobs, id).state, JobState::Done);
    assert_eq!(jobs.blob(&upload).unwrap().as_deref(), Some(file.as_slice()));
}

#[test]
fn a_damaged_journal_is_set_aside_and_the_engine_starts() {
    let folder = tempfile::tempdir().unwrap();
    let jobs = start(in_folder(folder.path()), FakeOptions::default());
    let id = jobs.submit(picture("")).unwrap().id;
    ended(&jobs, id);
    drop(jobs);
    let journal = folder.path().join("state/journal.sqlite");
    fs::write(&journal, [0x5A; 20_000]).unwrap();
    let jobs = start(in_folder(folder.path()), FakeOptions::default());
    assert!(jobs.notices()[0].contains("journal.damaged-"), "{:?}", jobs.notices());
    assert!(jobs.get(id).is_none());
    assert_eq!(ended(&jobs, jobs.submit(picture("")).unwrap().id).state, JobState::Done);
    let pictures = fs::read_dir(folder.path().join("state/pictures")).unwrap().count();
    assert_eq!(pictures, 1, "the file that no job has was removed");
}

#[test]
fn a_folder_has_one_engine() {
    let folder = tempfile::tempdir().unwrap();
    let jobs = start(in_folder(folder.path()), FakeOptions::default());
    let host = std::sync::Arc::new(flux2_jobs::fake::FakeHost::new(FakeOptions::default()));
    let Err(failure) = flux2_jobs::Jobs::start(in_folder(folder.path()), host) else { panic!("it is in use") };
    assert_eq!(failure.class, FailureClass::Storage);
    assert!(failure.message.contains("another process uses"), "{failure}");
    drop(jobs);
    start(in_folder(folder.path()), FakeOptions::default());
}

#[test]
fn a_folder_that_cannot_be_made_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("state"), b"a file").unwrap();
    let host = std::sync::Arc::new(flux2_jobs::fake::FakeHost::new(FakeOptions::default()));
    let Err(failure) = flux2_jobs::Jobs::start(in_folder(folder.path()), host) else { panic!("it is a file") };
    assert_eq!(failure.class, FailureClass::Storage);
}
