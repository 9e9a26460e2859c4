//! Files of releases on GitHub, downloaded as those of the hub are: several clients at once, resumed, compared with a
//! hash that is known beforehand.
//!
//! A release publishes no hashes, so they are part of the program. Each file has a folder of its own in a cache, named
//! as that of a repository with the file's name.

use std::path::PathBuf;

use flux2_base::{CancelToken, TransferObserver};

use crate::listing::{Digest, Plan, PlannedFile};
use crate::verify::{Checked, verify_folder};
use crate::{Cache, Error, Hub, HubOptions, RepoId, Result};

/// Where releases are.
pub const GITHUB: &str = "https://github.com";

/// A file of a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReleaseFile {
    /// Repository on GitHub, `owner/name`.
    pub repository: &'static str,
    /// Tag of the release.
    pub tag: &'static str,
    /// Name of the file.
    pub file: &'static str,
    /// Length in bytes.
    pub bytes: u64,
    /// SHA-256 in lower-case hexadecimal.
    pub sha256: &'static str,
}

impl ReleaseFile {
    /// The name of its folder in a cache: the owner of the repository, and the file without its extension.
    fn folder(&self) -> Result<RepoId> {
        let owner = self.repository.split('/').next().unwrap_or_default();
        let name = self.file.rsplit_once('.').map_or(self.file, |(name, _)| name);
        format!("{owner}/{name}").parse()
    }

    fn plan(&self) -> Result<Plan> {
        let ReleaseFile { repository, tag, file, bytes, sha256 } = *self;
        let wrong = || Error::Answer { host: repository.into(), reason: format!("{sha256:?} is no hash") };
        let digest = Digest::new(sha256).ok_or_else(wrong)?;
        let address = Some(format!("/{repository}/releases/download/{tag}/{file}"));
        let file = PlannedFile { path: file.to_owned(), size: bytes, digest, address };
        Ok(Plan { repo: self.folder()?, commit: tag.to_owned(), files: vec![file] })
    }
}

impl HubOptions {
    /// The same for [`GITHUB`], without the token, which is the hub's. Files are kept in `cache`.
    pub fn for_releases(&self, cache: impl Into<PathBuf>) -> Self {
        HubOptions { endpoint: GITHUB.into(), cache: cache.into(), token: None, ..self.clone() }
    }
}

impl Hub {
    /// What is to be downloaded for a file of a release. Sends no request.
    ///
    /// # Errors
    /// [`Error::RepoName`] if the file's name can be no folder.
    pub fn release_plan(&self, file: &ReleaseFile) -> Result<Plan> {
        file.plan()
    }
}

impl Cache {
    /// The file of a release, if it was downloaded.
    pub fn release(&self, file: &ReleaseFile) -> Option<PathBuf> {
        let plan = file.plan().ok()?;
        let is_here = self.has(&plan.repo, &plan.files[0]);
        let path = self.folder(&plan.repo).join("snapshots").join(file.tag).join(file.file);
        (is_here && path.is_file()).then_some(path)
    }

    /// Compares the file of a release with its hash. Empty if it is not in the cache.
    ///
    /// # Errors
    /// [`Error::RepoName`] if the file's name can be no folder; otherwise as [`verify`](Self::verify).
    pub fn verify_release(
        &self,
        file: &ReleaseFile,
        observer: &mut dyn TransferObserver,
        cancel: &CancelToken,
    ) -> Result<Vec<Checked>> {
        let snapshot = self.folder(&file.folder()?).join("snapshots").join(file.tag);
        if snapshot.is_dir() { verify_folder(&snapshot, observer, cancel) } else { Ok(vec![]) }
    }

    /// Removes the file of a release and returns the bytes that are freed; `None` if it was not in the cache.
    ///
    /// # Errors
    /// [`Error::RepoName`] if the file's name can be no folder; otherwise as [`remove`](Self::remove).
    pub fn remove_release(&self, file: &ReleaseFile) -> Result<Option<u64>> {
        self.remove(&file.folder()?)
    }
}
