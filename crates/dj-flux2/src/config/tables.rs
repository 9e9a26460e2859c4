//! Settings in the tables of subcommands, as `[serve]`: they become arguments in front of those that were typed.

use std::ffi::OsString;

use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory as _};

use super::flags::{Flags, Setting};
use crate::args::Args;
use crate::failure::{Failure, Result};
use crate::usage;

/// `argv`, whose first two arguments are the program and the subcommand of `flags`, with the arguments of those
/// `settings` that neither a flag nor the environment replaces. `env` tells whether a variable is set.
pub fn with_settings(
    argv: &[OsString],
    flags: &Flags,
    settings: &[Setting],
    env: impl Fn(&str) -> bool,
) -> Result<Vec<OsString>> {
    let matches = Args::command().try_get_matches_from(argv).map_err(|error| usage::failure(&error))?;
    let Some((_, typed)) = matches.subcommand() else { return Ok(argv.to_vec()) };
    let is_typed = |id: &str| is_typed(typed, id);
    let mut all = argv[..2].to_vec();
    for setting in settings {
        let arg = flags.find(&setting.name).expect("it was found when it was read");
        let conflicts = flags.conflicts_of(arg);
        let replaced = is_typed(arg.get_id().as_str())
            || conflicts.iter().any(|other| is_typed(other.get_id().as_str()))
            || (setting.name == "model" && env("DJ_FLUX2_MODEL"));
        if !replaced {
            check(flags, setting)?;
            all.extend(setting.argv());
        }
    }
    all.extend_from_slice(&argv[2..]);
    Ok(all)
}

fn is_typed(matches: &ArgMatches, id: &str) -> bool {
    matches.try_contains_id(id).is_ok() && matches.value_source(id) == Some(ValueSource::CommandLine)
}

/// Refuses a value that its flag does not take, with the line.
fn check(flags: &Flags, setting: &Setting) -> Result<()> {
    let subcommand = flags.subcommand();
    let argv = ["dj-flux2", subcommand].into_iter().map(OsString::from).chain(setting.argv());
    match Args::command().try_get_matches_from(argv) {
        // One flag may need another; both are parsed together afterwards.
        Err(error) if error.kind() != clap::error::ErrorKind::MissingRequiredArgument => {
            let Failure { message, .. } = usage::failure(&error);
            let hint = format!("`dj-flux2 {subcommand} --help-all` says what the flag of that name takes");
            Err(setting.place.refuse(message, hint))
        }
        _ => Ok(()),
    }
}
