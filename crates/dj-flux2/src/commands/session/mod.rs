//! `dj-flux2 session`: picture after picture, with one model that stays loaded.
//!
//! ```text
//! input    lines of a person or a script          complete   what Tab completes
//! shell    what a line does                       chosen     settings, by the names of flags
//! draw     from a prompt to files                 explore    several seeds on a sheet, to pick from
//! place    the engine here, or a server           remote     that server's API
//! say      what is printed
//! ```

mod chosen;
mod complete;
mod draw;
mod explore;
mod input;
mod place;
mod remote;
mod say;
mod shell;

use std::path::{Path, PathBuf};

use crate::args::SessionArgs;
use crate::cache_folder::user_state;
use crate::failure::{Failure, Result, code};
use crate::interrupt::Interrupts;
use crate::terminal_picture::Display;
use crate::{config, history};
use chosen::Chosen;
use input::{Input, Next};
use place::Place;
use remote::RemoteStudio;
use say::Say;
use shell::{Flow, Shell};

/// Draws what the lines ask for.
pub fn run(args: &SessionArgs) -> Result<()> {
    let say = Say::new(args.json);
    let state = user_state(|name| std::env::var_os(name)).map(|state| state.join("dj-flux2").join("session"));
    let mut input = Input::new(state.as_deref())?;
    let history =
        history::open(args.history.as_deref(), state.as_deref().filter(|_| input.is_terminal()), &say.report)?;
    let place = match &args.connect {
        Some(url) => Place::There(RemoteStudio::connect(url, args.api_key_file.as_deref())?),
        None => Place::Here(None),
    };
    let config = config::load(args.config.as_deref())?;
    let mut display = None;
    if input.is_terminal() && !args.json {
        let typed;
        (display, typed) = Display::detect();
        input.was_typed(typed);
    }
    let mut shell = Shell::new(config, place, history, say, Interrupts::install(), input.is_terminal(), display);
    // All of it together is checked when the session begins.
    settings_of(args)?.into_iter().try_for_each(|(name, value)| shell.choose(name, &value))?;
    // The model loads while the first prompt is typed.
    shell.begin()?;
    let (mut number, mut failed) = (0, 0);
    loop {
        let done = match input.next(|| shell.words())? {
            Next::Line(line) => shell.execute(&line),
            Next::Bad(failure) => Err(failure),
            Next::Dropped => continue,
            Next::End => break,
        };
        number += 1;
        let failure = match done {
            Ok(Flow::Go) => continue,
            Ok(Flow::Quit) => break,
            Err(failure) => Failure { hint: failure.hint.map(|hint| shell.hint(&hint)), ..failure },
        };
        if input.is_terminal() {
            shell.say().failure(&failure, None);
            continue;
        }
        if !args.keep_going || failure.code == code::CANCELLED {
            shell.say().error_record(&failure, number)?;
            return Err(Failure { message: format!("line {number}: {}", failure.message), ..failure });
        }
        shell.say().failure(&failure, Some(number));
        failed += 1;
    }
    match failed {
        0 => Ok(()),
        1 => Err(Failure { code: code::SOME_FAILED, message: "1 line failed".into(), hint: None }),
        _ => Err(Failure { code: code::SOME_FAILED, message: format!("{failed} lines failed"), hint: None }),
    }
}

/// Refuses settings that a session would refuse when it begins.
pub fn check(args: &SessionArgs) -> Result<()> {
    let mut chosen = Chosen::new();
    settings_of(args)?.into_iter().try_for_each(|(name, value)| chosen.set(name, &value))
}

/// Names and values of the settings that the command line chooses.
fn settings_of(args: &SessionArgs) -> Result<Vec<(&str, String)>> {
    let path = |path: &PathBuf| path.to_string_lossy().into_owned();
    let given = [
        ("model", args.model.as_ref().map(path)),
        ("preset", Some(args.preset.join(",")).filter(|names| !names.is_empty())),
        ("output", args.output.as_ref().map(path)),
        ("device", args.device.map(|device| device.to_string())),
    ];
    let mut settings: Vec<(&str, String)> =
        given.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
    for setting in &args.set {
        let Some((name, value)) = setting.split_once('=') else {
            let message = format!("--set {setting} has no value");
            return Err(Failure::usage(message, "write the name of a setting and its value, as in --set steps=8"));
        };
        settings.push((name, value.to_owned()));
    }
    Ok(settings)
}

/// A path as it is shown: below the current folder, without that.
fn shortened(path: &Path) -> String {
    let current = std::env::current_dir().ok();
    let below = current.as_deref().and_then(|current| path.strip_prefix(current).ok());
    below.filter(|below| !below.as_os_str().is_empty()).unwrap_or(path).display().to_string()
}
