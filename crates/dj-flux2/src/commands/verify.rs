//! `dj-flux2 verify`: compares the files of models and upscalers with the hashes that are recorded on this disk. Uses
//! the network only with `--repair`.

use std::fs;
use std::path::Path;

use flux2::find::{name_of, repo_of};
use flux2::hub::{Checked, Hub, RepoId, State, Verdict, verify_folder};
use flux2::upscale::published::{PUBLISHED, PublishedUpscaler, by_name};
use flux2::weights::{Location, check_file};
use flux2::{CancelToken, Error, Variant};

use crate::args::VerifyArgs;
use crate::failure::{Failure, Result, code};
use crate::hub_options;
use crate::interrupt::cancelled_by_signals;
use crate::report::{Report, print};
use crate::settings::Detail;
use crate::upscalers::published;

/// Most files that are named as impossible to verify.
const SHOWN: usize = 5;

/// Checks the model, the upscaler or the folder that `args` name, or all models and upscalers that are on this disk.
pub fn run(args: &VerifyArgs) -> Result<()> {
    let mut report = Report::new(if args.quiet { Detail::Quiet } else { Detail::Normal }, false);
    let cancel = cancelled_by_signals();
    if let Some(folder) = args.model.as_deref().map(Path::new).filter(|path| path.exists()) {
        return one_folder(folder, args.repair, &mut report, &cancel);
    }
    if let Some(upscaler) = args.model.as_deref().and_then(by_name) {
        return one_upscaler(&published::hub()?, upscaler, args.repair, &mut report, &cancel);
    }
    let hub = hub_options::hub()?;
    let upscalers = match args.model {
        Some(_) => vec![],
        None => PUBLISHED.iter().filter(|upscaler| published::file_of(upscaler).is_some()).collect(),
    };
    let repos = match &args.model {
        Some(name) => vec![repo_of(name)?],
        None => {
            let family: Vec<RepoId> = Variant::named().iter().filter_map(|v| v.repo?.parse().ok()).collect();
            hub.cache().list(&family)?.into_iter().map(|cached| cached.repo).collect()
        }
    };
    if repos.is_empty() && upscalers.is_empty() {
        return Err(Failure::new(
            code::MODEL_MISSING,
            format!("no model is in {}", hub.cache().root().display()),
            "download one with `dj-flux2 download klein-4b`",
        ));
    }
    let mut worst = Ok(());
    let mut keep_worst = |result: Result<()>| match result {
        Ok(()) => Ok(()),
        Err(failure) if failure.code == code::CANCELLED || args.model.is_some() => Err(failure),
        Err(failure) => {
            print(&failure.message)?;
            worst = Err(failure);
            Ok(())
        }
    };
    for repo in repos {
        keep_worst(one(&hub, &repo, args.repair, &mut report, &cancel))?;
    }
    for upscaler in upscalers {
        keep_worst(one_upscaler(&published::hub()?, upscaler, args.repair, &mut report, &cancel))?;
    }
    worst
}

/// Checks a published upscaler, which is one file.
fn one_upscaler(
    hub: &Hub,
    upscaler: &PublishedUpscaler,
    repair: bool,
    report: &mut Report,
    cancel: &CancelToken,
) -> Result<()> {
    let name = upscaler.name;
    let counts = Counts::of(hub.cache().verify_release(&upscaler.file, report, cancel)?, name, report);
    if repair && (counts.files == 0 || !counts.is_whole()) {
        for blob in &counts.damaged_blobs {
            fs::remove_file(blob).map_err(|source| Error::Io { path: blob.clone(), source })?;
        }
        hub.download(&hub.release_plan(&upscaler.file)?, report, cancel)?;
        return print(&format!("{name}: repaired"));
    }
    if counts.files == 0 || counts.missing > 0 {
        let hint = format!("download it with `dj-flux2 download {name}`");
        return Err(Failure::new(code::MODEL_MISSING, format!("{name} is not on this disk"), hint));
    }
    let hint = format!("download it again with `dj-flux2 verify --repair {name}`");
    counts.say(name, &hint, &hint)
}

fn one(hub: &Hub, repo: &RepoId, repair: bool, report: &mut Report, cancel: &CancelToken) -> Result<()> {
    let name = name_of(repo);
    let counts = Counts::of(hub.cache().verify(repo, report, cancel)?, &name, report);
    let is_complete = matches!(hub.cache().state(repo)?, Some(State::Complete(_)));
    if repair && (counts.files == 0 || !counts.is_whole() || !is_complete) {
        for blob in &counts.damaged_blobs {
            fs::remove_file(blob).map_err(|source| Error::Io { path: blob.clone(), source })?;
        }
        hub.download(&hub.plan(repo)?, report, cancel)?;
        return print(&format!("{name}: repaired"));
    }
    if counts.files == 0 {
        let hint = format!("download it with `dj-flux2 download {name}`");
        return Err(Failure::new(code::MODEL_MISSING, format!("{name} is not on this disk"), hint));
    }
    let hint = format!("download what is damaged or missing with `dj-flux2 verify --repair {name}`");
    if counts.damaged == 0 && (!is_complete || counts.missing > 0) {
        return Err(Failure::new(code::MODEL_MISSING, format!("{name} is only partly on this disk"), hint));
    }
    counts.say(&name, &hint, &format!("compare them with the hub with `dj-flux2 verify --repair {name}`"))
}

/// Checks a folder that is named by its path.
fn one_folder(folder: &Path, repair: bool, report: &mut Report, cancel: &CancelToken) -> Result<()> {
    if repair {
        return Err(Failure::usage(
            "a folder cannot be repaired: nothing says which repository it is",
            "name the model, as in `dj-flux2 verify --repair klein-4b`",
        ));
    }
    if !folder.is_dir() {
        return Err(Failure::usage(
            format!("{} is a file, and hashes are recorded beside folders", folder.display()),
            "name its folder; `dj-flux2 inspect` checks what a file holds",
        ));
    }
    let name = folder.display().to_string();
    let counts = Counts::of(verify_folder(folder, report, cancel)?, &name, report);
    if counts.files == 0 {
        return Err(Failure::new(
            code::MODEL_MISSING,
            format!("{name} holds no files of a model"),
            "name the folder of a model",
        ));
    }
    if counts.missing > 0 && counts.damaged == 0 {
        return Err(Failure::new(code::MODEL_MISSING, format!("{name} lacks files"), "download it again"));
    }
    counts.say(&name, "download it again", "download it again if you doubt it, or compare hashes by hand")
}

/// What came of the files of a model.
#[derive(Default)]
struct Counts {
    files: usize,
    damaged: usize,
    missing: usize,
    unknown: usize,
    damaged_blobs: Vec<std::path::PathBuf>,
}

impl Counts {
    /// Counts the files, and warns of those that are not whole. A file without a hash is at least opened.
    fn of(checked: Vec<Checked>, name: &str, report: &Report) -> Self {
        let mut counts = Counts { files: checked.len(), ..Counts::default() };
        for Checked { path, file, blob, verdict } in checked {
            match verdict {
                Verdict::Whole => {}
                Verdict::Missing => {
                    counts.missing += 1;
                    report.warning(format_args!("{name}: {path} is missing"));
                }
                Verdict::Damaged => {
                    counts.damaged += 1;
                    counts.damaged_blobs.extend(blob);
                    report.warning(format_args!("{name}: {path} is damaged"));
                }
                Verdict::Unknown => match check_file(&Location::from(file.clone())) {
                    Err(error) => {
                        counts.damaged += 1;
                        let error = error.to_string();
                        let why = error.strip_prefix(&format!("{}: ", file.display())).unwrap_or(&error);
                        report.warning(format_args!("{name}: {path} is damaged: {why}"));
                    }
                    Ok(()) => {
                        counts.unknown += 1;
                        if counts.unknown <= SHOWN {
                            report.warning(format_args!("{name}: no hash of {path} is recorded"));
                        }
                    }
                },
            }
        }
        if counts.unknown > SHOWN {
            report.warning(format_args!("{name}: nor of {} more files", counts.unknown - SHOWN));
        }
        counts
    }

    fn is_whole(&self) -> bool {
        self.damaged + self.missing + self.unknown == 0
    }

    /// Prints that all files are whole, or says why that is not known. `hint` is for damaged files.
    fn say(&self, name: &str, hint: &str, hint_for_unknown: &str) -> Result<()> {
        let Counts { files, damaged, unknown, .. } = self;
        let failure = |message, hint: &str| Err(Failure::new(code::FAILURE, message, hint));
        match (damaged, unknown) {
            (0, 0) if *files == 1 => print(&format!("{name}: one file, whole")),
            (0, 0) => print(&format!("{name}: {files} files, all whole")),
            (0, unknown) => failure(format!("{name}: {unknown} of {files} files cannot be verified"), hint_for_unknown),
            (1, _) => failure(format!("{name}: a file is damaged"), hint),
            (n, _) => failure(format!("{name}: {n} files are damaged"), hint),
        }
    }
}
