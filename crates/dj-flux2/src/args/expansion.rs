//! Flags about prompts with templates and wildcards.

use std::path::PathBuf;

use super::values::parse_variable;

/// How prompts are made from templates.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct ExpansionArgs {
    /// Put the prompt into a template; NAME is one of `dj-flux2 templates`, or a text with {subject}
    #[arg(short, long, value_name = "NAME", help_heading = "Prompt")]
    pub template: Option<String>,

    /// Value of a variable of the template, as in light=dusk; repeat for several
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_variable, help_heading = "Prompt")]
    pub var: Vec<(String, String)>,

    /// Read {red|green}, {2$$a|b|c}, {variables} and __wildcards__ in the prompt; --var, --wildcards and --all do so
    /// too; without them a prompt is drawn as it is written
    #[arg(long, help_heading = "Prompt")]
    pub expand: bool,

    /// Folder of wildcards: __animal__ is a line of animal.txt [default: wildcards, beside the file of settings]
    #[arg(long, value_name = "FOLDER", help_heading = "Prompt")]
    pub wildcards: Option<PathBuf>,

    /// Draw every combination, not one for each seed
    #[arg(long, help_heading = "Prompt")]
    pub all: bool,
}
