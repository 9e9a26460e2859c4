//! Flags as settings: `steps = 4` in a file means `--steps 4`. A setting is parsed by clap, as if it had been typed.

use std::any::TypeId;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use clap::{Arg, ArgAction, CommandFactory as _, Parser as _};

use super::file::OF_A_SOURCE;
use crate::args::{Args, Command, GenerateArgs};
use crate::failure::{Failure, Result};
use crate::usage;

/// Where a setting is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file, or what stands for it.
    pub file: PathBuf,
    /// Counted from 1.
    pub line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

impl Place {
    /// An error about what is written here.
    pub fn refuse(&self, message: impl fmt::Display, hint: impl Into<String>) -> Failure {
        Failure::usage(format!("{self}: {message}"), hint)
    }
}

/// The value of a setting, as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Of a flag without a value: whether it is given.
    Switch(bool),
    /// One text for every time that the flag is given.
    Texts(Vec<String>),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Switch(on) => write!(f, "{on}"),
            Value::Texts(texts) => f.write_str(&texts.join(", ")),
        }
    }
}

/// A flag and its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Long name of the flag, without dashes.
    pub name: String,
    pub value: Value,
    pub place: Place,
}

impl Setting {
    /// The arguments that mean the same.
    pub fn argv(&self) -> Vec<OsString> {
        let Setting { name, value, .. } = self;
        match value {
            Value::Switch(true) => vec![format!("--{name}").into()],
            Value::Switch(false) => Vec::new(),
            Value::Texts(texts) => texts.iter().map(|text| format!("--{name}={text}").into()).collect(),
        }
    }
}

/// Subcommands whose flags are settings in a table of their name.
pub const TABLES: [&str; 3] = ["serve", "mcp", "session"];

/// The flags of a subcommand.
pub struct Flags {
    command: clap::Command,
}

impl Flags {
    /// Those of `generate`.
    pub fn of_generate() -> Self {
        Self::of("generate").expect("the subcommand is there")
    }

    /// Those of a subcommand; `None` if this build has none of that name.
    pub fn of(subcommand: &str) -> Option<Self> {
        let mut program = Args::command();
        program.build(); // adds what arguments leave to defaults, as the number of values
        Some(Flags { command: program.find_subcommand(subcommand)?.clone() })
    }

    /// Name of the subcommand.
    pub fn subcommand(&self) -> &str {
        self.command.get_name()
    }

    /// The flag called `name` or by an alias.
    pub fn find(&self, name: &str) -> Option<&Arg> {
        self.command.get_arguments().find(|arg| {
            arg.get_long() == Some(name) || arg.get_all_aliases().is_some_and(|aliases| aliases.contains(&name))
        })
    }

    /// Long names in the order of the help.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.command.get_arguments().filter_map(Arg::get_long)
    }

    /// The arguments that may not be given together with `arg`.
    pub fn conflicts_of(&self, arg: &Arg) -> Vec<&Arg> {
        self.command.get_arg_conflicts_with(arg)
    }

    /// The names among `known` that are most like `name`, for a hint.
    pub fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
        let like = known.map(|other| (strsim::jaro_winkler(name, other), other));
        like.filter(|(score, _)| *score > 0.8).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, other)| other)
    }
}

/// Whether the value of a flag is the path of a file or folder.
pub fn is_path(arg: &Arg) -> bool {
    let parser = arg.get_value_parser().type_id();
    parser == TypeId::of::<PathBuf>() || parser == TypeId::of::<OsString>()
}

/// Whether a flag takes a value.
pub fn takes_value(arg: &Arg) -> bool {
    arg.get_action().takes_values()
}

/// Whether a flag may be given several times, each with its own value.
pub fn is_list(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::Append)
}

/// The settings of a file or a part of one as arguments of `generate`. An error names the line of the first setting
/// that clap refuses, alone or together with those before it.
pub fn generate_args(settings: &[Setting]) -> Result<GenerateArgs> {
    let error = match parse(settings) {
        Ok(args) => return Ok(args),
        Err(error) => error,
    };
    let refused = |count: &usize| parse(&settings[..*count]).is_err();
    let first = (1..=settings.len()).find(refused).unwrap_or(settings.len());
    let failure = usage::failure(&parse(&settings[..first]).err().unwrap_or(error));
    let place = &settings[first - 1].place;
    Err(place.refuse(&failure.message, hint(&failure)))
}

/// The hint of a refused setting. The usual one is about the command line.
pub fn hint(failure: &Failure) -> String {
    match failure.hint.as_deref() {
        Some(hint) if !hint.starts_with("run it with --help") => hint.to_owned(),
        _ => "`dj-flux2 generate --help-all` says what the flag of that name takes".to_owned(),
    }
}

/// Settings as flags of `generate`. Without a source, those of one wait for it: they are in the result, and the
/// settings of the size may be beside them.
///
/// # Errors
/// Clap's, if it refuses one.
pub fn parse(settings: &[Setting]) -> Result<GenerateArgs, clap::Error> {
    let has = |name: &str| settings.iter().any(|setting| setting.name == name);
    let waits = |setting: &&Setting| OF_A_SOURCE.contains(&setting.name.as_str());
    if has("source") || !settings.iter().any(|setting| waits(&setting)) {
        return parse_argv(settings.iter().flat_map(Setting::argv).collect());
    }
    let (waiting, own): (Vec<&Setting>, Vec<&Setting>) = settings.iter().partition(waits);
    let mut args = parse_argv(own.into_iter().flat_map(Setting::argv).collect())?;
    // What clap requires beside them.
    let stand_ins = [Some("--source=x"), Some("--outpaint=1,1,1,1").filter(|_| !has("outpaint"))];
    let stand_ins = stand_ins.into_iter().flatten().map(OsString::from);
    args.canvas = parse_argv(waiting.into_iter().flat_map(Setting::argv).chain(stand_ins).collect())?.canvas;
    args.canvas.source = None;
    args.canvas.outpaint = args.canvas.outpaint.filter(|_| has("outpaint"));
    Ok(args)
}

fn parse_argv(argv: Vec<OsString>) -> Result<GenerateArgs, clap::Error> {
    let program = ["dj-flux2", "generate"].into_iter().map(OsString::from);
    match Args::try_parse_from(program.chain(argv))?.command {
        Command::Generate(args) => Ok(*args),
        _ => unreachable!("the subcommand is `generate`"),
    }
}
