//! Jobs of a fleet where nothing goes wrong.

use std::time::Duration;

use flux2_jobs::{CancelOutcome, Draft, JobState, Next, Queue as _, Refused, Submission};

use crate::site::{Site, end, in_state, order, steps_of, submit, until};

#[test]
fn jobs_are_drawn_by_all_workers_and_each_once() {
    let site = Site::new();
    let workers = ["a", "b"].map(|name| site.worker(name, steps_of(20)));
    let front = site.front();
    let ids: Vec<_> = (0..12).map(|n| submit(&front, &format!("fox {n}")).id).collect();
    let jobs: Vec<_> = ids.iter().map(|id| end(&front, *id)).collect();
    assert!(jobs.iter().all(|job| job.state == JobState::Done && job.attempts == 1 && job.images.len() == 1));
    let of = |name: &str| jobs.iter().filter(|job| job.device.as_deref().unwrap().starts_with(name)).count();
    assert!(of("a: fake, version ") > 2 && of("b: fake, version ") > 2, "{} and {}", of("a"), of("b"));
    // Nothing is left in the queue.
    let bus = site.bus();
    until("the queue is empty", || {
        let info = site.runtime.block_on(bus.jobs.get_info()).unwrap();
        (info.state.messages == 0).then_some(())
    });
    assert!(site.dead_letters(&bus).is_empty());
    for worker in workers {
        worker.drain();
        assert_eq!(worker.wait().unwrap(), flux2_fleet::Ended::Drained);
    }
}

#[test]
fn a_picture_is_what_an_engine_alone_draws() {
    let site = Site::new();
    let _worker = site.worker("a", steps_of(0));
    let front = site.front();
    let draft = Draft { count: Some(3), ..order("three foxes").draft };
    let id = front.submit(Submission { draft: draft.clone(), ..Submission::default() }).unwrap().id;
    let job = end(&front, id);
    assert_eq!(job.images.iter().map(|image| (image.index, image.seed)).collect::<Vec<_>>(), [(0, 7), (1, 8), (2, 9)]);
    assert_eq!(job.drawn.len(), 3);
    let alone = flux2_jobs::Jobs::start(
        Default::default(),
        std::sync::Arc::new(flux2_jobs::fake::FakeHost::new(Default::default())),
    );
    let alone = alone.unwrap();
    let local = alone.submit(Submission { draft, ..Submission::default() }).unwrap().id;
    let mut events = alone.events(local, 0).unwrap();
    while events.next(Duration::from_secs(9)) != Next::End {}
    for index in 0..3 {
        let (here, there) = (alone.image(local, index).unwrap().unwrap(), front.image(id, index).unwrap().unwrap());
        assert_eq!(here.bytes, there.bytes);
    }
}

#[test]
fn a_reference_image_travels_to_the_worker() {
    let mut site = Site::new();
    let folder = tempfile::tempdir().unwrap();
    for place in [flux2_fleet::Place::Nats, flux2_fleet::Place::Folder(folder.path().join("pictures"))] {
        site.place = place;
        let worker = site.worker("a", steps_of(0));
        let (front, other) = (site.front(), site.front());
        let image = flux2::image::RgbImage::new(64, 64, vec![9; 64 * 64 * 3]).unwrap();
        let png = flux2::image::encode(&image, flux2::image::ImageFormat::Png, None).unwrap();
        let digest = front.put_blob(&png).unwrap();
        let draft = Draft { references: vec![digest.clone()], ..order("as this").draft };
        // The other front end has not seen it.
        let id = other.submit(Submission { draft, ..Submission::default() }).unwrap().id;
        assert_eq!(end(&other, id).state, JobState::Done);
        assert_eq!(other.blob(&digest).unwrap().unwrap()[..], png[..]);
        let draft = Draft { references: vec!["0".repeat(64)], ..order("as that").draft };
        let missing = other.submit(Submission { draft, ..Submission::default() });
        assert!(matches!(missing, Err(Refused::UnknownBlob { .. })), "{missing:?}");
        worker.drain();
        worker.wait().unwrap();
    }
    assert!(folder.path().join("pictures/in").read_dir().unwrap().count() == 1);
}

#[test]
fn queued_and_running_jobs_are_cancelled() {
    let site = Site::new();
    let _worker = site.worker("a", steps_of(500));
    let front = site.front();
    let running = submit(&front, "runs").id;
    in_state(&front, running, JobState::Running);
    let waiting = submit(&front, "waits").id;
    assert_eq!(front.cancel(waiting), Some(CancelOutcome::Cancelled));
    assert_eq!(front.cancel(waiting), Some(CancelOutcome::AlreadyOver));
    assert_eq!(front.cancel(running), Some(CancelOutcome::Requested));
    for id in [running, waiting] {
        let job = end(&front, id);
        assert_eq!((job.state, job.images.len()), (JobState::Cancelled, 0));
    }
    // The worker is free for others.
    assert_eq!(end(&front, submit(&front, "next").id).state, JobState::Done);
    assert_eq!(front.get(waiting).unwrap().attempts, 0);
}

#[test]
fn the_same_key_is_the_same_job() {
    let site = Site::new();
    let _worker = site.worker("a", steps_of(0));
    let fronts = [site.front(), site.front()];
    let keyed = |prompt: &str, owner: &str| Submission {
        idempotency_key: Some("k".into()),
        owner: owner.into(),
        ..order(prompt)
    };
    let first = fronts[0].submit(keyed("fox", "me")).unwrap();
    let again = fronts[1].submit(keyed("fox", "me")).unwrap();
    assert_eq!((first.is_repeat, again.is_repeat, again.id), (false, true, first.id));
    assert_ne!(fronts[1].submit(keyed("fox", "you")).unwrap().id, first.id);
    assert_eq!(end(&fronts[1], first.id).attempts, 1);
    assert!(fronts[0].submit(keyed("fox", "me")).unwrap().is_repeat);
}
