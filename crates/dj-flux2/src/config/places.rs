//! Where the files of settings are.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use flux2::environment::path_of;

use crate::failure::{Failure, Result, code};

/// The variable that names another file, or is `off`.
pub const VARIABLE: &str = "DJ_FLUX2_CONFIG";
/// Name of the file of a project.
pub const PROJECT_FILE: &str = ".dj-flux2.toml";

/// The files that a run reads.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Places {
    /// The user's file, which need not exist.
    pub user: Option<PathBuf>,
    /// The file of the project that the current folder is in.
    pub project: Option<PathBuf>,
    /// A file of a project that is not read, as it belongs to somebody else.
    pub foreign: Option<PathBuf>,
}

impl Places {
    /// The folder of the user's file, where presets and wildcards are too.
    pub fn user_folder(&self) -> Option<&Path> {
        self.user.as_deref().and_then(Path::parent)
    }
}

/// Finds the files. `typed` is the value of `--config`: a file in place of the user's, or `off` for none at all.
pub fn find(typed: Option<&Path>, env: impl Fn(&str) -> Option<OsString>, current: Option<&Path>) -> Result<Places> {
    let named = typed.map(Path::to_owned).or_else(|| path_of(&env, VARIABLE));
    if named.as_deref() == Some(Path::new("off")) {
        return Ok(Places::default());
    }
    if let Some(missing) = named.as_ref().filter(|named| !named.is_file()) {
        let message = format!("there is no file of settings at {}", missing.display());
        let hint = format!("name another one with --config or {VARIABLE}, or use `off` for none");
        return Err(Failure::new(code::USAGE, message, hint));
    }
    let user = named.or_else(|| Some(user_folder(&env)?.join("config.toml")));
    let home = path_of(&env, "HOME");
    let found = current.and_then(|current| project_file(current, home.as_deref()));
    let (project, foreign) = match found {
        Some(file) if belongs_to_folder(&file, current.unwrap_or(Path::new("."))) => (Some(file), None),
        other => (None, other),
    };
    Ok(Places { user, project, foreign })
}

/// The user's folder of settings, by the conventions of the operating system.
pub fn user_folder(env: &impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let folder = |name: &str| path_of(env, name).filter(|path| path.is_absolute());
    let base = match cfg!(windows) {
        true => folder("APPDATA"),
        false => folder("XDG_CONFIG_HOME").or_else(|| Some(folder("HOME")?.join(".config"))),
    };
    Some(base?.join("dj-flux2"))
}

/// The file of a project in `current` or the nearest folder above it, up to the user's home.
fn project_file(current: &Path, home: Option<&Path>) -> Option<PathBuf> {
    for folder in current.ancestors() {
        let file = folder.join(PROJECT_FILE);
        if file.is_file() {
            return Some(file);
        }
        if Some(folder) == home {
            return None;
        }
    }
    None
}

/// Whether file and folder have the same owner. Otherwise anybody could leave a file in a folder above that all can
/// write to.
#[cfg(unix)]
fn belongs_to_folder(file: &Path, folder: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;

    let owner = |path: &Path| path.metadata().map(|found| found.uid()).ok();
    owner(file).is_some() && owner(file) == owner(folder)
}

#[cfg(not(unix))]
fn belongs_to_folder(_file: &Path, _folder: &Path) -> bool {
    true
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn the_users_folder_follows_xdg() {
        let folder = |variables: &[(&str, &str)]| {
            let env = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into());
            user_folder(&env)
        };
        assert_eq!(folder(&[("HOME", "/home/a")]), Some("/home/a/.config/dj-flux2".into()));
        assert_eq!(folder(&[("HOME", "/home/a"), ("XDG_CONFIG_HOME", "/c")]), Some("/c/dj-flux2".into()));
        assert_eq!(folder(&[("HOME", "/home/a"), ("XDG_CONFIG_HOME", "c")]), Some("/home/a/.config/dj-flux2".into()));
        assert_eq!(folder(&[]), None);
    }

    #[test]
    fn a_project_is_found_upward_to_the_home_folder() {
        let root = tempfile::tempdir().unwrap();
        let inner = root.path().join("home/project/deep/er");
        std::fs::create_dir_all(&inner).unwrap();
        let home = root.path().join("home");
        assert_eq!(project_file(&inner, Some(&home)), None);
        // Above the home folder.
        std::fs::write(root.path().join(PROJECT_FILE), "").unwrap();
        assert_eq!(project_file(&inner, Some(&home)), None);
        let file = home.join("project").join(PROJECT_FILE);
        std::fs::write(&file, "").unwrap();
        assert_eq!(project_file(&inner, Some(&home)), Some(file));
    }
}
