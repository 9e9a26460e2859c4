//! Every prompt that a template stands for.

use super::{Choice, Context, MAX_BYTES, MAX_DEPTH, MAX_PARTS, Part, Result, Template, TemplateError, lines};

/// Most bytes of all prompts together.
const MAX_TOTAL: usize = 64 << 20;

pub(super) fn all(template: &Template, context: &Context, max: usize) -> Result<Vec<String>> {
    let mut finder = Finder { context, max, parts: 0, bytes: 0 };
    let mut prompts = finder.texts(template, 0)?;
    let mut seen = std::collections::HashSet::new();
    prompts.retain(|prompt| seen.insert(prompt.clone()));
    Ok(prompts)
}

struct Finder<'a> {
    context: &'a Context<'a>,
    max: usize,
    parts: usize,
    /// Bytes of all texts on the way.
    bytes: usize,
}

impl Finder<'_> {
    fn texts(&mut self, template: &Template, depth: usize) -> Result<Vec<String>> {
        if depth > MAX_DEPTH {
            return Err(TemplateError::TooDeep);
        }
        let mut texts = vec![String::new()];
        for part in &template.parts {
            self.parts += 1;
            if self.parts > MAX_PARTS {
                return Err(TemplateError::TooLong);
            }
            let choices = match part {
                Part::Text(text) => vec![text.clone()],
                Part::Variable { name, default } => match (self.context.variables.get(name), default) {
                    (Some(value), _) => vec![value.clone()],
                    (None, Some(default)) => self.texts(default, depth + 1)?,
                    (None, None) => return Err(TemplateError::Variable { name: name.clone() }),
                },
                Part::Choice(choice) => self.choice(choice, depth)?,
                Part::Wildcard(name) => {
                    let mut all = Vec::new();
                    for line in lines(self.context, name)?.iter() {
                        all.extend(self.texts(&Template::parse(line)?, depth + 1)?);
                        self.check(all.len())?;
                    }
                    all
                }
            };
            texts = self.joined(&texts, "", &choices)?;
        }
        Ok(texts)
    }

    /// Each set of options, in the order of their places.
    fn choice(&mut self, choice: &Choice, depth: usize) -> Result<Vec<String>> {
        let Choice { options, least, most, separator } = choice;
        let mut texts = Vec::new();
        for option in options {
            texts.push(self.texts(option, depth + 1)?);
        }
        let mut all = Vec::new();
        for count in *least..=*most {
            let mut chosen: Vec<usize> = (0..count).collect();
            loop {
                let mut joined = vec![String::new()];
                for (i, option) in chosen.iter().enumerate() {
                    joined = self.joined(&joined, if i == 0 { "" } else { separator }, &texts[*option])?;
                }
                all.extend(joined);
                self.check(all.len())?;
                if !advance(&mut chosen, options.len()) {
                    break;
                }
            }
        }
        Ok(all)
    }

    /// Every text of `left` with every text of `right` behind it.
    fn joined(&mut self, left: &[String], separator: &str, right: &[String]) -> Result<Vec<String>> {
        self.check(left.len().saturating_mul(right.len()))?;
        let mut joined = Vec::with_capacity(left.len() * right.len());
        for a in left {
            for b in right {
                let bytes = a.len() + separator.len() + b.len();
                self.bytes += bytes;
                if bytes > MAX_BYTES || self.bytes > MAX_TOTAL {
                    return Err(TemplateError::TooLong);
                }
                joined.push([a, separator, b].concat());
            }
        }
        Ok(joined)
    }

    fn check(&self, count: usize) -> Result<()> {
        if count > self.max { Err(TemplateError::TooMany { max: self.max }) } else { Ok(()) }
    }
}

/// The next set of places below `n` in order; false after the last one.
fn advance(chosen: &mut [usize], n: usize) -> bool {
    let count = chosen.len();
    let Some(i) = (0..count).rev().find(|i| chosen[*i] < n - count + i) else { return false };
    chosen[i] += 1;
    for j in i + 1..count {
        chosen[j] = chosen[j - 1] + 1;
    }
    true
}
