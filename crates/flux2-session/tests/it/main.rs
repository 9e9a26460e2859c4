//! The parts of a session that need no terminal: its pictures, references to them, lines, the engine behind it.

mod history;
mod line;
mod local;
mod names;

use flux2_session::{History, HistoryOptions, Made, NewEntry, Picture};

/// A picture in memory.
fn picture(prompt: &str) -> NewEntry {
    let made = Made { prompt: prompt.into(), model: "m".into(), seed: 7, width: 64, height: 64, ..Made::default() };
    NewEntry { picture: Picture::Bytes(prompt.as_bytes().into()), name: None, made, parent: None }
}

/// A history of so many pictures, the second of which is called `cat`.
fn history_of(count: usize) -> History {
    let mut history = History::in_memory(HistoryOptions::default());
    for number in 1..=count {
        history.add(picture(&format!("picture {number}"))).unwrap();
    }
    if count > 1 {
        history.set_name(2, "cat").unwrap();
    }
    history
}
