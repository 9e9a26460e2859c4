//! `dj-flux2 download`: downloads a model into the cache of the hub. Also the offer to do so when one is missing.

use std::cell::LazyCell;
use std::io::{self, BufRead, IsTerminal as _};

use flux2::find::{FindError, ModelFinder, repo_of, variant_of};
use flux2::hub::Plan;
use flux2::upscale::published::by_name;
use flux2::weights::Location;
use flux2::{CancelToken, Variant};

use crate::args::DownloadArgs;
use crate::failure::Result;
use crate::hub_options;
use crate::interrupt::cancelled_by_signals;
use crate::report::{Report, Size, print};
use crate::settings::Detail;
use crate::typed_paths;
use crate::upscalers::published::download;

/// Downloads the model that `args` name.
pub fn run(args: &DownloadArgs) -> Result<()> {
    if let Some(published) = by_name(&args.model) {
        return download(published, args);
    }
    let repo = repo_of(&args.model)?;
    let hub = hub_options::hub()?;
    let mut report = Report::new(if args.quiet { Detail::Quiet } else { Detail::Normal }, false);
    let plan = hub.plan(&repo)?;
    let cancel = cancelled_by_signals();
    if hub.missing_bytes(&plan) == 0 {
        report.note(format_args!("all {} files of {repo} are on this disk, {}", plan.files.len(), Size(plan.bytes())));
    }
    let folder = hub.download(&plan, &mut report, &cancel)?;
    print(&folder.display().to_string())
}

/// Finds the model called `named`. If it is published and not on this disk, asks whether to download it if the run
/// is interactive. `cancel` is created only once the answer is yes.
pub fn find_or_offer(named: &Location, report: &mut Report, cancel: &LazyCell<CancelToken>) -> Result<Location> {
    let named = &typed_paths::model(named)?;
    let error = match ModelFinder::usual().model(named) {
        Ok(found) => return Ok(found),
        Err(error) => error,
    };
    let FindError::NotDownloaded { variant: Variant { repo: Some(repo), .. }, .. } = error else {
        return Err(error.into());
    };
    if !is_interactive() {
        return Err(error.into());
    }
    let hub = hub_options::hub()?;
    let plan = hub.plan(&repo.parse()?)?;
    let folder = hub.cache().root().display().to_string();
    report.line(question(&error.to_string(), &plan, hub.missing_bytes(&plan), &folder));
    match is_yes(io::stdin().lock()) {
        true => Ok(Location::from(hub.download(&plan, report, cancel)?)),
        false => Err(error.into()),
    }
}

fn question(missing: &str, plan: &Plan, bytes: u64, folder: &str) -> String {
    let repo = &plan.repo;
    let license = variant_of(repo).map_or("its own license", |variant| variant.license);
    format!("{missing}. Download {} from {repo} ({license}) to {folder}? [y/N]", Size(bytes))
}

/// Whether a question can be seen and answered: standard input and standard error are terminals.
pub fn is_interactive() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Reads a line and tells whether it says yes.
pub fn is_yes(mut answer: impl BufRead) -> bool {
    let mut line = String::new();
    answer.read_line(&mut line).is_ok() && matches!(line.trim().to_ascii_lowercase().as_str(), "y" | "yes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_yes_is_yes() {
        for yes in ["y\n", "Y\r\n", " yes \n", "YES"] {
            assert!(is_yes(yes.as_bytes()), "{yes:?}");
        }
        for no in ["", "\n", "n\n", "yy\n", "no\n", "\u{fffd}\n"] {
            assert!(!is_yes(no.as_bytes()), "{no:?}");
        }
    }

    #[test]
    fn who_is_asked_sees_size_license_and_place() {
        let repo = "black-forest-labs/FLUX.2-klein-9B".parse().unwrap();
        let plan = Plan { repo, commit: String::new(), files: vec![] };
        let asked = question("klein-9b is not on this disk", &plan, 34_700_000_000, "/models");
        assert_eq!(
            asked,
            "klein-9b is not on this disk. Download 34.7 GB from black-forest-labs/FLUX.2-klein-9B \
             (FLUX Non-Commercial License) to /models? [y/N]"
        );
    }
}
