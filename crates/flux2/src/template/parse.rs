//! Templates from text.

use super::{Choice, MAX_BYTES, MAX_DEPTH, Part, Result, Template, TemplateError};

/// Separator of several texts, if none is written.
const SEPARATOR: &str = ", ";

pub(super) fn template(text: &str) -> Result<Template> {
    if text.len() > MAX_BYTES {
        return Err(TemplateError::TooLong);
    }
    let chars: Vec<char> = text.chars().collect();
    let mut parser = Parser { chars: &chars, at: 0 };
    let template = parser.sequence(0)?;
    match parser.peek() {
        // A `}` or `|` outside of braces.
        Some('}') => Err(TemplateError::Unclosed { at: parser.at + 1 }),
        _ => Ok(template),
    }
}

struct Parser<'a> {
    chars: &'a [char],
    at: usize,
}

impl Parser<'_> {
    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    /// Parts up to the end, or to a `|` or `}` of the braces around them.
    fn sequence(&mut self, depth: usize) -> Result<Template> {
        let (mut parts, mut text) = (Vec::new(), String::new());
        while let Some(c) = self.peek() {
            let part = match c {
                '}' => break,
                '|' if depth > 0 => break,
                '\\' => {
                    self.at += 1;
                    text.push(self.escaped());
                    continue;
                }
                '{' => self.braces(depth)?,
                '_' => match self.wildcard() {
                    Some(name) => Part::Wildcard(name),
                    None => {
                        self.at += 1;
                        text.push('_');
                        continue;
                    }
                },
                c => {
                    self.at += 1;
                    text.push(c);
                    continue;
                }
            };
            if !text.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut text)));
            }
            parts.push(part);
        }
        if !text.is_empty() {
            parts.push(Part::Text(text));
        }
        Ok(Template { parts })
    }

    /// The character behind a backslash. Before any other character the backslash stands for itself.
    fn escaped(&mut self) -> char {
        match self.peek() {
            Some(c) if matches!(c, '{' | '}' | '|' | '$' | '_' | '\\') => {
                self.at += 1;
                c
            }
            _ => '\\',
        }
    }

    /// `__name__`, if that is what comes next. The name has no two underscores in a row.
    fn wildcard(&mut self) -> Option<String> {
        let rest = &self.chars[self.at..];
        if !rest.starts_with(&['_', '_']) {
            return None;
        }
        let is_name = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '/');
        let end = (3..rest.len().saturating_sub(1)).find(|i| rest[*i..].starts_with(&['_', '_']))?;
        let name: String = rest[2..end].iter().collect();
        let is_plain = name.chars().all(is_name) && !name.starts_with(['_', '/']) && !name.contains("//");
        if !is_plain {
            return None;
        }
        self.at += end + 2;
        Some(name)
    }

    /// What is in braces, which begin here.
    fn braces(&mut self, depth: usize) -> Result<Part> {
        if depth == MAX_DEPTH {
            return Err(TemplateError::TooDeep);
        }
        let start = self.at;
        self.at += 1;
        if let Some(variable) = self.variable(depth, start)? {
            return Ok(variable);
        }
        let amount = self.amount();
        let mut options = Vec::new();
        loop {
            options.push(self.sequence(depth + 1)?);
            match self.peek() {
                Some('|') => self.at += 1,
                Some(_) => break,
                None => return Err(TemplateError::Unclosed { at: start + 1 }),
            }
        }
        self.at += 1;
        let at = start + 1;
        let Some((least, most, separator)) = amount else {
            if options.len() == 1 {
                let text = self.chars[start + 1..self.at - 1].iter().take(40).collect();
                return Err(TemplateError::NoChoice { text, at });
            }
            return Ok(Part::Choice(Choice { options, least: 1, most: 1, separator: String::new() }));
        };
        if most > options.len() {
            return Err(TemplateError::Count { count: most, options: options.len(), at });
        }
        Ok(Part::Choice(Choice { options, least, most, separator }))
    }

    /// `name}` or `name=default}`, if that is what comes next.
    fn variable(&mut self, depth: usize, start: usize) -> Result<Option<Part>> {
        let rest = &self.chars[self.at..];
        let is_name = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        let length = rest.iter().take_while(|c| is_name(c)).count();
        let begins = rest.first().is_some_and(char::is_ascii_alphabetic);
        let name: String = rest[..length].iter().collect();
        match rest.get(length) {
            Some('}') if begins => {
                self.at += length + 1;
                Ok(Some(Part::Variable { name, default: None }))
            }
            Some('=') if begins => {
                self.at += length + 1;
                let default = self.sequence(depth + 1)?;
                match self.peek() {
                    Some('}') => self.at += 1,
                    Some(_) => {
                        let text = self.chars[start + 1..self.at].iter().take(40).collect();
                        return Err(TemplateError::NoChoice { text, at: start + 1 });
                    }
                    None => return Err(TemplateError::Unclosed { at: start + 1 }),
                }
                Ok(Some(Part::Variable { name, default: Some(default) }))
            }
            _ => Ok(None),
        }
    }

    /// `2$$`, `1-2$$` or `2$$ and $$`: least, most and separator.
    fn amount(&mut self) -> Option<(usize, usize, String)> {
        let begin = self.at;
        let amount = self.number().and_then(|least| {
            let most = match self.peek() {
                Some('-') => {
                    self.at += 1;
                    self.number()?
                }
                _ => least,
            };
            self.dollars().then_some((least.min(most), least.max(most)))
        });
        let Some((least, most)) = amount else {
            self.at = begin;
            return None;
        };
        // A second pair of dollars, before any brace or bar, ends a separator.
        let rest = &self.chars[self.at..];
        let stop = rest.iter().position(|c| matches!(c, '{' | '}' | '|' | '\\')).unwrap_or(rest.len());
        match rest[..stop].windows(2).position(|pair| pair == ['$', '$']) {
            Some(end) => {
                self.at += end + 2;
                Some((least, most, rest[..end].iter().collect()))
            }
            None => Some((least, most, SEPARATOR.to_owned())),
        }
    }

    /// A number of at most four digits.
    fn number(&mut self) -> Option<usize> {
        let digits: String = self.chars[self.at..].iter().take_while(|c| c.is_ascii_digit()).take(5).collect();
        self.at += digits.len();
        digits.parse().ok().filter(|_| digits.len() < 5)
    }

    fn dollars(&mut self) -> bool {
        let found = self.chars[self.at..].starts_with(&['$', '$']);
        self.at += if found { 2 } else { 0 };
        found
    }
}
