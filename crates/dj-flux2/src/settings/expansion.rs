//! Prompts from templates: what is put into what, and one prompt for each picture or each combination.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flux2::template::{Context, Template, TemplateError, looks_like_template};

use crate::args::Seed;
use crate::choices::{Choices, Origin};
use crate::config::file::NamedTemplate;
use crate::config::flags::Flags;
use crate::failure::{Failure, Result};

/// The variable that stands for the prompt.
const SUBJECT: &str = "subject";
/// Most bytes of all prompts of a run.
const MAX_BYTES: usize = 64 << 20;

/// A prompt as it is drawn.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Prompt {
    pub text: String,
    /// The template that it was made from.
    pub template: Option<String>,
}

/// Reads the lines of a wildcard in a folder; `None` if there is none of that name.
pub type ReadWildcard = fn(&Path, &str) -> Result<Option<Arc<[String]>>>;

/// Where templates and wildcards come from.
#[derive(Clone)]
pub struct Sources {
    /// Templates by name.
    pub templates: BTreeMap<String, NamedTemplate>,
    /// Folder of wildcards, if no choice names one.
    pub wildcards: Option<PathBuf>,
    pub read_wildcard: ReadWildcard,
}

/// The prompts of a run, and how many pictures are drawn of each.
#[derive(Clone, Debug, PartialEq)]
pub struct Expanded {
    pub prompts: Vec<Prompt>,
    pub per_prompt: u64,
    /// Whether a prompt that is drawn as it is written looks like a template.
    pub looks_like_template: bool,
}

/// The seeds of a run: a list, or all from a first one on.
pub fn seed_of(seed: &Seed, fresh: u64, picture: u64) -> u64 {
    match seed {
        Seed::Number(first) => first.wrapping_add(picture),
        Seed::Random => fresh.wrapping_add(picture),
        Seed::List(seeds) => seeds[(picture % seeds.len() as u64) as usize],
    }
}

/// Makes the prompts of `choices`, each of which is drawn `per_prompt` times. At most `max` are made.
pub fn expand(
    choices: &Choices,
    sources: &Sources,
    prompts: Vec<String>,
    per_prompt: u64,
    seed: impl Fn(u64) -> u64,
    max: u64,
) -> Result<Expanded> {
    let plan = Plan::of(choices, sources)?;
    let Some(plan) = plan else {
        let looks_like_template = prompts.iter().take(16).any(|prompt| looks_like_template(prompt));
        let prompts = prompts.into_iter().map(|text| Prompt { text, template: None }).collect();
        return Ok(Expanded { prompts, per_prompt, looks_like_template });
    };
    let mut made = Vec::new();
    let mut bytes = 0;
    for (i, prompt) in prompts.iter().enumerate() {
        let (template, recorded) = plan.template(prompt)?;
        let texts = match plan.all {
            true => plan.expand(|context| template.all_prompts(context, max as usize))?,
            false => (0..per_prompt)
                .map(|j| seed(i as u64 * per_prompt + j))
                .map(|seed| plan.expand(|context| template.prompt(context, seed)))
                .collect::<Result<_>>()?,
        };
        bytes += texts.iter().map(|text| text.len() + recorded.len()).sum::<usize>();
        if bytes > MAX_BYTES || (made.len() + texts.len()) as u64 > max {
            let message = format!("the templates stand for more than {max} prompts or {MAX_BYTES} bytes");
            return Err(Failure::usage(message, "split them over several runs"));
        }
        made.extend(texts.into_iter().map(|text| Prompt { text, template: Some(recorded.clone()) }));
    }
    let per_prompt = if plan.all { per_prompt } else { 1 };
    Ok(Expanded { prompts: made, per_prompt, looks_like_template: false })
}

/// How prompts become templates.
struct Plan<'a> {
    /// The template that prompts are put into.
    frame: Option<Template>,
    /// Whether prompts are templates.
    is_template: bool,
    variables: BTreeMap<String, String>,
    all: bool,
    folder: Option<PathBuf>,
    sources: &'a Sources,
}

impl<'a> Plan<'a> {
    /// `None` if prompts are drawn as they are written.
    fn of(choices: &Choices, sources: &'a Sources) -> Result<Option<Self>> {
        let is_on = |choice: &Option<crate::choices::Sourced<bool>>| choice.as_ref().is_some_and(|choice| choice.value);
        let all = is_on(&choices.all);
        // A folder in a file of settings is where wildcards are, and no wish to use them in every prompt.
        let typed_folder =
            choices.wildcards.as_ref().is_some_and(|folder| matches!(folder.origin, Origin::Flag | Origin::Line));
        let expand = is_on(&choices.expand) || all || choices.variables.is_some() || typed_folder;
        // A recorded prompt has been expanded.
        let is_recorded = choices.prompts.as_ref().is_some_and(|prompts| prompts.is_recorded());
        let frame = choices.template.as_ref().map(|named| frame(&named.value, sources)).transpose()?;
        if frame.is_none() && (!expand || is_recorded) {
            return Ok(None);
        }
        let folder = choices.wildcards.as_ref().map(|folder| folder.value.clone()).or(sources.wildcards.clone());
        Ok(Some(Plan {
            frame,
            is_template: expand && !is_recorded,
            variables: choices.variables.iter().flat_map(|variables| variables.value.iter().cloned()).collect(),
            all,
            folder,
            sources,
        }))
    }

    /// The template of a prompt, and its text.
    fn template(&self, prompt: &str) -> Result<(Template, String)> {
        let inner = match self.is_template {
            true => Template::parse(prompt).map_err(|error| self.refusal(error))?,
            false => Template::literal(prompt),
        };
        let template = match &self.frame {
            Some(frame) => frame.with(SUBJECT, &inner),
            None => inner,
        };
        let names = template.variables();
        if let Some(unused) = self.variables.keys().find(|name| !names.contains(&name.as_str())) {
            return Err(self.refusal(TemplateError::NoVariable { name: unused.clone() }));
        }
        // With their values, so that template and seed alone give the prompt.
        let with =
            |template: Template, (name, value): (&String, &String)| template.with(name, &Template::literal(value));
        let template = self.variables.iter().fold(template.clone(), with);
        let recorded = template.to_string();
        Ok((template, recorded))
    }

    fn expand<T>(&self, make: impl FnOnce(&Context) -> Result<T, TemplateError>) -> Result<T> {
        let (known, problem) = (RefCell::new(BTreeMap::new()), RefCell::new(None));
        let wildcard = |name: &str| -> Option<Arc<[String]>> {
            if let Some(lines) = known.borrow().get(name) {
                return Some(Arc::clone(lines));
            }
            match (self.sources.read_wildcard)(self.folder.as_deref()?, name) {
                Ok(lines) => {
                    known.borrow_mut().insert(name.to_owned(), Arc::clone(lines.as_ref()?));
                    lines
                }
                Err(failure) => {
                    *problem.borrow_mut() = Some(failure);
                    None
                }
            }
        };
        let made = make(&Context { variables: &self.variables, wildcard: &wildcard });
        match problem.into_inner() {
            Some(failure) => Err(failure),
            None => made.map_err(|error| self.refusal(error)),
        }
    }

    fn refusal(&self, error: TemplateError) -> Failure {
        let hint = match &error {
            TemplateError::Unclosed { .. } | TemplateError::NoChoice { .. } => {
                "write \\{ and \\} for braces that are meant, or leave --expand out".to_owned()
            }
            TemplateError::Count { .. } => "ask for fewer, or add texts between the braces".to_owned(),
            TemplateError::Variable { name } if name == SUBJECT => "say what the picture shows".to_owned(),
            TemplateError::Variable { name } => format!("give it one with --var {name}=TEXT"),
            TemplateError::NoVariable { .. } => "leave that --var out, or put the variable into the prompt".to_owned(),
            TemplateError::Wildcard { name } => match &self.folder {
                Some(folder) => format!("put {name}.txt into {}, or name a folder with --wildcards", folder.display()),
                None => format!("name the folder that has {name}.txt with --wildcards"),
            },
            TemplateError::TooMany { .. } => "leave --all out, which takes one for each seed".to_owned(),
            _ => "simplify it".to_owned(),
        };
        Failure::usage(error.to_string(), hint)
    }
}

/// The template called `named`, or the template that it is. It must have a place for the prompt.
pub fn frame(named: &str, sources: &Sources) -> Result<Template> {
    let text = match sources.templates.get(named) {
        Some(template) => &template.text,
        None if named.contains('{') => named,
        None => {
            let names = || sources.templates.keys().map(String::as_str);
            let hint = match Flags::nearest(named, names()) {
                Some(nearest) => format!("the nearest name is {nearest}; `dj-flux2 templates` lists them"),
                None => "`dj-flux2 templates` lists them; or write a template with {subject} in it".to_owned(),
            };
            return Err(Failure::usage(format!("no template is called {named}"), hint));
        }
    };
    let template = Template::parse(text)
        .map_err(|error| Failure::usage(format!("template {named}: {error}"), "write \\{ for a brace that is meant"))?;
    if !template.variables().contains(&SUBJECT) {
        let message = format!("the template {named} has no {{subject}}, so the prompt would not be drawn");
        return Err(Failure::usage(message, "put {subject} where the prompt belongs"));
    }
    Ok(template)
}
