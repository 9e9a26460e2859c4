//! `dj-flux2 remove`: deletes a downloaded model or upscaler.

use std::io;

use flux2::find::{name_of, repo_of};
use flux2::upscale::published::{PublishedUpscaler, by_name};

use super::download::{is_interactive, is_yes};
use crate::args::RemoveArgs;
use crate::failure::{Failure, Result, code};
use crate::hub_options;
use crate::report::{Report, Size};
use crate::settings::Detail;
use crate::upscalers::published;

/// Deletes the model or upscaler that `args` name, after asking.
pub fn run(args: &RemoveArgs) -> Result<()> {
    if let Some(upscaler) = by_name(&args.model) {
        return remove_upscaler(upscaler, args.yes);
    }
    let (repo, hub) = (repo_of(&args.model)?, hub_options::hub()?);
    let (name, report) = (name_of(&repo), Report::new(Detail::Normal, false));
    let listed = hub.cache().list(std::slice::from_ref(&repo))?;
    let Some(found) = listed.into_iter().find(|cached| cached.repo.is_same(&repo)) else {
        return Err(Failure::new(
            code::MODEL_MISSING,
            format!("{name} is not in {}", hub.cache().root().display()),
            "run `dj-flux2 models` to see what is on this disk",
        ));
    };
    let what = format!("{name}, {} in {}", Size(found.bytes), found.folder.display());
    if !args.yes {
        confirm(&name, &what, "Other programs that use this cache lose it too. ", &report)?;
    }
    let freed = hub.cache().remove(&found.repo)?.unwrap_or_default();
    report.line(format_args!("removed {name}, {} freed", Size(freed)));
    Ok(())
}

fn remove_upscaler(upscaler: &PublishedUpscaler, is_sure: bool) -> Result<()> {
    let (hub, name) = (published::hub()?, upscaler.name);
    let report = Report::new(Detail::Normal, false);
    let Some(file) = published::file_of(upscaler) else {
        return Err(Failure::new(
            code::MODEL_MISSING,
            format!("{name} is not in {}", hub.cache().root().display()),
            "run `dj-flux2 models` to see what is on this disk",
        ));
    };
    if !is_sure {
        confirm(name, &format!("{name}, {} in {}", Size(upscaler.file.bytes), file.display()), "", &report)?;
    }
    let freed = hub.cache().remove_release(&upscaler.file)?.unwrap_or_default();
    report.line(format_args!("removed {name}, {} freed", Size(freed)));
    Ok(())
}

/// Asks whether `what` is to be removed.
fn confirm(name: &str, what: &str, consequence: &str, report: &Report) -> Result<()> {
    if !is_interactive() {
        let message = format!("no terminal to confirm that {what} is to be removed");
        return Err(Failure::usage(message, "add --yes"));
    }
    report.line(format_args!("Remove {what}? {consequence}[y/N]"));
    match is_yes(io::stdin().lock()) {
        true => Ok(()),
        false => Err(Failure::usage(format!("{name} was not removed"), "answer y, or add --yes")),
    }
}
