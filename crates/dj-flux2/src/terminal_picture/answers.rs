//! What a terminal answers.

/// Most bytes of an answer that are read. The longest part of a real one is the name of the terminal.
const MAX_LEN: usize = 4096;

/// What is known from the answers of a terminal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answers {
    /// Whether it speaks kitty's graphics protocol.
    pub kitty: bool,
    /// Whether it draws sixel graphics.
    pub sixel: bool,
    /// Its name and version.
    pub name: String,
    /// Width and height of a character in pixels.
    pub cell_px: Option<[u16; 2]>,
    /// Whether the last question is answered.
    pub is_complete: bool,
    /// What is no answer: keys that were pressed meanwhile, as the text that they make. Enter is a line feed.
    pub typed: String,
}

/// What follows the escape character of a control sequence.
const SEQUENCES: [u8; 3] = *b"[_P";

/// A control sequence.
#[derive(Debug, PartialEq)]
enum Sequence<'a> {
    /// `ESC [`, parameters, and the character that ends it.
    Csi(&'a [u8], u8),
    /// `ESC _` or `ESC P`, a text, and a terminator.
    Text(u8, &'a [u8]),
}

impl Answers {
    /// Reads answers, in any order, and what was typed between them. Keys that make no text, as arrows, are skipped.
    pub fn parse(bytes: &[u8]) -> Self {
        let (mut answers, mut typed) = (Answers::default(), Vec::new());
        let mut rest = &bytes[..bytes.len().min(MAX_LEN)];
        while let Some(at) = rest.iter().position(|byte| *byte == 0x1b) {
            typed.extend_from_slice(&rest[..at]);
            rest = &rest[at + 1..];
            match next(rest) {
                Some((sequence, behind)) => {
                    answers.take(&sequence);
                    rest = behind;
                }
                // An answer that is cut off is no text.
                None if rest.first().is_some_and(|kind| SEQUENCES.contains(kind)) => rest = &[],
                // A key such as F1 or Alt-x.
                None => {
                    let key = rest.iter().take(2).take_while(|byte| **byte != 0x1b).count();
                    rest = &rest[key.min(if rest.starts_with(b"O") { 2 } else { 1 })..];
                }
            }
        }
        typed.extend_from_slice(rest);
        answers.typed = text_of(&typed);
        // Longer than any answer: it is none.
        answers.is_complete |= bytes.len() >= MAX_LEN;
        answers
    }

    fn take(&mut self, sequence: &Sequence) {
        match sequence {
            Sequence::Text(b'_', text) => self.kitty |= text.starts_with(b"Gi=31;OK"),
            Sequence::Text(b'P', text) => {
                if let Some(name) = text.strip_prefix(b">|") {
                    self.name = String::from_utf8_lossy(name).into_owned();
                }
            }
            Sequence::Csi(parameters, b'c') => {
                if let Some(attributes) = parameters.strip_prefix(b"?") {
                    self.sixel = attributes.split(|byte| *byte == b';').skip(1).any(|attribute| attribute == b"4");
                    self.is_complete = true;
                }
            }
            Sequence::Csi(parameters, b't') => {
                let mut numbers = parameters.split(|byte| *byte == b';').map(number);
                if let (Some(6), Some(height), Some(width)) = (
                    numbers.next().flatten(),
                    numbers.next().flatten().filter(|height| *height > 0),
                    numbers.next().flatten().filter(|width| *width > 0),
                ) {
                    self.cell_px = Some([width, height]);
                }
            }
            _ => {}
        }
    }
}

/// The text that keys make.
fn text_of(keys: &[u8]) -> String {
    let mut text = String::new();
    for key in String::from_utf8_lossy(keys).chars() {
        match key {
            '\r' | '\n' => text.push('\n'),
            // Backspace.
            '\x7f' | '\x08' if !text.ends_with('\n') => drop(text.pop()),
            _ if key.is_control() => {}
            _ => text.push(key),
        }
    }
    text
}

fn number(text: &[u8]) -> Option<u16> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// The sequence at the start of `bytes`, which follow an escape character, and what is behind it.
fn next(bytes: &[u8]) -> Option<(Sequence<'_>, &[u8])> {
    let (kind, rest) = bytes.split_first()?;
    match kind {
        b'[' => {
            let end = rest.iter().position(|byte| (0x40..=0x7e).contains(byte))?;
            Some((Sequence::Csi(&rest[..end], rest[end]), &rest[end + 1..]))
        }
        b'_' | b'P' => {
            let end = rest.iter().position(|byte| [0x1b, 0x07].contains(byte))?;
            let terminator = if rest[end] == 0x07 { 1 } else { 2 };
            let is_whole = terminator == 1 || rest.get(end + 1) == Some(&b'\\');
            is_whole.then(|| (Sequence::Text(*kind, &rest[..end]), &rest[end + terminator..]))
        }
        _ => None,
    }
}
