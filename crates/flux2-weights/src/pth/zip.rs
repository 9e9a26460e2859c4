//! The members of a ZIP archive that `torch.save` wrote: stored, under one folder, described by the directory at its
//! end.
//!
//! PyTorch writes archives as a stream, so that the headers before the members hold no sizes. Crates that read ZIP
//! archives keep several hundred bytes for each member; here that is its name and a range, so that a hostile directory
//! takes no more memory than its own length.

use std::collections::BTreeMap;
use std::ops::Range;

use super::PthProblem;

/// Longest comment of an archive, which stands behind its end record.
const MAX_COMMENT: usize = 0xffff;
/// Length of the end record without comment.
const END: usize = 22;
/// Most members accepted: as many as tensors, and a few.
const MAX_MEMBERS: usize = (1 << 14) + 16;
/// Longest name of a member accepted, in bytes.
const MAX_NAME: usize = 1 << 10;
/// In place of a number that stands in the ZIP64 field.
const IN_ZIP64: u64 = 0xffff_ffff;

/// Members by the name below the archive's folder.
pub(super) struct Archive<'a> {
    members: BTreeMap<&'a str, Member>,
}

struct Member {
    /// In the file.
    range: Range<usize>,
    /// `compressed` or `encrypted`, if it is.
    not_stored: Option<&'static str>,
}

impl<'a> Archive<'a> {
    /// Reads the directory of the archive `file`.
    pub fn read(file: &'a [u8]) -> Result<Self, PthProblem> {
        let (count, directory) = directory(file)?;
        if count > MAX_MEMBERS {
            return Err(PthProblem::TooMany { what: "members", max: MAX_MEMBERS });
        }
        let mut rest = file.get(directory).ok_or(damaged("its directory lies beyond its end"))?;
        let mut members = BTreeMap::new();
        for _ in 0..count {
            let (entry, next) = Entry::read(rest)?;
            rest = next;
            // All members are in one folder, whatever its name.
            let Some((_, name)) = entry.name.split_once('/').filter(|(_, name)| !name.is_empty()) else { continue };
            let member = Member { range: entry.data(file)?, not_stored: entry.not_stored() };
            if members.insert(name, member).is_some() {
                return Err(damaged("two members have one name"));
            }
        }
        let mut ranges: Vec<&Range<usize>> = members.values().map(|member| &member.range).collect();
        ranges.sort_by_key(|range| (range.start, range.end));
        if ranges.windows(2).any(|pair| pair[0].end > pair[1].start) {
            return Err(damaged("two members overlap"));
        }
        Ok(Archive { members })
    }

    /// Where the bytes of a member are in the file.
    pub fn member(&self, name: &str) -> Result<Range<usize>, PthProblem> {
        let member = self.members.get(name).ok_or_else(|| PthProblem::NoMember { name: name.to_owned() })?;
        match member.not_stored {
            Some(how) => Err(PthProblem::NotStored { name: name.to_owned(), how }),
            None => Ok(member.range.clone()),
        }
    }
}

fn damaged(what: &'static str) -> PthProblem {
    PthProblem::Archive { what }
}

/// A little-endian number of `N` bytes at `at`.
fn number<const N: usize>(bytes: &[u8], at: usize) -> Result<u64, PthProblem> {
    let found = bytes.get(at..).and_then(|rest| rest.first_chunk::<N>()).ok_or(damaged("it is cut short"))?;
    Ok(found.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
}

fn place(number: u64) -> Result<usize, PthProblem> {
    usize::try_from(number).map_err(|_| damaged("it is longer than can be addressed"))
}

/// Number of members, and where their directory is.
fn directory(file: &[u8]) -> Result<(usize, Range<usize>), PthProblem> {
    let last = file.len().checked_sub(END).ok_or(damaged("it is cut short"))?;
    let first = last.saturating_sub(MAX_COMMENT);
    let is_end = |at: &usize| file[*at..].starts_with(b"PK\x05\x06");
    let end = (first..=last).rev().find(is_end).ok_or(damaged("it has no directory, as if it were cut short"))?;
    let (mut count, mut len, mut start) =
        (number::<2>(file, end + 10)?, number::<4>(file, end + 12)?, number::<4>(file, end + 16)?);
    // PyTorch always writes both records.
    let locator = end.checked_sub(20).filter(|at| file[*at..].starts_with(b"PK\x06\x07"));
    if let Some(locator) = locator {
        let at = place(number::<8>(file, locator + 8)?)?;
        if file.get(at..).is_none_or(|record| !record.starts_with(b"PK\x06\x06")) {
            return Err(damaged("its second end record is not where the first says"));
        }
        let far = |offset: usize| at.checked_add(offset).ok_or(damaged("it is longer than can be addressed"));
        (count, len, start) =
            (number::<8>(file, far(32)?)?, number::<8>(file, far(40)?)?, number::<8>(file, far(48)?)?);
    }
    let start = place(start)?;
    let end = start.checked_add(place(len)?).ok_or(damaged("its directory lies beyond its end"))?;
    Ok((place(count)?, start..end))
}

/// A member as the directory describes it.
struct Entry<'a> {
    name: &'a str,
    flags: u64,
    method: u64,
    stored: u64,
    size: u64,
    /// Of its header.
    offset: u64,
}

impl<'a> Entry<'a> {
    /// The first entry of `directory`, and what follows it.
    fn read(directory: &'a [u8]) -> Result<(Self, &'a [u8]), PthProblem> {
        if !directory.starts_with(b"PK\x01\x02") {
            return Err(damaged("its directory has fewer entries than it says"));
        }
        let [name, extra, comment] = [28, 30, 32].map(|at| number::<2>(directory, at).map(|len| len as usize));
        let (name, extra, comment) = (46..46 + name?, extra?, comment?);
        let extra = name.end..name.end + extra;
        let rest = directory.get(extra.end + comment..).ok_or(damaged("its directory is cut short"))?;
        if name.len() > MAX_NAME {
            return Err(damaged("the name of a member is longer than 1024 bytes"));
        }
        let name = std::str::from_utf8(&directory[name]).map_err(|_| damaged("the name of a member is not UTF-8"))?;
        let mut entry = Entry {
            name,
            flags: number::<2>(directory, 8)?,
            method: number::<2>(directory, 10)?,
            stored: number::<4>(directory, 20)?,
            size: number::<4>(directory, 24)?,
            offset: number::<4>(directory, 42)?,
        };
        entry.read_zip64(&directory[extra])?;
        Ok((entry, rest))
    }

    /// Takes the numbers that do not fit 32 bits from the extra fields.
    fn read_zip64(&mut self, mut extra: &[u8]) -> Result<(), PthProblem> {
        while extra.len() >= 4 {
            let (kind, len) = (number::<2>(extra, 0)?, number::<2>(extra, 2)? as usize);
            let field = extra.get(4..4 + len).ok_or(damaged("an extra field is cut short"))?;
            if kind == 1 {
                let wanted = [&mut self.size, &mut self.stored, &mut self.offset];
                for (i, value) in wanted.into_iter().filter(|value| **value == IN_ZIP64).enumerate() {
                    *value = number::<8>(field, 8 * i)?;
                }
            }
            extra = &extra[4 + len..];
        }
        Ok(())
    }

    fn not_stored(&self) -> Option<&'static str> {
        match (self.flags & 1, self.method) {
            (1, _) => Some("encrypted"),
            (_, 0) if self.stored == self.size => None,
            _ => Some("compressed"),
        }
    }

    /// Where its bytes are in `file`: behind its header, whose length is only known there.
    fn data(&self, file: &[u8]) -> Result<Range<usize>, PthProblem> {
        let at = place(self.offset)?;
        if file.get(at..).is_none_or(|header| !header.starts_with(b"PK\x03\x04")) {
            return Err(damaged("a member is not where its directory says"));
        }
        let start = at + 30 + (number::<2>(file, at + 26)? + number::<2>(file, at + 28)?) as usize;
        let end = start.checked_add(place(self.stored)?).filter(|end| *end <= file.len());
        Ok(start..end.ok_or(damaged("a member ends beyond its end"))?)
    }
}
