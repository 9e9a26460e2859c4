//! `dj-flux2 verify`: compares the files of downloaded models with the hashes that the hub named at download time. Uses
//! the network only with `--repair`.

use std::fs;

use flux2::find::{name_of, repo_of};
use flux2::hub::{Hub, RepoId, State};
use flux2::{CancelToken, Error, Variant};

use crate::args::VerifyArgs;
use crate::failure::{Failure, Result, code};
use crate::hub_options;
use crate::interrupt::cancelled_by_signals;
use crate::report::{Report, print};
use crate::settings::Detail;

/// Checks the model that `args` name, or all that are on this disk.
pub fn run(args: &VerifyArgs) -> Result<()> {
    let hub = hub_options::hub()?;
    let mut report = Report::new(if args.quiet { Detail::Quiet } else { Detail::Normal }, false);
    let cancel = cancelled_by_signals();
    let repos = match &args.model {
        Some(name) => vec![repo_of(name)?],
        None => {
            let family: Vec<RepoId> = Variant::named().iter().filter_map(|v| v.repo?.parse().ok()).collect();
            hub.cache().list(&family)?.into_iter().map(|cached| cached.repo).collect()
        }
    };
    if repos.is_empty() {
        return Err(Failure::new(
            code::MODEL_MISSING,
            format!("no model is in {}", hub.cache().root().display()),
            "download one with `dj-flux2 download klein-4b`",
        ));
    }
    let mut worst = Ok(());
    for repo in repos {
        if let Err(failure) = one(&hub, &repo, args.repair, &mut report, &cancel) {
            if failure.code == code::CANCELLED || args.model.is_some() {
                return Err(failure);
            }
            print(&failure.message)?;
            worst = Err(failure);
        }
    }
    worst
}

fn one(hub: &Hub, repo: &RepoId, repair: bool, report: &mut Report, cancel: &CancelToken) -> Result<()> {
    let name = name_of(repo);
    let checked = hub.cache().verify(repo, report, cancel)?;
    let damaged: Vec<_> = checked.iter().filter(|file| !file.is_whole).collect();
    for file in &damaged {
        report.warning(format_args!("{name}: {} is damaged", file.path));
    }
    let is_complete = matches!(hub.cache().state(repo)?, Some(State::Complete(_)));
    if repair && (!damaged.is_empty() || !is_complete) {
        for file in &damaged {
            let removed = fs::remove_file(&file.blob);
            removed.map_err(|source| Error::Io { path: file.blob.clone(), source })?;
        }
        hub.download(&hub.plan(repo)?, report, cancel)?;
        return print(&format!("{name}: repaired"));
    }
    let hint = format!("download what is damaged or missing with `dj-flux2 verify --repair {name}`");
    match (damaged.len(), is_complete) {
        (0, true) => print(&format!("{name}: {} files, all whole", checked.len())),
        (0, false) if checked.is_empty() => {
            let hint = format!("download it with `dj-flux2 download {name}`");
            Err(Failure::new(code::MODEL_MISSING, format!("{name} is not on this disk"), hint))
        }
        (0, false) => Err(Failure::new(code::MODEL_MISSING, format!("{name} is only partly on this disk"), hint)),
        (1, _) => Err(Failure::new(code::FAILURE, format!("{name}: a file is damaged"), hint)),
        (n, _) => Err(Failure::new(code::FAILURE, format!("{name}: {n} files are damaged"), hint)),
    }
}
