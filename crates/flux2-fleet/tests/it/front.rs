//! Front ends: each answers for every job.

use std::time::Duration;

use flux2_jobs::{CancelOutcome, EventKind, Filter, JobState, Next, NotChanged, Queue as _, Subscription};

use crate::site::{Site, end, in_state, order, steps_of, submit, until};

/// Numbers and names of the events until the end.
fn all(events: &mut Subscription) -> Vec<(u64, &'static str)> {
    let mut found = Vec::new();
    loop {
        match events.next(Duration::from_secs(30)) {
            Next::Event(event) => found.push((event.seq, event.kind.name())),
            Next::End => return found,
            Next::Timeout => panic!("no end after {found:?}"),
        }
    }
}

#[test]
fn events_go_on_at_another_front_end() {
    let site = Site::new();
    let _worker = site.worker("a", steps_of(200));
    let (first, second) = (site.front(), site.front());
    let id = submit(&first, "fox").id;
    let mut events = first.events(id, 0).unwrap();
    let mut before = Vec::new();
    while before.iter().filter(|(_, name)| *name == "step").count() < 2 {
        let Next::Event(event) = events.next(Duration::from_secs(30)) else { panic!("{before:?}") };
        before.push((event.seq, event.kind.name()));
    }
    drop((events, first));
    let (last, _) = *before.last().unwrap();
    let after = all(&mut second.events(id, last).unwrap());
    let joined: Vec<_> = before.iter().chain(&after).copied().collect();
    assert!(joined.is_sorted_by_key(|(seq, _)| *seq), "{joined:?}");
    let states: Vec<_> = joined.iter().filter(|(seq, _)| seq % (1 << 16) == 0).map(|(_, name)| *name).collect();
    assert_eq!(states, ["queued", "started", "image_ready", "done"]);
    // Whoever comes late reads the same changes of state.
    let late: Vec<_> = all(&mut second.events(id, 0).unwrap());
    assert_eq!(late.iter().filter(|(seq, _)| seq % (1 << 16) == 0).count(), 4);
    assert_eq!(second.get(id).unwrap().last_event, late.last().unwrap().0);
}

#[test]
fn previews_are_made_once_somebody_wants_them() {
    let site = Site::new();
    let _worker = site.worker("a", steps_of(150));
    let front = site.front();
    let of = |events: &mut Subscription| {
        let mut previews = 0;
        loop {
            match events.next(Duration::from_secs(30)) {
                Next::Event(event) => previews += usize::from(matches!(event.kind, EventKind::Preview { .. })),
                Next::End => return previews,
                Next::Timeout => panic!("no end"),
            }
        }
    };
    let id = submit(&front, "fox").id;
    assert_eq!(of(&mut front.events(id, 0).unwrap()), 0);
    let id = submit(&front, "owl").id;
    let mut events = front.events(id, 0).unwrap();
    front.want_previews(id);
    assert!(of(&mut events) > 0);
}

#[test]
fn another_front_end_lists_cancels_and_shows_jobs() {
    let site = Site::new();
    let _worker = site.worker("a", steps_of(50));
    let (first, second) = (site.front(), site.front());
    let done = submit(&first, "a red fox").id;
    end(&first, done);
    let running = first.submit(order("an owl")).unwrap().id;
    let listed = |filter: &Filter| second.list(filter, None, 10).jobs.iter().map(|job| job.id).collect::<Vec<_>>();
    until("the other has heard of both", || (listed(&Filter::default()) == [running, done]).then_some(()));
    assert_eq!(listed(&Filter { words: vec!["FOX".into()], ..Filter::default() }), [done]);
    assert!(listed(&Filter { owner: Some("you".into()), ..Filter::default() }).is_empty());
    let page = second.list(&Filter::default(), None, 1);
    assert_eq!((page.jobs.len(), page.next), (1, Some(running)));
    assert!(second.image(done, 0).unwrap().is_some() && second.image(done, 1).unwrap().is_none());
    assert!(second.cancel(running).is_some_and(|outcome| outcome != CancelOutcome::AlreadyOver));
    assert_eq!(end(&first, running).state, JobState::Cancelled);
    assert!(matches!(second.delete_image(done, 0), Err(NotChanged::Unsupported(_))));
    let stats = until("the numbers are there", || Some(second.stats()).filter(|stats| stats.done == 1));
    assert_eq!((stats.devices.len(), stats.devices[0].name.as_str()), (1, "a"));
}

#[test]
fn jobs_of_one_kind_of_device_wait_for_it() {
    let site = Site::new();
    let _other = site.worker_of_kind("a", "slow kind", steps_of(0));
    let front = site.front_with(|options| options.same_device = Some("fast kind".into()));
    let any = site.front();
    let (pinned, free) = (submit(&front, "fox").id, submit(&any, "owl").id);
    assert!(end(&any, free).device.unwrap().contains("slow kind"));
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(front.get(pinned).unwrap().state, JobState::Queued);
    let _right = site.worker_of_kind("b", "fast kind", steps_of(0));
    in_state(&front, pinned, JobState::Done);
    assert!(front.get(pinned).unwrap().device.unwrap().starts_with("b: fast kind"));
}
