//! What the name of a model stands for: a path, the built-in model, or one of the hub that is in the cache.
//!
//! A file or folder of that name comes first. Nothing here uses the network; where a published model is named that is not
//! here and somebody can be asked, `generate` offers to download it.

use flux2::Variant;
#[cfg(feature = "hub")]
use flux2::hub::{Cache, RepoId, State};
use flux2::variant::KLEIN_MINI;
use flux2::weights::{Error, Location};

use crate::failure::{Failure, Result, code};
#[cfg(feature = "hub")]
use crate::{hub_options, report::Size, wording};

/// The file or folder that was named, or what else has that name.
pub fn find_model(named: &Location) -> Result<Location> {
    if named.exists()? {
        return Ok(named.clone());
    }
    let missing = Failure::from(Error::ModelMissing { path: named.path().to_owned() });
    let name = named.path().to_string_lossy();
    match Variant::by_name(&name) {
        Ok(Variant { name: KLEIN_MINI, .. }) => Location::builtin().ok_or_else(|| {
            Failure::new(
                code::MODEL_MISSING,
                format!("no file or folder is called {KLEIN_MINI}, and this program was built without it"),
                "build it with the feature `mini`, or pass -m PATH with the folder of a model",
            )
        }),
        Ok(Variant { name, repo: Some(repo), .. }) => published(name, repo),
        Err(Error::UnknownVariant { nearest: Some(nearest), .. }) => {
            let hint = missing.hint.map(|hint| format!("{hint}; the nearest name of a model is {nearest}"));
            Err(Failure { hint, ..missing })
        }
        _ => in_cache(&name).unwrap_or_else(|| Err(or_download(missing, &name))),
    }
}

/// A part of a model that was named. One that is nowhere is left to the loader, which knows what it is.
pub fn find_part(named: &Location) -> Result<Location> {
    match named.exists()? {
        true => Ok(named.clone()),
        false => in_cache(&named.path().to_string_lossy()).unwrap_or_else(|| Ok(named.clone())),
    }
}

#[cfg(not(feature = "hub"))]
fn published(name: &str, repo: &str) -> Result<Location> {
    Err(Failure::new(
        code::MODEL_MISSING,
        format!("no file or folder is called {name}, and this program was built without downloads"),
        format!("download {repo} from huggingface.co and pass its folder with -m PATH"),
    ))
}

#[cfg(not(feature = "hub"))]
fn or_download(missing: Failure, _name: &str) -> Failure {
    missing
}

#[cfg(not(feature = "hub"))]
fn in_cache(_name: &str) -> Option<Result<Location>> {
    None
}

/// What is named may be a path with a mistake in it, or a repository that is not here yet.
#[cfg(feature = "hub")]
fn or_download(missing: Failure, name: &str) -> Failure {
    if !RepoId::is_valid(name) {
        return missing;
    }
    let hint =
        missing.hint.map(|hint| format!("{hint}; a repository of the hub comes with `dj-flux2 download {name}`"));
    Failure { hint, ..missing }
}

/// A member of the family, in the cache.
#[cfg(feature = "hub")]
fn published(name: &str, repo: &str) -> Result<Location> {
    let state = state(&repo.parse()?)?;
    let is_here = match state {
        Some(State::Complete(folder)) => return Ok(Location::from(folder)),
        Some(State::Incomplete(_)) => "only partly on this disk",
        _ => "not on this disk",
    };
    let size = Variant::by_name(name)?.download_bytes;
    let hint = format!("download it ({}) with `dj-flux2 download {name}`, or pass its folder with -m PATH", Size(size));
    Err(Failure::new(code::MODEL_MISSING, format!("{name} is {is_here}"), hint))
}

/// A repository of the hub, if this is the name of one of which something is in the cache.
#[cfg(feature = "hub")]
fn in_cache(name: &str) -> Option<Result<Location>> {
    let repo: RepoId = name.parse().ok()?;
    match state(&repo) {
        Ok(Some(State::Complete(folder))) => Some(Ok(single_file(Location::from(folder)))),
        Ok(Some(_)) => Some(Err(Failure::new(
            code::MODEL_MISSING,
            format!("{repo} is only partly on this disk"),
            format!("download the rest with `dj-flux2 download {repo}`"),
        ))),
        Ok(None) => None,
        Err(failure) => Some(Err(failure)),
    }
}

#[cfg(feature = "hub")]
fn state(repo: &RepoId) -> Result<Option<State>> {
    match hub_options::cache_folder(|name| std::env::var_os(name)) {
        Some(folder) => Ok(Cache::new(folder).state(repo)?),
        None => Ok(None),
    }
}

/// A folder that holds one file of weights and nothing that describes it is that file.
#[cfg(feature = "hub")]
fn single_file(folder: Location) -> Location {
    let path = folder.path();
    if ["model_index.json", "config.json"].iter().any(|name| path.join(name).is_file()) {
        return folder;
    }
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut weights = entries.filter(|path| path.extension().is_some_and(|end| end == "safetensors" || end == "gguf"));
    match (weights.next(), weights.next()) {
        (Some(file), None) => Location::from(file),
        _ => folder,
    }
}

/// The repository that a name stands for: that of a member of the family, or the one that is named.
#[cfg(feature = "hub")]
pub fn repo_of(name: &str) -> Result<RepoId> {
    match Variant::by_name(name) {
        Ok(Variant { repo: Some(repo), .. }) => Ok(repo.parse()?),
        Ok(Variant { name: KLEIN_MINI, .. }) => {
            Err(Failure::usage(format!("{KLEIN_MINI} is built in"), "use it with -m klein-mini"))
        }
        Err(error @ Error::UnknownVariant { .. }) => match name.parse() {
            Ok(repo) => Ok(repo),
            Err(_) => {
                let hint =
                    error.remedy().map(|remedy| format!("{}, or a repository as owner/name", wording::remedy(&remedy)));
                Err(Failure { hint, ..Failure::usage(format!("no model is called {name:?}"), "") })
            }
        },
        _ => Err(Failure::usage(format!("{name} is published in several sizes"), "name one, as in klein-4b")),
    }
}

/// What a repository is called here: a member of the family by its name.
#[cfg(feature = "hub")]
pub fn name_of(repo: &RepoId) -> String {
    let repo = repo.to_string();
    let variant = Variant::named().iter().find(|variant| variant.repo == Some(&repo));
    variant.map_or(repo, |variant| variant.name.to_owned())
}
