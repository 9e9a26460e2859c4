//! References to pictures in text: `$1` is the first, `$-1` the last, `$cat` the one of that name, `$$` a dollar sign.
//!
//! A dollar sign that nothing of this follows is text. In a prompt, a reference becomes `image 1`, as the model is told
//! of its reference images; those that the text begins with are left out, as in `$cat make it blue`.

use crate::history::{Entry, History};
use crate::{Error, Result};

/// Most characters of a name.
pub const MAX_NAME: usize = 40;

/// A picture as it is referred to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reference {
    /// By its number, from 1.
    Number(u64),
    /// Counted from the end: 1 is the last.
    FromEnd(u64),
    /// By its name.
    Name(String),
}

/// A part of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// As it is written, a doubled dollar sign being one.
    Text(String),
    /// A reference.
    Reference(Reference),
}

/// A prompt without its references.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolved {
    /// The text for the model.
    pub text: String,
    /// Numbers of the pictures that are referred to, in the order in which they come first, each once.
    pub numbers: Vec<u64>,
}

impl Reference {
    /// A reference that is a whole text, with or without its dollar sign: `$cat`, `cat`, `-1`.
    ///
    /// # Errors
    /// [`Error::BadReference`].
    pub fn parse(text: &str) -> Result<Self> {
        let word = text.strip_prefix('$').unwrap_or(text);
        let bad = || Error::BadReference { word: word.to_owned() };
        match read(word) {
            Some((reference, "")) => reference,
            _ => Err(bad()),
        }
    }
}

/// Whether a text can be the name of a picture.
pub fn is_name(text: &str) -> bool {
    let begins = text.chars().next().is_some_and(|first| first.is_alphabetic() || first == '_');
    begins && text.chars().all(is_word) && text.chars().count() <= MAX_NAME
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The reference that a text begins with, behind its dollar sign, and the rest; `None` if it begins with none.
fn read(text: &str) -> Option<(Result<Reference>, &str)> {
    let (is_from_end, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let end = digits.find(|c| !is_word(c)).unwrap_or(digits.len());
    let (word, rest) = digits.split_at(end);
    let first = word.chars().next()?;
    let is_number = word.chars().all(|c| c.is_ascii_digit());
    // A number of too many digits is one that no picture has.
    let number = || word.parse().unwrap_or(u64::MAX);
    let reference = match (is_from_end, is_number) {
        (true, true) => Ok(Reference::FromEnd(number())),
        (true, false) => return None,
        (false, true) => Ok(Reference::Number(number())),
        (false, false) if first.is_ascii_digit() => Err(Error::BadReference { word: word.to_owned() }),
        (false, false) => Ok(Reference::Name(word.to_owned())),
    };
    Some((reference, rest))
}

/// The parts of a text.
///
/// # Errors
/// [`Error::BadReference`], as for `$1st`.
pub fn pieces(text: &str) -> Result<Vec<Piece>> {
    let (mut found, mut plain, mut rest) = (Vec::new(), String::new(), text);
    while let Some(at) = rest.find('$') {
        plain.push_str(&rest[..at]);
        let behind = &rest[at + 1..];
        if let Some(behind) = behind.strip_prefix('$') {
            plain.push('$');
            rest = behind;
            continue;
        }
        match read(behind) {
            Some((reference, behind)) => {
                if !plain.is_empty() {
                    found.push(Piece::Text(std::mem::take(&mut plain)));
                }
                found.push(Piece::Reference(reference?));
                rest = behind;
            }
            None => {
                plain.push('$');
                rest = behind;
            }
        }
    }
    plain.push_str(rest);
    if !plain.is_empty() {
        found.push(Piece::Text(plain));
    }
    Ok(found)
}

/// Takes the references out of a prompt. `before` reference images come before those of the prompt, so the first of
/// these is called `image {before + 1}`.
///
/// # Errors
/// [`Error::BadReference`], or that there is no such picture.
pub fn resolve(text: &str, history: &History, before: usize) -> Result<Resolved> {
    let mut resolved = Resolved::default();
    // Whether only references came so far.
    let mut is_beginning = true;
    for piece in pieces(text)? {
        match piece {
            Piece::Text(text) if is_beginning && !resolved.numbers.is_empty() => {
                let text = text.trim_start_matches(|c: char| c.is_whitespace() || matches!(c, ',' | ':'));
                is_beginning = text.is_empty();
                resolved.text.push_str(text);
            }
            Piece::Text(text) => {
                is_beginning &= text.trim().is_empty();
                resolved.text.push_str(text.trim_start_matches(|c: char| is_beginning && c.is_whitespace()));
            }
            Piece::Reference(reference) => {
                let number = history.find(&reference)?.number;
                let place = match resolved.numbers.iter().position(|known| *known == number) {
                    Some(place) => place,
                    None => {
                        resolved.numbers.push(number);
                        resolved.numbers.len() - 1
                    }
                };
                if !is_beginning {
                    resolved.text.push_str(&format!("image {}", before + place + 1));
                }
            }
        }
    }
    let end = resolved.text.trim_end().len();
    resolved.text.truncate(end);
    Ok(resolved)
}

/// The numbers of some pictures, as in `1 to 3, 7`.
pub(crate) fn ranges(entries: &[Entry]) -> String {
    let mut ranges: Vec<[u64; 2]> = Vec::new();
    for Entry { number, .. } in entries {
        match ranges.last_mut() {
            Some([_, last]) if *last + 1 == *number => *last = *number,
            _ => ranges.push([*number; 2]),
        }
    }
    let text = |[first, last]: &[u64; 2]| match last - first {
        0 => first.to_string(),
        1 => format!("{first}, {last}"),
        _ => format!("{first} to {last}"),
    };
    ranges.iter().map(text).collect::<Vec<_>>().join(", ")
}
