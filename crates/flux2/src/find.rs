//! Finds a model by name: a path, the built-in model, a published model, or a repository in the hub's cache.
//!
//! In:  a name as a user gives it, and the folder of the hub's cache.
//! Out: a [`Location`] that exists, or a [`FindError`].
//!
//! A file or folder of that name wins. The network is never used: a published model that is not on this disk is an
//! error that says which one, so that a front end can offer to download it.

use std::path::PathBuf;

#[cfg(feature = "hub")]
use crate::hub::{Cache, RepoId, State};
use crate::variant::{KLEIN_MINI, Variant};
use crate::weights::{self, Location};
use crate::{Error, ErrorKind, Result};

/// Finds models on this disk. The default one knows no cache.
#[derive(Clone, Debug, Default)]
pub struct ModelFinder {
    #[cfg(feature = "hub")]
    cache: Option<Cache>,
}

/// Why a name leads to no model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FindError {
    /// Neither a path nor a name that is known here.
    #[error("no model at {}", path.display())]
    NotFound {
        /// The name, taken as a path.
        path: PathBuf,
        /// The published, built-in or cached model with the most similar name, if one is similar.
        nearest: Option<String>,
        /// Whether the name has the form of a hub repository, `owner/name`.
        is_repository: bool,
    },
    /// The built-in model, in a build without it.
    #[error("no file or folder is called {KLEIN_MINI}, and this build does not include the model")]
    NotBuiltIn,
    /// A published model that is not, or not completely, in the cache.
    #[error("{} is {} on this disk", variant.name, if *is_partial { "only partly" } else { "not" })]
    NotDownloaded {
        /// The model.
        variant: &'static Variant,
        /// Whether some of its files are there.
        is_partial: bool,
    },
    /// A hub repository of which only some files are in the cache.
    #[error("{repository} is only partly on this disk")]
    Incomplete {
        /// Its name, `owner/name`.
        repository: String,
    },
    /// The built-in model, where a repository is needed.
    #[error("{KLEIN_MINI} is built in")]
    NoRepository,
    /// A name shared by models of several sizes, where a repository is needed.
    #[error("{name} is published in several sizes")]
    SeveralSizes {
        /// The name, as in `klein-base`.
        name: String,
    },
    /// Neither a published model nor `owner/name`, where a repository is needed.
    #[error("no model is called {name:?}")]
    UnknownName {
        /// The name.
        name: String,
        /// The published or built-in model with the most similar name, if one is similar.
        nearest: Option<&'static str>,
    },
    /// The disk could not be read.
    #[error(transparent)]
    Other(#[from] Error),
}

impl From<weights::Error> for FindError {
    fn from(error: weights::Error) -> Self {
        FindError::Other(error.into())
    }
}

#[cfg(feature = "hub")]
impl From<crate::hub::Error> for FindError {
    fn from(error: crate::hub::Error) -> Self {
        FindError::Other(error.into())
    }
}

impl FindError {
    /// The kind of error, as of [`Error::kind`].
    pub fn kind(&self) -> ErrorKind {
        match self {
            FindError::NotFound { .. }
            | FindError::NotBuiltIn
            | FindError::NotDownloaded { .. }
            | FindError::Incomplete { .. } => ErrorKind::ModelMissing,
            FindError::NoRepository | FindError::SeveralSizes { .. } | FindError::UnknownName { .. } => {
                ErrorKind::Usage
            }
            FindError::Other(error) => error.kind(),
        }
    }
}

impl ModelFinder {
    /// Finds models in the cache that all clients of the hub use: where `HF_HUB_CACHE`, `HF_HOME` and
    /// `XDG_CACHE_HOME` say, else in the home folder of the user. The only function of the library that reads the
    /// environment.
    pub fn usual() -> Self {
        #[cfg(feature = "hub")]
        if let Some(folder) = crate::hub::environment::cache_folder(|name| std::env::var_os(name)) {
            return Self::with_cache(folder);
        }
        Self::default()
    }

    /// Also finds what is in the cache of the hub at `folder`, which need not exist.
    #[cfg(feature = "hub")]
    pub fn with_cache(folder: impl Into<PathBuf>) -> Self {
        ModelFinder { cache: Some(Cache::new(folder)) }
    }

    /// The model called `named`.
    ///
    /// # Errors
    /// [`FindError`] if there is none, or if the disk cannot be read.
    pub fn model(&self, named: &Location) -> Result<Location, FindError> {
        if named.exists()? {
            return Ok(named.clone());
        }
        let name = named.path().to_string_lossy();
        match Variant::by_repo(&name).map_or_else(|| Variant::by_name(&name), Ok) {
            Ok(Variant { name: KLEIN_MINI, .. }) => return Location::builtin().ok_or(FindError::NotBuiltIn),
            Ok(variant @ Variant { repo: Some(repo), .. }) => return self.published(variant, repo),
            _ => {}
        }
        if let Some(found) = self.in_cache(&name)? {
            return Ok(found);
        }
        let nearest = self.nearest(&name)?;
        Err(FindError::NotFound { path: named.path().to_owned(), nearest, is_repository: is_repository(&name) })
    }

    /// A part of a model, such as its text encoder. A name that leads nowhere is returned as it is: the loader knows
    /// which part is missing and says so.
    ///
    /// # Errors
    /// [`FindError::Incomplete`] if the cache holds only some of its files, or if the disk cannot be read.
    pub fn part(&self, named: &Location) -> Result<Location, FindError> {
        if named.exists()? {
            return Ok(named.clone());
        }
        Ok(self.in_cache(&named.path().to_string_lossy())?.unwrap_or_else(|| named.clone()))
    }
}

#[cfg(not(feature = "hub"))]
impl ModelFinder {
    fn published(&self, variant: &'static Variant, _repo: &str) -> Result<Location, FindError> {
        Err(FindError::NotDownloaded { variant, is_partial: false })
    }

    fn in_cache(&self, _name: &str) -> Result<Option<Location>, FindError> {
        Ok(None)
    }

    fn nearest(&self, name: &str) -> Result<Option<String>, FindError> {
        Ok(Variant::nearest(name).map(|variant| variant.name.to_owned()))
    }
}

#[cfg(not(feature = "hub"))]
fn is_repository(_name: &str) -> bool {
    false
}

#[cfg(feature = "hub")]
fn is_repository(name: &str) -> bool {
    RepoId::is_valid(name)
}

#[cfg(feature = "hub")]
impl ModelFinder {
    fn published(&self, variant: &'static Variant, repo: &str) -> Result<Location, FindError> {
        match self.state(&repo.parse()?)? {
            Some(State::Complete(folder)) => Ok(single_file(Location::from(folder))),
            state => Err(FindError::NotDownloaded { variant, is_partial: state.is_some() }),
        }
    }

    /// The repository called `name`; `None` if nothing of it is in the cache, or if this is no name of a repository.
    fn in_cache(&self, name: &str) -> Result<Option<Location>, FindError> {
        if !RepoId::is_valid(name) {
            return Ok(None);
        }
        match self.state(&name.parse()?)? {
            Some(State::Complete(folder)) => Ok(Some(single_file(Location::from(folder)))),
            Some(State::Incomplete(_)) => Err(FindError::Incomplete { repository: name.to_owned() }),
            None => Ok(None),
        }
    }

    /// The name of the model or of the cached repository that is most similar.
    fn nearest(&self, name: &str) -> Result<Option<String>, FindError> {
        let cached = match &self.cache {
            Some(cache) => cache.names()?.iter().map(RepoId::to_string).collect(),
            None => Vec::new(),
        };
        let cached = weights::nearest_name(name, cached.iter().map(String::as_str)).map(str::to_owned);
        let known = Variant::nearest(name).map(|variant| variant.name.to_owned());
        // Names of repositories are compared with names of repositories.
        Ok(if is_repository(name) { cached.or(known) } else { known.or(cached) })
    }

    fn state(&self, repo: &RepoId) -> Result<Option<State>> {
        self.cache.as_ref().map_or(Ok(None), |cache| Ok(cache.state(repo)?))
    }
}

/// The only file of weights in a folder that holds no configuration; otherwise the folder itself.
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

/// The hub repository of a published model, or the one that `name` spells out as `owner/name`.
///
/// # Errors
/// [`FindError::NoRepository`], [`FindError::SeveralSizes`] or [`FindError::UnknownName`].
#[cfg(feature = "hub")]
pub fn repo_of(name: &str) -> Result<RepoId, FindError> {
    match Variant::by_repo(name).map_or_else(|| Variant::by_name(name), Ok) {
        Ok(Variant { repo: Some(repo), .. }) => Ok(repo.parse()?),
        Ok(Variant { name: KLEIN_MINI, .. }) => Err(FindError::NoRepository),
        Err(_) => {
            let nearest = Variant::nearest(name).map(|variant| variant.name);
            name.parse().map_err(|_| FindError::UnknownName { name: name.to_owned(), nearest })
        }
        _ => Err(FindError::SeveralSizes { name: name.to_owned() }),
    }
}

/// The published model whose repository this is.
#[cfg(feature = "hub")]
pub fn variant_of(repo: &RepoId) -> Option<&'static Variant> {
    Variant::by_repo(&repo.to_string())
}

/// A short name of a repository: that of the published model, else `owner/name`.
#[cfg(feature = "hub")]
pub fn name_of(repo: &RepoId) -> String {
    variant_of(repo).map_or_else(|| repo.to_string(), |variant| variant.name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(name: &str) -> Result<PathBuf, FindError> {
        ModelFinder::default().model(&Location::from(name)).map(|found| found.path().to_owned())
    }

    #[test]
    fn a_path_wins_and_other_names_are_explained() {
        let here = env!("CARGO_MANIFEST_DIR");
        assert_eq!(find(here).unwrap(), PathBuf::from(here));
        assert_eq!(find("KLEIN-mini").is_ok(), cfg!(feature = "mini"));
        assert_eq!(find("kleinmini").is_ok(), cfg!(feature = "mini"));
        let published = find("klein-9b").unwrap_err();
        assert_eq!(published.to_string(), "klein-9b is not on this disk");
        assert_eq!(published.kind(), ErrorKind::ModelMissing);
        for spelled in ["FLUX.2-klein-4B", "klein4b"] {
            match find(spelled) {
                Err(FindError::NotDownloaded { variant, .. }) => assert_eq!(variant.name, "klein-4b", "{spelled}"),
                other => panic!("{other:?}"),
            }
        }
        for near in ["klien-4b", "blackforestlabs/flux2-klein-4b"] {
            match find(near) {
                Err(FindError::NotFound { nearest, .. }) => assert_eq!(nearest.as_deref(), Some("klein-4b"), "{near}"),
                other => panic!("{other:?}"),
            }
        }
        assert!(matches!(find("Black-Forest-Labs/flux.2-klein-9b"), Err(FindError::NotDownloaded { .. })));
        let elsewhere = find("somebody/model").unwrap_err();
        let FindError::NotFound { nearest: None, is_repository, .. } = elsewhere else { panic!("{elsewhere}") };
        assert_eq!(is_repository, cfg!(feature = "hub"));
        assert!(matches!(find("./no/model"), Err(FindError::NotFound { is_repository: false, .. })));
    }

    #[test]
    fn a_part_that_is_nowhere_is_left_to_the_loader() {
        let nowhere = Location::from("nowhere");
        assert_eq!(ModelFinder::default().part(&nowhere).unwrap().path(), nowhere.path());
    }

    #[cfg(feature = "hub")]
    #[test]
    fn names_of_repositories_go_both_ways() {
        for variant in Variant::named().iter().filter(|variant| variant.repo.is_some()) {
            assert_eq!(name_of(&repo_of(variant.name).unwrap()), variant.name);
        }
        assert_eq!(name_of(&repo_of("somebody/model").unwrap()), "somebody/model");
        assert_eq!(
            repo_of("BLACK-forest-labs/flux.2-klein-4b").unwrap().to_string(),
            "black-forest-labs/FLUX.2-klein-4B"
        );
        for name in ["klein-mini", "klein-base", "klien-4b"] {
            assert_eq!(repo_of(name).unwrap_err().kind(), ErrorKind::Usage, "{name}");
        }
    }
}
