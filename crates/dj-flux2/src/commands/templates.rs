//! `dj-flux2 templates`: the templates of prompts, those of the program and the user's own.

use serde::Serialize;

use crate::args::TemplatesArgs;
use crate::config;
use crate::config::flags::Flags;
use crate::failure::{Failure, Result};
use crate::report::{json, print, shown};
use crate::templates;

/// A template, as `--json` prints it.
#[derive(Serialize)]
struct Row<'a> {
    name: &'a str,
    about: &'a str,
    text: &'a str,
}

/// Prints the templates, or one of them.
pub fn run(args: &TemplatesArgs) -> Result<()> {
    let mut all = templates::built_in();
    all.extend(config::load(args.config.as_deref())?.templates);
    if let Some(name) = &args.name
        && !all.contains_key(name)
    {
        let hint = match Flags::nearest(name, all.keys().map(String::as_str)) {
            Some(nearest) => format!("the nearest name is {nearest}"),
            None => "`dj-flux2 templates` lists them".to_owned(),
        };
        return Err(Failure::usage(format!("no template is called {name}"), hint));
    }
    let is_meant = |name: &String| args.name.as_ref().is_none_or(|meant| meant == name);
    let width = all.keys().map(String::len).max().unwrap_or_default();
    for (name, template) in all.iter().filter(|(name, _)| is_meant(name)) {
        let (about, text) = (template.about.as_str(), template.text.as_str());
        match (args.json, args.name.is_some()) {
            (true, _) => print(&json(&Row { name, about, text }))?,
            (_, true) => print(&shown(text))?,
            _ => print(&shown(&format!("{name:<width$}  {}", if about.is_empty() { text } else { about })))?,
        }
    }
    Ok(())
}
