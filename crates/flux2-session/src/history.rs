//! The pictures of a session: numbered from 1, some with names.
//!
//! With a folder, every change is a line of JSON at the end of `history.jsonl`, so that the next session goes on where
//! this one ended, also after a crash. The file is written anew when it is opened, and when it has grown.

mod log;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flux2::digest::sha256;
use serde::{Deserialize, Serialize};

use crate::made::Made;
use crate::names::{Reference, is_name, ranges};
use crate::{Error, Result};
use log::{Change, Log};

/// A picture of a session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Its number: higher than those before it. Numbers are not given twice.
    pub number: u64,
    /// Its name, which no other picture has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Where it is.
    pub picture: Picture,
    /// SHA-256 of its file, in lower-case hexadecimal.
    pub sha256: String,
    /// How it was made.
    pub made: Made,
    /// Number of the picture that it was made from, the first of several. It may not be there any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<u64>,
}

/// Where a picture is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Picture {
    /// In a file.
    File(PathBuf),
    /// In memory. Such a picture ends with the session.
    #[serde(skip)]
    Bytes(Arc<[u8]>),
}

/// A picture to be added.
#[derive(Clone, Debug, PartialEq)]
pub struct NewEntry {
    /// Where it is. The path of a file should be absolute: the next session may begin in another folder.
    pub picture: Picture,
    /// Its name. A picture that had it loses it.
    pub name: Option<String>,
    /// How it was made.
    pub made: Made,
    /// Number of the picture that it was made from.
    pub parent: Option<u64>,
}

/// What a history keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryOptions {
    /// Most pictures; the oldest are forgotten, those with names last. Files stay.
    pub max_entries: usize,
    /// Most bytes of pictures in memory; the oldest are forgotten.
    pub max_bytes: usize,
}

impl Default for HistoryOptions {
    fn default() -> Self {
        HistoryOptions { max_entries: 1000, max_bytes: 256 << 20 }
    }
}

/// The pictures of a session.
#[derive(Debug)]
pub struct History {
    options: HistoryOptions,
    /// In the order of their numbers.
    entries: Vec<Entry>,
    /// The number that the next picture gets.
    next: u64,
    log: Option<Log>,
}

impl Entry {
    /// The bytes of its file (blocks on the disk).
    ///
    /// # Errors
    /// [`Error::Unreadable`], or [`Error::Changed`] if the file holds something else now.
    pub fn bytes(&self) -> Result<Arc<[u8]>> {
        match &self.picture {
            Picture::Bytes(bytes) => Ok(Arc::clone(bytes)),
            Picture::File(path) => {
                let unreadable = |source| Error::Unreadable { number: self.number, path: path.clone(), source };
                let bytes = fs::read(path).map_err(unreadable)?;
                match sha256(&bytes) == self.sha256 {
                    true => Ok(bytes.into()),
                    false => Err(Error::Changed { number: self.number, path: path.clone() }),
                }
            }
        }
    }

    /// Its file, if it has one.
    pub fn path(&self) -> Option<&Path> {
        match &self.picture {
            Picture::File(path) => Some(path),
            Picture::Bytes(_) => None,
        }
    }
}

impl History {
    /// A history that ends with the process.
    pub fn in_memory(options: HistoryOptions) -> Self {
        History { options, entries: Vec::new(), next: 1, log: None }
    }

    /// The history in a folder, which is made if it is missing. Lines that cannot be read are left out; the second
    /// value is their number.
    ///
    /// # Errors
    /// [`Error::InUse`], [`Error::Io`].
    pub fn open(folder: &Path, options: HistoryOptions) -> Result<(Self, usize)> {
        let mut history = Self::in_memory(options);
        let (log, changes, unread) = Log::open(folder)?;
        changes.into_iter().for_each(|change| history.apply(change));
        history.log = Some(log);
        history.rewrite()?;
        Ok((history, unread))
    }

    /// The pictures in the order in which they were made.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The number that the next picture gets.
    pub fn next_number(&self) -> u64 {
        self.next
    }

    /// The last picture.
    pub fn last(&self) -> Option<&Entry> {
        self.entries.last()
    }

    /// The picture of a number.
    pub fn get(&self, number: u64) -> Option<&Entry> {
        let at = self.entries.binary_search_by_key(&number, |entry| entry.number).ok()?;
        self.entries.get(at)
    }

    /// The picture that is referred to.
    ///
    /// # Errors
    /// That there is none, and which there are.
    pub fn find(&self, reference: &Reference) -> Result<&Entry> {
        let known = || match self.entries.is_empty() {
            true => "there is none yet".to_owned(),
            false => format!("there are {}", self.numbers()),
        };
        match reference {
            Reference::Number(number) => {
                self.get(*number).ok_or_else(|| Error::UnknownNumber { number: *number, known: known() })
            }
            Reference::FromEnd(back) => {
                let at = usize::try_from(*back).ok().and_then(|back| self.entries.len().checked_sub(back));
                let found = at.filter(|_| *back > 0).and_then(|at| self.entries.get(at));
                found.ok_or_else(|| Error::TooFarBack { back: *back, known: known() })
            }
            Reference::Name(name) => {
                let found = self.entries.iter().find(|entry| entry.name.as_ref() == Some(name));
                found.ok_or_else(|| Error::UnknownName { name: name.clone(), known: self.names_like(name) })
            }
        }
    }

    /// Adds a picture (blocks on the disk), and returns what it became.
    ///
    /// # Errors
    /// [`Error::BadName`]; [`Error::Unreadable`] if its file is not there; [`Error::Io`] if the history cannot be
    /// written.
    pub fn add(&mut self, new: NewEntry) -> Result<&Entry> {
        let NewEntry { picture, name, made, parent } = new;
        if let Some(name) = name.as_ref().filter(|name| !is_name(name)) {
            return Err(Error::BadName { name: name.clone() });
        }
        let number = self.next;
        let sha256 = match &picture {
            Picture::Bytes(bytes) => sha256(bytes),
            Picture::File(path) => {
                let read = fs::read(path);
                sha256(&read.map_err(|source| Error::Unreadable { number, path: path.clone(), source })?)
            }
        };
        self.change(Change::Add(Box::new(Entry { number, name, picture, sha256, made, parent })))?;
        Ok(self.entries.last().expect("it was added"))
    }

    /// Gives a picture a name, which another picture loses (blocks on the disk). Returns the number of that one.
    ///
    /// # Errors
    /// [`Error::BadName`], [`Error::UnknownNumber`], [`Error::Io`].
    pub fn set_name(&mut self, number: u64, name: &str) -> Result<Option<u64>> {
        if !is_name(name) {
            return Err(Error::BadName { name: name.to_owned() });
        }
        self.find(&Reference::Number(number))?;
        let before = self.find(&Reference::Name(name.to_owned())).ok().map(|entry| entry.number);
        self.change(Change::Name { number, name: name.to_owned() })?;
        Ok(before.filter(|before| *before != number))
    }

    /// Forgets a picture (blocks on the disk). Its file stays.
    ///
    /// # Errors
    /// [`Error::UnknownNumber`], [`Error::Io`].
    pub fn forget(&mut self, number: u64) -> Result<Entry> {
        let entry = self.find(&Reference::Number(number))?.clone();
        self.change(Change::Forget { number })?;
        Ok(entry)
    }

    /// The numbers that there are, as in `1 to 3, 7`.
    pub fn numbers(&self) -> String {
        ranges(&self.entries)
    }

    /// Names of pictures, in the order of these.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().filter_map(|entry| entry.name.as_deref())
    }

    fn names_like(&self, name: &str) -> String {
        let names: Vec<&str> = self.names().collect();
        let like = names.iter().map(|known| (strsim::jaro_winkler(name, known), *known));
        let nearest = like.filter(|(score, _)| *score > 0.8).max_by(|a, b| a.0.total_cmp(&b.0));
        match (nearest, names.as_slice()) {
            (Some((_, nearest)), _) => format!("the nearest name is {nearest}"),
            (None, []) => "no picture has a name yet".into(),
            (None, [.., last]) if names.len() > 10 => format!("there are {} names, the last is {last}", names.len()),
            (None, names) => format!("there is {}", names.join(", ")),
        }
    }

    /// Makes a change, and keeps it.
    fn change(&mut self, change: Change) -> Result<()> {
        if let Some(log) = &mut self.log {
            log.append(&change)?;
        }
        self.apply(change);
        if self.log.as_ref().is_some_and(|log| log.lines() > 4 * self.options.max_entries.max(100)) {
            self.rewrite()?;
        }
        Ok(())
    }

    /// Makes a change in memory. Changes of a file that do not fit are left out.
    fn apply(&mut self, change: Change) {
        match change {
            Change::Add(entry) if entry.number >= self.next && entry.number < u64::MAX => {
                self.next = entry.number + 1;
                if let Some(name) = &entry.name {
                    self.free_name(name);
                }
                self.entries.push(*entry);
                self.shrink();
            }
            Change::Add(_) => {}
            Change::Name { number, name } => {
                if self.get(number).is_some() {
                    self.free_name(&name);
                }
                if let Some(entry) = self.entries.iter_mut().find(|entry| entry.number == number) {
                    entry.name = Some(name);
                }
            }
            Change::Forget { number } => self.entries.retain(|entry| entry.number != number),
            Change::Next { number } => self.next = self.next.max(number),
        }
    }

    fn free_name(&mut self, name: &str) {
        for entry in self.entries.iter_mut().filter(|entry| entry.name.as_deref() == Some(name)) {
            entry.name = None;
        }
    }

    /// Forgets what is too much; the last picture stays.
    fn shrink(&mut self) {
        let bytes = |entry: &Entry| match &entry.picture {
            Picture::Bytes(bytes) => bytes.len(),
            Picture::File(_) => 0,
        };
        while self.entries.len() > self.options.max_entries.max(1) {
            let before_last = &self.entries[..self.entries.len() - 1];
            let oldest = before_last.iter().position(|entry| entry.name.is_none()).unwrap_or(0);
            self.entries.remove(oldest);
        }
        let mut total: usize = self.entries.iter().map(bytes).sum();
        while total > self.options.max_bytes && self.entries.len() > 1 {
            let before_last = &self.entries[..self.entries.len() - 1];
            let Some(oldest) = before_last.iter().position(|entry| bytes(entry) > 0) else { break };
            total -= bytes(&self.entries.remove(oldest));
        }
    }

    /// Writes the file anew, with nothing that is forgotten.
    fn rewrite(&mut self) -> Result<()> {
        let Some(log) = &mut self.log else { return Ok(()) };
        let kept = self.entries.iter().cloned().map(|entry| Change::Add(Box::new(entry)));
        log.rewrite(kept.chain([Change::Next { number: self.next }]))
    }
}
