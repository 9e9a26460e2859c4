//! Templates of prompts: variables, alternatives and wildcards, chosen by a seed.
//!
//! In:  a template, the values of its variables, the lines of its wildcards, a seed.
//! Out: one prompt for the seed, or every prompt that the template stands for.
//!
//! | in a template | stands for |
//! |---|---|
//! | `{name}` | the value of a variable |
//! | `{name=text}` | the same, or `text` if the variable has no value |
//! | `{red\|green\|blue}` | one of them; each may hold further braces and wildcards |
//! | `{2$$a\|b\|c}` | two different ones, in the order they are written, with a comma between them |
//! | `{1-2$$ and $$a\|b}` | one or two, with ` and ` between them |
//! | `__name__` | a line of a wildcard, which may be a template too |
//! | `\{` `\}` `\|` `\$` `\_` `\\` | the character itself |
//!
//! Values of variables are taken as they are: a prompt that holds braces can be put into a template.
//!
//! Templates are hostile: their nesting, their wildcards and the length of what they become are bounded.

mod combinations;
mod parse;
mod random;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

pub use random::Random;

/// Deepest nesting of braces, and of wildcards in wildcards.
pub const MAX_DEPTH: usize = 16;
/// Most bytes of a template, and of the prompt that it becomes.
pub const MAX_BYTES: usize = 64 << 10;
/// Most parts that are looked at to make one prompt. Wildcards in wildcards could double with every level.
const MAX_PARTS: usize = 100_000;

/// Why a template cannot become a prompt.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TemplateError {
    /// A brace without its partner.
    #[error("the brace at character {at} of the template has no partner")]
    Unclosed {
        /// Counted from 1.
        at: usize,
    },
    /// Braces that hold neither the name of a variable nor alternatives.
    #[error("{{{text}}} at character {at} of the template is neither a variable nor a choice")]
    NoChoice {
        /// What is between the braces.
        text: String,
        /// Counted from 1.
        at: usize,
    },
    /// More texts asked for than there are.
    #[error("{{{count}$$…}} at character {at} of the template has {options} texts to choose from")]
    Count {
        /// The largest number asked for.
        count: usize,
        /// The texts there are.
        options: usize,
        /// Counted from 1.
        at: usize,
    },
    /// A variable without a value.
    #[error("the template has a variable {{{name}}}, which has no value")]
    Variable {
        /// Its name.
        name: String,
    },
    /// A value for a variable that the template does not have.
    #[error("the template has no variable {{{name}}}")]
    NoVariable {
        /// Its name.
        name: String,
    },
    /// A wildcard without lines.
    #[error("there is no wildcard __{name}__")]
    Wildcard {
        /// Its name.
        name: String,
    },
    /// Braces or wildcards that are nested too deeply, perhaps in a circle.
    #[error("braces or wildcards are nested more than {MAX_DEPTH} deep, perhaps in a circle")]
    TooDeep,
    /// A template or a prompt that is too long, or that takes too many parts.
    #[error("the template is or becomes longer than {MAX_BYTES} bytes")]
    TooLong,
    /// More prompts than were allowed.
    #[error("the template stands for more than {max} prompts")]
    TooMany {
        /// Most prompts allowed.
        max: usize,
    },
}

/// Result of a template.
pub type Result<T> = std::result::Result<T, TemplateError>;

/// Values of variables, and where the lines of wildcards come from.
pub struct Context<'a> {
    /// Values by the names of their variables.
    pub variables: &'a BTreeMap<String, String>,
    /// The lines of the wildcard of a name; `None` if there is no such wildcard.
    pub wildcard: &'a dyn Fn(&str) -> Option<Arc<[String]>>,
}

/// A template whose braces are right.
#[derive(Clone, Debug, PartialEq)]
pub struct Template {
    parts: Vec<Part>,
}

/// A part of a template.
#[derive(Clone, Debug, PartialEq)]
enum Part {
    Text(String),
    Variable { name: String, default: Option<Template> },
    Choice(Choice),
    Wildcard(String),
}

/// `{least-most$$separator$$options}`.
#[derive(Clone, Debug, PartialEq)]
struct Choice {
    options: Vec<Template>,
    least: usize,
    most: usize,
    separator: String,
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// Wrong braces, or one of the limits: [`TemplateError`].
    pub fn parse(text: &str) -> Result<Self> {
        parse::template(text)
    }

    /// A template that stands for `text` and nothing else.
    pub fn literal(text: &str) -> Self {
        Template { parts: vec![Part::Text(text.to_owned())] }
    }

    /// Whether it stands for one text only, whatever the variables and the seed.
    pub fn is_literal(&self) -> bool {
        self.parts.iter().all(|part| matches!(part, Part::Text(_)))
    }

    /// Names of the variables, in order, each once. Those in wildcards are not among them.
    pub fn variables(&self) -> Vec<&str> {
        let mut names = Vec::new();
        self.visit(&mut |part| {
            if let Part::Variable { name, .. } = part
                && !names.contains(&name.as_str())
            {
                names.push(name);
            }
        });
        names
    }

    fn visit<'a>(&'a self, f: &mut dyn FnMut(&'a Part)) {
        for part in &self.parts {
            f(part);
            match part {
                Part::Choice(choice) => choice.options.iter().for_each(|option| option.visit(f)),
                Part::Variable { default: Some(default), .. } => default.visit(f),
                _ => {}
            }
        }
    }

    /// This template with another one in place of a variable, wherever it occurs.
    pub fn with(&self, variable: &str, value: &Template) -> Template {
        let parts = self.parts.iter().flat_map(|part| match part {
            Part::Variable { name, .. } if name == variable => value.parts.clone(),
            Part::Variable { name, default } => {
                let default = default.as_ref().map(|default| default.with(variable, value));
                vec![Part::Variable { name: name.clone(), default }]
            }
            Part::Choice(choice) => {
                let options = choice.options.iter().map(|option| option.with(variable, value)).collect();
                vec![Part::Choice(Choice { options, ..choice.clone() })]
            }
            other => vec![other.clone()],
        });
        Template { parts: parts.collect() }
    }

    /// The prompt for `seed`, the same on every machine.
    ///
    /// # Errors
    /// A variable without a value, a missing wildcard, or one of the limits.
    pub fn prompt(&self, context: &Context, seed: u64) -> Result<String> {
        let mut maker = Maker { context, random: Random::new(seed), parts: 0, text: String::new() };
        maker.add(self, 0)?;
        Ok(maker.text)
    }

    /// Every prompt, in the order of the alternatives; the last ones vary first. Equal ones occur once.
    ///
    /// # Errors
    /// As [`prompt`](Self::prompt), and [`TemplateError::TooMany`] for more than `max`.
    pub fn all_prompts(&self, context: &Context, max: usize) -> Result<Vec<String>> {
        combinations::all(self, context, max)
    }
}

/// The text that [`Template::parse`] reads.
impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in &self.parts {
            match part {
                Part::Text(text) => f.write_str(&escaped(text))?,
                Part::Variable { name, default: None } => write!(f, "{{{name}}}")?,
                Part::Variable { name, default: Some(default) } => write!(f, "{{{name}={default}}}")?,
                Part::Wildcard(name) => write!(f, "__{name}__")?,
                Part::Choice(Choice { options, least, most, separator }) => {
                    f.write_str("{")?;
                    // One of several without a separator is written without an amount.
                    if options.len() == 1 || [*least, *most] != [1, 1] || !separator.is_empty() {
                        write!(f, "{least}-{most}$${separator}$$")?;
                    }
                    for (i, option) in options.iter().enumerate() {
                        write!(f, "{}{option}", if i > 0 { "|" } else { "" })?;
                    }
                    f.write_str("}")?;
                }
            }
        }
        Ok(())
    }
}

/// Replaces what has a meaning in templates by its escape.
pub fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(c, '{' | '}' | '|' | '$' | '_' | '\\') {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

/// Whether a text that is no template looks like one: it has a choice or a wildcard in it. JSON does not.
pub fn looks_like_template(text: &str) -> bool {
    let Ok(template) = Template::parse(text) else { return false };
    let mut found = false;
    template.visit(&mut |part| found |= matches!(part, Part::Choice(_) | Part::Wildcard(_)));
    found
}

/// One prompt in the making.
struct Maker<'a> {
    context: &'a Context<'a>,
    random: Random,
    parts: usize,
    text: String,
}

impl Maker<'_> {
    fn add(&mut self, template: &Template, depth: usize) -> Result<()> {
        if depth > MAX_DEPTH {
            return Err(TemplateError::TooDeep);
        }
        for part in &template.parts {
            self.parts += 1;
            if self.parts > MAX_PARTS || self.text.len() > MAX_BYTES {
                return Err(TemplateError::TooLong);
            }
            match part {
                Part::Text(text) => self.text += text,
                Part::Variable { name, default } => match (self.context.variables.get(name), default) {
                    (Some(value), _) => self.text += value,
                    (None, Some(default)) => self.add(default, depth + 1)?,
                    (None, None) => return Err(TemplateError::Variable { name: name.clone() }),
                },
                Part::Choice(choice) => {
                    let count = choice.least + self.random.below(choice.most - choice.least + 1);
                    let chosen = self.random.some_of(choice.options.len(), count);
                    for (i, option) in chosen.into_iter().enumerate() {
                        if i > 0 {
                            self.text += &choice.separator;
                        }
                        self.add(&choice.options[option], depth + 1)?;
                    }
                }
                Part::Wildcard(name) => {
                    let lines = lines(self.context, name)?;
                    let line = Template::parse(&lines[self.random.below(lines.len())])?;
                    self.add(&line, depth + 1)?;
                }
            }
        }
        if self.text.len() > MAX_BYTES { Err(TemplateError::TooLong) } else { Ok(()) }
    }
}

/// The lines of a wildcard, at least one.
fn lines(context: &Context, name: &str) -> Result<Arc<[String]>> {
    let lines = (context.wildcard)(name).filter(|lines| !lines.is_empty());
    lines.ok_or_else(|| TemplateError::Wildcard { name: name.to_owned() })
}
