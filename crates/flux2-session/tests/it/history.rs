//! The pictures of a session, and their file.

use std::fs;

use flux2_session::{Error, History, HistoryOptions, NewEntry, Picture, Reference};
use proptest::prelude::*;

use crate::{history_of, picture};

/// A picture in a file of a folder.
fn file(folder: &std::path::Path, name: &str) -> NewEntry {
    let path = folder.join(name);
    fs::write(&path, name).unwrap();
    NewEntry { picture: Picture::File(path), ..picture(name) }
}

#[test]
fn the_next_session_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let kept = folder.path().join("deep/history");
    {
        let (mut history, unread) = History::open(&kept, HistoryOptions::default()).unwrap();
        assert_eq!((history.entries().len(), unread), (0, 0));
        history.add(file(folder.path(), "a.png")).unwrap();
        history.add(NewEntry { name: Some("cat".into()), parent: Some(1), ..file(folder.path(), "b.png") }).unwrap();
        // It ends with the session.
        history.add(picture("in memory")).unwrap();
        history.add(file(folder.path(), "c.png")).unwrap();
        history.set_name(4, "cat").unwrap();
        history.forget(1).unwrap();
        assert!(matches!(History::open(&kept, HistoryOptions::default()), Err(Error::InUse { .. })));
    }
    let (mut history, unread) = History::open(&kept, HistoryOptions::default()).unwrap();
    let found: Vec<_> = history.entries().iter().map(|entry| (entry.number, entry.name.as_deref())).collect();
    assert_eq!((found, unread), (vec![(2, None), (4, Some("cat"))], 0));
    assert_eq!(history.get(2).unwrap().parent, Some(1));
    assert_eq!(&*history.find(&Reference::Name("cat".into())).unwrap().bytes().unwrap(), b"c.png");
    // Numbers are not given twice, even those of pictures that were forgotten.
    history.forget(4).unwrap();
    drop(history);
    let (mut history, _) = History::open(&kept, HistoryOptions::default()).unwrap();
    assert_eq!(history.add(picture("d")).unwrap().number, 5);
}

#[test]
fn lines_that_cannot_be_read_are_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("history.jsonl");
    {
        let (mut history, _) = History::open(folder.path(), HistoryOptions::default()).unwrap();
        history.add(file(folder.path(), "a.png")).unwrap();
        history.add(file(folder.path(), "b.png")).unwrap();
    }
    let text = fs::read_to_string(&path).unwrap();
    let half = text.len() - text.lines().next_back().unwrap().len() / 2;
    fs::write(&path, [b"\xff\xfe\n\n{\"add\": 5}\n", &text.as_bytes()[..half]].concat()).unwrap();
    let (history, unread) = History::open(folder.path(), HistoryOptions::default()).unwrap();
    assert!(unread >= 2 && history.get(1).is_some(), "{unread}");
    drop(history);
    // What could not be read is gone.
    assert_eq!(History::open(folder.path(), HistoryOptions::default()).unwrap().1, 0);
}

#[test]
fn a_picture_that_was_changed_is_not_taken_for_the_one_that_was_drawn() {
    let folder = tempfile::tempdir().unwrap();
    let mut history = history_of(0);
    history.add(file(folder.path(), "a.png")).unwrap();
    fs::write(folder.path().join("a.png"), "other").unwrap();
    let error = history.last().unwrap().bytes().unwrap_err();
    assert!(error.to_string().ends_with("a.png has been changed since"), "{error}");
    fs::remove_file(folder.path().join("a.png")).unwrap();
    assert!(matches!(history.last().unwrap().bytes(), Err(Error::Unreadable { number: 1, .. })));
    let missing = NewEntry { picture: Picture::File(folder.path().join("none.png")), ..picture("x") };
    assert!(matches!(history.add(missing), Err(Error::Unreadable { .. })));
}

#[test]
fn a_history_is_bounded() {
    let mut history = History::in_memory(HistoryOptions { max_entries: 3, max_bytes: 10 });
    for number in 1..=5 {
        history.add(picture(&number.to_string())).unwrap();
        if number == 2 {
            history.set_name(2, "kept").unwrap();
        }
    }
    // Those with names go last.
    assert_eq!(history.numbers(), "2, 4, 5");
    history.add(picture("123456789")).unwrap();
    assert_eq!(history.numbers(), "5, 6");
    history.add(picture("more than all bytes")).unwrap();
    assert_eq!(history.numbers(), "7");
}

#[test]
fn the_file_does_not_grow_without_end() {
    let folder = tempfile::tempdir().unwrap();
    let options = HistoryOptions { max_entries: 2, ..HistoryOptions::default() };
    let (mut history, _) = History::open(folder.path(), options).unwrap();
    for _ in 0..600 {
        history.add(file(folder.path(), "a.png")).unwrap();
    }
    let lines = fs::read_to_string(folder.path().join("history.jsonl")).unwrap().lines().count();
    assert!(lines <= 401, "{lines}");
    assert_eq!(history.numbers(), "599, 600");
}

#[test]
fn a_name_belongs_to_one_picture() {
    let mut history = history_of(3);
    assert_eq!(history.set_name(3, "cat").unwrap(), Some(2));
    assert_eq!(history.set_name(3, "cat").unwrap(), None);
    assert_eq!(history.names().collect::<Vec<_>>(), ["cat"]);
    assert!(matches!(history.set_name(3, "a cat"), Err(Error::BadName { .. })));
    assert!(matches!(history.set_name(9, "dog"), Err(Error::UnknownNumber { .. })));
}

/// Any text, or a change that is written as those of a history are.
const LINE: &str = "\\PC{0,40}|\\{\"(forget|next)\": \\{\"number\": [0-9]{1,20}\\}\\}";

proptest! {
    #[test]
    fn no_file_panics(lines in proptest::collection::vec(LINE, 0..20)) {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("history.jsonl"), lines.join("\n")).unwrap();
        let (mut history, _) = History::open(folder.path(), HistoryOptions::default()).unwrap();
        let before = history.next_number();
        let added = history.add(picture("x")).map(|entry| entry.number);
        prop_assert!(added.is_ok_and(|number| number == before));
    }
}
